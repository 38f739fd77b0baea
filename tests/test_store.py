"""One transaction a chunk: it counts everything once, and keeps what it cannot store as it came."""

import json

import pytest
from helpers import COUNTS, NOW, SECOND, Clock, behavior, chat, news, only, opened, outage, place, rows, take
from sqlalchemy import update

from pipeline.deliver import MemoryOutlet
from pipeline.store.letters import line_of, place_of
from schemas.events import Line
from schemas.tables import dead_letters, events, progress, scores


async def test_a_chunk_that_comes_again_stores_nothing(database_url: str) -> None:
    chunk = [news(0), news(1), news(2, time="never")]
    tables = (events, scores, dead_letters, progress)
    clock = Clock()
    async with opened(database_url, clock=clock) as pipeline:
        await take(pipeline, chunk)
        await pipeline.flush()
        before = [await rows(pipeline.database, table) for table in tables]
        clock.now += 60 * SECOND
        applied = await take(pipeline, chunk)
        after = [await rows(pipeline.database, table) for table in tables]
        after[-1][0]["updated_at"] = before[-1][0]["updated_at"]
        assert (applied.new, applied.repeated, len(applied.dead)) == (0, 2, 1)
        # The order within the partition goes on, with a gap.
        assert after[-1][0].pop("sequence") >= before[-1][0].pop("sequence")
        assert after == before


async def test_a_chunk_that_comes_again_is_published_again_as_the_database_has_it(database_url: str) -> None:
    chunk = [news(0, "Shares fall"), news(1, "Shares rise")]
    first, second = MemoryOutlet(), MemoryOutlet()
    async with opened(database_url) as pipeline:
        await take(pipeline, chunk, first)
        async with pipeline.database.begin() as connection:
            stored = {"sentiment": {"label": "neutral", "probability": 1.0, "decision": "label", "words": []}}
            await connection.execute(update(scores).where(scores.c.event == 1).values(heads=stored))
        await take(pipeline, chunk, second)
    assert [(each.id, each.time, each.key, each.bundle) for each in second.scored] == [
        (each.id, each.time, each.key, each.bundle) for each in first.scored
    ]
    assert json.loads(second.scored[0].heads) == stored
    assert json.loads(second.scored[1].heads) == json.loads(first.scored[1].heads)


async def test_behavior_that_comes_again_is_published_again_with_its_items_score(database_url: str) -> None:
    first, second = MemoryOutlet(), MemoryOutlet()
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0)], first, place("behavior"))
        await take(pipeline, [behavior(0)], second, place("behavior"))
    assert json.loads(second.scored[0].heads) == json.loads(first.scored[0].heads) != {}
    assert second.scored[0].key == "ann"


async def test_what_is_partly_known_is_published_in_the_order_of_its_partition(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0), news(1)])
        await take(pipeline, [news(0), news(1), news(2), news(3)], outlet)
    assert [each.id for each in outlet.scored] == ["n0", "n1", "n2", "n3"]


async def test_a_repeat_within_a_chunk_is_counted_and_stored_once(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        applied = await take(pipeline, [news(0, "x", id="a"), news(1, "x", id="a"), news(2, "y", id="b")])
        assert (applied.new, applied.repeated) == (2, 1)
        assert [row["offset"] for row in await rows(pipeline.database, events)] == [0, 2]


async def test_a_repeat_in_a_later_chunk_is_counted_and_not_published(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, "x", id="a")])
        applied = await take(pipeline, [news(1, "x", id="a")], outlet)
        assert (applied.new, applied.repeated) == (0, 1)
        assert (await only(pipeline.database, events))["offset"] == 0
    assert outlet.scored == []


async def test_equal_ids_of_two_sources_are_two_events(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        applied = await take(pipeline, [news(0, "x", id="a"), news(1, "x", id="a", source="blog")])
        assert applied.new == 2


async def test_equal_ids_of_two_streams_are_two_events(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, id="a", source="s")])
        applied = await take(pipeline, [chat(0, id="a", source="s")], where=place("chat"))
        assert applied.new == 1


async def test_other_content_under_a_stored_id_is_a_dead_letter_and_overwrites_nothing(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, "first", id="a")])
        applied = await take(pipeline, [news(1, "second", id="a")])
        assert (applied.new, applied.repeated, len(applied.dead)) == (0, 0, 1)
        assert (await only(pipeline.database, events))["text"] == "first"
        letter = await only(pipeline.database, dead_letters)
        assert (letter["stage"], letter["reason"], letter["exception"]) == ("store", "conflict", "ConflictError")
        assert "news/wire/a was stored before with other content" in letter["message"]


async def test_other_content_under_an_id_of_the_same_chunk_is_a_dead_letter(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        applied = await take(pipeline, [news(0, "first", id="a"), news(1, "second", id="a")])
        assert (applied.new, applied.repeated, len(applied.dead)) == (1, 0, 1)
        assert (await only(pipeline.database, events))["text"] == "first"
        assert (await only(pipeline.database, dead_letters))["reason"] == "conflict"


async def test_every_record_is_counted_once_in_progress(database_url: str) -> None:
    chunk = [news(0, id="a"), news(1, id="a", text="shares rise 0"), news(2), news(3, time="x"), news(4)]
    async with opened(database_url) as pipeline:
        await take(pipeline, chunk[:3])
        await take(pipeline, chunk)
        await take(pipeline, chunk)
        row = await only(pipeline.database, progress)
        assert {name: row[name] for name in COUNTS} == {"new": 3, "repeated": 1, "dead": 1}
        assert row["stored"] == 5


async def test_each_partition_has_its_own_progress(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, id="a")], where=place(partition=0))
        await take(pipeline, [news(0, id="b"), news(1, id="c")], where=place(partition=1))
        await take(pipeline, [news(0, id="d")], where=place(incarnation="j"))
        found = [
            (row["incarnation"], row["partition"], row["stored"], row["new"])
            for row in await rows(pipeline.database, progress)
        ]
        assert found == [("i", 0, 1, 1), ("i", 1, 2, 2), ("j", 0, 1, 1)]


async def test_published_follows_with_the_next_transaction(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0), news(1)])
        first = await only(pipeline.database, progress)
        await take(pipeline, [news(2)])
        second = await only(pipeline.database, progress)
    assert (first["stored"], first["published"]) == (2, 0)
    assert (second["stored"], second["published"]) == (3, 2)


async def test_a_flush_writes_down_what_was_published(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0), news(1)])
        await pipeline.flush()
        assert (await only(pipeline.database, progress))["published"] == 2


async def test_a_flush_that_fails_is_made_up_for_by_the_next(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0)])
        with outage(pipeline.database, 1), pytest.raises(Exception, match="went away"):
            await pipeline.flush()
        await pipeline.flush()
        assert (await only(pipeline.database, progress))["published"] == 1


async def test_published_never_goes_back(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0), news(1)])
        await pipeline.flush()
        await take(pipeline, [news(0)])
        await pipeline.flush()
        assert (await only(pipeline.database, progress))["published"] == 2


async def test_what_was_not_delivered_is_not_published(database_url: str) -> None:
    outlet = MemoryOutlet()
    outlet.fail = [RuntimeError("no broker")]
    async with opened(database_url) as pipeline:
        with pytest.raises(RuntimeError):
            await take(pipeline, [news(0)], outlet)
        await pipeline.flush()
        row = await only(pipeline.database, progress)
        assert (row["stored"], row["published"]) == (1, 0)


async def test_the_sequence_grows_with_each_event_of_a_partition(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0), news(1)])
        await take(pipeline, [news(2), news(3)])
        found = [row["sequence"] for row in await rows(pipeline.database, events)]
        assert found == sorted(set(found))
        assert len(found) == 4
        assert (await only(pipeline.database, progress))["sequence"] > found[-1]


async def test_a_transaction_that_fails_at_its_end_leaves_nothing(database_url: str) -> None:
    async with opened(database_url, database={"outage_deadline": 0.01}) as pipeline:
        with outage(pipeline.database, 99, "UPDATE progress"), pytest.raises(Exception, match="went away"):
            await take(pipeline, [news(0), news(1, time="x")])
        for table in (events, scores, dead_letters, progress):
            assert await rows(pipeline.database, table) == []


async def test_a_dead_letter_keeps_everything_as_it_came(database_url: str) -> None:
    raw = b'\xff\x00{"id": "n1", not JSON'
    record = Line(7, raw, b"\x80key", 1_717_147_800_123, [("h", b"\xfe\x00"), ("h", b""), ("none", None)])
    where = place(partition=2, origin="backfill", run="june")
    async with opened(database_url) as pipeline:
        await take(pipeline, [record], where=where)
        row = await only(pipeline.database, dead_letters)
        assert (row["key"], row["value"]) == (b"\x80key", raw)
        assert line_of(row) == record
        assert place_of(row) == where
        assert (row["stage"], row["reason"], row["exception"]) == ("decode", "undecodable", "DecodeError")
        assert "no JSON" in row["message"] or "UTF-8" in row["message"]
        assert (row["ingest_time"], row["attempts"], row["replayed_at"]) == (NOW, 1, None)


async def test_a_dead_letter_without_key_and_value_is_kept(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [Line(0, None)])
        row = await only(pipeline.database, dead_letters)
        assert (row["key"], row["value"], row["headers"]) == (None, None, [])


async def test_a_dead_letter_whose_header_is_named_with_a_nul_is_stored(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [Line(0, b"{}", headers=[("n\0ul", b"1")])])
        assert line_of(await only(pipeline.database, dead_letters)).headers == [("n\ufffdul", b"1")]


async def test_equal_bytes_at_two_offsets_are_two_dead_letters(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, "x", id="a", time=""), news(1, "x", id="a", time="")])
        assert len(await rows(pipeline.database, dead_letters)) == 2


async def test_the_same_record_is_one_dead_letter_however_often_it_comes(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time="")])
        applied = await take(pipeline, [news(0, time="")])
        assert len(applied.dead) == 1
        await only(pipeline.database, dead_letters)
