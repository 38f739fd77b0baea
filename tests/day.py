"""A stream's day by the second: events come in, time passes, rules that count decide."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from helpers import EVENT_TIME, SECOND, Clock, line, opened, place, rows, take

from models.scorer import Scorer
from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.store import owners, runs, ticks
from pipeline.times import rfc3339
from schemas.tables import alerts

# Seconds after which the shortest baseline that rules may have here has been seen.
LEARNT = 3_600


def rule(name: str = "surge", kind: str = "volume", **fields: Any) -> dict[str, Any]:
    """A rule that counts what the wire says, over a minute, against an hour."""
    quick = {"window": "1m", "every": "10s", "baseline": "1h", "rearm": "2m", "sensitivity": 20}
    return {"name": name, "kind": kind, "stream": "news", "when": {"source": "wire"}, **quick, **fields}


class Day:
    """One stream with partitions, each read by one of the pipelines; moments are seconds of the day."""

    def __init__(
        self,
        stack: contextlib.AsyncExitStack,
        another: Callable[[Scorer | None], Any],
        workers: int,
        clock: Clock,
        partitions: int,
    ) -> None:
        self._stack = stack
        self._another = another
        self._workers = workers
        self.pipelines: list[Pipeline] = []
        self.clock = clock
        self.places = [place("news", topic="salience.news", partition=number) for number in range(partitions)]
        self._offsets = [0] * partitions
        self._told = 0

    async def begin(self) -> None:
        for _ in range(self._workers):
            self.pipelines.append(await self._stack.enter_async_context(self._another(None)))
        self.database = self.pipelines[0].database
        for number, where in enumerate(self.places):
            await owners.take(self.database, [where], f"w{number}", self.clock(), {where: 0})

    async def tell(self, *events: tuple[float, str], partition: int = 0, worker: int = 0, **fields: Any) -> None:
        """One chunk of (moment, text) from the wire, or from another source."""
        chunk = []
        for moment, text in events:
            self._told += 1
            time = rfc3339(EVENT_TIME + round(moment * SECOND))
            body = {"id": f"e{self._told}", "source": "wire", "time": time, "text": text} | fields
            chunk.append(line(self._offsets[partition], body))
            self._offsets[partition] += 1
        self.clock.now = max(self.clock.now, EVENT_TIME + round(max(moment for moment, _ in events) * SECOND))
        await take(self.pipelines[worker], chunk, where=self.places[partition])

    async def usual(self, until: float = LEARNT, every: float = 10.0, **fields: Any) -> None:
        """Different stories, one every few seconds."""
        moments = [at * every + 1 for at in range(int(until / every))]
        await self.tell(*[(moment, story(number)) for number, moment in enumerate(moments)], **fields)

    async def reach(self, moment: float, worker: int = 0) -> list[dict[str, Any]]:
        """All partitions have come to this moment; what is due is decided. Returns all alerts so far."""
        for number in range(len(self.places)):
            await self.tell((moment + 5, "tick"), partition=number, source="clock")
        await self.close(worker)
        return await rows(self.database, alerts)

    async def restart(self, worker: int, scorer: Scorer | None = None) -> None:
        """A new process takes the place of a worker, and knows nothing of what that one knew."""
        self.pipelines[worker] = await self._stack.enter_async_context(self._another(scorer))

    async def take_up(self) -> None:
        """The first worker looks at its rules file, and once more to see that nobody is writing it."""
        for _ in range(2):
            await self.pipelines[0].watch.look(self.clock())

    async def fall_idle(self, partition: int) -> None:
        """The partition's owner has found nothing for a while."""
        quiet = {self.places[partition]: self._offsets[partition]}
        await owners.declare_idle(self.database, f"w{partition}", quiet, self.clock())

    async def attach(self, run: str, *events: tuple[float, str], **fields: Any) -> None:
        """A back-fill of these events is read to its end, and attached."""
        self.clock.now = max(self.clock.now, EVENT_TIME + round(max(moment for moment, _ in events) * SECOND))
        where = place("news", cluster="file", topic="f", incarnation=run, origin="backfill", run=run)
        lines = []
        for offset, (moment, text) in enumerate(events):
            time = rfc3339(EVENT_TIME + round(moment * SECOND))
            body = {"id": f"{run}-{offset}", "source": "wire", "time": time, "text": text} | fields
            lines.append(line(offset, body))
        await runs.begin(self.database, where, "f", False, self.clock())
        await take(self.pipelines[0], lines, where=where, notify=False)
        tick = self.pipelines[0].instance.tick
        await ticks.close_run(self.database, tick, where, self.clock(), final=True)
        await runs.finish(self.database, where, self.clock())
        await runs.attach(self.database, run, self.clock())

    async def close(self, worker: int = 0) -> ticks.Closed:
        for number in range(len(self.places)):
            await owners.beat(self.database, f"w{number}", [], self.clock())
        return await self.pipelines[worker].flow("news", MemoryOutlet()).close("news", self.clock())


def story(number: int) -> str:
    """A text that is near no other."""
    return " ".join(f"word{number * 31 + at * at * 7}" for at in range(9))


def burst(moment: float, count: int, first: int = 10_000) -> list[tuple[float, str]]:
    """So many different stories within ten seconds."""
    return [(moment + 9 * at / count, story(first + at)) for at in range(count)]


def written(path: Path, *rules: Mapping[str, Any], **receivers: Mapping[str, Any]) -> str:
    """A file with these rules and receivers."""
    content = {"rules": [dict(each) for each in rules], "receivers": receivers}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@contextlib.asynccontextmanager
async def day(
    url: str,
    path: Path,
    *rules: Mapping[str, Any],
    partitions: int = 1,
    workers: int = 1,
    scorer: Scorer | None = None,
    receivers: Mapping[str, Mapping[str, Any]] | None = None,
) -> AsyncIterator[Day]:
    """A day under these rules."""
    clock = Clock(EVENT_TIME)
    file = written(path / "rules.yaml", *rules, **(receivers or {}))

    def another(other: Scorer | None) -> Any:
        return opened(url, clock=clock, scorer=other or scorer, rules={"file": file})

    async with contextlib.AsyncExitStack() as stack:
        begun = Day(stack, another, workers, clock, partitions)
        await begun.begin()
        yield begun
