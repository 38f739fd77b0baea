"""The day's news and posts, among them one hour in which everything is about one company."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

TROUBLED = "CRVN"
_SECOND = 1_000_000
# Seconds after the opening: the burst begins at 13:05 and lasts for 55 minutes.
_BURST = (20_100, 23_400)
_HEADLINES, _POSTS, _MACRO = 250, 210, 60
_TOLD_BY = 3  # wires that carry each headline of the burst
_BURST_POSTS = 80

Event = dict[str, Any]


def articles(rng: random.Random, words: Mapping[str, Any], opening: int, closing: int) -> list[Event]:
    """Events of the stream news, unsorted; times in microseconds between `opening` and `closing`."""
    writer = _Writer(rng, words)
    seconds = (closing - opening) // _SECOND
    events = [writer.headline(rng.randrange(seconds)) for _ in range(_HEADLINES)]
    events += [writer.post(rng.randrange(seconds)) for _ in range(_POSTS)]
    events += [writer.macro(rng.randrange(seconds)) for _ in range(_MACRO)]
    events += writer.burst()
    for event in events:
        event["time"] = opening + event["time"] * _SECOND
    return events


class _Writer:
    def __init__(self, rng: random.Random, words: Mapping[str, Any]) -> None:
        self._rng = rng
        self._words = words
        self._wires: Sequence[str] = words["sources"]["wires"]
        self._boards: Sequence[str] = words["sources"]["posts"]
        self._numbers: dict[str, int] = {}

    def headline(self, second: int) -> Event:
        company = self._company(second)
        template = self._rng.choice(self._words["headlines"])
        return self._wire(self._rng.choice(self._wires), second, template, company)

    def post(self, second: int) -> Event:
        company = self._company(second)
        return self._posted(second, self._rng.choice(self._words["posts"]), company)

    def macro(self, second: int) -> Event:
        return self._wire(self._rng.choice(self._wires), second, [self._rng.choice(self._words["macro"])], None)

    def burst(self) -> list[Event]:
        """Each headline by several wires, minutes apart, and posts that grow more as it goes on."""
        company = next(each for each in self._words["companies"] if each["ticker"] == TROUBLED)
        begin, end = _BURST
        titles = self._words["burst"]["headlines"]
        events = []
        for number, title in enumerate(titles):
            first = begin + (end - begin) * number // len(titles)
            for wire in self._rng.sample(self._wires, _TOLD_BY):
                events.append(self._wire(wire, first + self._rng.randrange(240), title, company))
        for _ in range(_BURST_POSTS):
            second = int(begin + (end - begin) * max(self._rng.random(), self._rng.random()))
            events.append(self._posted(second, self._rng.choice(self._words["burst"]["posts"]), company))
        return events

    def _company(self, second: int) -> Mapping[str, str]:
        # Once the burst is near, nobody writes of the troubled company as if nothing had happened.
        known = self._words["companies"]
        return self._rng.choice([each for each in known if second < _BURST[0] // 2 or each["ticker"] != TROUBLED])

    def _wire(self, source: str, second: int, parts: Sequence[str], company: Mapping[str, str] | None) -> Event:
        told = [self._fill(part, company) for part in parts]
        event: Event = {"id": self._id(source), "source": source, "time": second, "text": told[-1]}
        if len(told) > 1:
            event["title"] = told[0]
        event["url"] = f"https://{source}.example/{event['id']}"
        event["language"] = "en"
        if company is not None:
            event["entities"] = [company["name"]]
            event["attributes"] = {"ticker": company["ticker"], "desk": "companies"}
        return event

    def _posted(self, second: int, template: str, company: Mapping[str, str]) -> Event:
        source = self._rng.choice(self._boards)
        event: Event = {"source": source, "time": second, "text": self._fill(template, company)}
        # Some boards give no ids: those are derived from the content.
        if source == self._boards[0]:
            event["id"] = self._id(source)
        event["attributes"] = {"ticker": company["ticker"], "author": f"trader-{self._rng.randrange(90):02}"}
        return event

    def _fill(self, template: str, company: Mapping[str, str] | None) -> str:
        drawn = {name: self._rng.choice(values) for name, values in self._words["slots"].items()}
        return template.format(**drawn, **(company or {}))

    def _id(self, source: str) -> str:
        number = self._numbers[source] = self._numbers.get(source, 0) + 1
        return f"{source}-{number:04}"
