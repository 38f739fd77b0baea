"""A back-test over stored events gives, alert for alert, what live gave."""

import random
from pathlib import Path
from typing import Any

import pytest
from day import LEARNT, Day, burst, day, rule, story, written
from helpers import rows

from pipeline.rehearse import fired_alerts, rehearse_stored
from pipeline.rules import RuleSet
from schemas.counting import definitions
from schemas.errors import UsageError

COMPANY: dict[str, Any] = {"group_by": "company"}
RULES = (
    rule("surge", **COMPANY),
    rule("all", counts="raw", hold="20s"),
    rule("mood", "share", head="sentiment", label="negative", window="5m", every="30s", baseline="40m"),
    rule("quiet", "absence", rearm="1m", **COMPANY),
)


async def _live_and_rehearsed(today: Day) -> tuple[list[Any], list[Any]]:
    rules = today.pipelines[0].rules
    live = await fired_alerts(today.database, {each.name for each in rules.rules})
    rehearsed, _ = await rehearse_stored(today.database, rules)
    return live, rehearsed.alerts


async def _usual(today: Day, rng: random.Random) -> None:
    for company, every in (("A", 9.0), ("B", 20.0), ("C", 31.0)):
        texts = [(at * every + rng.random(), story(rng.randrange(100_000))) for at in range(int(LEARNT / every))]
        await today.tell(*texts, partition=ord(company) - 65, attributes={"company": company})
    await today.reach(LEARNT)


async def _something(today: Day, rng: random.Random, moment: float) -> None:
    """What may happen to a stream: events in order or late, a surge, repeats, a restart, a silence."""
    company, partition, worker = rng.choice("ABC"), rng.randrange(3), rng.randrange(2)
    fields: dict[str, Any] = {"partition": partition, "worker": worker, "attributes": {"company": company}}
    match rng.randrange(7):
        case 0:
            await today.tell(*burst(moment, rng.randrange(20, 60), rng.randrange(10**6)), **fields)
        case 1:
            same = story(rng.randrange(10**6))
            await today.tell(*[(moment + at / 10, same) for at in range(30)], **fields)
        case 2:
            late = moment - rng.randrange(20, 200)
            await today.tell((late, story(rng.randrange(10**6))), **fields)
        case 3:
            await today.restart(worker)
        case 4:
            await today.fall_idle(partition)
        case _:
            few = [(moment + at, story(rng.randrange(10**6))) for at in range(rng.randrange(1, 5))]
            await today.tell(*few, **fields)


@pytest.mark.parametrize("seed", range(3))
async def test_a_rehearsal_gives_what_live_gave(database_url: str, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with day(database_url, tmp_path, *RULES, partitions=3, workers=2) as today:
        await _usual(today, rng)
        moment = float(LEARNT)
        for _ in range(30):
            moment += rng.choice((3, 10, 10, 40, 90))
            await _something(today, rng, moment)
            if rng.random() < 0.6:
                await today.reach(moment, worker=rng.randrange(2))
        await today.reach(moment + 600)
        live, rehearsed = await _live_and_rehearsed(today)

    assert rehearsed == live
    assert {each.rule for each in live} >= {"surge", "all"}
    assert any(each.end for each in live)


async def test_a_rule_that_was_changed_while_it_fired_goes_on_in_a_rehearsal_too(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule("other"), rule("gone"), rule(hold="30s"), workers=2) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 40))
        await today.reach(LEARNT + 50)
        written(tmp_path / "rules.yaml", rule("other"), rule(severity="high"))
        await today.take_up()
        await today.reach(LEARNT + 60)
        await today.tell(*burst(LEARNT + 90, 40, 30_000))
        await today.reach(LEARNT + 400, worker=1)
        written(tmp_path / "rules.yaml", rule("other"), rule(severity="low", window="2m"))
        await today.take_up()
        await today.tell(*burst(LEARNT + 500, 200, 60_000))
        await today.reach(LEARNT + 900)
        live, rehearsed = await _live_and_rehearsed(today)
        now = RuleSet.of_content([rule(severity="low", window="2m")])
        by_name, _ = await rehearse_stored(today.database, now)
        always, _ = await rehearse_stored(today.database, now, always=True)

    assert rehearsed == live
    surges = [each for each in live if each.rule == "surge"]
    assert by_name.alerts == surges
    # The first one began under the first version, and went on under the second.
    assert len(surges) == 2
    # Twice as long a window holds the first burst a minute longer.
    assert str(always.alerts[0].end) > str(surges[0].end)


async def test_an_attached_back_fill_counts_from_its_tick_on_in_a_rehearsal_too(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule(), partitions=1, workers=2) as today:
        await today.usual()
        await today.reach(LEARNT)
        await today.tell(*burst(LEARNT + 10, 25))
        [before] = await today.reach(LEARNT + 200)
        # Where so much is usual, the same burst is none.
        await today.attach("more", *[(at * 1.0, story(50_000 + at)) for at in range(LEARNT)])
        await today.tell(*burst(LEARNT + 510, 25, 30_000))
        found = await today.reach(LEARNT + 600, worker=1)
        live, rehearsed = await _live_and_rehearsed(today)

    assert [each["id"] for each in found] == [before["id"]]
    assert rehearsed == live


async def test_a_rule_that_never_was_live_is_rehearsed_from_the_first_event_on(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        await today.usual()
        await today.tell(*burst(LEARNT + 10, 40))
        await today.reach(LEARNT + 30)
        other = RuleSet.of_content([rule("other", window="30s", severity="high")])
        found, _ = await rehearse_stored(today.database, other)
        counted = await rows(today.database, definitions)

    assert [(each.rule, each.group) for each in found.alerts] == [("other", "")]
    assert found.summary.alerts == 1
    # Nothing of it is left where the workers are.
    assert len(counted) == 1


async def test_a_back_fill_is_rehearsed_by_the_name_of_its_run(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        usual = [(at * 10.0, story(at)) for at in range(LEARNT // 10)]
        await today.attach("old", *usual, *burst(LEARNT + 5, 40), (LEARNT + 60, "end"))
        found, panels = await rehearse_stored(today.database, today.pipelines[0].rules, "old", plotted=True)

    assert [each.rule for each in found.alerts] == ["surge"]
    [panel] = panels
    assert (panel.values.max(), len(panel.alerts)) == (44, 1)


async def test_a_database_without_events_is_told(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, rule()) as today:
        with pytest.raises(UsageError, match=r"no live events were decided on so far in .*name a run with --run"):
            await rehearse_stored(today.database, today.pipelines[0].rules)
        with pytest.raises(UsageError, match="the run gone has no events"):
            await rehearse_stored(today.database, today.pipelines[0].rules, run="gone")
