"""When an alert begins and ends: once a surge, however the signal flaps, whether a person looks or not."""

from typing import Literal

from msgspec import Struct

# What becomes of an alert at a decision.
Turn = Literal["pending", "firing", "resolved", "dropped"]


class Episode(Struct):
    """One alert. Seconds since 1970; `end` is the last moment with evidence, None while it may go on.

    `due`: it is pending, and fires if evidence lasts until then.
    """

    start: float
    last: float
    end: float | None = None
    due: float | None = None


class Rearm(Struct):
    """The state of one group: nothing, or the episode that is pending or firing.

    An alert begins when it is armed and evidence reaches the level. Where it must last for `hold` seconds it is
    pending meanwhile, and dropped if it does not. It goes on while evidence stays above the lower level, and is
    resolved, and armed again, when there was none for `rearm` seconds. So a flapping signal gives at most one
    firing and one resolved in that time. The state is small, serialisable, and moves with time only.
    """

    rearm: float
    firing: Episode | None = None
    hold: float = 0.0

    def step(self, moment: float, fires: bool, holds: bool) -> list[tuple[Turn, Episode]]:
        """One decision, and what it makes of episodes.

        fires: the evidence reaches the level; holds: it reaches the lower one. Moments must not go back.
        """
        turns: list[tuple[Turn, Episode]] = []
        current = self.firing
        if current is not None and current.due is None and moment - current.last >= self.rearm:
            current.end = current.last
            turns.append(("resolved", current))
            self.firing = current = None
        if current is None:
            return turns + (self._begin(moment) if fires else [])
        if fires or holds:
            current.last = moment
            if current.due is not None and moment >= current.due:
                current.due = None
                turns.append(("firing", current))
        elif current.due is not None:
            current.end = current.last
            turns.append(("dropped", current))
            self.firing = None
        return turns

    def _begin(self, moment: float) -> list[tuple[Turn, Episode]]:
        self.firing = Episode(moment, moment, due=moment + self.hold if self.hold else None)
        return [("pending" if self.hold else "firing", self.firing)]
