"""A live arrival of what only a back-fill holds counts as new; of what an attached run holds it is a repeat."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import NOW, RULE, CountingScorer, behavior, news, only, opened, place, rows, take
from sqlalchemy import event, update

from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.store import known, runs
from schemas.errors import UsageError
from schemas.tables import alerts, events, outbox, progress, scores

RUN = place(cluster="file", topic="f", incarnation="f", origin="backfill", run="r")


@pytest.fixture
async def pipeline(database_url: str, tmp_path: Path) -> AsyncIterator[Pipeline]:
    file = tmp_path / "rules.yaml"
    file.write_text(RULE)
    async with opened(database_url, rules={"file": str(file)}) as pipeline:
        await runs.begin(pipeline.database, RUN, "f", False, NOW)
        yield pipeline


BAD = "the bank is bankrupt"


async def test_a_live_arrival_of_what_a_run_holds_counts_as_new(pipeline: Pipeline) -> None:
    await take(pipeline, [news(0, BAD, id="x")], where=RUN, notify=False)
    outlet = MemoryOutlet()
    applied = await take(pipeline, [news(7, BAD, id="x")], outlet)
    assert (applied.new, applied.repeated, applied.alerts) == (1, 0, 1)
    assert [each.id for each in outlet.scored] == ["x"]
    assert [json.loads(each.value or b"")["rule"] for each in outlet.messages] == ["bad-news"]


async def test_the_row_becomes_a_live_one_and_the_run_keeps_where_it_saw_it(pipeline: Pipeline) -> None:
    await take(pipeline, [news(0, BAD, id="x")], where=RUN, notify=False)
    before = await only(pipeline.database, events)
    await take(pipeline, [news(7, BAD, id="x")])
    row = await only(pipeline.database, events)
    assert row["id"] == before["id"]
    assert (row["run"], row["origin"], row["offset"], row["topic"]) == (None, "live", 7, "t.news")
    assert (row["former_run"], row["former_tick"]) == ("r", before["visible_tick"])
    (alert,) = await rows(pipeline.database, alerts)
    assert (alert["run"], alert["event"]) == (None, row["id"])
    assert len(await rows(pipeline.database, scores)) == 1
    assert len(await rows(pipeline.database, outbox)) == 1


async def test_a_second_live_arrival_is_a_repeat(pipeline: Pipeline) -> None:
    await take(pipeline, [news(0, BAD, id="x")], where=RUN, notify=False)
    await take(pipeline, [news(7, BAD, id="x")])
    applied = await take(pipeline, [news(8, BAD, id="x")])
    assert (applied.new, applied.repeated, applied.alerts) == (0, 1, 0)
    (live,) = [row for row in await rows(pipeline.database, progress) if row["cluster"] != "file"]
    assert (live["new"], live["repeated"]) == (1, 1)


async def test_a_live_arrival_of_what_an_attached_run_holds_is_a_repeat(pipeline: Pipeline) -> None:
    await take(pipeline, [news(0, BAD, id="x")], where=RUN, notify=False)
    await runs.finish(pipeline.database, RUN, NOW)
    await runs.attach(pipeline.database, "r", NOW)
    applied = await take(pipeline, [news(7, BAD, id="x")])
    assert (applied.new, applied.repeated, applied.alerts) == (0, 1, 0)
    assert (await only(pipeline.database, events))["run"] == "r"


async def test_other_content_than_a_run_holds_is_a_conflict(pipeline: Pipeline) -> None:
    await take(pipeline, [news(0, BAD, id="x")], where=RUN, notify=False)
    applied = await take(pipeline, [news(7, "something else", id="x")])
    assert [letter.reason for letter in applied.dead] == ["conflict"]
    assert (await only(pipeline.database, events))["run"] == "r"


async def test_another_run_takes_nothing_over(pipeline: Pipeline) -> None:
    await take(pipeline, [news(0, BAD, id="x")], where=RUN, notify=False)
    other = place(cluster="file", topic="g", incarnation="g", origin="backfill", run="s")
    await runs.begin(pipeline.database, other, "g", False, NOW)
    applied = await take(pipeline, [news(0, BAD, id="x")], where=other, notify=False)
    assert (applied.new, applied.repeated) == (0, 1)
    assert (await only(pipeline.database, events))["run"] == "r"


async def test_stored_scores_are_the_truth_for_what_is_taken_over(database_url: str) -> None:
    async with opened(database_url, scorer=CountingScorer()) as pipeline:
        await runs.begin(pipeline.database, RUN, "f", False, NOW)
        await take(pipeline, [news(0, BAD, id="x")], where=RUN, notify=False)
        said = (await only(pipeline.database, scores))["heads"]
        said["sentiment"]["probability"] = 0.123
        async with pipeline.database.begin() as connection:
            await connection.execute(scores.update().values(heads=said))
        outlet = MemoryOutlet()
        await take(pipeline, [news(7, BAD, id="x")], outlet)
        (scored,) = outlet.scored
        assert json.loads(scored.heads)["sentiment"]["probability"] == 0.123


async def test_a_run_of_another_stream_cannot_be_continued(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match="back-fill of news"):
        await runs.begin(
            pipeline.database, place("chat", cluster="file", topic="f", incarnation="g", run="r"), "f", False, NOW
        )


async def test_many_rows_are_taken_over_as_one_is(pipeline: Pipeline) -> None:
    texts = [BAD, "all is well", BAD]
    held = [news(index, said, id=f"x{index}", entities=[{"n": index}]) for index, said in enumerate(texts)]
    await take(pipeline, held, where=RUN, notify=False)
    before = await rows(pipeline.database, events)
    live = [news(9 + index, said, id=f"x{index}", entities=[{"n": index}]) for index, said in enumerate(texts)]
    applied = await take(pipeline, [news(8), *reversed(live)])
    assert (applied.new, applied.repeated, applied.alerts) == (4, 0, 2)
    after = (await rows(pipeline.database, events))[:3]
    moved = {
        "run": None,
        "former_run": "r",
        "origin": "live",
        "cluster": "c",
        "topic": "t.news",
        "incarnation": "i",
    }
    kept = ("id", "event_id", "text", "entities", "content_hash", "event_time")
    for index, (was, now) in enumerate(zip(before, after, strict=True)):
        assert {name: now[name] for name in kept} == {name: was[name] for name in kept}
        assert {name: now[name] for name in moved} == moved
        assert (now["offset"], now["former_tick"]) == (9 + index, was["visible_tick"])
    assert {row["run"] for row in await rows(pipeline.database, alerts)} == {None}


async def test_many_rows_are_taken_over_by_as_many_statements_as_one(pipeline: Pipeline) -> None:
    asked: list[str] = []

    def see(_c: Any, _r: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    await take(pipeline, [news(index, BAD, id=f"x{index}") for index in range(30)], where=RUN, notify=False)
    await take(pipeline, [news(100, BAD, id="x0")])
    event.listen(pipeline.database.engine.sync_engine, "before_cursor_execute", see)
    await take(pipeline, [news(101, BAD, id="x1")])
    one = len(asked)
    many = [news(110 + index, BAD, id=f"x{2 + index}") for index in range(28)]
    assert (await take(pipeline, many)).new == 28
    assert len(asked) == 2 * one


async def test_a_row_that_another_worker_took_over_first_is_a_repeat(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = known.compare

    async def slower(connection: Any, *given: Any) -> known.Known:
        found = await compare(connection, *given)
        await connection.execute(update(events).where(events.c.event_id == "x").values(run=None))
        return found

    await take(pipeline, [news(0, BAD, id="x"), news(1, BAD, id="y")], where=RUN, notify=False)
    monkeypatch.setattr(known, "compare", slower)
    applied = await take(pipeline, [news(7, BAD, id="x"), news(8, BAD, id="y")])
    assert (applied.new, applied.repeated, applied.alerts) == (1, 1, 1)
    first, second = await rows(pipeline.database, events)
    assert [(row["former_run"], row["offset"]) for row in (first, second)] == [(None, 0), ("r", 8)]


async def test_all_columns_of_a_behavior_event_are_those_of_the_live_arrival(database_url: str) -> None:
    run = place("behavior", cluster="file", topic="f", incarnation="f", origin="backfill", run="r")
    told = {"attributes": {"city": "Bern", "list": [1, None]}, "value": 2.5}
    async with opened(database_url) as pipeline:
        await runs.begin(pipeline.database, run, "f", False, NOW)
        await take(pipeline, [behavior(0, **told)], where=run, notify=False)
        applied = await take(pipeline, [behavior(7, id="b0", **told)], where=place("behavior"))
        row = await only(pipeline.database, events)
        assert (applied.new, row["subject"], row["run"]) == (1, "ann", None)
        assert {name: row[name] for name in told} == told
