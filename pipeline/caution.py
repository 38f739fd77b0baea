"""After a death: what it may have come of is handled piece by piece, each written down before and alone in work.

The first death leaves all that was in work under suspicion, which is then handled in pieces; the second one names
a piece, whose records are then handled one by one; the third names the record, which is given up unread.
"""

import asyncio
import contextlib
import functools
import itertools
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Mapping

import msgspec
import structlog
from msgspec import Struct

from pipeline.gate import Gate
from pipeline.observe import Observer
from pipeline.retry import through_outage
from pipeline.store import attempts
from pipeline.store.attempts import Suspect
from pipeline.store.database import Database
from pipeline.times import Now
from pipeline.turn import Turn
from pipeline.work import Applied, dead_letter
from schemas.errors import PoisonError, SalienceError
from schemas.events import Chunk, Dead, Place, Record

log = structlog.get_logger("salience.flow")

Process = Callable[[Chunk, Turn], Awaitable[Applied]]

# Seconds that removing a mark may take when the worker ends.
_PATIENCE = 1.5


class _Watched(Struct):
    """A partition under suspicion; `found` and `own` say whose mark of it is in the table."""

    place: Place
    suspect: Suspect
    found: bool
    own: bool = False
    told: bool = False


class Caution:
    """What this process handles with care, in all lanes; without suspicion it writes nothing and never waits."""

    def __init__(self, database: Database, deadline: float, now: Now, observer: Observer) -> None:
        """`deadline`: seconds for which an absent database is waited for."""
        self._database = database
        self._deadline = deadline
        self._now = now
        self._observer = observer
        self._gate = Gate()
        self._watched: dict[Place, _Watched] = {}

    def watch(self, found: Mapping[Place, Suspect]) -> None:
        """Handle these with care from now on."""
        for place, suspect in found.items():
            self._watched[place] = _Watched(place, suspect, suspect.marked)

    def forget(self) -> None:
        """The partitions are other workers' now."""
        self._watched.clear()

    async def process(self, process: Process, chunk: Chunk, turn: Turn) -> Applied:
        """Take a chunk through `process`, as a whole or, where it is suspect, in pieces and alone.

        Chunks of a partition must come here in their order.

        Raises:
            OutageError: the database stayed away, or what `process` raises.
        """
        watched = self._concerning(chunk)
        if watched is None:
            async with self._gate.shared():
                return await process(chunk, turn)
        # The whole chunk is alone, not the pieces: a later chunk that shared the gate would wait for this one.
        async with self._gate.alone(), turn("score"), turn("store"), turn("deliver"):
            return await self._in_pieces(process, chunk, watched)

    def _concerning(self, chunk: Chunk) -> _Watched | None:
        watched = self._watched.get(chunk.place)
        if watched is None:
            return None
        suspect = watched.suspect
        if not watched.found and chunk.records[-1].offset < suspect.first:
            return None
        if not watched.told and chunk.records[0].offset < suspect.until:
            watched.told = True
            _tell(watched)
        return watched

    async def _in_pieces(self, process: Process, chunk: Chunk, watched: _Watched) -> Applied:
        try:
            done = [await self._piece(process, piece, watched) for piece in _cut(chunk, watched.suspect)]
            until = chunk.records[-1].offset + 1
            await self._unmark(watched, until, all_through=until >= watched.suspect.until)
        except (SalienceError, asyncio.CancelledError):
            # Of anything else the process ends as of a signal, so the mark stays.
            await self._end_in_order(watched)
            raise
        if until >= watched.suspect.until and self._watched.get(chunk.place) is watched:
            del self._watched[chunk.place]
        return functools.reduce(Applied.joined, done)

    async def _piece(self, process: Process, piece: Chunk, watched: _Watched) -> Applied:
        suspect = watched.suspect
        if not suspect.first <= piece.records[0].offset < suspect.until:
            await self._unmark(watched, piece.records[0].offset)
        elif suspect.condemned:
            # Its mark stays until it is a dead letter: nobody shall have to die of it again.
            piece = msgspec.structs.replace(piece, dead=[_give_up(piece.place, piece.records[0], suspect)])
        else:
            await self._mark(watched, piece)
        return await process(piece, Turn())

    async def _mark(self, watched: _Watched, piece: Chunk) -> None:
        first, until = piece.records[0].offset, piece.records[-1].offset + 1
        count = watched.suspect.attempts + 1
        # Before it is tried: an answer that is lost may still have written it.
        watched.found, watched.own = False, True
        await self._patiently(
            lambda: attempts.put(self._database, watched.place, first, until, count, self._now())
        )

    async def _unmark(self, watched: _Watched, until: int, all_through: bool = False) -> None:
        if watched.found or watched.own or all_through:
            await self._patiently(
                lambda: attempts.pass_by(self._database, watched.place, until, all_through=all_through)
            )
            watched.found = watched.own = False

    async def _end_in_order(self, watched: _Watched) -> None:
        """Nothing died, so our own mark may not count; a former worker's stays, its death was one."""
        if watched.own:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_PATIENCE):
                    await attempts.remove(self._database, [watched.place])

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        await through_outage(step, self._deadline, self._observer.outage)


def _cut(chunk: Chunk, suspect: Suspect) -> Iterator[Chunk]:
    """What lies before the suspect range, its pieces, and what lies behind it."""
    records = chunk.records
    first = bisect_left(records, suspect.first, key=_offset)
    until = bisect_left(records, suspect.until, key=_offset)
    cuts = [0, *range(first, until, suspect.piece), until, len(records)]
    for start, end in itertools.pairwise(cuts):
        if start < end:
            yield Chunk(chunk.place, records[start:end])


def _offset(record: Record) -> int:
    return record.offset


def _give_up(place: Place, record: Record, suspect: Suspect) -> Dead:
    error = PoisonError(
        f"the process died {suspect.attempts} times with {place.topic} partition {place.partition} offset "
        f"{record.offset} in work, the last time with nothing else; it was not read again and its bytes are kept: "
        "find out what ends the process (memory, a native crash) and mend it before you replay this"
    )
    return msgspec.structs.replace(dead_letter(record, error), attempts=suspect.attempts)


def _tell(watched: _Watched) -> None:
    place, suspect = watched.place, watched.suspect
    span = {"from": suspect.first, "until": suspect.until, "attempts": suspect.attempts}
    log.warning(
        "handled with care",
        reason="unclean_exit",
        topic=place.topic,
        partition=place.partition,
        **span,
        message="a worker died that had these records in work; they are handled in pieces, with nothing else",
    )
