"""While a silence holds nobody is told; what still fires when it ends is told then."""

import json

import pytest
from desk import LEASE, alert, desk, dispatch, empty, ended, raised, run, told, webhook
from helpers import NOW, SECOND, Clock

from pipeline.deliver import MemoryOutlet
from pipeline.store import silences
from pipeline.store.database import Database
from pipeline.sweep import sweep

HOUR = 3600 * SECOND
AFTER = NOW + 1


async def silence(database: Database, until: int, now: int = NOW, **names: str) -> int:
    about = {"rule": None, "group": None, **names}
    made = await silences.add_silence(database, about["rule"], about["group"], now, until, "ann", "known")
    return int(made["id"])


@pytest.mark.parametrize("names", [{"rule": "bad-mood"}, {"group": "CRVN"}, {"rule": "bad-mood", "group": "CRVN"}])
async def test_what_still_fires_is_told_when_a_silence_ends(names: dict[str, str], database_url: str) -> None:
    until = NOW + HOUR
    async with empty(database_url) as database, desk() as it:
        await silence(database, until, **names)
        await raised(database, alert("desk"))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        assert await told(database) == {"firing:desk": (None, "silenced until 2024-05-31T10:30:05Z")}
        await run(dispatch(database, Clock(until), desk=webhook(it)))
        assert it.got == []
        await run(dispatch(database, Clock(until + 1), desk=webhook(it)))
        assert await told(database) == {"firing:desk": (until + 1, None)}
    assert len(it.got) == 1


@pytest.mark.parametrize("names", [{"rule": "other"}, {"group": "ACM"}, {"rule": "bad-mood", "group": "ACM"}])
async def test_a_silence_of_something_else_does_not_matter(names: dict[str, str], database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await silence(database, NOW + HOUR, **names)
        await raised(database, alert("desk"))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
    assert len(it.got) == 1


@pytest.mark.parametrize("seen", [True, False], ids=["looked at in between", "not looked at in between"])
async def test_what_began_and_ended_in_a_silence_is_never_told(seen: bool, database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await silence(database, NOW + HOUR, rule="bad-mood")
        row = await raised(database, alert("desk"))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        await ended(database, row, AFTER)
        if seen:
            await run(dispatch(database, Clock(AFTER + 1), desk=webhook(it)))
        await run(dispatch(database, Clock(NOW + 2 * HOUR), desk=webhook(it)))
        found = await told(database)
        assert all(sent_at and why and why.startswith("suppressed: ") for sent_at, why in found.values()), found
        assert len(found) == 2
    assert it.got == []


async def test_an_end_in_a_silence_is_told_afterwards_to_whom_the_begin_was_told(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        row = await raised(database, alert("desk"))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        await silence(database, NOW + HOUR, rule="bad-mood")
        await ended(database, row, AFTER)
        await run(dispatch(database, Clock(AFTER + 1), desk=webhook(it)))
        assert len(it.got) == 1
        await run(dispatch(database, Clock(NOW + HOUR + 1), desk=webhook(it)))
    assert [json.loads(each["body"])["state"] for each in it.got] == ["firing", "resolved"]


async def test_a_single_event_in_a_silence_is_not_told_afterwards(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await silence(database, NOW + HOUR, rule="bad-mood")
        await raised(database, alert("desk", state="fired"))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        await run(dispatch(database, Clock(NOW + 2 * HOUR), desk=webhook(it)))
        assert await told(database) == {"fired:desk": (AFTER, "suppressed: it fired in a silence")}
    assert it.got == []


async def test_the_topic_is_told_in_a_silence(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with empty(database_url) as database:
        await silence(database, NOW + HOUR, rule="bad-mood")
        await raised(database, alert("desk"))
        await sweep(database, outlet, Clock(NOW + LEASE + 1))
    assert len(outlet.messages) == 1


async def test_a_silence_that_a_person_ends_lets_go_at_once(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        number = await silence(database, NOW + HOUR, rule="bad-mood")
        await raised(database, alert("desk"))
        await run(dispatch(database, Clock(AFTER), desk=webhook(it)))
        await silences.end_silence(database, number, AFTER)
        await run(dispatch(database, Clock(AFTER + 1), desk=webhook(it)))
    assert len(it.got) == 1


async def test_two_silences_hold_until_the_later_ends(database_url: str) -> None:
    async with empty(database_url) as database, desk() as it:
        await silence(database, NOW + HOUR, rule="bad-mood")
        await silence(database, NOW + 2 * HOUR, group="CRVN")
        await raised(database, alert("desk"))
        for now in (AFTER, NOW + HOUR + 1, NOW + 2 * HOUR):
            await run(dispatch(database, Clock(now), desk=webhook(it)))
        assert it.got == []
        await run(dispatch(database, Clock(NOW + 2 * HOUR + 1), desk=webhook(it)))
    assert len(it.got) == 1
