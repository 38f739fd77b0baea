"""How long a decision takes: from the closing of a tick to the alert rows, with many groups and a long history."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
from msgspec import Struct
from sqlalchemy import insert, select, text, update

from models.stub import StubScorer
from pipeline.compose import Pipeline, compose
from pipeline.deliver import NoOutlet
from pipeline.localpg import LocalPostgres
from pipeline.rules import RuleSet
from pipeline.settings import Settings, load_settings
from pipeline.store import migrate, owners
from pipeline.store.announce import announce
from pipeline.store.database import Database
from pipeline.store.settle import settle
from pipeline.times import rfc3339
from pipeline.turn import Turn
from schemas.counting import counters, definitions, groups
from schemas.events import Chunk, Line, Place, encode_json
from schemas.tables import alerts, watermarks

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
# 2024-05-31T00:00:00Z, a moment as good as any.
_BEGIN = 1_717_113_600 * _SECOND
# Groups that surge at each decision, and events of a surge; the others have one event a minute or none.
_SURGING, _SURGE = 3, 120
_QUIET = 0.5
# Minutes of history with which surges are told.
_LEAST = 2_000

_RULE = {
    "name": "surge", "kind": "volume", "stream": "news", "group_by": "source", "window": "1h", "every": "1m",
    "baseline": "14d",
}  # fmt: skip


class Times(Struct, frozen=True):
    """Seconds from closing a tick to its alert rows."""

    rows: int
    p50_s: float
    p99_s: float
    max_s: float
    alerts: int


class DecideResult(Struct, frozen=True):
    """groups, decisions: of each run. ratio: the median with the long history over that with the short one."""

    groups: int
    decisions: int
    short: Times
    long: Times
    ratio: float


def measure_decisions(size: int, rows: int, decisions: int, say: Callable[[str], None]) -> DecideResult:
    """Take `decisions` decisions on `size` active groups, with `rows` counter rows stored and with half of them.

    What a baseline is made of is bounded by its length, 14 days; only when both histories are longer does their
    ratio tell what stored history costs.
    """
    with LocalPostgres(fsync=True, shared_buffers="512MB", max_wal_size="4GB") as server:
        times = []
        for minutes in (max(_LEAST, rows // size), max(_LEAST, 2 * rows // size)):
            say(f"{size * minutes // 2:,} counter rows, then {decisions} decisions on {size:,} groups")
            times.append(asyncio.run(_run(server.url(server.create()), size, minutes, decisions)))
    short, long = times
    return DecideResult(size, decisions, short, long, round(long.p50_s / short.p50_s, 3))


async def _run(url: str, size: int, minutes: int, decisions: int) -> Times:
    settings = load_settings(database={"url": url}, model={"bundle": "stub"}, rules={"file": ""})
    moment = _BEGIN + minutes * _MINUTE
    await _prepare(settings, size, minutes)
    async with await compose(settings, scorer=StubScorer(), clock=lambda: moment) as pipeline:
        rng = np.random.default_rng(0)
        where = Place("news", "bench", "salience.news", "1", 0)
        await owners.take(pipeline.database, [where], "bench", moment, {where: 0})
        flow = pipeline.flow("news", NoOutlet())
        taken, offset = [], 0
        for at in range(decisions + 1):
            moment = _BEGIN + (minutes + at + 1) * _MINUTE
            lines = _minute(rng, size, moment - _MINUTE, at, offset)
            offset += len(lines)
            for first in range(0, len(lines), 256):
                await flow.process(Chunk(where, lines[first : first + 256]), Turn())
            await owners.beat(pipeline.database, "bench", [], moment)
            begun = time.perf_counter()
            await flow.close("news", moment)
            taken.append(time.perf_counter() - begun)
        # The first one makes the baselines of all groups, which a running worker has made one after the other.
        return await _times(pipeline, taken[1:])


def _minute(rng: np.random.Generator, size: int, start: int, at: int, offset: int) -> list[Line]:
    """One minute's events in order, and one six seconds into the next, which lets the minute be closed."""
    count = (rng.random(size) < _QUIET).astype(int)
    count[(at * _SURGING + np.arange(_SURGING)) % size] += _SURGE
    sources = np.repeat(np.arange(size), count)
    times = np.sort(rng.integers(0, _MINUTE, len(sources)))
    rng.shuffle(sources)
    drawn = rng.integers(0, 1 << 30, (len(sources), 8))
    lines: list[Line] = []
    for source, moment, words in zip(sources.tolist(), times.tolist(), drawn.tolist(), strict=True):
        said = " ".join(f"w{word}" for word in words)
        lines.append(_line(offset + len(lines), f"s{source}", start + moment, said))
    return [*lines, _line(offset + len(lines), "clock", start + _MINUTE + 6 * _SECOND, f"tick {at}")]


def _line(offset: int, source: str, moment: int, said: str) -> Line:
    body = {"id": f"b{offset}", "source": source, "time": rfc3339(moment), "text": said}
    return Line(offset, encode_json(body))


async def _prepare(settings: Settings, size: int, minutes: int) -> None:
    """Tables, the rule in force, and counters as so many minutes would have left them."""
    database = Database(settings.database)
    try:
        await migrate.upgrade(database, _BEGIN)
        tick = migrate.TICK
        await announce(database, RuleSet.of_content([_RULE]), tick, _BEGIN)
        await settle(database, tick, _BEGIN)
        first, last = _BEGIN // _MINUTE, _BEGIN // _MINUTE + minutes
        async with database.begin() as connection:
            number = (await connection.execute(select(definitions.c.id))).scalar_one()
            # One count in every other minute, by a hash: what decisions read costs the same as of real ones. They
            # lie in the order of time, as they came: a baseline's rows far apart, those of a window together.
            fill = text(
                f'INSERT INTO {counters.name} (definition, "group", bucket, label, shard, raw, single) '
                "SELECT :number, 's' || g, b, '', 0, 1, 1 "
                "FROM generate_series(0, :groups - 1) g, generate_series(:first, :last - 1) b "
                "WHERE hashint8(g * 7919 + b) & 1 = 1 ORDER BY b, g"
            )
            given = {"number": number, "groups": size, "first": first, "last": last}
            await connection.execute(fill, given)
            per = _MINUTE // tick
            rows = [
                {"definition": number, "group": f"s{at}", "first_tick": first * per, "last_tick": last * per - 1}
                for at in range(size)
            ]
            await connection.execute(insert(groups), rows)
            clock = {"closed_tick": last * per - 1, "decided_tick": last * per - 1, "watermark": last * _MINUTE}
            await connection.execute(update(watermarks).where(watermarks.c.stream == "news").values(**clock))
        async with database.engine.connect() as connection:
            plain = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await plain.execute(text("VACUUM ANALYZE"))
    finally:
        await database.close()


async def _times(pipeline: Pipeline, taken: list[float]) -> Times:
    async with pipeline.database.read() as connection:
        raised = len((await connection.execute(select(alerts.c.id))).all())
        size = (await connection.execute(text(f"SELECT count(*) FROM {counters.name}"))).scalar_one()
    p50, p99 = np.quantile(taken, [0.5, 0.99])
    return Times(size, round(float(p50), 4), round(float(p99), 4), round(max(taken), 4), raised)
