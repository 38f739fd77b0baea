"""What visitors of a market site do: they read the day's articles, and look at products."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.demo.news import TROUBLED

_SECOND = 1_000_000
_VISITS = 180
_USERS = 48
# Of a visit's pages, the share that are articles; the rest are products.
_ARTICLES = 0.6
# How much more often an article on the company in trouble is read.
_ATTENTION = 6
_HOUR = 3_600 * _SECOND

Event = dict[str, Any]


def visits(
    rng: random.Random, words: Mapping[str, Any], articles: Sequence[Event], opening: int, closing: int
) -> list[Event]:
    """Events of the stream behavior, unsorted; times in microseconds between `opening` and `closing`."""
    events: list[Event] = []
    readable = [article for article in articles if "url" in article]
    for number in range(_VISITS):
        time = opening + rng.randrange((closing - opening) // _SECOND - 1_200) * _SECOND
        shared = {
            "source": "market-site",
            "user": f"user-{rng.randrange(_USERS):02}",
            "session": f"visit-{number:04}",
        }
        for _ in range(rng.randrange(2, 6)):
            action, item = _page(rng, words, readable, time)
            events.append({"id": f"visit-{number:04}-{len(events):05}", "time": time, **shared, **action, **item})
            time += rng.randrange(8, 180) * _SECOND
    return events


def _page(
    rng: random.Random, words: Mapping[str, Any], articles: Sequence[Event], time: int
) -> tuple[Event, Event]:
    fresh = [article for article in articles if time - _HOUR < article["time"] <= time]
    if fresh and rng.random() < _ARTICLES:
        weights = [_ATTENTION if _troubled(article) else 1 for article in fresh]
        article = rng.choices(fresh, weights)[0]
        item = {"item": article["id"], "text": article.get("title") or article["text"], "version": "1"}
        action = rng.choices(["view", "click", "comment", "share"], [6, 3, 1, 1])[0]
        return {"action": action}, item
    name, text = rng.choice(words["products"])
    action = rng.choices(["view", "click", "purchase", "rate"], [6, 3, 1, 1])[0]
    value = {"purchase": rng.randrange(10, 500) * 1.0, "rate": rng.randrange(1, 6) * 1.0}.get(action)
    known: Event = {"action": action} if value is None else {"action": action, "value": value}
    return known, {"item": name, "text": text, "version": "2025-05"}


def _troubled(article: Event) -> bool:
    return bool(article.get("attributes", {}).get("ticker") == TROUBLED)
