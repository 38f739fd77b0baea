"""Rules that count: what fires, on which evidence, and when it is over."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from commandline import answer
from day import LEARNT, burst, day, rule, story
from helpers import EVENT_TIME, SECOND, rows

from models.stub import StubScorer
from pipeline.store.alert_changes import set_state
from pipeline.store.rebuild import rebuild
from schemas.counting import alert_history, counters, firings
from schemas.tables import alerts, outbox

TICK = 10_000_000


async def test_a_surge_fires_once_and_is_resolved_after_the_rearm_time(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        assert await today.reach(LEARNT) == []
        await today.tell(*burst(LEARNT + 10, 40))
        [firing] = await today.reach(LEARNT + 30)
        await today.usual(60, worker=0, source="other")
        [resolved] = await today.reach(LEARNT + 400)
        history = await rows(today.database, alert_history)

    assert (firing["rule"], firing["group"], firing["state"], firing["version"]) == ("surge", "", "firing", 1)
    assert firing["start_time"] == EVENT_TIME + (LEARNT + 20) * SECOND
    assert (resolved["id"], resolved["state"], resolved["version"]) == (firing["id"], "resolved", 2)
    # The window holds the burst for its last time one minute after its end.
    assert resolved["end_time"] == EVENT_TIME + (LEARNT + 70) * SECOND
    assert [(each["state"], each["author"]) for each in history] == [("firing", "rule"), ("resolved", "rule")]


async def test_a_repeated_story_is_one_piece_of_evidence(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule("once"), rule("each", counts="raw"), partitions=2) as today:
        await today.usual()
        await today.reach(LEARNT)
        for partition in (0, 1):
            repeats = [(LEARNT + 10 + at / 5, "Corvane recalls its pumps after a fire") for at in range(20)]
            await today.tell(*repeats, partition=partition)
        found = await today.reach(LEARNT + 30)

    assert [(each["rule"], each["evidence"]["count"]) for each in found] == [("each", 44)]
    assert (found[0]["evidence"]["raw"], found[0]["evidence"]["distinct"]) == (44, 5)
    assert len({each["text"] for each in found[0]["evidence"]["examples"]}) == 5


async def test_raw_and_distinct_counts_are_both_kept(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.tell((1, "Corvane recalls its pumps"), (2, "Corvane recalls its pumps"), (3, story(1)))
        await today.reach(20)
        kept = await rows(today.database, counters)

    assert (sum(each["raw"] for each in kept), sum(each["single"] for each in kept)) == (3, 2)


async def test_evidence_says_what_an_analyst_asks(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        await today.reach(LEARNT)
        crowd = [(moment, f"{text} bankrupt Corvane") for moment, text in burst(LEARNT + 10, 30)]
        await today.tell(*crowd)
        [alert] = await today.reach(LEARNT + 30)
        [definition] = [each.definition for each in today.pipelines[0].rules.rules]

    said = alert["evidence"]
    assert said["window"] == {"start": "2024-05-31T10:29:20Z", "end": "2024-05-31T10:30:20Z"}
    assert (said["count"], said["value"]) == (34, 34.0)
    assert 4 < said["baseline"] < 8
    assert "times the usual; expected once in" in said["odds"]
    assert (said["rule"]["definition"], alert["definition"]) == (definition, definition)
    assert said["bundle"] == alert["bundle"] == "stub@000000000001"
    assert len({each["text"] for each in said["examples"]}) == 5
    assert all(each["words"] and each["event"] and each["source"] == "wire" for each in said["examples"])
    assert {"bankrupt", "corvane"} <= {word for word, _ in said["terms"]}
    assert said["sources"] == [["wire", 34]]


async def test_evidence_can_be_put_together_again_field_for_field(database_url: str, tmp_path: Path) -> None:
    rules = (
        rule(),
        rule("mood", "share", head="sentiment", label="negative", window="2m", every="20s"),
        rule("quiet", "absence"),
    )
    async with day(database_url, tmp_path, *rules) as today:
        await today.usual(every=5.0)
        await today.reach(LEARNT)
        negative = [text for text in map(story, range(20_000, 21_000)) if _negative(text)][:60]
        await today.tell(*[(LEARNT + 10 + at / 10, text) for at, text in enumerate(negative)])
        await today.reach(LEARNT + 30)
        # What comes later changes nothing of what was seen then.
        await today.tell(*burst(LEARNT + 50, 100, 40_000))
        await today.reach(LEARNT + 600)
        found = await rows(today.database, alerts)
        again = [await rebuild(today.database, TICK, each["id"]) for each in found]

    assert {each["rule"] for each in found} == {"surge", "mood", "quiet"}
    assert again == [each["evidence"] for each in found]


async def test_a_person_sees_whether_evidence_still_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'salience.db'}"
    async with day(url, tmp_path, rule()) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        await today.reach(LEARNT + 30)
    monkeypatch.setenv("SALIENCE_DATABASE__URL", url)

    found = await asyncio.to_thread(answer, "alerts", "rebuild", "1")

    assert (found["id"], found["same"], found["differs"]) == (1, True, [])
    assert found["evidence"]["count"] == 44


def _negative(text: str) -> bool:
    return StubScorer().score([text], "news")[0].heads["sentiment"].label == "negative"


async def test_groups_are_judged_each_by_itself(database_url: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"when": {"words": ["word0", "corvane", "pumps"]}, "group_by": "entity"}
    async with day(database_url, tmp_path, rule(**fields)) as today:
        for name in ("COR", "BLT"):
            await today.tell(*[(at * 20.0, f"corvane {story(at)}") for at in range(180)], entities=[name])
        await today.reach(LEARNT)
        crowd = [(moment, f"corvane {text}") for moment, text in burst(LEARNT + 10, 40)]
        await today.tell(*crowd, entities=[{"ticker": "BLT", "name": "Bolt"}])
        found = await today.reach(LEARNT + 30)

    assert [each["group"] for each in found] == ["BLT"]


async def test_silence_of_a_source_that_is_usually_heard_is_told(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule("quiet", "absence")) as today:
        await today.usual(every=2.0)
        assert await today.reach(LEARNT) == []
        found = await today.reach(LEARNT + 300)

    assert [(each["rule"], each["state"]) for each in found] == [("quiet", "firing")]
    assert found[0]["evidence"]["odds"].startswith("none where ")


async def test_what_a_person_has_ended_is_armed_again_by_its_evidence_alone(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        await today.reach(LEARNT + 30)
        await set_state(today.database, "1", "resolved", today.clock(), "ann", None, "salience.alerts")
        await today.tell(*burst(LEARNT + 50, 40, 60_000))
        [ended] = await today.reach(LEARNT + 80)
        [over] = await today.reach(LEARNT + 400)
        await today.tell(*burst(LEARNT + 410, 60, 80_000))
        _, again = await today.reach(LEARNT + 430)

    assert (ended["state"], ended["version"]) == ("resolved", 2)
    assert (over["state"], over["version"]) == ("resolved", 2)
    assert over["end_time"] == EVENT_TIME + (LEARNT + 110) * SECOND
    assert again["state"] == "firing"


async def test_what_must_last_is_pending_before_it_fires(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule(hold="30s")) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        [pending] = await today.reach(LEARNT + 30)
        unsent = await rows(today.database, outbox)
        [firing] = await today.reach(LEARNT + 60)
        sent = await rows(today.database, outbox)

    assert (pending["state"], firing["state"], firing["version"]) == ("pending", "firing", 2)
    assert (unsent, len(sent)) == ([], 1)


async def test_what_does_not_last_is_dropped_and_nobody_is_told(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule(hold="2m")) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        [dropped] = await today.reach(LEARNT + 200)
        history = await rows(today.database, alert_history)
        assert await rows(today.database, outbox) == []
        assert await rows(today.database, firings) == []

    assert dropped["state"] == "resolved"
    assert [(each["state"], each["note"]) for each in history] == [
        ("pending", None),
        ("resolved", "the evidence did not last"),
    ]


@pytest.mark.parametrize("order", [1, -1])
async def test_the_order_of_events_within_a_tick_changes_nothing(
    database_url: str, tmp_path: Path, order: int
) -> None:
    async with day(database_url, tmp_path, rule(minimum=1)) as today:
        await today.usual()
        await today.reach(LEARNT)
        near = [f"Corvane recalls its pumps after a fire in plant {at}" for at in range(6)]
        mixed = [(LEARNT + 11, text) for text in [*near, *[text for _, text in burst(0, 30)]]]
        await today.tell(*mixed[::order])
        await today.reach(LEARNT + 30)
        [alert] = await rows(today.database, alerts)

    said = {name: alert["evidence"][name] for name in ("count", "raw", "baseline", "odds", "terms")}
    assert said == {**said, "count": 36, "raw": 40}


async def test_two_workers_that_close_at_the_same_time_decide_once(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule(), workers=2) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        await today.tell((LEARNT + 405, "tick"), source="clock")
        await asyncio.gather(*(today.close(worker) for worker in (0, 1, 0, 1)))
        await today.close()
        [alert] = await rows(today.database, alerts)
        sent = await rows(today.database, outbox)

    assert (alert["state"], len(sent)) == ("resolved", 2)


async def test_the_sensitivity_is_shared_by_the_groups_that_are_active(database_url: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"group_by": "company"}
    async with day(database_url, tmp_path, rule(**fields)) as today:
        await today.usual(attributes={"company": "A"})
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40), attributes={"company": "A"})
        alone = await today.reach(LEARNT + 30)
        # Thousands that were heard of lately leave each of them a thousandth.
        names = [f"C{number}" for number in range(3_000)]
        await today.tell((LEARNT + 500, story(1)), attributes={"company": names})
        await today.reach(LEARNT + 520)
        # By then they are in no window any more.
        await today.tell(*burst(LEARNT + 630, 40, 60_000), attributes={"company": "A"})
        shared = await today.reach(LEARNT + 660)

    assert (len(alone), len(shared)) == (1, 1)
