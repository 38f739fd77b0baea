"""The rules file while a worker runs: what is changed there is checked, announced, and then in force for all."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from pipeline.rules import Labels, RuleSet
from pipeline.rules_file import load_rules
from pipeline.store.announce import announce
from pipeline.store.database import Database
from pipeline.store.settle import any_active, settle
from schemas.errors import ConfigError

log = structlog.get_logger("salience.rules")

# Seconds between two looks at whether the first rules are in force.
_WAIT = 0.2
# Batches of stored events that are counted in one round beside the chunks.
_BATCHES = 20


class RuleWatch:
    """Knows the rules of the file, and brings them into force."""

    def __init__(
        self, database: Database, tick: int, path: str, rules: RuleSet, labels: Callable[[], Mapping[str, Labels]]
    ) -> None:
        """tick: its width in microseconds. labels: what rules may name, as in `load_rules`."""
        self._database = database
        self._tick = tick
        self._path = path
        self._labels = labels
        self._seen = self._last = _stamp(path)
        self.rules = rules

    async def begin(self, now: int) -> None:
        """Announce the rules of the file; the first ones of a database are in force when this returns.

        Raises:
            ConfigError: a rule does not suit this database.
        """
        if not self._path:
            return
        await announce(self._database, self.rules, self._tick, now)
        while not await any_active(self._database):
            if await settle(self._database, self._tick, now) is None:
                # Another worker is counting for them.
                await asyncio.sleep(_WAIT)

    async def look(self, now: int) -> None:
        """Take up a changed file; one that cannot be used is told of once, and the rules in force stay."""
        stamp = _stamp(self._path)
        if self._path and stamp != self._seen:
            # Whoever writes it may be in the middle of that: it must look the same twice.
            settled, self._last = stamp == self._last, stamp
            if settled:
                await self._reload(now)
                self._seen = stamp
        await settle(self._database, self._tick, now, _BATCHES)

    async def _reload(self, now: int) -> None:
        try:
            rules = await asyncio.to_thread(load_rules, self._path, self._labels(), anew=True)
            await announce(self._database, rules, self._tick, now)
        except ConfigError as error:
            log.warning("rules not taken", reason=error.reason, message=f"{error}; the rules in force stay")
            return
        self.rules = rules


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
