"""What is stored of an event: its row, its score or its item's, when it counts, and for whom."""

import json
from typing import Any

import numpy as np
import pytest
from helpers import (
    DAY,
    EVENT_TIME,
    NOW,
    SECOND,
    Clock,
    CountingScorer,
    behavior,
    chat,
    news,
    only,
    opened,
    outage,
    place,
    rows,
    take,
)
from sqlalchemy import insert

from models.stub import STUB_BUNDLE, StubScorer
from pipeline.compose import Pipeline
from pipeline.decode import Decoder
from pipeline.deliver import MemoryOutlet
from pipeline.settings import EventSettings
from pipeline.signature import signatures
from pipeline.work import encode_heads
from schemas.events import Place, Record
from schemas.tables import dead_letters, events, item_scores, rule_sets, scores, subjects, watermarks

TICK = 10 * SECOND
OWN_TICK = EVENT_TIME // TICK


def _hash(pipeline: Pipeline, stream: str, record: Record) -> bytes:
    return Decoder(stream, pipeline.instance.hash_key, EventSettings()).decode(record).content_hash


def _row(where: Place, **fields: Any) -> dict[str, Any]:
    """A row of `events` whose other columns are as these tests' builders make them."""
    empty = dict.fromkeys(events.c.keys())
    shared = {
        "id": 1,
        "stream": where.stream,
        "origin": "live",
        "cluster": "c",
        "topic": where.topic,
        "incarnation": "i",
        "partition": 3,
        "offset": 41,
        "sequence": 0,
        "event_time": EVENT_TIME,
        "broker_time": EVENT_TIME + 2 * SECOND,
        "ingest_time": NOW,
        "visible_tick": OWN_TICK,
        "future": False,
        "too_old": False,
        "truncated": False,
        "bundle": STUB_BUNDLE,
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "attributes": {"a": [1, {"b": None}], "ü": "\U0001f4c8"},
    }
    return empty | shared | fields


RECORD = {
    "timestamp": (EVENT_TIME + 2 * SECOND) // 1000,
    "headers": [("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")],
}
ATTRIBUTES = {"ü": "\U0001f4c8", "a": [1, {"b": None}]}


async def test_a_news_event_fills_its_row(database_url: str) -> None:
    record = news(
        41,
        "Shares fall",
        record=RECORD,
        title="Flash",
        url="https://x.test/1",
        language="en",
        entities=["ACME", {"name": "Bolt", "type": "company"}],
        attributes=ATTRIBUTES,
    )
    where = place("news", 3)
    async with opened(database_url) as pipeline:
        await take(pipeline, [record], where=where)
        assert await only(pipeline.database, events) == _row(
            where,
            source="wire",
            event_id="n41",
            content_hash=_hash(pipeline, "news", record),
            signature=signatures(["Flash. Shares fall"])[0],
            language="en",
            title="Flash",
            text="Shares fall",
            url="https://x.test/1",
            entities=["ACME", {"name": "Bolt", "type": "company"}],
        )


async def test_a_chat_event_fills_its_row(database_url: str) -> None:
    record = chat(
        41, "My card", record=RECORD, customer="bob", channel="web", language="en", attributes=ATTRIBUTES
    )
    where = place("chat", 3)
    async with opened(database_url) as pipeline:
        await take(pipeline, [record], where=where)
        assert await only(pipeline.database, events) == _row(
            where,
            source="desk",
            event_id="c41",
            content_hash=_hash(pipeline, "chat", record),
            signature=signatures(["My card"])[0],
            language="en",
            text="My card",
            subject="bob",
            conversation="k1",
            role="customer",
            kind="message",
            channel="web",
        )


async def test_a_behavior_event_fills_its_row(database_url: str) -> None:
    fields = {"version": "v2", "value": 4.5, "session": "s9", "attributes": ATTRIBUTES, "action": "rate"}
    record = behavior(41, "ann", "i7", record=RECORD, **fields)
    where = place("behavior", 3)
    async with opened(database_url) as pipeline:
        await take(pipeline, [record], where=where)
        item = await only(pipeline.database, item_scores)
        assert await only(pipeline.database, events) == _row(
            where,
            source="shop",
            event_id="b41",
            content_hash=_hash(pipeline, "behavior", record),
            signature=signatures(["all about i7"])[0],
            text="all about i7",
            subject="ann",
            apply_sequence=1,
            item="i7",
            item_hash=item["text_hash"],
            item_version="v2",
            action="rate",
            value=4.5,
            session="s9",
        )


async def test_a_back_fill_is_named_in_the_rows_of_its_events(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0)], where=place(origin="backfill", run="june"))
        row = await only(pipeline.database, events)
        assert (row["origin"], row["run"]) == ("backfill", "june")


async def test_an_event_without_broker_time_has_none(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0), news(1, record={"timestamp": -1})])
        assert [row["broker_time"] for row in await rows(pipeline.database, events)] == [None, None]


async def test_a_broker_time_that_no_column_holds_is_left_out(database_url: str) -> None:
    nanoseconds = EVENT_TIME * 1000
    async with opened(database_url) as pipeline:
        applied = await take(pipeline, [news(0, record={"timestamp": nanoseconds})])
        assert applied.new == 1
        row = await only(pipeline.database, events)
        assert (row["broker_time"], row["future"]) == (None, False)


async def test_a_dead_letter_with_such_a_broker_time_is_stored(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time="never", record={"timestamp": EVENT_TIME * 1000})])
        assert (await only(pipeline.database, dead_letters))["broker_time"] is None


async def test_a_score_is_stored_as_the_scorer_gave_it(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, "Shares fall")])
        [said] = StubScorer().score(["Shares fall"], "news")
        assert await only(pipeline.database, scores) == {
            "event": 1,
            "bundle": STUB_BUNDLE,
            "heads": json.loads(encode_heads(said)),
            "embedding": said.embedding,
            "scale": pytest.approx(said.scale),
            "tokens": said.tokens,
        }


async def test_the_scorer_is_told_the_language_that_an_event_names(database_url: str) -> None:
    scorer = CountingScorer()
    async with opened(database_url, scorer=scorer) as pipeline:
        await take(pipeline, [news(0, language="de"), news(1)])
        await take(pipeline, [chat(0, language="fr")], where=place("chat"))
        await take(pipeline, [behavior(0)], where=place("behavior"))
        assert scorer.languages == ["de", None, "fr", None]


async def test_an_embedding_is_one_byte_a_dimension_and_a_scale_that_normalises_it(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0)])
        row = await only(pipeline.database, scores)
        vector = np.frombuffer(row["embedding"], dtype=np.int8) * row["scale"]
        assert vector.shape == (384,)
        assert np.linalg.norm(vector) == pytest.approx(1.0)


async def test_an_event_without_text_is_stored_without_a_score(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [chat(0, " ", kind="resolved")], where=place("chat"))
        assert (await only(pipeline.database, events))["signature"] is None
        assert await rows(pipeline.database, scores) == []


async def test_an_item_is_scored_once_however_many_events_name_it(database_url: str) -> None:
    scorer = CountingScorer()
    async with opened(database_url, scorer=scorer) as pipeline:
        chunk = [behavior(0, "ann"), behavior(1, "bob"), behavior(2, "ann", "i2"), behavior(3, text="new words")]
        await take(pipeline, chunk, where=place("behavior"))
        await take(pipeline, [behavior(4, "eve")], where=place("behavior"))
        stored = {(row["item"], row["text_hash"]) for row in await rows(pipeline.database, item_scores)}
        named = [(row["item"], row["item_hash"]) for row in await rows(pipeline.database, events)]
        assert sorted(scorer.asked) == ["all about i1", "all about i2", "new words"]
        assert len(stored) == 3
        assert set(named) == stored
        assert named[0] == named[1] == named[4]
        assert await rows(pipeline.database, scores) == []


async def test_a_new_process_takes_the_stored_score_of_an_item(database_url: str) -> None:
    first, second = CountingScorer(), CountingScorer()
    outlet = MemoryOutlet()
    async with opened(database_url, scorer=first) as pipeline:
        await take(pipeline, [behavior(0)], outlet, place("behavior"))
    async with opened(database_url, scorer=second) as pipeline:
        await take(pipeline, [behavior(1)], outlet, place("behavior"))
        await only(pipeline.database, item_scores)
    assert second.asked == []
    assert json.loads(outlet.scored[0].heads) == json.loads(outlet.scored[1].heads) != {}


async def test_an_item_that_was_met_lately_is_not_looked_up(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0)], where=place("behavior"))
        with outage(pipeline.database, 1, "FROM item_scores") as looked_up:
            await take(pipeline, [behavior(1)], where=place("behavior"))
    assert looked_up == []


async def test_another_bundle_scores_an_item_again(database_url: str) -> None:
    class Other(CountingScorer):
        bundle = "other@1"  # type: ignore[assignment]

    other = Other()
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0)], where=place("behavior"))
    async with opened(database_url, scorer=other) as pipeline:
        await take(pipeline, [behavior(1)], where=place("behavior"))
        assert [row["bundle"] for row in await rows(pipeline.database, item_scores)] == ["other@1", STUB_BUNDLE]
    assert other.asked == ["all about i1"]


async def test_a_behavior_event_without_text_refers_to_no_score(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0, text=None)], where=place("behavior"))
        assert (await only(pipeline.database, events))["item_hash"] is None
        assert await rows(pipeline.database, item_scores) == []


async def _close(pipeline: Pipeline, tick: int, run: str = "") -> None:
    values = {"stream": "news", "run": run, "closed_tick": tick, "watermark": 0, "updated_at": 0}
    async with pipeline.database.begin() as connection:
        await connection.execute(insert(watermarks).values(**values))


@pytest.mark.parametrize(("closed", "visible"), [(-2, 0), (-1, 0), (0, 1), (7, 8)])
async def test_an_event_becomes_visible_after_what_is_closed(database_url: str, closed: int, visible: int) -> None:
    async with opened(database_url) as pipeline:
        await _close(pipeline, OWN_TICK + closed)
        await take(pipeline, [news(0)])
        assert (await only(pipeline.database, events))["visible_tick"] == OWN_TICK + visible


async def test_a_run_has_a_clock_of_its_own(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await _close(pipeline, OWN_TICK + 7)
        await _close(pipeline, OWN_TICK + 2, run="june")
        await take(pipeline, [news(0)], where=place(origin="backfill", run="june"))
        assert (await only(pipeline.database, events))["visible_tick"] == OWN_TICK + 3


async def test_a_stream_without_a_clock_gets_one(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0)])
        row = await only(pipeline.database, watermarks)
        assert (row["stream"], row["run"], row["closed_tick"]) == ("news", "", -1)


async def test_an_event_from_the_future_is_flagged_and_counts_when_it_came(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time="2024-06-02T00:00:00Z")])
        row = await only(pipeline.database, events)
        assert (row["future"], row["visible_tick"]) == (True, NOW // TICK)
        assert row["event_time"] > NOW


async def test_ten_minutes_ahead_are_no_future_yet(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        times = ["2024-05-31T09:40:05Z", "2024-05-31T09:40:05.000001Z"]
        await take(pipeline, [news(index, time=time) for index, time in enumerate(times)])
        assert [row["future"] for row in await rows(pipeline.database, events)] == [False, True]


async def test_the_earlier_of_broker_and_ingest_time_says_what_the_future_is(database_url: str) -> None:
    clock = Clock(EVENT_TIME + DAY)
    early = {"timestamp": (EVENT_TIME - DAY) // 1000}
    async with opened(database_url, clock=clock) as pipeline:
        await take(pipeline, [news(0, record=early), news(1)])
        assert [row["future"] for row in await rows(pipeline.database, events)] == [True, False]


async def test_the_order_of_application_grows_for_each_user(database_url: str) -> None:
    where = place("behavior")
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0, "ann"), behavior(1, "bob"), behavior(2, "ann")], where=where)
        await take(pipeline, [behavior(3, "bob"), behavior(4, "ann")], where=where)
        found: dict[str, list[int]] = {}
        for row in await rows(pipeline.database, events):
            found.setdefault(row["subject"], []).append(row["apply_sequence"])
        assert found == {"ann": [1, 2, 3], "bob": [1, 2]}


async def test_a_person_is_known_by_a_keyed_hash_only(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0, "ann"), behavior(1, "ann")], where=place("behavior"))
        row = await only(pipeline.database, subjects)
        assert len(row["subject_hash"]) == 16
        assert b"ann" not in row["subject_hash"]
        assert (row["apply_sequence"], row["forgotten_at"]) == (2, None)


async def test_the_row_names_the_rules_that_were_in_force(database_url: str, tmp_path: Any) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules: [{name: r, kind: match, stream: news, when: {words: zebra}}]")
    async with opened(database_url, rules={"file": str(file)}) as pipeline:
        await take(pipeline, [news(0)])
        kept = await only(pipeline.database, rule_sets)
        assert (await only(pipeline.database, events))["rules"] == kept["version"] == pipeline.rules.version
        assert kept["rules"] == pipeline.rules.content
