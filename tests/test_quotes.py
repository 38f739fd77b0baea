"""An alert that quotes several events keeps nothing of one that is forgotten or pruned, wherever it was told."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ann import CHAT, TOPICS, forget_her, from_ann
from day import LEARNT, burst, day, rule
from desk import alert, desk, dispatch, run, set_alert, webhook
from helpers import DAY, NOW, SECOND, Clock, chat, only, opened, rows, take
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.notify import messages
from pipeline.store import outbox as box
from pipeline.store.alerts import insert_alerts
from pipeline.store.database import Database
from pipeline.store.episodes import Told
from pipeline.store.evidence import Snapshot
from pipeline.store.quotes import FORGOTTEN, PRUNED, take_out, without
from pipeline.store.retention import prune
from pipeline.store.silences import add_silence
from pipeline.sweep import sweep
from schemas.counting import alert_events, alert_history, silences
from schemas.tables import alerts, events, outbox

OLD = "2024-03-01T00:00:00Z"
MONTH = 30 * DAY
YEAR = 365 * DAY
HERS = "Corvane lost my card, says Ann Smith"
OTHERS = "Corvane lost a card again"


@contextlib.asynccontextmanager
async def quoted(url: str, **first: Any) -> AsyncIterator[Pipeline]:
    """A pipeline with two messages in two conversations, and an alert that quotes both."""
    async with opened(url) as pipeline:
        texts = [from_ann(0, HERS, **first), chat(1, OTHERS, conversation="k2", customer="bob")]
        await take(pipeline, texts, where=CHAT)
        found = await rows(pipeline.database, events)
        quotes = [
            {"event": row["id"], "source": "desk", "id": row["event_id"], "text": row["text"]} for row in found
        ]
        evidence = {"count": 2, "examples": quotes, "terms": [["corvane", 2.0], ["smith", 1.0]]}
        raised = alert("hook", stream="chat", evidence=evidence)
        async with pipeline.database.begin() as connection:
            [(number, stored)] = await insert_alerts(connection, [raised], None, NOW)
            await box.put(connection, messages(TOPICS.alerts, stored), NOW, NOW + 60 * SECOND)
            about = [{"alert": number, "event": row["id"]} for row in found]
            await connection.execute(insert(alert_events), about)
        yield pipeline


def evidence_in(value: bytes | None) -> dict[str, Any]:
    assert value is not None
    found: dict[str, Any] = json.loads(value)["evidence"]
    return found


# Forgotten


async def test_a_forgotten_example_leaves_the_others_and_the_counts(database_url: str) -> None:
    async with quoted(database_url) as pipeline:
        done = await forget_her(pipeline)
        evidence = (await only(pipeline.database, alerts))["evidence"]
        assert [row["event"] for row in await rows(pipeline.database, alert_events)] == [2]
    assert done.alerts == 1
    assert evidence["examples"] == [{"forgotten": True}, evidence["examples"][1]]
    assert evidence["examples"][1]["text"] == OTHERS
    assert (evidence["count"], evidence["terms"]) == (2, [["corvane", 2.0]])


async def test_a_forgotten_example_is_a_new_version_with_a_row_of_history(database_url: str) -> None:
    async with quoted(database_url) as pipeline:
        await forget_her(pipeline)
        await forget_her(pipeline)
        row = await only(pipeline.database, alerts)
        last = (await rows(pipeline.database, alert_history))[-1]
    assert (row["version"], row["state"]) == (2, "firing")
    assert (last["version"], last["author"], last["note"]) == (2, "forget", "a text that it quotes was forgotten")


async def test_no_entry_of_the_outbox_keeps_a_forgotten_text(database_url: str) -> None:
    async with quoted(database_url) as pipeline:
        sent = next(row["id"] for row in await rows(pipeline.database, outbox) if row["receiver"] == "to:hook")
        await box.mark_sent(pipeline.database, [sent], NOW)
        await forget_her(pipeline)
        found = [row for row in await rows(pipeline.database, outbox) if row["alert"]]
    assert [row["receiver"] for row in found] == ["topic:salience.alerts", "to:hook", "topic:salience.alerts"]
    for row in found:
        assert evidence_in(row["value"])["examples"][0] == {"forgotten": True}
        assert b"Smith" not in row["value"] and b"smith" not in row["value"]


async def test_the_topic_gets_the_new_version_after_what_was_on_its_way(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with quoted(database_url) as pipeline:
        claimed = await box.claim(pipeline.database, NOW + 61 * SECOND)
        assert [each.topic for each in claimed] == ["salience.alerts"]
        await forget_her(pipeline, now=NOW + 62 * SECOND)
        await sweep(pipeline.database, outlet, Clock(NOW + 100 * SECOND))
        assert [each.topic for each in outlet.messages if each.value] == []
        await sweep(pipeline.database, outlet, Clock(NOW + 3600 * SECOND))
    [corrected] = [each for each in outlet.messages if each.value]
    assert json.loads(corrected.value or b"")["version"] == 2


async def test_a_silence_does_not_hold_up_the_new_version_on_the_topic(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with quoted(database_url) as pipeline, desk() as it:
        await add_silence(pipeline.database, "bad-mood", None, NOW, NOW + DAY, "ann", "known")
        await run(dispatch(pipeline.database, Clock(NOW + 1), hook=webhook(it)))
        await forget_her(pipeline)
        await sweep(pipeline.database, outlet, Clock(NOW + 3600 * SECOND))
    assert json.loads([each.value for each in outlet.messages if each.value][-1])["version"] == 2


async def test_a_receiver_is_told_once_of_the_alert_without_the_forgotten_text(database_url: str) -> None:
    async with quoted(database_url) as pipeline, desk() as it:
        await forget_her(pipeline)
        for _ in range(2):
            await run(dispatch(pipeline.database, Clock(NOW + 1), hook=webhook(it)))
    [got] = it.got
    assert evidence_in(got["body"])["examples"][0] == {"forgotten": True}


async def test_a_notification_about_a_forgotten_event_alone_is_withdrawn(database_url: str) -> None:
    async with quoted(database_url) as pipeline, desk() as it:
        fired = alert("hook", state="fired", kind="match", episode="2", event=1, evidence={"text": HERS})
        async with pipeline.database.begin() as connection:
            [(_, stored)] = await insert_alerts(connection, [fired], None, NOW)
            await box.put(connection, messages(TOPICS.alerts, stored), NOW, NOW)
        await forget_her(pipeline)
        await run(dispatch(pipeline.database, Clock(NOW + 1), hook=webhook(it)))
        found = {row["identity"]: row["error"] for row in await rows(pipeline.database, outbox)}
    assert found["bad-mood/CRVN/2:fired:to:hook"] == "withdrawn: what it quotes was forgotten"
    assert len(it.got) == 1


async def test_an_alert_that_a_person_resolved_stays_so_when_it_is_corrected(database_url: str) -> None:
    async with quoted(database_url) as pipeline:
        await set_alert(pipeline.database, 1, state="resolved")
        await forget_her(pipeline)
        assert (await only(pipeline.database, alerts))["state"] == "resolved"


async def test_who_forgets_waits_for_an_alert_that_is_just_being_raised(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quoting, go_on = asyncio.Event(), asyncio.Event()
    quoted_events: list[int] = []
    link = Told._link

    async def slowly(it: Told, connection: AsyncConnection, number: int, taken: Snapshot) -> None:
        quoted_events.extend(taken.events)
        quoting.set()
        await go_on.wait()
        await link(it, connection, number, taken)

    async def forget_them(where: Database) -> int:
        async with where.begin() as connection:
            theirs = events.c.id.in_(quoted_events)
            await connection.execute(update(events).where(theirs).values(text=None, forgotten_at=NOW))
            return len(await take_out(connection, quoted_events, FORGOTTEN))

    async with day(database, tmp_path, rule()) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        monkeypatch.setattr(Told, "_link", slowly)
        deciding = asyncio.create_task(today.reach(LEARNT + 30))
        await quoting.wait()
        forgetting = asyncio.create_task(forget_them(today.database))
        await asyncio.wait([forgetting], timeout=0.3)
        assert not forgetting.done()
        go_on.set()
        await deciding
        assert await forgetting == 1
        [row] = await rows(today.database, alerts)
    assert row["evidence"]["examples"] == [{"forgotten": True}] * 5


# Pruned


async def test_a_pruned_example_goes_and_the_version_stays(database_url: str) -> None:
    async with quoted(database_url, time=OLD) as pipeline:
        await prune(pipeline.database, NOW, MONTH, YEAR)
        row = await only(pipeline.database, alerts)
        assert [each["event"] for each in await rows(pipeline.database, alert_events)] == [2]
    assert [each.get("text") for each in row["evidence"]["examples"]] == [None, OTHERS]
    assert row["evidence"]["examples"][0] == {"pruned": True}
    assert row["version"] == 1


async def test_what_was_told_of_a_pruned_event_goes_and_what_waits_tells_the_rest(database_url: str) -> None:
    async with quoted(database_url, time=OLD) as pipeline:
        topic = next(row["id"] for row in await rows(pipeline.database, outbox) if row["alert"])
        await box.mark_sent(pipeline.database, [topic], NOW)
        assert (await prune(pipeline.database, NOW, MONTH, YEAR))["outbox"] == 1
        [left] = [row for row in await rows(pipeline.database, outbox) if row["alert"]]
    assert left["receiver"] == "to:hook"
    assert evidence_in(left["value"])["examples"][0] == {"pruned": True}


async def test_old_silences_are_pruned(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        for until in (NOW - 2 * MONTH, NOW + 1):
            await add_silence(pipeline.database, "r", None, NOW - 3 * MONTH, until, "ann", "known")
        assert (await prune(pipeline.database, NOW, MONTH, YEAR))["silences"] == 1
        assert (await only(pipeline.database, silences))["ends_at"] == NOW + 1


# By themselves


@pytest.mark.parametrize("mark", [FORGOTTEN, PRUNED])
def test_evidence_without_examples_stays_as_it_is(mark: str) -> None:
    assert without({"text": "a", "source": "b"}, {1}, mark) == {"text": "a", "source": "b"}
