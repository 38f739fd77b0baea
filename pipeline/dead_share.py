"""How many of a stream's last records were dead: too many are no single bad events but a change of format."""

from pipeline.work import Applied, Work
from schemas.errors import TooManyDeadError

# Records that are looked back on, and how many of them there must be before a share means anything.
_WINDOW = 1_000
_LEAST = 200


class DeadShare:
    """Counts the records of one stream in one process, those of files left out.

    `limit` is the share of dead ones above which it goes no further; 1 = never.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        # One byte a record: 0, or the number of what it died of.
        self._window = bytearray()
        self._entered = 0
        self._reasons = [""]
        self._examples: dict[str, str] = {}

    def enter(self, work: Work) -> int:
        """Count a chunk before its transaction; returns its number in the count, for `add`.

        Raises:
            TooManyDeadError: with this chunk too many are dead.
        """
        start = self._entered
        if work.place.origin != "live":
            return start
        self._window += bytes(len(work.records))
        self._entered += len(work.records)
        self._mark(start, work, Applied(0, 0, work.dead, [], []))
        del self._window[:-_WINDOW]
        handled, dead = len(self._window), len(self._window) - self._window.count(0)
        if handled >= _LEAST and dead > self._limit * handled:
            raise TooManyDeadError(self._sentence(work.place.topic, handled, dead))
        return start

    def add(self, start: int, work: Work, applied: Applied) -> None:
        """What the transaction found to be dead besides; it counts from the next chunk on."""
        if work.place.origin == "live" and len(applied.dead) > len(work.dead):
            self._mark(start, work, applied)

    def _mark(self, start: int, work: Work, applied: Applied) -> None:
        if not applied.dead:
            return
        # Others may have come behind this chunk meanwhile, and have pushed it out in part.
        first = start - (self._entered - len(self._window))
        dead = {letter.record.offset: letter for letter in applied.dead}
        for at, record in enumerate(work.records, first):
            letter = dead.get(record.offset)
            if letter is not None and at >= 0:
                self._window[at] = self._number(letter.reason)
                self._examples[letter.reason] = letter.message

    def _number(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return self._reasons.index(reason)

    def _sentence(self, topic: str, handled: int, dead: int) -> str:
        most = max(range(1, len(self._reasons)), key=self._window.count)
        reason = self._reasons[most]
        return (
            f"{dead:,} of the last {handled:,} records of {topic} cannot be used, more than the share of "
            f"{self._limit:g} that is allowed; {self._window.count(most):,} of them are {reason}, like this one: "
            f"{self._examples[reason]}. Nothing of this chunk is stored or acknowledged: it will be met again. "
            "Mend the producer, then start once with SALIENCE_EVENTS__DEAD_SHARE=1, which sends what is on the "
            "topic already to the dead letters"
        )
