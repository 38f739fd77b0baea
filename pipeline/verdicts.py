"""Whether a receiver is told of one state of an alert, decided when it would be sent, with the reason."""

from typing import get_args

from msgspec import Struct

from pipeline.receivers import Receiver, Severity

_SEVERITIES = get_args(Severity)
# How the reasons of what was withheld because of a silence begin.
SUPPRESSED = "suppressed: "


class Send(Struct, frozen=True):
    """Now."""


class Later(Struct, frozen=True):
    """Not before what is on its way has arrived, or order would be lost."""


class Held(Struct, frozen=True):
    """It waits for the end of a silence (microseconds)."""

    until: int


class Withheld(Struct, frozen=True):
    """Nobody is told."""

    why: str


Verdict = Send | Later | Held | Withheld


class Entry(Struct):
    """One entry of the outbox for a receiver, what is known of its alert, and the other entries about it.

    `over`: the alert has ended; `silenced`: until when (microseconds); `leased`: somebody may be sending it;
    `reposting`: somebody may be telling the receiver again that the alert lasts.
    """

    alert: int | None
    state: str
    version: int
    empty: bool
    error: str | None
    done: bool
    leased: bool
    over: bool = False
    severity: str = "critical"
    silenced: int | None = None
    reposting: bool = False
    others: "list[Entry]" = []

    @property
    def hushed(self) -> bool:
        """Whether it was not told because of a silence, so far or for good."""
        return (self.error or "").startswith((SUPPRESSED, "silenced"))

    def take(self, verdict: Verdict) -> None:
        """What was decided on it, for those that come after it."""
        if isinstance(verdict, Send):
            self.leased, self.error = True, None
        elif isinstance(verdict, Withheld):
            self.done, self.error = True, verdict.why
        elif isinstance(verdict, Held):
            self.error = "silenced"


def judge(entry: Entry, receiver: Receiver, now: int) -> Verdict:
    """Whether to send an entry that is free, now (microseconds)."""
    if entry.empty:
        return Withheld("withdrawn: what it quotes was forgotten")
    if _SEVERITIES.index(entry.severity) < _SEVERITIES.index(receiver.severity):
        return Withheld(f"not told: severity {entry.severity} is below {receiver.severity}")
    earlier = [each for each in entry.others if each.version < entry.version]
    if any(each.leased for each in earlier):
        return Later()
    if entry.state == "resolved":
        return _judge_end(entry, receiver, earlier)
    return _judge_begin(entry, receiver)


def _judge_end(entry: Entry, receiver: Receiver, earlier: "list[Entry]") -> Verdict:
    if not receiver.resolved:
        return Withheld("not told: this receiver is not told of ends")
    if any(each.hushed or (entry.silenced and not each.done) for each in earlier):
        return Withheld(f"{SUPPRESSED}the alert began and ended while it was silenced")
    if entry.silenced:
        return Held(entry.silenced)
    return Later() if entry.reposting else Send()


def _judge_begin(entry: Entry, receiver: Receiver) -> Verdict:
    if entry.over and (entry.silenced or entry.hushed):
        return Withheld(f"{SUPPRESSED}the alert ended while it was silenced")
    if entry.silenced:
        # What is about one moment is over when the silence is.
        moment = entry.state == "fired"
        return Withheld(f"{SUPPRESSED}it fired in a silence") if moment else Held(entry.silenced)
    later = [each.version for each in entry.others if each.version > entry.version]
    if later and receiver.resolved:
        return Withheld(f"superseded by version {max(later)}")
    return Send()
