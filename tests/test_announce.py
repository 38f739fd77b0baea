"""Another version of the rules: counted from what is stored, then in force for all workers from one tick."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from day import LEARNT, burst, day, rule, story, written
from helpers import chat, opened, outage, place, rows, take
from structlog.testing import capture_logs

from pipeline.rules import RuleSet
from pipeline.store import attached
from pipeline.store.announce import announce, fill
from pipeline.store.settle import settle
from schemas.counting import alert_history, counters, definitions, rule_activations, sightings
from schemas.errors import ConfigError, DatabaseError
from schemas.tables import events

TICK = 10_000_000


async def _counted(today: Any, number: int) -> dict[tuple[Any, ...], tuple[int, int]]:
    """What was counted for a definition, its shards together."""
    found: dict[tuple[Any, ...], tuple[int, int]] = {}
    for each in await rows(today.database, counters):
        if each["definition"] == number:
            key = each["group"], each["bucket"], each["label"]
            raw, single = found.get(key, (0, 0))
            found[key] = raw + each["raw"], single + each["single"]
    return found


async def test_the_first_rules_of_a_database_are_in_force_at_once(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        found = await rows(today.database, rule_activations)
        version = today.pipelines[0].rules.version

    assert {(each["stream"], each["version"], each["active_tick"]) for each in found} == {
        (stream, version, 0) for stream in ("news", "chat", "behavior")
    }


async def test_a_changed_rule_is_counted_from_stored_events_before_it_decides(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule(), partitions=2, workers=2) as today:
        await today.usual()
        await today.tell((LEARNT - 300, story(1)), (LEARNT - 299, story(1)), partition=1)
        await today.reach(LEARNT)
        written(tmp_path / "rules.yaml", rule(severity="high"))
        await today.take_up()
        await today.tell(*burst(LEARNT + 10, 40), worker=1)
        [alert] = await today.reach(LEARNT + 30, worker=1)
        old, new = await rows(today.database, definitions)
        counted = await _counted(today, new["id"])
        before = await _counted(today, old["id"])

    assert (alert["severity"], alert["definition"]) == ("high", new["definition"])
    # Until the change the former rule was counted as well.
    assert {key: counted[key] for key in before} == before
    assert sum(single for _, single in counted.values()) == LEARNT // 10 + 40
    assert (old["stopped_at"] is None, new["stopped_at"]) == (False, None)


async def test_all_workers_change_to_other_rules_at_one_tick(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule(), workers=2) as today:
        await today.tell((1, story(1)), worker=1)
        first = today.pipelines[0].rules.version
        written(tmp_path / "rules.yaml", rule(severity="high"))
        await today.take_up()
        await today.tell((2, story(2)), worker=1)
        stored = await rows(today.database, events)
        second = today.pipelines[0].watch.rules.version

    assert [each["rules"] for each in stored] == [first, second]


async def test_the_former_rules_decide_while_the_next_ones_are_counted(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        await today.reach(LEARNT)
        await announce(today.database, RuleSet.of_content([rule(severity="high")]), TICK, today.clock())
        await today.tell(*burst(LEARNT + 10, 40))
        [alert] = await today.reach(LEARNT + 30)
        waiting = [each for each in await rows(today.database, rule_activations) if each["active_tick"] is None]

    assert (alert["severity"], len(waiting)) == ("medium", 3)


async def test_a_file_that_cannot_be_used_leaves_the_rules_in_force(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        written(tmp_path / "rules.yaml", rule(window="1h"))
        with capture_logs() as logs:
            await today.take_up()
        await today.tell((1, story(1)))
        [event] = await rows(today.database, events)
        version = today.pipelines[0].rules.version

    assert event["rules"] == version
    [said] = [each["message"] for each in logs if each["log_level"] == "warning"]
    assert "rules.yaml, line" in said
    assert "rules.0.window: is too long: the baseline" in said
    assert said.endswith("the rules in force stay")


async def test_a_label_that_the_bundle_does_not_know_leaves_the_rules_in_force(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        written(tmp_path / "rules.yaml", rule("mood", "share", head="sentiment", label="angry"))
        with capture_logs() as logs:
            await today.take_up()
        found = await rows(today.database, rule_activations)

    assert len({each["version"] for each in found}) == 1
    [said] = [each["message"] for each in logs if each["log_level"] == "warning"]
    assert "'angry' is no label of sentiment; it has negative, neutral, positive" in said


async def test_an_edit_outlasts_an_outage(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        written(tmp_path / "rules.yaml", rule(severity="high"))
        await today.pipelines[0].watch.look(today.clock())
        with outage(today.database, 1), pytest.raises(DatabaseError):
            await today.pipelines[0].watch.look(today.clock())
        await today.take_up()
        version = today.pipelines[0].watch.rules.version
        found = await rows(today.database, rule_activations)

    assert [each["version"] for each in found if each["active_tick"] is not None][3:] == [version] * 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "rules.yaml is empty; write `rules: []` where none are wanted"),
        ("# our rules\nreceivers: {}\n", "rules.yaml has no `rules:`; write `rules: []` where none are wanted"),
    ],
    ids=["empty", "half"],
)
async def test_a_file_that_somebody_is_writing_is_not_taken_up(
    content: str, told: str, database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        (tmp_path / "rules.yaml").write_text(content)
        with capture_logs() as logs:
            await today.take_up()
        found = await rows(today.database, rule_activations)

    assert len(found) == 3
    assert told in logs[-1]["message"]


async def test_a_rule_that_moves_to_another_stream_leaves_the_alert_of_the_first(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        [before] = await today.reach(LEARNT + 30)
        written(tmp_path / "rules.yaml", rule(stream="chat"))
        await today.take_up()
        [after] = await today.reach(LEARNT + 50)

    assert (after["id"], after["state"], after["evidence"]) == (before["id"], "resolved", before["evidence"])


async def test_decisions_of_a_stream_leave_the_counters_of_others_alone(database_url: str, tmp_path: Path) -> None:
    talk = rule("talk", stream="chat", when=None)
    async with day(database_url, tmp_path, rule(), talk) as today:
        where = place("chat", topic="salience.chat")
        await take(today.pipelines[0], [chat(0), chat(1), chat(2)], where=where)
        await today.usual(100)
        await today.reach(200)
        [of_chat] = [each["id"] for each in await rows(today.database, definitions) if each["stream"] == "chat"]
        seen = [each for each in await rows(today.database, sightings) if each["definition"] == of_chat]

    assert [each["counted"] for each in seen] == [None, None, None]


async def test_a_rule_that_is_announced_while_a_back_fill_is_counted_misses_nothing_of_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "BATCH", 10)
    async with day(database_url, tmp_path, rule()) as today:
        await today.tell((1, story(1)))
        await today.reach(20)
        await today.attach("old", *[(at * 1.0, story(100 + at)) for at in range(35)])
        async with today.database.begin() as connection:
            assert await attached.count_batch(connection, "news", 1 << 40, TICK)
        await announce(today.database, RuleSet.of_content([rule(severity="high")]), TICK, today.clock())
        await settle(today.database, TICK, today.clock())
        await today.reach(60)
        _, new = [each["id"] for each in await rows(today.database, definitions)]
        seen = await rows(today.database, sightings)

    assert len([each for each in seen if each["definition"] == new]) == 36


async def test_an_alert_of_a_rule_that_is_taken_out_is_resolved(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        await today.reach(LEARNT + 30)
        written(tmp_path / "rules.yaml", rule("another", minimum=1_000))
        await today.take_up()
        [alert] = await today.reach(LEARNT + 50)
        history = await rows(today.database, alert_history)

    assert alert["state"] == "resolved"
    assert history[-1]["note"] == "the rule is no longer in force"


async def test_another_receiver_of_a_rule_has_nothing_counted_again(database_url: str, tmp_path: Path) -> None:
    told = {"desk": {"apprise": "json://localhost"}}
    async with day(database_url, tmp_path, rule(), receivers=told) as today:
        await today.usual(100)
        written(tmp_path / "rules.yaml", rule(receivers=["desk"]), **told)
        await today.take_up()
        await today.tell((200, story(5_000)))
        [event, *_] = reversed(await rows(today.database, events))
        assert event["rules"] == today.pipelines[0].watch.rules.version != today.pipelines[0].rules.version
        assert len(await rows(today.database, definitions)) == 1


async def test_the_same_rules_are_announced_once(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule(), workers=2) as today:
        assert not await announce(today.database, today.pipelines[1].rules, TICK, today.clock())
        assert len(await rows(today.database, rule_activations)) == 3


async def test_rules_that_do_not_suit_the_ticks_of_a_database_are_refused(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        rules = RuleSet.of_content([rule(severity="low")])
        with pytest.raises(ConfigError, match="the rule surge: every is no multiple of 7s, the tick of this"):
            await announce(today.database, rules, 7_000_000, today.clock())


async def test_rules_that_were_replaced_before_they_came_into_force_are_counted_no_longer(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        for severity in ("low", "high"):
            rules = RuleSet.of_content([rule(severity=severity)])
            await announce(today.database, rules, TICK, today.clock())
        found = await rows(today.database, definitions)

    assert [(each["rule"]["severity"], each["stopped_at"] is None) for each in found] == [
        ("medium", True),
        ("low", False),
        ("high", True),
    ]


async def test_two_workers_that_count_at_the_same_time_count_once(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule(), workers=2) as today:
        await today.usual()
        await today.reach(LEARNT)
        await announce(today.database, RuleSet.of_content([rule(severity="high")]), TICK, today.clock())
        await asyncio.gather(
            *(settle(each.database, TICK, today.clock()) for each in today.pipelines),
        )
        old, new = [each["id"] for each in await rows(today.database, definitions)]
        assert await _counted(today, new) == await _counted(today, old)
        seen = await rows(today.database, sightings)

    assert len([each for each in seen if each["definition"] == new]) == LEARNT // 10


async def test_a_back_fill_goes_by_its_own_rules_and_changes_none(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        other = written(tmp_path / "other.yaml", rule("other"))
        async with opened(database_url, clock=today.clock, rules={"file": other}) as later:
            await later.watch.begin(today.clock())
        assert len(await rows(today.database, rule_activations)) == 6
        await today.attach("old", (1, story(1)))
        [event] = await rows(today.database, events)

    assert event["rules"] == today.pipelines[0].rules.version


async def test_nothing_is_left_to_count_in_the_end(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        assert not await fill(today.database, TICK)
