"""What goes out of a chunk: each alert once, dead letters as they came; a broker that is away is waited for."""

import json
from pathlib import Path

import pytest
from helpers import EVENT_TIME, NOW, RULE, SECOND, SHORT, Clock, news, only, opened, place, rows, take

from models.stub import STUB_BUNDLE, StubScorer
from pipeline.deliver import MemoryOutlet
from pipeline.store import outbox as box
from pipeline.turn import Turn
from schemas.errors import BrokerError
from schemas.events import Chunk, Line
from schemas.tables import alerts, dead_letters, events, outbox, progress


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, str]:
    """Settings with a rule that alerts on the word `bankrupt` in news."""
    file = tmp_path / "rules.yaml"
    file.write_text(RULE)
    return {"file": str(file)}


async def test_an_alert_is_raised_with_the_attention_words_as_evidence(
    database_url: str, rules: dict[str, str]
) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        applied = await take(pipeline, [news(0), news(1, "Bolt is bankrupt"), news(2)])
        assert applied.alerts == 1
        row = await only(pipeline.database, alerts)
        event = (await rows(pipeline.database, events))[1]
        evidence = row.pop("evidence")
        assert row == {
            "id": 1,
            "rule": "bad-news",
            "group": "",
            "episode": "news/wire/n1",
            "kind": "match",
            "state": "fired",
            "version": 1,
            "severity": "high",
            "stream": "news",
            "event": event["id"],
            "run": None,
            "start_time": EVENT_TIME,
            "end_time": None,
            "visible_tick": event["visible_tick"],
            "definition": pipeline.rules.rules[0].definition,
            "receivers": None,
            "bundle": STUB_BUNDLE,
            "created_at": NOW,
            "updated_at": NOW,
        }
    said = StubScorer().score(["Bolt is bankrupt"], "news")[0].heads["sentiment"]
    assert (evidence["source"], evidence["id"], evidence["text"]) == ("wire", "n1", "Bolt is bankrupt")
    assert evidence["heads"]["sentiment"]["label"] == said.label
    assert evidence["heads"]["sentiment"]["words"] == [["Bolt", 0.5], ["is", 0.25], ["bankrupt", 0.125]]


async def test_an_alert_goes_through_the_outbox_to_its_topic(database_url: str, rules: dict[str, str]) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url, rules=rules, broker={"prefix": "p"}) as pipeline:
        await take(pipeline, [news(0, "bankrupt")], outlet)
        row = await only(pipeline.database, outbox)
        definition = pipeline.rules.rules[0].definition
    [message] = outlet.messages
    assert (message.topic, message.key) == ("p.alerts", b"bad-news//news/wire/n0")
    assert (row["value"], row["key"], row["receiver"]) == (message.value, message.key, "topic:p.alerts")
    assert (row["event"], row["sent_at"], row["created_at"]) == (1, None, NOW)
    body = json.loads(message.value or b"")
    assert {name: body[name] for name in ("schema_version", "rule", "state", "version", "severity", "start")} == {
        "schema_version": 1,
        "rule": "bad-news",
        "state": "fired",
        "version": 1,
        "severity": "high",
        "start": "2024-05-31T09:30:00Z",
    }
    assert (body["id"], body["episode"]) == ("bad-news//news/wire/n0", "news/wire/n0")
    assert (body["definition"], body["end"], body["evidence"]["text"]) == (definition, None, "bankrupt")


async def test_an_alert_is_marked_as_sent_with_the_next_transaction(
    database_url: str, rules: dict[str, str]
) -> None:
    clock = Clock()
    async with opened(database_url, rules=rules, clock=clock) as pipeline:
        await take(pipeline, [news(0, "bankrupt")])
        clock.now += SECOND
        await take(pipeline, [news(1)])
        assert (await only(pipeline.database, outbox))["sent_at"] == NOW + SECOND


async def test_a_chunk_that_comes_again_raises_and_sends_no_alert_again(
    database_url: str, rules: dict[str, str]
) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [news(0, "bankrupt")])
        await pipeline.flush()
        applied = await take(pipeline, [news(0, "bankrupt")], outlet)
        await only(pipeline.database, alerts)
        await only(pipeline.database, outbox)
    assert (applied.alerts, outlet.messages, len(outlet.scored)) == (0, [], 1)


async def test_an_alert_that_was_never_sent_goes_out_when_its_chunk_comes_again(
    database_url: str, rules: dict[str, str]
) -> None:
    lost, again = MemoryOutlet(), MemoryOutlet()
    lost.fail = [RuntimeError("the process died here")]
    async with opened(database_url, rules=rules) as pipeline:
        with pytest.raises(RuntimeError):
            await take(pipeline, [news(0, "bankrupt")], lost)
    async with opened(database_url, rules=rules) as pipeline:
        applied = await take(pipeline, [news(0, "bankrupt")], again)
        await pipeline.flush()
        row = await only(pipeline.database, outbox)
        await only(pipeline.database, alerts)
    assert applied.alerts == 0
    assert [message.value for message in again.messages] == [row["value"]]
    assert row["sent_at"] == NOW


async def test_a_message_that_outlives_its_chunk_is_claimed_when_its_lease_has_run_out(
    database_url: str, rules: dict[str, str]
) -> None:
    lost = MemoryOutlet()
    lost.fail = [RuntimeError("the process died here")]
    after = NOW + 3600 * SECOND
    async with opened(database_url, rules=rules) as pipeline:
        with pytest.raises(RuntimeError):
            await take(pipeline, [news(0, "bankrupt")], lost)
        database = pipeline.database
        assert await box.claim(database, NOW) == []
        [message] = await box.claim(database, after)
        assert await box.claim(database, after) == []
        assert message.outbox is not None
        await box.mark_sent(database, [message.outbox], after)
        row = await only(database, outbox)
        assert (message.value, message.topic) == (row["value"], "salience.alerts")
        assert (row["sent_at"], row["attempts"]) == (after, 1)
        assert await box.claim(database, after * 2) == []


async def test_a_message_is_leased_for_longer_than_its_chunk_may_take(
    database_url: str, rules: dict[str, str]
) -> None:
    async with opened(database_url, rules=rules) as pipeline:
        await take(pipeline, [news(0, "bankrupt")])
        row = await only(pipeline.database, outbox)
        assert row["lease_until"] > NOW + pipeline.settings.database.outage_deadline * SECOND


async def test_the_dead_letters_of_a_back_fill_stay_in_the_table(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        chunk = Chunk(place(origin="backfill", run="r", topic="my file.jsonl"), [news(0, time="never")])
        applied = await pipeline.flow("news", outlet, notify=True).process(chunk, Turn())
        assert len(applied.dead) == 1
        assert outlet.dead == []
        assert len(await rows(pipeline.database, dead_letters)) == 1


async def test_an_alert_is_not_raised_for_an_event_that_died(database_url: str, rules: dict[str, str]) -> None:
    async with opened(database_url, rules=rules, scorer=StubScorer(refuse="boom")) as pipeline:
        await take(pipeline, [news(0, "bankrupt boom")])
        assert await rows(pipeline.database, alerts) == []


async def test_a_back_fill_stores_its_alerts_and_notifies_nobody(database_url: str, rules: dict[str, str]) -> None:
    outlet = MemoryOutlet()
    where = place(origin="backfill", run="june")
    async with opened(database_url, rules=rules) as pipeline:
        applied = await take(pipeline, [news(0, "bankrupt")], outlet, where, notify=False)
        assert (await only(pipeline.database, alerts))["run"] == "june"
        assert await rows(pipeline.database, outbox) == []
    assert (applied.alerts, outlet.messages) == (1, [])


async def test_an_event_under_two_rules_raises_two_alerts(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(RULE + RULE.replace("rules:", "").replace("bad-news", "other"))
    outlet = MemoryOutlet()
    async with opened(database_url, rules={"file": str(file)}) as pipeline:
        await take(pipeline, [news(0, "bankrupt"), news(1, "bankrupt too")], outlet)
        found = {(row["rule"], row["episode"]) for row in await rows(pipeline.database, alerts)}
    assert found == {(rule, f"news/wire/n{i}") for rule in ("bad-news", "other") for i in (0, 1)}
    assert len(outlet.messages) == 4


async def test_dead_letters_go_out_with_their_bytes_and_with_what_was_wrong(database_url: str) -> None:
    outlet = MemoryOutlet()
    record = Line(9, b"\xff{", b"\x80", 5, [("h", b"\x00")])
    async with opened(database_url) as pipeline:
        await take(pipeline, [record], outlet, place(partition=2))
    [message] = outlet.dead
    assert (message.topic, message.key, message.value) == ("dlq.t.news", b"\x80", b"\xff{")
    headers = dict(message.headers)
    assert headers.pop("h") == b"\x00"
    assert headers.pop("salience-message")
    assert headers == {
        "salience-version": b"1",
        "salience-topic": b"t.news",
        "salience-partition": b"2",
        "salience-offset": b"9",
        "salience-stage": b"decode",
        "salience-reason": b"undecodable",
        "salience-exception": b"DecodeError",
        "salience-attempts": b"1",
    }


async def test_a_dead_letter_is_sent_again_with_its_chunk(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time="")], outlet)
        await take(pipeline, [news(0, time="")], outlet)
    assert len(outlet.dead) == 2


async def test_a_broker_that_goes_away_is_waited_for(database_url: str, rules: dict[str, str]) -> None:
    outlet = MemoryOutlet()
    outlet.fail = [BrokerError("away"), BrokerError("still away")]
    async with opened(database_url, rules=rules) as pipeline:
        applied = await take(pipeline, [news(0, "bankrupt"), news(1, time="")], outlet)
        assert (applied.new, len(applied.dead), outlet.fail) == (1, 1, [])
        assert (await only(pipeline.database, progress))["new"] == 1
    assert (len(outlet.scored), len(outlet.dead), len(outlet.messages)) == (1, 1, 1)


async def test_a_broker_that_stays_away_ends_the_flow(database_url: str) -> None:
    outlet = MemoryOutlet()
    outlet.fail = [BrokerError("away")] * 10_000
    async with opened(database_url, database=SHORT) as pipeline:
        with pytest.raises(BrokerError, match="away"):
            await take(pipeline, [news(0)], outlet)
        await pipeline.flush()
        row = await only(pipeline.database, progress)
        assert (row["stored"], row["published"], row["dead"]) == (1, 0, 0)
