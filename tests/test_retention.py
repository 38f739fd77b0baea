"""What is old goes; what went is remembered, so that a replay of the log does not bring it back."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from held import is_held_up
from helpers import DAY, EVENT_TIME, NOW, RULE, Clock, behavior, news, only, opened, place, rows, take
from sqlalchemy import delete, insert

from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.durations import parse_duration
from pipeline.rules import MatchRule, RuleSet
from pipeline.store import retention
from pipeline.store.chunks import ChunkStore
from pipeline.store.database import Database
from pipeline.store.retention import prune
from pipeline.store.rule_sets import remember_rules
from schemas.errors import UsageError
from schemas.tables import (
    alerts,
    closings,
    dead_letters,
    events,
    instance,
    item_scores,
    outbox,
    progress,
    rule_sets,
    scores,
    seen,
)

OLD = "2024-03-01T00:00:00Z"
MONTH = 30 * DAY
YEAR = 365 * DAY
NO_MORE = {"outbox": 0, "dead_letters": 0, "closings": 0, "seen": 0} | dict.fromkeys(
    ("sightings", "counters", "stories", "groups", "definitions", "silences"), 0
)
HOUR = DAY // 24


async def test_old_events_go_with_their_scores_and_young_ones_stay(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time=OLD), news(1), news(2, time=OLD)])
        done = await prune(pipeline.database, NOW, MONTH, YEAR)
        assert done == {"events": 2, "item_scores": 0, **NO_MORE}
        kept = await only(pipeline.database, events)
        assert kept["event_id"] == "n1"
        assert (await only(pipeline.database, scores))["event"] == kept["id"]
        assert len(await rows(pipeline.database, seen)) == 2


async def test_an_event_as_old_as_the_limit_stays(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0)])
        assert (await prune(pipeline.database, EVENT_TIME + MONTH, MONTH, YEAR))["events"] == 0
        assert (await prune(pipeline.database, EVENT_TIME + MONTH + 1, MONTH, YEAR))["events"] == 1


async def test_more_events_than_a_batch_go_in_several(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(index, time=OLD) for index in range(8)])
        assert (await prune(pipeline.database, NOW, MONTH, YEAR))["events"] == 8
        assert await rows(pipeline.database, events) == []
        assert len(await rows(pipeline.database, seen)) == 8


async def test_an_item_score_goes_with_the_last_event_that_names_it(database_url: str) -> None:
    chunk = [behavior(0, item="gone", time=OLD), behavior(1, item="kept", time=OLD), behavior(2, item="kept")]
    async with opened(database_url) as pipeline:
        await take(pipeline, chunk, where=place("behavior"))
        assert (await prune(pipeline.database, NOW, MONTH, YEAR))["item_scores"] == 1
        assert (await only(pipeline.database, item_scores))["item"] == "kept"


async def test_an_item_that_comes_back_after_its_score_went_has_one_again(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0, time=OLD)], where=place("behavior"))
        await prune(pipeline.database, NOW, MONTH, YEAR)
        await take(pipeline, [behavior(1)], where=place("behavior"))
        item = await only(pipeline.database, item_scores)
        assert (await only(pipeline.database, events))["item_hash"] == item["text_hash"]


async def test_old_dead_letters_and_sent_messages_go_and_alerts_stay(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULE)
    clock = Clock(NOW - YEAR)
    lost = MemoryOutlet()
    async with opened(database_url, rules={"file": str(file)}, clock=clock) as pipeline:
        await take(pipeline, [news(0, "bankrupt"), news(1, time="")])
        await pipeline.flush()
        lost.fail = [RuntimeError("never sent")]
        with pytest.raises(RuntimeError):
            await take(pipeline, [news(2, "bankrupt")], lost)
        clock.now = NOW
        await take(pipeline, [news(3, time="")])
        done = await prune(pipeline.database, NOW, MONTH, 2 * YEAR)
        assert (done["dead_letters"], done["outbox"]) == (1, 1)
        assert (await only(pipeline.database, dead_letters))["offset"] == 3
        assert (await only(pipeline.database, outbox))["sent_at"] is None
        assert len(await rows(pipeline.database, alerts)) == 2


async def test_a_pruned_event_that_comes_again_is_repeated(database_url: str) -> None:
    outlet = MemoryOutlet()
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time=OLD), news(1)])
        await prune(pipeline.database, NOW, MONTH, YEAR)
        applied = await take(pipeline, [news(0, time=OLD), news(1)], outlet)
        assert (applied.new, applied.repeated) == (0, 2)
        assert (await only(pipeline.database, events))["event_id"] == "n1"
        row = await only(pipeline.database, progress)
        assert (row["new"], row["repeated"]) == (2, 0)
    assert [each.id for each in outlet.scored] == ["n1"]


async def test_an_old_event_that_was_never_seen_is_stored(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time=OLD)])
        await prune(pipeline.database, NOW, MONTH, YEAR)
        applied = await take(pipeline, [news(1, time=OLD)])
        assert applied.new == 1
        assert (await only(pipeline.database, events))["too_old"] is False


async def test_an_event_older_than_all_memory_is_stored_as_too_old_and_raises_nothing(
    database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULE)
    async with opened(database_url, rules={"file": str(file)}) as pipeline:
        await prune(pipeline.database, NOW, MONTH, YEAR)
        applied = await take(pipeline, [news(0, "bankrupt", time="2020-01-01T00:00:00Z"), news(1, "bankrupt")])
        assert (applied.new, applied.alerts) == (2, 1)
        assert [row["too_old"] for row in await rows(pipeline.database, events)] == [True, False]
        assert (await only(pipeline.database, alerts))["episode"] == "news/wire/n1"


async def test_the_memory_of_keys_goes_by_whole_days(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time="2024-03-01T23:59:59Z"), news(1, time="2024-03-02T00:00:00Z")])
        await prune(pipeline.database, NOW, MONTH, YEAR)
        noon = EVENT_TIME // DAY * DAY - 90 * DAY + DAY // 2  # of the second of March
        assert (await prune(pipeline.database, NOW, MONTH, NOW - noon))["seen"] == 1
        # What was forgotten comes in as too old; what lies on the floor's day is still known.
        applied = await take(
            pipeline,
            [
                news(9, time="2024-03-02T00:00:01Z"),
                news(2, id="n0", time="2024-03-01T23:59:59Z"),
                news(3, "shares rise 1", id="n1", time="2024-03-02T00:00:00Z"),
            ],
        )
        assert (applied.new, applied.repeated) == (2, 1)
        found = {row["event_id"]: row["too_old"] for row in await rows(pipeline.database, events)}
        assert found == {"n9": False, "n0": True}


async def test_a_memory_shorter_than_what_is_kept_is_refused(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time=OLD)])
        with pytest.raises(UsageError, match="--forget-seen is shorter than --older-than"):
            await prune(pipeline.database, NOW, MONTH, MONTH - 1)
        await only(pipeline.database, events)


class Baseline(MatchRule):
    """A rule that looks back on twelve hours."""

    @property
    def baseline(self) -> int:
        return 12 * HOUR


def looking_back(name: str = "r") -> RuleSet:
    when = {"words": ["x"]}
    plain = MatchRule.model_validate({"name": "plain", "kind": "match", "stream": "news", "when": when})
    return RuleSet((Baseline.model_validate(plain.model_dump() | {"name": name}), plain))


async def test_a_retention_shorter_than_what_rules_in_use_look_back_on_is_refused(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time=OLD)])
        await remember_rules(pipeline.database, looking_back(), NOW - DAY)
        told = "--older-than 690m is shorter than the longest baseline of the rules in use, 12h; keep events for"
        with pytest.raises(UsageError, match=told):
            await prune(pipeline.database, NOW, 11 * HOUR + HOUR // 2, YEAR)
        await only(pipeline.database, events)
        assert (await prune(pipeline.database, NOW, 12 * HOUR, YEAR))["events"] == 1


async def test_rules_that_nobody_used_for_a_day_hold_nothing_back(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time=OLD)])
        await remember_rules(pipeline.database, looking_back(), NOW - DAY - 1)
        assert (await prune(pipeline.database, NOW, HOUR, YEAR))["events"] == 1


async def test_rules_that_are_used_again_count_again(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await remember_rules(pipeline.database, looking_back(), NOW - 3 * DAY)
        await remember_rules(pipeline.database, looking_back(), NOW)
        row = await only(pipeline.database, rule_sets)
        assert (row["created_at"], row["used_at"], row["baseline"]) == (NOW - 3 * DAY, NOW, 12 * HOUR)
        with pytest.raises(UsageError, match="longest baseline"):
            await prune(pipeline.database, NOW, HOUR, YEAR)


async def test_match_rules_look_back_on_nothing(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULE)
    async with opened(database_url, rules={"file": str(file)}) as pipeline:
        row = await only(pipeline.database, rule_sets)
        assert (row["baseline"], row["used_at"]) == (0, NOW)
        assert await prune(pipeline.database, NOW, 0, YEAR)


@pytest.mark.parametrize(
    ("length", "shown"),
    [(90 * DAY, "90d"), (36 * HOUR, "36h"), (90_000_000, "90s"), (1_500_000, "1.5s"), (0, "0s")],
)
def test_a_length_of_time_is_shown_as_the_command_line_takes_it(length: int, shown: str) -> None:
    assert retention._shown(length) == shown
    assert parse_duration(shown) == length


async def test_old_closings_go_in_batches_and_young_ones_stay(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    closed = [NOW - MONTH - 1] * 7 + [NOW - MONTH]
    values = {"stream": "news", "run": "", "last_tick": 0, "watermark": 0, "moved_by": "t/0", "left_out": []}
    async with opened(database_url) as pipeline:
        async with pipeline.database.begin() as connection:
            lines = [values | {"first_tick": tick, "closed_at": moment} for tick, moment in enumerate(closed)]
            await connection.execute(insert(closings), lines)
        assert (await prune(pipeline.database, NOW, MONTH, YEAR))["closings"] == 7
        assert (await only(pipeline.database, closings))["first_tick"] == 7


async def test_workers_go_on_while_it_prunes(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 10)

    async def write(pipeline: Pipeline, partition: int) -> None:
        for chunk in range(10):
            names = [f"{partition}/{chunk}/{at}" for at in range(10)]
            lines = [news(chunk * 10 + at, id=name) for at, name in enumerate(names)]
            applied = await take(pipeline, lines, where=place(partition=partition))
            assert applied.new == 10

    async with opened(database_url) as pipeline:
        await take(pipeline, [news(index, time=OLD) for index in range(200)], where=place(partition=9))
        writers = [write(pipeline, number) for number in range(3)]
        *_, done = await asyncio.gather(*writers, prune(pipeline.database, NOW, MONTH, YEAR))
        assert done["events"] == 200
        assert len(await rows(pipeline.database, events)) == 300
        counted = await rows(pipeline.database, progress)
        assert [row["new"] for row in counted] == [100, 100, 100, 200]


async def test_the_floors_never_go_down(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await prune(pipeline.database, NOW, MONTH, YEAR)
        before = await only(pipeline.database, instance)
        await prune(pipeline.database, NOW, 2 * MONTH, 2 * YEAR)
        assert await only(pipeline.database, instance) == before


async def test_an_event_is_not_stored_again_while_it_is_pruned(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go = asyncio.Event(), asyncio.Event()
    look = ChunkStore._without_pruned

    async def slowly(*given: Any) -> Any:
        found = await look(*given)
        looked.set()
        await go.wait()
        return found

    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0, time=OLD)])
        # A pruning that raised the floor and died before it deleted anything.
        async with pipeline.database.begin() as connection:
            await retention._raise_floors(connection, NOW - MONTH, NOW - YEAR)
        monkeypatch.setattr(ChunkStore, "_without_pruned", slowly)
        writing = asyncio.create_task(take(pipeline, [news(1, "shares rise 0", id="n0", time=OLD)]))
        await looked.wait()
        pruning = asyncio.create_task(_prune_batch(pipeline.database))
        await is_held_up(pipeline.database, pruning)
        go.set()
        applied = await writing
        assert (applied.new, applied.repeated) == (0, 1)
        assert await pruning == 1
        assert await rows(pipeline.database, events) == []


async def _prune_batch(database: Database) -> int:
    async with database.begin() as connection:
        return (await retention._prune_events(connection, NOW - MONTH))["events"]


async def test_an_item_score_that_a_chunk_is_about_to_name_stays(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote, go = asyncio.Event(), asyncio.Event()
    insert_scores = ChunkStore._insert_scores

    async def slowly(*given: Any) -> None:
        await insert_scores(*given)
        wrote.set()
        await go.wait()

    async def nothing(*_: Any) -> Counter[str]:
        return Counter()

    where = place("behavior")
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0, time=OLD)], where=where)
        async with pipeline.database.begin() as connection:
            await connection.execute(delete(events))
        monkeypatch.setattr(ChunkStore, "_insert_scores", slowly)
        # The chunk comes when the pruning has done all but its last step.
        monkeypatch.setattr(retention, "_raise_floors", nothing)
        monkeypatch.setattr(retention, "_prune_events", nothing)
        writing = asyncio.create_task(take(pipeline, [behavior(1)], where=where))
        await wrote.wait()
        pruning = asyncio.create_task(prune(pipeline.database, NOW, MONTH, YEAR))
        await is_held_up(pipeline.database, pruning)
        go.set()
        await writing
        await pruning
        await only(pipeline.database, item_scores)
