"""The day's conversations at a bank's support desk."""

import random
from collections.abc import Iterator, Mapping
from typing import Any

_SECOND = 1_000_000
_CONVERSATIONS = 115
# Seconds after the opening: complaints that follow from the burst of bad news come after it began.
_AFTERMATH = 20_400
# Seconds between two messages of a conversation.
_PAUSE = (15, 150)

Event = dict[str, Any]


def conversations(rng: random.Random, talks: Mapping[str, Any], opening: int, closing: int) -> Iterator[Event]:
    """Events of the stream chat, unsorted; times in microseconds between `opening` and `closing`."""
    seconds = (closing - opening) // _SECOND - 900  # the last ones are finished before the desk closes
    for number in range(_CONVERSATIONS):
        issue = rng.choice(talks["issues"])
        begin = rng.randrange(_AFTERMATH if issue.get("late") else 0, seconds)
        yield from _conversation(rng, talks, issue, f"talk-{number:04}", opening + begin * _SECOND)


def _conversation(
    rng: random.Random, talks: Mapping[str, Any], issue: Mapping[str, Any], name: str, time: int
) -> Iterator[Event]:
    shared = {
        "source": "support-desk",
        "conversation": name,
        "customer": f"customer-{rng.randrange(400):03}",
        "channel": rng.choice(talks["channels"]),
        "language": "en",
    }
    for number, (role, kind, text) in enumerate(_turns(rng, talks, issue)):
        attributes = {"team": issue["team"]} if kind == "assigned" else None
        yield {
            "id": f"{name}-{number}",
            "time": time,
            "role": role,
            "kind": kind,
            "text": text,
            **shared,
            **({"attributes": attributes} if attributes else {}),
        }
        time += rng.randrange(*_PAUSE) * _SECOND


def _turns(
    rng: random.Random, talks: Mapping[str, Any], issue: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """(role, kind, text) of each turn; every tenth conversation is left open."""
    yield "customer", "message", rng.choice(issue["openings"])
    yield "agent", "assigned", ""
    yield "agent", "message", rng.choice(talks["questions"])
    yield "customer", "message", rng.choice(issue["details"])
    if rng.random() < 0.1:
        return
    yield "agent", "message", rng.choice(issue["answers"])
    yield "customer", "message", rng.choice(talks["thanks"])
    yield "agent", "resolved", ""
