"""Texts to scores: one encoder pass each, in the model's own thread; what is known is not computed again."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor

from models.scorer import Scorer
from pipeline.active import ActiveBundle
from pipeline.gazetteer.mentions import Mentions
from pipeline.retry import bisect
from pipeline.signature import signatures
from pipeline.store.database import Database
from pipeline.store.items import read_item_scores
from pipeline.work import ScoredEvent, dead_letter, encode_heads
from schemas.errors import DataError, SalienceError, ScoringError
from schemas.events import Dead, Event
from schemas.messages import BehaviorData
from schemas.scores import Score

# Item, and a hash of its text.
ItemKey = tuple[str, bytes]
# A score and its heads as JSON.
Scored = tuple[Score, bytes]

# Item scores kept in memory; a catalogue's busy part fits.
_ITEMS = 20_000


class Scoring:
    """Scores the events of a stream. One thread, whatever the number of streams and of bundles."""

    def __init__(
        self,
        active: ActiveBundle,
        database: Database,
        thread: ThreadPoolExecutor,
        mentions: Mentions | None = None,
    ) -> None:
        self._active = active
        self._mentions = mentions
        self._database = database
        self._thread = thread
        self._items: OrderedDict[tuple[str, ItemKey], Scored] = OrderedDict()

    async def score(
        self, stream: str, events: Sequence[Event], now: int
    ) -> tuple[list[ScoredEvent], list[Dead], str]:
        """Every event becomes a scored event (without a score when it has no text) or a dead letter.

        Comes with the identity of the bundle that is active at `now`, microseconds, and scored them.

        Raises:
            BundleError: that bundle cannot be used here.
        """
        scorer = await self._active.at(now)
        scored, dead = await self._score(scorer, stream, events)
        return scored, dead, scorer.bundle

    async def _score(
        self, scorer: Scorer, stream: str, events: Sequence[Event]
    ) -> tuple[list[ScoredEvent], list[Dead]]:
        if not events:
            return [], []
        texts = [event.text for event in events]
        # Large texts must not hold up the loop; queued ahead of the inference, this costs no wait of its own.
        marks = asyncio.get_running_loop().run_in_executor(self._thread, signatures, texts)
        if stream == "behavior":
            return await self._score_items(scorer, events, texts, marks)
        if self._mentions is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._mentions.add, events)
        scored = [ScoredEvent(event, None) for event in events]
        having = [(each, text) for each, text in zip(scored, texts, strict=True) if text.strip()]
        languages = [each.event.language for each, _ in having]
        results, refused = await self._infer(scorer, stream, [text for _, text in having], languages)
        for each, mark in zip(scored, await marks, strict=True):
            each.signature = mark
        for (each, _), result in zip(having, results, strict=True):
            if result is not None:
                each.score, each.heads = result
        dead = [
            dead_letter(having[index][0].event.record, error, having[index][0].event) for index, error in refused
        ]
        out = {id(having[index][0]) for index, _ in refused}
        return [each for each in scored if id(each) not in out], dead

    async def _score_items(
        self,
        scorer: Scorer,
        events: Sequence[Event],
        texts: Sequence[str],
        marks: Awaitable[list[int | None]],
    ) -> tuple[list[ScoredEvent], list[Dead]]:
        keys = [
            _item_key(event, text) if text.strip() else None for event, text in zip(events, texts, strict=True)
        ]
        needed = {key: text for key, text in zip(keys, texts, strict=True) if key is not None}
        bundle = scorer.bundle
        found = {key: self._items[bundle, key] for key in needed if (bundle, key) in self._items}
        missing = [key for key in needed if key not in found]
        if missing:
            found |= await read_item_scores(self._database, bundle, missing)
            missing = [key for key in missing if key not in found]
        unsaid: list[str | None] = [None] * len(missing)
        results, refused = await self._infer(scorer, "behavior", [needed[key] for key in missing], unsaid)
        for key, result in zip(missing, results, strict=True):
            if result is not None:
                found[key] = result
        self._remember(bundle, found)
        errors = {missing[index]: error for index, error in refused}
        scored = []
        dead = []
        for event, item, mark in zip(events, keys, await marks, strict=True):
            if item is None:
                scored.append(ScoredEvent(event, None, signature=mark))
            elif item in errors:
                dead.append(dead_letter(event.record, errors[item], event))
            else:
                score, heads = found[item]
                scored.append(ScoredEvent(event, score, heads, mark, item[1]))
        return scored, dead

    async def _infer(
        self, scorer: Scorer, stream: str, texts: Sequence[str], languages: Sequence[str | None]
    ) -> tuple[list[Scored | None], list[tuple[int, DataError]]]:
        loop = asyncio.get_running_loop()

        async def step(indices: Sequence[int]) -> list[tuple[int, Scored]]:
            chosen = [texts[index] for index in indices]
            spoken = [languages[index] for index in indices]
            try:
                results = await loop.run_in_executor(
                    self._thread, _score_and_encode, scorer, chosen, stream, spoken
                )
            except (SalienceError, MemoryError):
                raise
            except Exception as error:
                raise ScoringError(f"the model fails on this text: {type(error).__name__}: {error}") from error
            return list(zip(indices, results, strict=True))

        done, refused = await bisect(range(len(texts)), step)
        found: list[Scored | None] = [None] * len(texts)
        for index, result in done:
            found[index] = result
        return found, refused

    def _remember(self, bundle: str, found: dict[ItemKey, Scored]) -> None:
        for key, value in found.items():
            self._items[bundle, key] = value
            self._items.move_to_end((bundle, key))
        while len(self._items) > _ITEMS:
            self._items.popitem(last=False)


def _score_and_encode(
    scorer: Scorer, texts: Sequence[str], stream: str, languages: Sequence[str | None]
) -> list[Scored]:
    return [(score, encode_heads(score)) for score in scorer.score(texts, stream, languages)]


def _item_key(event: Event, text: str) -> ItemKey:
    assert isinstance(event.data, BehaviorData)
    return event.data.item, hashlib.blake2b(text.encode(), digest_size=16).digest()
