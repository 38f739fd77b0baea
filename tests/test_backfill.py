"""A file through the flow without Kafka, and dead letters through it once more."""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    EVENT_TIME,
    NOW,
    RULE,
    behavior,
    chat,
    news,
    only,
    opened,
    place,
    rows,
    settings_for,
    take,
    upgraded,
)
from sqlalchemy import select

from pipeline.admin import create_topics
from pipeline.backfill import Tally, backfill, place_of
from pipeline.embedded import EmbeddedBroker
from pipeline.files import read_lines
from pipeline.replay import through_flow
from pipeline.settings import Settings
from pipeline.store import letters
from pipeline.store.database import Database
from schemas.errors import DatabaseError, UsageError
from schemas.events import Line
from schemas.tables import alerts, dead_letters, events, item_scores, outbox, progress, runs, scores

COUNT = 700


def _body(index: int) -> bytes:
    if index % 100 == 7:
        return b'{"id": broken'
    # Every tenth event repeats the one before it.
    record = news(0, f"shares rise {index}", id=f"n{index}")
    if index % 10 == 0 and index:
        record = news(0, f"shares rise {index - 1}", id=f"n{index - 1}")
    return record.value or b""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """700 lines: 7 of them broken, 69 repeated."""
    path = tmp_path / "news.jsonl"
    path.write_bytes(b"\n".join(_body(index) for index in range(COUNT)) + b"\n")
    return str(path)


async def _fill(settings: Settings, path: str, stream: str = "news", **options: Any) -> Tally:
    return await backfill(settings, read_lines(path, stream), stream, path, **options)


@pytest.fixture
async def settings(database_url: str) -> Settings:
    """Settings over a fresh database, with small chunks."""
    return await upgraded(settings_for(database_url, worker={"chunk": 64}))


@pytest.fixture
async def database(settings: Settings) -> Any:
    """The database of `settings`, to look into."""
    database = Database(settings.database)
    yield database
    await database.close()


async def test_every_line_of_a_file_is_accounted_for(settings: Settings, database: Database, file: str) -> None:
    done = await _fill(settings, file)
    assert (done.sent, done.stored, done.repeated, done.dead) == (COUNT, 624, 69, 7)
    assert len(await rows(database, events)) == 624
    assert len(await rows(database, dead_letters)) == 7
    row = await only(database, progress)
    assert (row["stored"], row["published"]) == (COUNT, COUNT)
    assert (row["new"], row["repeated"], row["dead"]) == (624, 69, 7)


async def test_the_same_file_again_changes_nothing(settings: Settings, database: Database, file: str) -> None:
    await _fill(settings, file)
    before = [await rows(database, table) for table in (events, scores, dead_letters)]
    done = await _fill(settings, file)
    assert (done.sent, done.stored, done.repeated, done.dead) == (COUNT, 0, 693, 7)
    assert [await rows(database, table) for table in (events, scores, dead_letters)] == before
    await only(database, runs)
    row = await only(database, progress)
    assert (row["new"], row["repeated"], row["dead"]) == (624, 69, 7)


async def test_the_same_lines_under_another_name_are_all_repeated(
    settings: Settings, database: Database, file: str, tmp_path: Path
) -> None:
    await _fill(settings, file)
    copy = shutil.copy(file, tmp_path / "copy.jsonl")
    done = await _fill(settings, str(copy))
    assert (done.stored, done.repeated, done.dead) == (0, 693, 7)
    assert len(await rows(database, events)) == 624
    assert len(await rows(database, runs)) == 2


async def test_rows_name_the_run_and_the_file_they_came_from(
    settings: Settings, database: Database, file: str
) -> None:
    await _fill(settings, file, run="june")
    for table in (events, dead_letters):
        found = await rows(database, table)
        assert {(row["origin"], row["run"], row["cluster"]) for row in found} == {("backfill", "june", "file")}
        assert {(row["topic"], row["partition"]) for row in found} == {("news.jsonl", 0)}


async def test_a_run_is_written_down_with_its_beginning_and_its_end(
    settings: Settings, database: Database, file: str
) -> None:
    await _fill(settings, file, run="june")
    row = await only(database, runs)
    assert (row["run"], row["stream"], row["file"], row["notify"]) == ("june", "news", file, False)
    assert row["started_at"] <= row["finished_at"]
    assert row["attached_tick"] is None


async def test_a_run_without_a_name_is_named_after_the_files_content(tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text("1")
    other.write_text("2")
    first, second = place_of(str(one), "news", None, NOW), place_of(str(other), "news", None, NOW)
    assert (first.run or "").startswith("a.jsonl-")
    assert first.run != second.run
    assert first.incarnation != second.incarnation
    other.write_text("1")
    assert place_of(str(other), "news", None, NOW + 1).incarnation == first.incarnation


def test_what_comes_through_a_pipe_is_a_run_named_after_the_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "63")
    stdin, pipe = place_of("-", "news", None, NOW), place_of(str(tmp_path / "63"), "news", None, NOW)
    assert (stdin.run, pipe.run) == (f"stdin-{NOW}", f"63-{NOW}")
    assert (stdin.incarnation, pipe.incarnation) == (stdin.run, pipe.run)


def test_standard_input_with_a_name_for_its_run_is_the_same_place_each_time() -> None:
    assert place_of("-", "news", "june", NOW) == place_of("-", "news", "june", NOW + 1)
    assert place_of("-", "news", "june", NOW).run == "june"


async def test_another_standard_input_is_counted_on_its_own(settings: Settings, database: Database) -> None:
    await backfill(settings, [news(0, "a"), news(1, "b")], "news", "-")
    await backfill(settings, [news(0, "c", id="c")], "news", "-")
    assert [(row["new"], row["repeated"]) for row in await rows(database, progress)] == [(2, 0), (1, 0)]


@pytest.mark.parametrize("count", [64, 100], ids=["whole chunks", "part of a chunk"])
async def test_what_was_read_before_the_reader_failed_is_stored(
    settings: Settings, database: Database, count: int
) -> None:
    def cut() -> Iterator[Line]:
        yield from (news(index) for index in range(count))
        raise UsageError("the file is cut")

    with pytest.raises(UsageError, match=r"^the file is cut$"):
        await backfill(settings, cut(), "news", "-")
    assert len(await rows(database, events)) == count
    row = await only(database, progress)
    assert (row["stored"], row["published"]) == (count, count)
    assert (await only(database, runs))["finished_at"] is None


async def test_progress_is_told_after_every_chunk(settings: Settings, file: str) -> None:
    told: list[int] = []
    await _fill(settings, file, progress=lambda tally: told.append(tally.sent))
    assert told == [*range(64, COUNT, 64), COUNT]


async def test_an_empty_file_is_a_run_without_events(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\n\n")
    done = await _fill(settings, str(empty))
    assert (done.sent, done.stored) == (0, 0)
    assert (await only(database, runs))["finished_at"] is not None


async def test_a_file_that_is_not_there_is_named(settings: Settings) -> None:
    with pytest.raises(UsageError, match=r"nothing\.jsonl cannot be read"):
        await _fill(settings, "nothing.jsonl")


async def test_a_back_fill_raises_alerts_and_puts_nothing_into_the_outbox(
    database_url: str, tmp_path: Path
) -> None:
    file, rules = tmp_path / "news.jsonl", tmp_path / "rules.yaml"
    rules.write_text(RULE)
    file.write_bytes(news(0, "bankrupt").value or b"")
    settings = await upgraded(settings_for(database_url, rules={"file": str(rules)}))
    done = await _fill(settings, str(file), run="june")
    assert done.alerts == 1
    async with opened(database_url) as pipeline:
        assert (await only(pipeline.database, alerts))["run"] == "june"
        assert await rows(pipeline.database, outbox) == []


async def test_a_database_that_is_not_there_ends_a_back_fill(file: str) -> None:
    with pytest.raises(DatabaseError, match="cannot be reached"):
        await _fill(settings_for("postgresql://a:b@127.0.0.1:1/x"), file)


async def _scored(database: Database, stream: str) -> dict[str, Any]:
    joined = events.outerjoin(scores, scores.c.event == events.c.id).outerjoin(
        item_scores,
        (item_scores.c.item == events.c.item) & (item_scores.c.text_hash == events.c.item_hash),
    )
    query = select(
        events.c.event_id,
        events.c.content_hash,
        events.c.signature,
        scores.c.heads,
        scores.c.embedding,
        item_scores.c.heads.label("item_heads"),
        item_scores.c.embedding.label("item_embedding"),
    ).select_from(joined)
    async with database.read() as connection:
        found = await connection.execute(query.where(events.c.stream == stream))
        return {row.event_id: tuple(row) for row in found}


MAKERS = {
    "news": lambda index: news(index, f"shares rise {index}"),
    "chat": lambda index: chat(index, f"my card {index}"),
    "behavior": lambda index: behavior(index, f"u{index % 5}", f"i{index % 11}"),
}


@pytest.mark.parametrize("stream", list(MAKERS))
async def test_live_and_back_fill_give_the_same_ids_and_the_same_scores(
    database_url: str, tmp_path: Path, stream: str
) -> None:
    """Without ids in the events: they are derived from the content."""
    bodies = [json.loads(MAKERS[stream](index).value or b"") for index in range(60)]
    raw = [json.dumps({name: value for name, value in body.items() if name != "id"}).encode() for body in bodies]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(raw))
    key = {"hash_key": "the same for both"}
    async with opened(database_url, database=key) as pipeline:
        for start in range(0, 60, 25):
            chunk = [Line(start + index, each) for index, each in enumerate(raw[start : start + 25])]
            await take(pipeline, chunk, where=place(stream))
        live = await _scored(pipeline.database, stream)
    other = f"sqlite+aiosqlite:///{tmp_path / 'other.db'}"
    settings = await upgraded(settings_for(other, database=key, worker={"chunk": 7}))
    await _fill(settings, str(file), stream)
    async with opened(other, database=key) as pipeline:
        filled = await _scored(pipeline.database, stream)
    assert len(live) == (60 if stream != "behavior" else 55)
    assert filled == live


async def test_what_came_live_is_repeated_in_a_back_fill(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "news.jsonl"
    file.write_bytes(b"\n".join(news(0, f"x {i}", id=f"n{i}").value or b"" for i in range(3)))
    async with opened(settings.database_url) as pipeline:
        await take(pipeline, [news(0, "x 1", id="n1")])
    done = await _fill(settings, str(file))
    assert (done.stored, done.repeated) == (2, 1)
    assert [row["origin"] for row in await rows(database, events)] == ["live", "backfill", "backfill"]


async def _dead(url: str, where: Any = None) -> list[dict[str, Any]]:
    """A chunk of visits, one of them with an action that is not allowed; returns its dead letter."""
    headers = [("traceparent", b"00-1-2-03")]
    odd = behavior(1, action="like", record={"timestamp": EVENT_TIME // 1000, "headers": headers})
    async with opened(url) as pipeline:
        await take(pipeline, [behavior(0), odd, behavior(2)], where=where or place("behavior"))
        await pipeline.flush()
        return await letters.list_letters(pipeline.database, stream=None, reason=None, limit=None)


async def test_a_dead_letter_is_stored_once_its_cause_is_mended(database_url: str) -> None:
    where = place("behavior", origin="backfill", run="june")
    found = await _dead(database_url, where)
    settings = settings_for(database_url, events={"actions": "click,like"})
    done = await through_flow(settings, found)
    assert (done.sent, done.stored, done.repeated, done.dead) == (1, 1, 0, 0)
    async with opened(database_url) as pipeline:
        row = (await rows(pipeline.database, events))[-1]
        assert (row["event_id"], row["action"], row["offset"]) == ("b1", "like", 1)
        assert (row["broker_time"], row["traceparent"]) == (EVENT_TIME, "00-1-2-03")
        assert (row["origin"], row["run"]) == ("backfill", "june")
        letter = await only(pipeline.database, dead_letters)
        assert letter["replayed_at"] is not None
        counts = await only(pipeline.database, progress)
        assert (counts["new"], counts["dead"], counts["stored"], counts["published"]) == (2, 1, 3, 3)


async def test_a_dead_letter_whose_cause_remains_stays_as_it_is(database_url: str) -> None:
    found = await _dead(database_url, place("behavior", origin="backfill", run="june"))
    done = await through_flow(settings_for(database_url), found)
    assert (done.sent, done.stored, done.dead) == (1, 0, 1)
    async with opened(database_url) as pipeline:
        assert await only(pipeline.database, dead_letters) == found[0]


async def test_a_dead_letter_that_is_replayed_twice_is_repeated(database_url: str) -> None:
    found = await _dead(database_url, place("behavior", origin="backfill", run="june"))
    settings = settings_for(database_url, events={"actions": "click,like"})
    await through_flow(settings, found)
    done = await through_flow(settings, found)
    assert (done.stored, done.repeated, done.dead) == (0, 1, 0)


async def test_a_conflict_stays_dead_when_it_is_replayed(database_url: str) -> None:
    where = place(origin="backfill", run="june")
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, "first", id="a"), news(1, "second", id="a")], where=where)
        found = await rows(pipeline.database, dead_letters)
    done = await through_flow(settings_for(database_url), found)
    assert (done.stored, done.repeated, done.dead) == (0, 0, 1)
    async with opened(database_url) as pipeline:
        assert (await only(pipeline.database, events))["text"] == "first"


async def test_a_live_dead_letter_sends_what_comes_of_it(
    database_url: str, embedded_broker: EmbeddedBroker, prefix: str, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULE.replace("news", "behavior").replace("bad-behavior", "bad-visit"))
    broker = {"servers": embedded_broker.servers, "prefix": prefix, "partitions": 1}
    async with opened(database_url, rules={"file": str(rules)}) as pipeline:
        await take(pipeline, [behavior(0, text="bankrupt", action="like")], where=place("behavior"))
        found = await rows(pipeline.database, dead_letters)
    # It goes by the rules that workers go by, not by those of whoever calls it.
    settings = settings_for(database_url, broker=broker, events={"actions": "click,like"})
    await asyncio.to_thread(create_topics, settings.broker)
    done = await through_flow(settings, found)
    assert done.stored == 1
    async with opened(database_url) as pipeline:
        row = await only(pipeline.database, outbox)
        assert (row["receiver"], row["sent_at"] is not None) == (f"topic:{prefix}.alerts", True)
