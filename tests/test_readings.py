"""Another bundle reads a stream: what is usual in its labels is learnt anew, and no surge of them is told."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import pytest
from day import LEARNT, Day, day, rule, story
from helpers import EVENT_TIME, SECOND, rows

from models.scorer import Countable
from models.stub import StubScorer
from pipeline.rehearse import fired_alerts, rehearse_stored
from pipeline.store.rebuild import rebuild
from schemas.counting import readings
from schemas.scores import Score

MOOD = rule("mood", "share", head="sentiment", label="negative", window="2m", every="20s")


class Gloomy(StubScorer):
    """Another bundle, which takes six in ten neutral texts for negative, and says so."""

    def __init__(self, bundle: str = "gloomy@000000000002", known: bool = True) -> None:
        super().__init__()
        self._bundle = bundle
        self._known = known

    @property
    def bundle(self) -> str:
        return self._bundle

    def countable(self, stream: str) -> dict[str, Countable]:
        found = super().countable(stream)
        if self._known and "sentiment" in found:
            labels = found["sentiment"].labels
            taken = {"negative": (100, 0, 0), "neutral": (60, 40, 0), "positive": (0, 0, 100)}
            at = [("negative", "neutral", "positive").index(label) for label in labels]
            found["sentiment"] = Countable(labels, tuple(tuple(taken[name][i] for i in at) for name in labels))
        return found

    def score(
        self, texts: Sequence[str], stream: str, languages: Sequence[str | None] | None = None
    ) -> list[Score]:
        found = super().score(texts, stream, languages)
        for text, score in zip(texts, found, strict=True):
            head = score.heads["sentiment"]
            if head.label == "neutral" and crc32(text.encode()) % 10 < 6:
                head.label = "negative"
        return found


async def usual(today: Day, begin: float, until: float, first: int) -> None:
    moments = [begin + 2 * at for at in range(int((until - begin) / 2))]
    await today.tell(*[(moment, story(first + at)) for at, moment in enumerate(moments)])


def bad_news(begin: float, first: int) -> list[tuple[float, str]]:
    """A minute of what both bundles take for bad."""
    texts = [story(number) for number in range(first, first + 500)]
    scores = StubScorer().score(texts, "news")
    bad = [text for text, score in zip(texts, scores, strict=True) if score.heads["sentiment"].label == "negative"]
    return [(begin + at, text) for at, text in enumerate(bad[:60])]


async def equal_to_a_rehearsal(today: Day) -> bool:
    live = await fired_alerts(today.database, {"mood"})
    rehearsed, _ = await rehearse_stored(today.database, today.pipelines[0].rules)
    return rehearsed.alerts == live


async def test_another_bundle_is_no_surge_and_what_is_usual_is_learnt_anew(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, MOOD) as today:
        await usual(today, 1, LEARNT, 0)
        await today.reach(LEARNT)
        await today.restart(0, Gloomy())
        await usual(today, LEARNT + 1, 2 * LEARNT, 5_000)
        calm = await today.reach(2 * LEARNT)
        await today.tell(*bad_news(2 * LEARNT + 10, 20_000))
        [fired] = await today.reach(2 * LEARNT + 90)
        again = await rebuild(today.database, today.pipelines[0].instance.tick, fired["id"])
        known = {each["bundle"] for each in await rows(today.database, readings)}
        equal = await equal_to_a_rehearsal(today)

    assert calm == []
    assert (fired["bundle"], fired["evidence"]) == ("gloomy@000000000002", again)
    assert known == {"", "stub@000000000001", "gloomy@000000000002"}
    assert equal


@pytest.mark.parametrize(("scorer", "told"), [(Gloomy(), 0), (Gloomy("stub@000000000003", known=False), 1)])
async def test_who_confuses_labels_as_the_one_before_goes_on_with_what_is_usual(
    scorer: Gloomy, told: int, database_url: str, tmp_path: Path
) -> None:
    # Nothing is known of the second one: its bad news are as those of the first, and are told at once.
    async with day(database_url, tmp_path, MOOD) as today:
        await usual(today, 1, LEARNT, 0)
        await today.reach(LEARNT)
        await today.restart(0, scorer)
        await today.tell(*bad_news(LEARNT + 10, 20_000))
        found = await today.reach(LEARNT + 90)
        equal = await equal_to_a_rehearsal(today)

    assert len(found) == told
    assert equal


async def test_one_that_comes_back_is_learnt_anew_and_tells_again(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, MOOD) as today:
        await usual(today, 1, LEARNT, 0)
        await today.reach(LEARNT)
        await today.restart(0, Gloomy())
        await today.tell((LEARNT + 2, story(9_000)))
        await today.restart(0)
        await today.tell((LEARNT + 20, story(9_001)))
        await today.tell(*bad_news(LEARNT + 30, 20_000))
        calm = await today.reach(LEARNT + 120)
        await usual(today, LEARNT + 121, 2 * LEARNT + 200, 5_000)
        await today.tell(*bad_news(2 * LEARNT + 210, 30_000))
        found = await today.reach(2 * LEARNT + 300)
        equal = await equal_to_a_rehearsal(today)

    assert calm == []
    assert {each["bundle"] for each in found} == {"stub@000000000001"}
    assert found[-1]["start_time"] > EVENT_TIME + (2 * LEARNT + 200) * SECOND
    assert equal


async def test_a_worker_with_another_bundle_that_leaves_mutes_nobody(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, MOOD, workers=2, partitions=2) as today:
        await usual(today, 1, LEARNT, 0)
        await today.reach(LEARNT)
        await today.restart(1, Gloomy())
        # What it read lies between what the first one read, of a partition that is behind.
        await today.tell((LEARNT + 61, story(8_999)))
        await today.tell((LEARNT + 2, story(9_000)), partition=1, worker=1)
        await usual(today, LEARNT + 70, 2 * LEARNT + 200, 5_000)
        await today.tell(*bad_news(2 * LEARNT + 210, 30_000))
        found = await today.reach(2 * LEARNT + 300)
        equal = await equal_to_a_rehearsal(today)

    assert [each["bundle"] for each in found] == ["stub@000000000001"]
    assert equal


async def test_evidence_of_before_a_change_can_be_put_together_again(database_url: str, tmp_path: Path) -> None:
    async with day(database_url, tmp_path, MOOD) as today:
        await usual(today, 1, LEARNT, 0)
        await today.reach(LEARNT)
        await today.tell(*bad_news(LEARNT + 10, 20_000))
        [fired] = await today.reach(LEARNT + 90)
        await today.restart(0, Gloomy())
        await usual(today, LEARNT + 91, LEARNT + 600, 5_000)
        await today.reach(LEARNT + 600)
        again = await rebuild(today.database, today.pipelines[0].instance.tick, fired["id"])

    assert again == fired["evidence"]


async def test_history_of_another_bundle_that_is_attached_is_not_what_is_usual(
    database_url: str, tmp_path: Path
) -> None:
    async with day(database_url, tmp_path, MOOD) as today:
        await today.attach("old", *[(1 + 2 * at, story(at)) for at in range(LEARNT // 2)])
        await today.restart(0, Gloomy())
        await usual(today, LEARNT + 1, 2 * LEARNT, 5_000)
        found = await today.reach(2 * LEARNT)
        equal = await equal_to_a_rehearsal(today)

    assert found == []
    assert equal
