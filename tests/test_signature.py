"""Near-duplicate signatures: what they say of texts, and what they cost the loop."""

import threading
from collections.abc import Sequence

import pytest
from helpers import Languages, behavior, news, only, opened, place, rows, take

from models.stub import StubScorer
from pipeline import score, signature
from pipeline.signature import signatures
from schemas.errors import OutageError
from schemas.scores import Score
from schemas.tables import events

STORY = "Crude settles higher as producers agree to extend their output cuts until the end of the year"


def distance(one: str, other: str) -> int:
    """Bits in which the signatures of two texts differ."""
    first, second = signatures([one, other])
    assert first is not None
    assert second is not None
    return ((first ^ second) & (1 << 64) - 1).bit_count()


def test_a_repeat_with_a_word_changed_keeps_most_bits() -> None:
    assert distance(STORY, STORY.replace("higher", "lower")) < 16
    assert distance(STORY, "Retailer names a new chief financial officer, effective in March") > 16


def test_links_letter_case_and_punctuation_change_nothing() -> None:
    assert distance(STORY, f"{STORY.upper()}! https://t.co/x") == 0


def test_a_text_without_a_word_has_no_signature() -> None:
    assert signatures(["", " ... ", "https://t.co/x", "\ud800"]) == [None] * 4


def test_a_signature_is_the_same_in_every_chunk() -> None:
    texts = [STORY, "", "Ok", "word " * 5_000, STORY.lower()]
    assert signatures(texts) == [signatures([text])[0] for text in texts]


def test_a_words_first_64_characters_count() -> None:
    assert distance("a" * 64 + " rises", "a" * 1_000 + " rises") == 0
    assert distance("a" * 63 + " rises", "a" * 64 + " rises") > 0


def test_a_long_words_end_is_no_word() -> None:
    assert distance("a" * 64 + "crude rises", "a" * 64 + " rises") == 0


def test_a_texts_first_4000_words_count() -> None:
    words = [f"w{number}" for number in range(4_000)]
    assert distance(" ".join(words), " ".join([*words, *["other"] * 4_000])) == 0
    assert distance(" ".join(words), " ".join([*["other"] * 2_000, *words])) > 0


def test_no_word_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(signature, "_code", lambda word: asked.append(word) or 1)
    signatures(["a" * 1_000_000, "b" * 5_000 + " c"])
    assert asked == ["a" * 64, "b" * 64, "c"]


@pytest.mark.parametrize("stream", ["news", "behavior"])
async def test_signatures_are_computed_in_the_models_thread(
    database_url: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def told(texts: Sequence[str]) -> list[int | None]:
        threads.append(threading.current_thread().name)
        return signatures(texts)

    monkeypatch.setattr(score, "signatures", told)
    async with opened(database_url) as pipeline:
        await take(pipeline, [news(0) if stream == "news" else behavior(0)], where=place(stream))
    assert [name.rpartition("_")[0] for name in threads] == ["model"]


async def test_events_beside_a_refused_one_keep_their_own_signatures(database_url: str) -> None:
    texts = ["shares rise", "boom", "crude falls", "yields climb"]
    async with opened(database_url, scorer=StubScorer(refuse="boom")) as pipeline:
        await take(pipeline, [news(offset, text) for offset, text in enumerate(texts)])
        found = {row["event_id"]: row["signature"] for row in await rows(pipeline.database, events)}
    first, _, *others = signatures(texts)
    assert found == dict(zip(("n0", "n2", "n3"), (first, *others), strict=True))


async def test_items_beside_a_refused_one_keep_their_own_signatures(database_url: str) -> None:
    async with opened(database_url, scorer=StubScorer(refuse="boom")) as pipeline:
        chunk = [behavior(offset, item=item) for offset, item in enumerate(("i1", "boom", "i2"))]
        await take(pipeline, chunk, where=place("behavior"))
        found = {row["event_id"]: row["signature"] for row in await rows(pipeline.database, events)}
    first, second = signatures(["all about i1", "all about i2"])
    assert found == {"b0": first, "b2": second}


async def test_an_item_without_a_text_passes_without_a_signature(database_url: str) -> None:
    async with opened(database_url) as pipeline:
        await take(pipeline, [behavior(0, text=None)], where=place("behavior"))
        assert (await only(pipeline.database, events))["signature"] is None


async def test_a_repeated_attempt_after_an_outage_stores_the_signature(database_url: str) -> None:
    class Flaky(StubScorer):
        failed = False

        def score(self, texts: Sequence[str], stream: str, languages: Languages = None) -> list[Score]:
            if not self.failed:
                self.failed = True
                raise OutageError("the device is lost")
            return super().score(texts, stream, languages)

    async with opened(database_url, scorer=Flaky()) as pipeline:
        await take(pipeline, [news(0, STORY)])
        assert (await only(pipeline.database, events))["signature"] == signatures([STORY])[0]


def test_a_chunk_of_large_texts_gets_the_signatures_of_its_texts() -> None:
    texts = [f"{word} " * 60_000 for word in ("profit", "warning", "outlook", "merger")]
    assert signatures(texts) == [signatures([text])[0] for text in texts]
