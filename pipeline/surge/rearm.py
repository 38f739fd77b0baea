"""When an alert begins and ends: once a surge, however the signal flaps, whether a person looks or not."""

from msgspec import Struct


class Episode(Struct):
    """One alert. Seconds since 1970; `end` is the last moment with evidence, None while it may go on."""

    start: float
    last: float
    end: float | None = None


class Rearm(Struct):
    """The state of one group: nothing, or the episode that is firing.

    An alert fires when it is armed and evidence reaches the level; it goes on while evidence stays above the lower
    level, and is resolved, and armed again, when there was none for `rearm` seconds. So a flapping signal gives at
    most one firing and one resolved in that time. The state is small, serialisable, and moves with time only.
    """

    rearm: float
    firing: Episode | None = None

    def step(self, moment: float, fires: bool, holds: bool) -> tuple[Episode | None, Episode | None]:
        """One decision: the episode that is resolved by now, and the one that begins.

        fires: the evidence reaches the level; holds: it reaches the lower one. Moments must not go back.
        """
        resolved = None
        current = self.firing
        if current is not None and moment - current.last >= self.rearm:
            current.end = current.last
            resolved, self.firing = current, None
        if self.firing is not None:
            if fires or holds:
                self.firing.last = moment
            return resolved, None
        if not fires:
            return resolved, None
        self.firing = Episode(moment, moment)
        return resolved, self.firing
