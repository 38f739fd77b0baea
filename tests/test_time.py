"""Time that can be replayed: what a decision at a tick may read, live and ever after."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import EVENT_TIME, NOW, SECOND, news, only, opened, place, rows, settings_for, take, upgraded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timeline import STREAM, Timeline, timeline

from pipeline.store import owners, runs, ticks, visible
from schemas.errors import UsageError
from schemas.tables import closings, events, watermarks

MINUTE = 60 * SECOND
seconds = st.integers(-900, 1_500)
names = st.sampled_from([None, None, None, "both-1", "both-2", "both-3"])
numbers = st.integers(0, 2)

OPERATIONS = st.one_of(
    st.tuples(st.just("arrive"), numbers, seconds, names),
    st.tuples(st.just("arrive"), numbers, seconds, names),
    st.tuples(st.just("work"), numbers, st.integers(1, 3)),
    st.tuples(st.just("work"), numbers, st.integers(1, 3)),
    st.tuples(st.just("close"), st.integers(0, 1)),
    st.tuples(st.just("close"), st.integers(0, 1)),
    st.tuples(st.just("idle"), numbers),
    st.tuples(st.just("pass"), st.sampled_from([1, 9, 31, 120, 700])),
    st.tuples(st.just("leave"), numbers, st.booleans()),
    st.tuples(st.just("own"), numbers, st.integers(0, 1)),
    st.tuples(st.just("backfill"), st.lists(st.tuples(seconds, names), min_size=1, max_size=5), st.booleans()),
)


async def _apply(history: Timeline, operation: tuple[Any, ...]) -> None:
    what, *rest = operation
    if what == "arrive":
        history.arrive(rest[0], EVENT_TIME + rest[1] * SECOND, rest[2])
    elif what == "work":
        await history.work(*rest)
    elif what == "close":
        await history.close(*rest)
    elif what == "idle":
        await history.fall_idle(*rest)
    elif what == "pass":
        await history.pass_time(*rest)
    elif what == "leave":
        await history.leave(*rest)
    elif what == "own":
        await history.own(history.logs[rest[0] % len(history.logs)], rest[1])
    else:
        chosen, attach = rest
        moments = [EVENT_TIME + each * SECOND for each, _ in chosen]
        await history.backfill(moments, [name for _, name in chosen], attach)


async def _live_through(url: str, partitions: int, operations: Sequence[tuple[Any, ...]]) -> None:
    async with timeline(url, partitions) as history:
        for operation in operations:
            await _apply(history, operation)
        await history.come_to_rest()
        assert await history.replayed() == history.seen
        await _check_that_all_became_visible(history)


async def _check_that_all_became_visible(history: Timeline) -> None:
    stored = await rows(history.database, events)
    assert {row["event_id"] for row in stored} == history.produced
    (clock,) = [row for row in await rows(history.database, watermarks) if row["run"] == ""] or [None]
    last = -1 if clock is None else clock["closed_tick"]
    seen = await visible.read_ids(history.database, visible.live(STREAM, last))
    attached = {row["run"] for row in await _runs(history) if row["attached_tick"] is not None}
    assert seen >= {row["id"] for row in stored if row["run"] is None}
    for row in stored:
        if row["run"] is not None and row["run"] not in attached:
            assert row["id"] not in seen
            own = max(tick for run, tick in history.seen if run == row["run"])
            assert row["id"] in history.seen[row["run"], own]


async def _runs(history: Timeline) -> list[dict[str, Any]]:
    return await runs.list_runs(history.database)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "t.db"
    asyncio.run(upgraded(settings_for(f"sqlite:///{path}")))
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(partitions=st.integers(1, 3), operations=st.lists(OPERATIONS, min_size=5, max_size=40))
def test_what_each_closed_tick_saw_is_what_a_replay_sees_and_all_becomes_visible(
    template: Path, tmp_path_factory: pytest.TempPathFactory, partitions: int, operations: list[Any]
) -> None:
    path = tmp_path_factory.mktemp("one") / "t.db"
    shutil.copy(template, path)
    asyncio.run(_live_through(f"sqlite:///{path}", partitions, operations))


async def _quiet(pipeline: Any, where: Any, offset: int) -> None:
    await owners.take(pipeline.database, [where], "w", NOW, {where: 0})
    await owners.declare_idle(pipeline.database, "w", {where: offset}, NOW)


async def test_an_event_of_a_closed_tick_counts_in_the_next_open_one(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await owners.take(pipeline.database, [place()], "w", NOW, {place(): 0})
        await take(pipeline, [news(0)])
        closed = await ticks.close(pipeline.database, pipeline.instance.tick, "news", "t.news", NOW)
        await take(pipeline, [news(1, time="2024-05-31T09:00:00Z")])
        late = (await rows(pipeline.database, events))[1]
        assert late["visible_tick"] == closed.last + 1


async def test_years_without_an_event_are_closed_in_one_step(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await owners.take(pipeline.database, [place()], "w", NOW, {place(): 0})
        await take(pipeline, [news(0, time="2014-01-01T00:00:00Z")])
        tick = pipeline.instance.tick
        first = await ticks.close(pipeline.database, tick, "news", "t.news", NOW)
        await take(pipeline, [news(1)])
        second = await ticks.close(pipeline.database, tick, "news", "t.news", NOW)
        assert second.first == first.last + 1
        assert second.last - second.first > 30_000_000
        assert len(await rows(pipeline.database, closings)) == 2


async def test_a_tick_is_closed_once_whoever_looks(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url) as other:
        await owners.take(one.database, [place()], "w", NOW, {place(): 0})
        await take(one, [news(0)])
        looks = [
            ticks.close(each.database, each.instance.tick, "news", "t.news", NOW)
            for each in (one, other, one, other)
        ]
        found = await asyncio.gather(*looks)
        assert sum(1 for each in found if each.last >= each.first) == 1
        await only(one.database, closings)


async def test_a_future_event_counts_when_it_came_and_moves_no_time(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await owners.take(pipeline.database, [place()], "w", NOW, {place(): 0})
        applied = await take(pipeline, [news(0, time="2031-01-01T00:00:00Z")])
        assert not applied.timed
        assert (await only(pipeline.database, events))["visible_tick"] == NOW // pipeline.instance.tick
        closed = await ticks.close(pipeline.database, pipeline.instance.tick, "news", "t.news", NOW)
        assert closed.last < closed.first


async def test_an_idle_partition_that_gives_an_event_has_a_say_again(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await _quiet(pipeline, place(partition=0), 0)
        await owners.take(pipeline.database, [place(partition=1)], "w", NOW, {place(partition=1): 0})
        await take(pipeline, [news(0, time="2024-05-31T09:40:00Z")], where=place(partition=1))
        tick = pipeline.instance.tick
        await ticks.close(pipeline.database, tick, "news", "t.news", NOW)
        await take(pipeline, [news(0, id="x", time="2024-05-31T09:39:00Z")], where=place(partition=0))
        await take(pipeline, [news(1, time="2024-05-31T09:50:00Z")], where=place(partition=1))
        held = await ticks.close(pipeline.database, tick, "news", "t.news", NOW)
        assert held.last < held.first
        (closing,) = await rows(pipeline.database, closings)
        assert closing["left_out"] == [[0, "idle"]]


async def test_events_of_an_attached_run_count_from_the_tick_of_its_attachment(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await owners.take(pipeline.database, [place()], "w", NOW, {place(): 0})
        await take(pipeline, [news(0)])
        before = await ticks.close(pipeline.database, pipeline.instance.tick, "news", "t.news", NOW)
        run = place(cluster="file", topic="f", incarnation="f", origin="backfill", run="r")
        await runs.begin(pipeline.database, run, "f", False, NOW)
        await take(pipeline, [news(0, id="old", time="2024-05-30T00:00:00Z")], where=run)
        await runs.finish(pipeline.database, run, NOW)
        tick = await runs.attach(pipeline.database, "r", NOW)
        assert tick == before.last + 1
        (row,) = [each["id"] for each in await rows(pipeline.database, events) if each["run"] == "r"]
        assert row not in await visible.read_ids(pipeline.database, visible.live("news", tick - 1))
        assert row in await visible.read_ids(pipeline.database, visible.live("news", tick))
        assert await runs.attach(pipeline.database, "r", NOW + MINUTE) == tick


async def test_what_is_added_to_an_attached_run_enters_no_closed_live_tick(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        run = place(cluster="file", topic="f", incarnation="f", origin="backfill", run="r")
        await runs.begin(pipeline.database, run, "f", False, NOW)
        await runs.finish(pipeline.database, run, NOW)
        await runs.attach(pipeline.database, "r", NOW)
        await owners.take(pipeline.database, [place()], "w", NOW, {place(): 0})
        await take(pipeline, [news(0)])
        closed = await ticks.close(pipeline.database, pipeline.instance.tick, "news", "t.news", NOW)
        await take(pipeline, [news(0, id="old", time="2024-05-30T00:00:00Z")], where=run)
        (row,) = [each for each in await rows(pipeline.database, events) if each["run"] == "r"]
        assert row["visible_tick"] > closed.last


@pytest.mark.parametrize("run", ["nobody", "open"])
async def test_only_a_run_that_has_ended_can_be_attached(database_url: str, run: str) -> None:
    async with opened(database_url) as pipeline:
        where = place(cluster="file", topic="f", incarnation="f", origin="backfill", run="open")
        await runs.begin(pipeline.database, where, "f", False, NOW)
        with pytest.raises(UsageError, match=run):
            await runs.attach(pipeline.database, run, NOW)
