"""Receivers are told at least once, each by itself, within its rate, and through crashes and failures."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from desk import (
    LEASE,
    SECRET,
    TOPIC,
    alert,
    desk,
    dispatch,
    empty,
    ended,
    raised,
    run,
    told,
    webhook,
)
from helpers import NOW, RULE, SECOND, Clock, news, opened, outage, rows, take
from sqlalchemy import select

from pipeline import dispatch as dispatching
from pipeline.deliver import MemoryOutlet
from pipeline.dispatch import Dispatch
from pipeline.notify import Notice
from pipeline.rules_file import load_rules
from pipeline.store.database import Database
from pipeline.sweep import sweep
from schemas.counting import receivers
from schemas.errors import NotSentError
from schemas.tables import outbox

HOUR = 3600 * SECOND
AFTER = NOW + 1


async def health(database: Database, name: str = "desk") -> Any:
    async with database.read() as connection:
        return (await connection.execute(select(receivers).where(receivers.c.name == name))).one()


# Who is told of what


async def test_a_receiver_is_told_once_and_the_entry_marked(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk"))
        for _ in range(2):
            await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        assert await told(database) == {"firing:desk": (AFTER, None)}
        assert (await health(database)).sent_at == AFTER
    [got] = it.got
    assert json.loads(got["body"])["evidence"]["count"] == 42


async def test_the_topic_is_told_by_the_sweep_and_the_receivers_are_not(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with empty(database_url) as database:
        await raised(database, alert("desk"))
        await sweep(database, outlet, Clock(NOW + LEASE + 1))
        assert await told(database) == {"firing:desk": (None, None)}
    assert [each.topic for each in outlet.messages] == [TOPIC]


@pytest.mark.parametrize(("state", "count"), [("pending", 0), ("acknowledged", 0), ("fired", 1), ("resolved", 1)])
async def test_receivers_hear_of_what_begins_and_ends_only(state: str, count: int, database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk", state=state))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
    assert len(it.got) == count


async def test_what_is_less_severe_than_a_receiver_wants_is_not_told(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk"))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it, severity="critical")))
        assert await told(database) == {"firing:desk": (AFTER, "not told: severity high is below critical")}
    assert it.got == []


async def test_a_receiver_can_leave_out_ends_and_hears_of_a_begin_that_is_over(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await ended(database, await raised(database, alert("desk")))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it, resolved=False)))
        why = "not told: this receiver is not told of ends"
        assert await told(database) == {"firing:desk": (AFTER, None), "resolved:desk": (AFTER, why)}
    assert len(it.got) == 1


async def test_an_end_replaces_a_begin_that_was_not_told(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await ended(database, await raised(database, alert("desk")))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        assert await told(database) == {
            "firing:desk": (AFTER, "superseded by version 2"),
            "resolved:desk": (AFTER, None),
        }
    assert [json.loads(each["body"])["state"] for each in it.got] == ["resolved"]


async def test_an_end_is_not_told_while_the_begin_is_on_its_way(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        row = await raised(database, alert("desk"))
        it.gate.clear()
        first = dispatch(database, Clock(AFTER), desk=webhook(it))
        await first.round()
        await it.came.wait()
        await ended(database, row)
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        assert len(it.got) == 1
        it.gate.set()
        await first.idle()
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
    assert [json.loads(each["body"])["state"] for each in it.got] == ["firing", "resolved"]


async def test_a_receiver_that_no_configuration_has_makes_its_entry_wait_with_a_reason(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk"))
        await run(dispatch(database, Clock(AFTER)))
        [(sent_at, why)] = (await told(database)).values()
        assert sent_at is None
        assert (
            why
            == "no receiver desk in the rules file of this worker; add it under `receivers:`, and it will be told"
        )
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        assert await told(database) == {"firing:desk": (AFTER, None)}


async def test_receivers_are_asked_for_at_each_round(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it, desk() as other:
        known = {"desk": webhook(it)}
        sending = dispatch(database, Clock(AFTER))
        sending._receivers = lambda: known
        await raised(database, alert("desk"))
        await sending.round()
        await sending.idle()
        known["desk"] = webhook(other)
        await raised(database, alert("desk", episode="2"))
        await run(sending)
    assert (len(it.got), len(other.got)) == (1, 1)


# At least once, and once while all live


async def test_two_dispatchers_at_once_tell_once(database_url: str) -> None:
    async with empty(database_url) as database, empty(database_url) as other, desk() as it:
        for number in range(20):
            await raised(database, alert("desk", episode=str(number)))
        both = [dispatch(each, Clock(AFTER), desk=webhook(it)) for each in (database, other)]
        await asyncio.gather(*map(run, both))
        assert {sent_at for sent_at, _ in (await told(database)).values()} == {AFTER}
    bodies = [each["body"] for each in it.got]
    assert len(bodies) == len(set(bodies)) == 20


async def test_a_crash_between_sending_and_marking_repeats_with_the_same_id(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk"))
        monkeypatch.setattr(dispatching, "MARKING", 0.0)
        with outage(database, 1, "UPDATE receivers SET sent_at"):
            await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        await run(dispatch(database, Clock(AFTER + LEASE - 1), desk=webhook(it)))
        assert len(it.got) == 1
        await run(dispatch(database, Clock(AFTER + LEASE + 1), desk=webhook(it)))
        await run(dispatch(database, Clock(AFTER + 3 * LEASE), desk=webhook(it)))
    assert len(it.got) == 2
    assert len({each["headers"]["webhook-id"] for each in it.got}) == 1


async def test_a_database_that_is_away_for_a_moment_makes_no_repeat(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk"))
        with outage(database, 2, "UPDATE receivers SET sent_at"):
            await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        await run(dispatch(database, Clock(AFTER + 2 * LEASE), desk=webhook(it)))
        assert await told(database) == {"firing:desk": (AFTER, None)}
    assert len(it.got) == 1


async def test_a_worker_that_ends_begins_nothing_more(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        for number in range(20):
            await raised(database, alert("desk", episode=str(number)))
        it.gate.clear()
        sending = dispatch(database, Clock(AFTER), desk=webhook(it))
        await sending.round()
        await it.came.wait()
        asyncio.get_running_loop().call_later(0.05, it.gate.set)
        await sending.close()
    assert len(it.got) == 8


async def test_what_is_being_sent_at_the_end_of_a_worker_is_given_some_time(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk"))
        it.gate.clear()
        sending = dispatch(database, Clock(AFTER), desk=webhook(it))
        await sending.round()
        await it.came.wait()
        asyncio.get_running_loop().call_later(0.05, it.gate.set)
        await sending.close()
        assert await told(database) == {"firing:desk": (AFTER, None)}


# Failures


async def test_a_failing_receiver_backs_off_and_says_why(database_url: str) -> None:
    clock = Clock(AFTER)
    async with empty(database_url) as database, desk() as it:
        it.status = 503
        await raised(database, alert("desk"))
        await run(dispatch(database, clock, desk=webhook(it)))
        assert await told(database) == {"firing:desk": (None, "status 503: so it is")}
        row = await health(database)
        assert (row.failures, row.error, row.failed_at) == (1, "status 503: so it is", AFTER)
        clock.now += 5 * SECOND
        await run(dispatch(database, clock, desk=webhook(it)))
        assert len(it.got) == 1
        clock.now += 1
        it.status = 204
        await run(dispatch(database, clock, desk=webhook(it)))
        assert await told(database) == {"firing:desk": (clock.now, None)}
        row = await health(database)
        assert (row.failures, row.error, row.failed_at) == (0, None, AFTER)


async def test_what_a_receiver_says_is_kept_without_its_secrets(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(f"receivers:\n  desk: {{webhook: 'http://127.0.0.1:1/T0ken', secret: {SECRET}}}\n")
    known = load_rules(str(file)).receivers

    class Telltale:
        async def send(self, *_: Any) -> None:
            raise NotSentError("no route to http://127.0.0.1:1/T0ken")

        def close(self) -> None:
            return

    async with empty(database_url) as database:
        await raised(database, alert("desk"))
        sending = dispatch(database, Clock(AFTER), **known)
        sending._transports["desk"] = (known["desk"], Telltale())
        await run(sending)
        assert await told(database) == {"firing:desk": (None, "no route to ****")}
        assert (await health(database)).error == "no route to ****"


async def test_a_fault_of_ours_in_one_notice_is_a_failure_of_that_one(database_url: str) -> None:
    class Faulty:
        async def send(self, notice: Notice, now: int) -> None:
            if ":1:" not in notice.identity.replace("/", ":"):
                raise KeyError("odds")

        def close(self) -> None:
            return

    async with empty(database_url) as database, desk() as it:
        for episode in ("1", "2"):
            await raised(database, alert("desk", episode=episode))
        receiver = webhook(it)
        sending = dispatch(database, Clock(AFTER), desk=receiver)
        sending._transports["desk"] = (receiver, Faulty())
        await run(sending)
        found = {row["identity"]: row["error"] for row in await rows(database, outbox) if row["attempts"]}
    assert found == {"bad-mood/CRVN/1:firing:to:desk": None, "bad-mood/CRVN/2:firing:to:desk": "KeyError: 'odds'"}


async def test_failures_are_counted_by_receiver(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        it.status = 503
        await raised(database, alert("desk"))
        sending = dispatch(database, Clock(AFTER), desk=webhook(it))
        await run(sending)
        told_of = sending._observer.render().decode()
    assert 'salience_notifications_total{outcome="failed",receiver="desk"} 1.0' in told_of
    assert 'salience_notifications_waiting{receiver="desk"} 1.0' in told_of


async def test_a_slow_receiver_holds_up_neither_others_nor_topics(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with empty(database_url) as database, desk() as slow, desk() as quick:
        slow.gate.clear()
        for number in range(12):
            await raised(database, alert("slow", "quick", episode=str(number)))
        sending = dispatch(database, Clock(AFTER), slow=webhook(slow), quick=webhook(quick))
        await sending.round()
        await sending._running["quick"]
        await sweep(database, outlet, Clock(NOW + LEASE + 1))
        assert (len(quick.got), len(outlet.messages)) == (12, 12)
        assert len(slow.got) <= 4
        slow.gate.set()
        await sending.idle()
        await sending.close()
        assert len(slow.got) == 12


async def test_where_nothing_of_a_batch_arrives_the_rest_is_not_tried(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        it.status = 500
        for number in range(20):
            await raised(database, alert("desk", episode=str(number)))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
    assert len(it.got) == 8


async def test_a_database_that_is_away_ends_no_round_of_others(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await raised(database, alert("desk"))
        with outage(database, 1, "UPDATE outbox"):
            await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        assert it.got == []
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
    assert len(it.got) == 1


# Rates


async def test_what_is_above_a_rate_waits_for_the_next_window_whoever_sends(database_url: str) -> None:
    clock = Clock(AFTER)
    async with empty(database_url) as database, empty(database_url) as other, desk() as it:
        for number in range(5):
            await raised(database, alert("desk", episode=str(number)))
        limited = webhook(it, rate="2/h")
        await asyncio.gather(*(run(dispatch(each, clock, desk=limited)) for each in (database, other)))
        assert len(it.got) == 2
        clock.now = AFTER + HOUR
        await run(dispatch(database, clock, desk=limited))
        assert len(it.got) == 4
        clock.now += HOUR
        await run(dispatch(database, clock, desk=limited))
    assert len({each["body"] for each in it.got}) == 5


async def test_what_did_not_arrive_uses_up_no_rate(database_url: str) -> None:
    clock = Clock(AFTER)
    async with empty(database_url) as database, desk() as it:
        it.status = 500
        await raised(database, alert("desk"))
        await run(dispatch(database, clock, desk=webhook(it, rate="1/h")))
        it.status = 200
        clock.now += 6 * SECOND
        await run(dispatch(database, clock, desk=webhook(it, rate="1/h")))
        assert await told(database) == {"firing:desk": (clock.now, None)}


# Through the flow


async def test_a_chunk_sends_to_its_topic_and_leaves_receivers_to_the_dispatch(
    database_url: str, tmp_path: Path
) -> None:
    outlet = MemoryOutlet()
    async with desk() as it:
        file = tmp_path / "rules.yaml"
        entry = f"receivers:\n  desk: {{webhook: '{it.url}/hook', secret: {SECRET}}}\n"
        file.write_text(entry + RULE + "    receivers: desk\n")
        async with opened(database_url, rules={"file": str(file)}) as pipeline:
            await take(pipeline, [news(0, "bankrupt")], outlet)
            again = await take(pipeline, [news(0, "bankrupt")], outlet)
            assert [each.to for each in again.outbox] == [None]
            known = pipeline.rules.receivers
            await run(Dispatch(pipeline.database, lambda: known, Clock(AFTER)))
            assert await told(pipeline.database) == {"fired:desk": (AFTER, None)}
    assert {each.topic for each in outlet.messages} == {"salience.alerts"}
    assert json.loads(it.got[0]["body"])["evidence"]["text"] == "bankrupt"


async def test_a_back_fill_tells_no_receiver(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(f"receivers:\n  desk: {{webhook: 'http://a', secret: {SECRET}}}\n{RULE}    receivers: desk\n")
    async with opened(database_url, rules={"file": str(file)}) as pipeline:
        await take(pipeline, [news(0, "bankrupt")], notify=False)
        assert await told(pipeline.database) == {}
