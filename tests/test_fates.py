"""A record that comes again becomes nothing else than it was at first."""

from collections.abc import AsyncIterator

import pytest
from helpers import CountingScorer, news, only, opened, place, rows, take

from pipeline.compose import Pipeline
from pipeline.deliver import MemoryOutlet
from pipeline.replay import through_flow
from schemas.tables import dead_letters, events, progress


@pytest.fixture
async def pipelines(database_url: str) -> AsyncIterator[tuple[Pipeline, Pipeline]]:
    """A worker whose model fails on one text, and another one, whose model does not."""
    async with opened(database_url, scorer=CountingScorer(refuse="odd")) as failing, opened(database_url) as sound:
        yield failing, sound


async def test_an_event_that_died_of_a_passing_error_stays_dead(pipelines: tuple[Pipeline, Pipeline]) -> None:
    failing, sound = pipelines
    await take(failing, [news(0), news(1, "odd")])
    outlet = MemoryOutlet()
    applied = await take(sound, [news(0), news(1, "odd"), news(2)], outlet)
    assert (applied.new, applied.repeated, len(applied.dead)) == (1, 1, 1)
    assert [row["event_id"] for row in await rows(sound.database, events)] == ["n0", "n2"]
    assert (await only(sound.database, dead_letters))["reason"] == "unscorable"
    row = await only(sound.database, progress)
    assert (row["new"], row["repeated"], row["dead"]) == (2, 0, 1)


async def test_its_dead_letter_is_sent_again(pipelines: tuple[Pipeline, Pipeline]) -> None:
    failing, sound = pipelines
    await take(failing, [news(0, "odd")])
    outlet = MemoryOutlet()
    await take(sound, [news(0, "odd")], outlet)
    (letter,) = outlet.dead
    assert letter.topic == "dlq.t.news"
    assert dict(letter.headers)["salience-reason"] == b"unscorable"


async def test_an_event_that_was_stored_does_not_die_of_a_passing_error(
    pipelines: tuple[Pipeline, Pipeline],
) -> None:
    failing, sound = pipelines
    await take(sound, [news(0, "odd")])
    applied = await take(failing, [news(0, "odd"), news(1)])
    assert (applied.new, len(applied.dead)) == (1, 0)
    assert await rows(sound.database, dead_letters) == []


async def test_a_person_can_let_it_through(database_url: str) -> None:
    async with opened(database_url, scorer=CountingScorer(refuse="odd")) as failing:
        run = place(cluster="file", topic="f", incarnation="f", origin="backfill", run="r")
        await take(failing, [news(0, "odd")], where=run, notify=False)
        letters = await rows(failing.database, dead_letters)
        settings = failing.settings
    assert (await through_flow(settings, letters)).stored == 1


async def test_a_file_that_is_read_again_after_a_mend_is_stored(pipelines: tuple[Pipeline, Pipeline]) -> None:
    failing, sound = pipelines
    run = place(cluster="file", topic="f", incarnation="f", origin="backfill", run="r")
    await take(failing, [news(0, "odd")], where=run, notify=False)
    assert (await take(sound, [news(0, "odd")], where=run, notify=False)).new == 1
