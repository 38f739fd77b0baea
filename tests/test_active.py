"""Which bundle scores follows from what is stored and from the clock, the same in every process."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bundles import OTHER, STUB, NamedScorer, Shelf
from helpers import (
    NOW,
    RULE,
    SECOND,
    Clock,
    behavior,
    news,
    only,
    opened,
    outage,
    place,
    rows,
    settings_for,
    take,
    upgraded,
)

from models.stub import STUB_BUNDLE, StubScorer
from pipeline.compose import Pipeline, compose
from pipeline.deliver import MemoryOutlet
from pipeline.settings import Settings
from pipeline.store.bundles import Registered, activate
from pipeline.store.migrate import TICK
from schemas.errors import BundleError
from schemas.tables import alerts, events, item_scores, scores

SWITCH = NOW // TICK + 6  # the tick from which on the other bundle scores
RULED = "rules: [{name: r, kind: match, stream: news, when: {heads: {sentiment: {label: negative}}}}]"


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """What stands in for the folders of bundles."""
    found = Shelf()
    monkeypatch.setattr("pipeline.compose.open_scorer", found.open)
    return found


@contextlib.asynccontextmanager
async def composed(url: str, clock: Clock, **sections: Any) -> AsyncIterator[Pipeline]:
    """A pipeline whose bundles are opened as a new process does it."""
    settings = await upgraded(settings_for(url, **sections))
    async with await compose(settings, clock=clock) as pipeline:
        yield pipeline


async def decide(pipeline: Pipeline, bundle: Registered | None = OTHER, tick: int = SWITCH) -> None:
    await activate(pipeline.database, bundle, tick, "promote", NOW)


async def test_two_processes_change_bundles_at_the_same_tick(database_url: str, shelf: Shelf) -> None:
    clock, outlet = Clock(), MemoryOutlet()
    async with composed(database_url, clock) as one, composed(database_url, clock) as other:
        await decide(one)
        for number, moment in enumerate((NOW, SWITCH * TICK - 1, SWITCH * TICK)):
            clock.now = moment
            for partition, pipeline in enumerate((one, other)):
                where = place(partition=partition)
                await take(pipeline, [news(number, id=f"n{partition}{number}")], outlet, where)
        expected = [STUB_BUNDLE] * 4 + [OTHER.identity] * 2
        assert [row["bundle"] for row in await rows(one.database, events)] == expected
        assert [row["bundle"] for row in await rows(one.database, scores)] == expected
        assert [each.bundle for each in outlet.scored] == expected


async def test_a_later_decision_wins_from_its_tick_on(database_url: str, shelf: Shelf) -> None:
    clock = Clock()
    async with composed(database_url, clock) as pipeline:
        await decide(pipeline)
        await decide(pipeline, STUB, SWITCH - 1)
        clock.now = SWITCH * TICK
        await take(pipeline, [news(0)])
        assert (await only(pipeline.database, events))["bundle"] == STUB_BUNDLE


async def test_a_process_that_starts_later_takes_the_bundle_that_is_active(
    database_url: str, shelf: Shelf
) -> None:
    async with composed(database_url, Clock()) as first:
        await decide(first)
    shelf.asked.clear()
    async with composed(database_url, Clock(SWITCH * TICK)) as pipeline:
        await take(pipeline, [news(0)])
        assert (await only(pipeline.database, events))["bundle"] == OTHER.identity
    assert shelf.asked == [OTHER.path]


async def test_without_a_bundle_a_decision_gives_the_word_back_to_the_settings(
    database_url: str, shelf: Shelf
) -> None:
    clock = Clock()
    async with composed(database_url, clock) as pipeline:
        await decide(pipeline)
        await decide(pipeline, None, SWITCH + 1)
        for number, tick in enumerate((SWITCH, SWITCH + 1)):
            clock.now = tick * TICK
            await take(pipeline, [news(number)])
        found = [row["bundle"] for row in await rows(pipeline.database, events)]
    assert found == [OTHER.identity, STUB_BUNDLE]


async def test_an_item_is_scored_again_by_the_next_bundle_and_named_by_it(database_url: str, shelf: Shelf) -> None:
    clock, outlet = Clock(), MemoryOutlet()
    async with composed(database_url, clock) as pipeline:
        await decide(pipeline)
        await take(pipeline, [behavior(0, text="all about it")], outlet, place("behavior"))
        clock.now = SWITCH * TICK
        await take(pipeline, [behavior(1, text="all about it")], outlet, place("behavior"))
        by_bundle = {row["bundle"]: row["heads"]["sentiment"]["label"] for row in await rows(
            pipeline.database, item_scores
        )}  # fmt: skip
        assert [row["bundle"] for row in await rows(pipeline.database, events)] == [STUB_BUNDLE, OTHER.identity]
    stub = StubScorer().score(["all about it"], "behavior")[0].heads["sentiment"].label
    assert by_bundle == {STUB_BUNDLE: stub, OTHER.identity: "positive"}


async def test_an_alert_names_the_bundle_of_its_event(database_url: str, shelf: Shelf, tmp_path: Any) -> None:
    (tmp_path / "rules.yaml").write_text(RULE)
    clock = Clock()
    async with composed(database_url, clock, rules={"file": str(tmp_path / "rules.yaml")}) as pipeline:
        await decide(pipeline)
        await take(pipeline, [news(0, "bankrupt")])
        clock.now = SWITCH * TICK
        await take(pipeline, [news(1, "bankrupt")])
        found = [row["bundle"] for row in await rows(pipeline.database, alerts)]
    assert found == [STUB_BUNDLE, OTHER.identity]


async def test_a_bundle_that_is_not_there_is_named_and_nothing_else_scores(
    database_url: str, shelf: Shelf
) -> None:
    clock = Clock()
    async with composed(database_url, clock) as pipeline:
        await decide(pipeline)
        del shelf.scorers[OTHER.path]
        clock.now = SWITCH * TICK
        said = rf"other@2 scores from tick {SWITCH} on and cannot be used here.*no model bundle at /bundles/other"
        with pytest.raises(BundleError, match=rf"{said}.*mend /bundles/other, or .*promote"):
            await take(pipeline, [news(0)])
        assert await rows(pipeline.database, events) == []


async def test_a_bundle_that_cannot_be_loaded_ends_a_worker_at_its_tick_and_not_before(
    database_url: str, shelf: Shelf
) -> None:
    del shelf.scorers[OTHER.path]
    async with composed(database_url, Clock()) as pipeline:
        await decide(pipeline)
        await pipeline.active.refresh(NOW)
        await _loads(pipeline)
        await pipeline.active.refresh(SWITCH * TICK - 1)
        await _loads(pipeline)
        with pytest.raises(BundleError, match="other@2"):
            await pipeline.active.refresh(SWITCH * TICK)


async def test_a_bundle_that_comes_before_its_tick_is_used(database_url: str, shelf: Shelf) -> None:
    scorer = shelf.scorers.pop(OTHER.path)
    async with composed(database_url, Clock()) as pipeline:
        await decide(pipeline)
        await pipeline.active.refresh(NOW)
        await _loads(pipeline)
        shelf.scorers[OTHER.path] = scorer
        assert await pipeline.active.at(SWITCH * TICK) is scorer


async def test_a_folder_that_holds_another_bundle_is_refused(database_url: str, shelf: Shelf) -> None:
    shelf.scorers[OTHER.path] = NamedScorer("other@3")
    async with composed(database_url, Clock()) as pipeline:
        await decide(pipeline)
        with pytest.raises(BundleError, match="/bundles/other is other@3, not other@2"):
            await pipeline.active.at(SWITCH * TICK)


async def test_a_bundle_that_cannot_serve_the_rules_is_refused(
    database_url: str, shelf: Shelf, tmp_path: Any
) -> None:
    (tmp_path / "rules.yaml").write_text(RULED)
    shelf.scorers[OTHER.path] = NamedScorer(OTHER.identity, heads=False)
    async with composed(database_url, Clock(), rules={"file": str(tmp_path / "rules.yaml")}) as pipeline:
        await decide(pipeline)
        with pytest.raises(BundleError, match=r"cannot serve the rule r .*no head 'sentiment' for news"):
            await pipeline.active.at(SWITCH * TICK)


async def test_a_bundle_is_loaded_ahead_and_once(database_url: str, shelf: Shelf) -> None:
    async with composed(database_url, Clock()) as pipeline:
        await decide(pipeline)
        for _ in range(3):
            await pipeline.active.refresh(NOW)
        await _loads(pipeline)
        assert shelf.asked == [None, OTHER.path]
        await pipeline.active.at(SWITCH * TICK)
        assert shelf.asked == [None, OTHER.path]


async def test_a_bundle_that_is_far_ahead_takes_no_memory_yet(database_url: str, shelf: Shelf) -> None:
    async with composed(database_url, Clock()) as pipeline:
        await decide(pipeline, OTHER, NOW // TICK + 60)
        await pipeline.active.refresh(NOW)
        await _loads(pipeline)
    assert shelf.asked == [None]


async def test_a_bundle_that_scores_no_more_is_dropped(database_url: str, shelf: Shelf) -> None:
    async with composed(database_url, Clock()) as pipeline:
        await decide(pipeline)
        await pipeline.active.refresh(SWITCH * TICK)
        assert set(pipeline.active._scorers) == {None, OTHER.identity}
        await pipeline.active.refresh(SWITCH * TICK + 100 * SECOND)
        assert set(pipeline.active._scorers) == {OTHER.identity}
        await _loads(pipeline)


async def test_the_loop_goes_on_while_a_bundle_is_loaded_and_the_chunk_waits(
    database_url: str, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Shelf):
        def open(self, settings: Settings, path: str | None = None) -> StubScorer:
            if path is not None:
                begun.set()
                assert go_on.wait(30)
            return super().open(settings, path)

    monkeypatch.setattr("pipeline.compose.open_scorer", Slow().open)
    clock = Clock()
    async with composed(database_url, clock) as pipeline:
        await decide(pipeline)
        clock.now = SWITCH * TICK
        taken = asyncio.create_task(take(pipeline, [news(0)]))
        await asyncio.to_thread(begun.wait, 30)
        given_up = asyncio.create_task(take(pipeline, [news(0)], where=place(partition=1)))
        await asyncio.sleep(0)
        given_up.cancel()
        assert not taken.done()
        go_on.set()
        assert (await taken).new == 1
        assert (await only(pipeline.database, events))["bundle"] == OTHER.identity


async def test_a_back_fill_keeps_the_bundle_it_began_with(database_url: str, shelf: Shelf) -> None:
    clock = Clock()
    async with composed(database_url, clock) as pipeline:
        await pipeline.active.keep(clock())
        await decide(pipeline)
        clock.now = SWITCH * TICK
        await take(pipeline, [news(0)])
        assert (await only(pipeline.database, events))["bundle"] == STUB_BUNDLE


async def test_a_database_that_is_away_when_decisions_are_read_is_waited_for(
    database_url: str, shelf: Shelf
) -> None:
    clock = Clock()
    async with composed(database_url, clock) as pipeline:
        await decide(pipeline)
        clock.now = SWITCH * TICK
        with outage(pipeline.database, 2, "FROM activations") as failed:
            await take(pipeline, [news(0)])
        assert len(failed) == 2
        assert (await only(pipeline.database, events))["bundle"] == OTHER.identity


async def test_what_was_read_holds_for_a_while(database_url: str, shelf: Shelf) -> None:
    clock = Clock()
    async with composed(database_url, clock) as pipeline:
        clock.now += 14 * SECOND
        with outage(pipeline.database, 1, "FROM activations") as asked:
            await take(pipeline, [news(0)])
        assert asked == []


async def test_a_bundle_that_the_settings_name_too_is_loaded_once(database_url: str, shelf: Shelf) -> None:
    async with opened(database_url, scorer=StubScorer()) as pipeline:
        await decide(pipeline, STUB)
        before = await pipeline.active.at(NOW)
        assert await pipeline.active.at(SWITCH * TICK) is before
    assert shelf.asked == []


async def _loads(pipeline: Pipeline) -> None:
    """Until nothing is being loaded."""
    if pipeline.active._scorers:
        await asyncio.wait(pipeline.active._scorers.values())
