"""What goes wrong on a real day: events that nobody can use, and one that only looks bad."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from schemas.events import Line

Fate = Literal["stored", "repeated", "dead"]

_MINUTE = 60_000_000


class Fault(Struct, frozen=True):
    """A message as some producer's mistake would have made it; `time` in microseconds."""

    stream: str
    time: int
    line: Line
    fate: Fate = "dead"


def broken(opening: int) -> list[Fault]:
    """One of each kind, spread over the day that begins at `opening` (microseconds)."""
    found = [
        _raw("news", b"tradepost-bulletin", b'{"source":"tradepost-bulletin","text":"Noreld Energy signs a con'),
        _raw("news", b"streetline", '{"source":"streetline","text":"Café prices'.encode("latin-1") + b'"}'),
        _raw("news", b"northgate-newsdesk", b"\x00\x00\x00\x00\x07" + b'{"text":"framed by a schema registry"}'),
        _news(time="9999-12-31T23:59:59Z", text="Holmbrand Freight publishes its figures in due course"),
        _news(time="yesterday afternoon", text="Castlemoor Retail opens two stores"),
        _news(text="   "),
        _chat(text="My transfer is late", role="customer", kind="message"),
        _chat(conversation="talk-late", text="Where is my card?", role="robot", kind="message"),
        _behavior(user="user-07", item="gold-account", action="purchase", value="a hundred"),
        _behavior(user="user-19", item="saver-easy", action="hover"),
        # A NUL is no reason to lose an event: it is replaced, and the event is stored.
        _news("stored", text="Stocks end the morning flat\0 after a calm auction", id="tb-nul"),
    ]
    return [
        Fault(each.stream, opening + (25 + 52 * number) * _MINUTE, each.line, each.fate)
        for number, each in enumerate(found)
    ]


def _raw(stream: str, key: bytes, value: bytes) -> Fault:
    return Fault(stream, 0, Line(0, value, key))


def _event(stream: str, key: str, fate: Fate, fields: dict[str, Any]) -> Fault:
    return Fault(stream, 0, Line(0, msgspec.json.encode(fields), key.encode()), fate)


def _news(fate: Fate = "dead", **fields: Any) -> Fault:
    event = {"source": "tradepost-bulletin", "time": "2025-05-14T12:00:00Z", **fields}
    return _event("news", event["source"], fate, event)


def _chat(**fields: Any) -> Fault:
    event = {"source": "support-desk", "time": "2025-05-14T12:00:00Z", **fields}
    return _event("chat", event.get("conversation", "nobody"), "dead", event)


def _behavior(**fields: Any) -> Fault:
    event = {"source": "market-site", "time": "2025-05-14T12:00:00Z", **fields}
    return _event("behavior", event["user"], "dead", event)
