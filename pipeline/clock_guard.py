"""A clock that jumps, or is not that of the others, must not move a stream's time."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy import text

from pipeline.store.database import Database

log = structlog.get_logger("salience.clock")

# Seconds by which clocks may differ: time services keep them within a fraction of one.
_APART = 60.0
# Seconds for which a clock that jumped is not trusted: a time service that mends it does so in steps.
_CALM = 60.0


class ClockGuard:
    """Says whether this worker's clock may close ticks now; what is wrong is told once, and when it is over."""

    def __init__(self, database: Database, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._monotonic = monotonic
        self._last: tuple[float, float] | None = None
        self._trusted_from = 0.0
        self._jumped = ""
        self._told = False

    async def agrees(self, now: int) -> bool:
        """Whether the clock (`now`, microseconds) goes as time does, and as the database's clock.

        Raises:
            DatabaseError: the database is away.
        """
        problem = self._jump(now / 1e6) or await self._difference(now / 1e6)
        if problem and not self._told:
            log.warning(
                "clock", reason="clock", message=f"{problem}; this worker closes no ticks until it is right"
            )
        elif self._told and not problem:
            log.info("clock", message="the clock is right again")
        self._told = bool(problem)
        return not problem

    def _jump(self, wall: float) -> str:
        passed = self._monotonic()
        last, self._last = self._last, (wall, passed)
        if last is not None and abs((wall - last[0]) - (passed - last[1])) > _APART:
            self._trusted_from = passed + _CALM
            jump = (wall - last[0]) - (passed - last[1])
            self._jumped = f"the clock of this machine jumped by {jump:+,.0f} s; look after its time service"
        return self._jumped if passed < self._trusted_from else ""

    async def _difference(self, wall: float) -> str:
        """How far the database's clock is away; SQLite has none of its own."""
        if self._database.is_sqlite:
            return ""
        async with self._database.read() as connection:
            theirs = (await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one()
        apart = wall - float(theirs)
        if abs(apart) <= _APART:
            return ""
        where = "ahead of" if apart > 0 else "behind"
        return f"the clock of this machine is {abs(apart):,.0f} s {where} the database's; set one of them right"
