"""What the tests of decoding share: one event of each stream, in each form, and what becomes of it."""

import json
from typing import Any

import pytest

from pipeline.decode import Decoder
from pipeline.settings import EventSettings
from schemas.errors import DecodeError
from schemas.events import Event, Line

KEY = b"key of the tests"
TIME = "2024-05-31T09:30:00Z"
MICROSECONDS = 1_717_147_800_000_000
DATA: dict[str, dict[str, Any]] = {
    "news": {
        "text": "shares of Corvane fall 7 % 📉",
        "title": "Übernahme",
        "attributes": {"rank": 1, "tags": ["a"]},
    },
    "chat": {
        "conversation": "k1",
        "role": "customer",
        "kind": "message",
        "text": "my card is lost",
        "customer": "ann",
    },
    "behavior": {"user": "ann", "item": "i1", "action": "rate", "value": 4, "attributes": {"page": 2}},
}


def decoder(stream: str, key: bytes = KEY, **limits: Any) -> Decoder:
    return Decoder(stream, key, EventSettings(**limits))


def read(stream: str, value: Any, headers: dict[str, str] | None = None, key: bytes = KEY, **limits: Any) -> Event:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    line = Line(0, raw, headers=[(name, text.encode()) for name, text in (headers or {}).items()])
    return decoder(stream, key, **limits).decode(line)


def bare(stream: str = "news", **fields: Any) -> dict[str, Any]:
    return {"source": "wire", "time": TIME, **DATA[stream], **fields}


def forms(stream: str, data: dict[str, Any], **attributes: str) -> dict[str, tuple[Any, dict[str, str]]]:
    """The same event in its three forms: value and headers."""
    given = {"source": "wire", "time": TIME} | attributes
    return {
        "bare": ({**given, **data}, {}),
        "structured": ({"specversion": "1.0", "type": "t", **given, "data": data}, {}),
        "binary": (data, {"ce_specversion": "1.0", **{f"ce_{name}": text for name, text in given.items()}}),
    }


def sentence(stream: str, value: Any, headers: dict[str, str] | None = None, **limits: Any) -> str:
    """What the person is told of an event that is refused."""
    with pytest.raises(DecodeError) as caught:
        read(stream, value, headers, **limits)
    return str(caught.value)


def facts(event: Event) -> tuple[Any, ...]:
    names = [name for name in ("text", *DATA[event.stream]) if hasattr(event.data, name)]
    data = {name: getattr(event.data, name) for name in names}
    return event.stream, event.source, event.id, event.time, event.content_hash, event.key, event.subject, data
