"""Dead letters of who is forgotten: found where they are stored, and blanked when they come in again."""

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, LargeBinary, Text, cast, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store.rows import conversation_hash, subject_hash
from pipeline.store.subjects import forgotten_moments
from pipeline.times import microseconds
from schemas.events import Dead, Line, Record
from schemas.tables import dead_letters

# Letters looked at in one transaction: each may be as large as a message.
BATCH = 50
# Conversations sought at once: SQLite takes a thousand conditions.
CONVERSATIONS = 50
BLANK_LETTER = "its person was forgotten: the bytes are gone, and nothing is left to try again"


class Sought(Protocol):
    """Whose letters are sought."""

    def candidates(self, connection: AsyncConnection) -> ColumnElement[bool]:
        """Letters whose bytes contain a name, perhaps as a part of something else."""

    def is_in(self, key: bytes, value: bytes, headers: Sequence[bytes]) -> bool:
        """Whether the letter really names them."""


class Person(Struct, frozen=True):
    """A person: named by any value of the JSON, and as a word of what is no JSON."""

    name: str

    def candidates(self, connection: AsyncConnection) -> ColumnElement[bool]:
        forms = _written(self.name)
        return or_(
            *[_holds(connection, dead_letters.c.key, form) for form in forms],
            *[_holds(connection, dead_letters.c.value, form) for form in forms],
            *[_holds(connection, _HEADERS, each) for form in forms for each in _inside_base64(form)],
        )

    def is_in(self, key: bytes, value: bytes, headers: Sequence[bytes]) -> bool:
        return _is_word(self.name, key) or any(self._named_in(raw) for raw in (value, *headers))

    def _named_in(self, raw: bytes) -> bool:
        fields = _fields(raw)
        if fields is None:
            return _is_word(self.name, raw)
        return any(value == self.name for _, value in fields)


class Conversations(Struct, frozen=True):
    """Conversations: named by the key, a header, the field of that name, and as a word of what is no JSON."""

    names: Sequence[str]

    def candidates(self, connection: AsyncConnection) -> ColumnElement[bool]:
        raw = [name.encode() for name in self.names]
        whole = [f'"{base64.b64encode(each).decode()}"' for each in raw]
        return (dead_letters.c.stream == "chat") & or_(
            dead_letters.c.key.in_(raw),
            *[_holds(connection, dead_letters.c.value, form) for name in self.names for form in _written(name)],
            *[_holds(connection, _HEADERS, each) for each in whole],
        )

    def is_in(self, key: bytes, value: bytes, headers: Sequence[bytes]) -> bool:
        raw = {name.encode() for name in self.names}
        if key in raw or not raw.isdisjoint(headers):
            return True
        fields = _fields(value)
        if fields is None:
            return any(_is_word(name, value) for name in self.names)
        return any(name == "conversation" and value in self.names for name, value in fields)


def sought(subject: str, conversations: Sequence[str]) -> list[Sought]:
    """The person and their conversations, in groups that one query can look for."""
    starts = range(0, len(conversations), CONVERSATIONS)
    return [Person(subject), *(Conversations(conversations[at : at + CONVERSATIONS]) for at in starts)]


async def blank_letters(
    connection: AsyncConnection, *, who: Sought, moment: int, after: int
) -> tuple[int | None, "Counter[str]"]:
    """Blank a batch of letters; returns the last that was looked at (None where there are none), and counts."""
    columns = dead_letters.c.id, dead_letters.c.key, dead_letters.c.value, dead_letters.c.headers
    query = (
        select(*columns)
        .where(dead_letters.c.id > after, who.candidates(connection))
        .order_by(dead_letters.c.id)
        .limit(BATCH)
    )
    found = (await connection.execute(query)).all()
    if not found:
        return None, Counter()
    theirs = [row.id for row in found if who.is_in(row.key or b"", row.value or b"", _values(row.headers))]
    if theirs:
        blank: dict[str, Any] = {"key": None, "value": None, "headers": [], "message": BLANK_LETTER}
        # Marked as replayed, so that `dlq replay --all` leaves it out.
        tried = func.coalesce(dead_letters.c.replayed_at, moment)
        statement = update(dead_letters).where(dead_letters.c.id.in_(theirs))
        await connection.execute(statement.values(**blank, replayed_at=tried))
    return found[-1].id, Counter(dead_letters=len(theirs))


_HEADERS = cast(dead_letters.c.headers, Text)


def _values(headers: Sequence[tuple[str, str | None]]) -> list[bytes]:
    return [base64.b64decode(value) for _, value in headers if value]


def _written(name: str) -> list[bytes]:
    """The bytes by which a record may give a name: as it is, and as JSON may escape it."""
    ascii_only = json.dumps(name)[1:-1]
    upper = re.sub(r"\\u[0-9a-f]{4}", lambda found: "\\u" + found[0][2:].upper(), ascii_only)
    forms = {name, json.dumps(name, ensure_ascii=False)[1:-1], ascii_only, upper}
    return sorted(form.encode() for form in forms | {form.replace("/", "\\/") for form in forms})


def _inside_base64(form: bytes) -> list[str]:
    """What base64 of a text with `form` inside contains; it depends on the bytes before, modulo three."""
    found = []
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + form).decode()
        # Characters that also hold bits of what stands before or after are left out.
        found.append(encoded[-(-before * 8 // 6) : (before + len(form)) * 8 // 6])
    return found


def _holds(connection: AsyncConnection, column: ColumnElement[Any], needle: str | bytes) -> ColumnElement[bool]:
    given = literal(needle, Text if isinstance(needle, str) else LargeBinary)
    if connection.dialect.name == "sqlite":
        return func.instr(column, given) > 0
    return func.position(given.op("IN")(column)) > 0


def _fields(raw: bytes) -> list[tuple[str, str]] | None:
    """Strings and numbers of a JSON text at any depth, numbers as written, with their names; None: no JSON."""
    try:
        loaded = _load(raw, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    found, waiting = [], [("", loaded)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, tuple):
            waiting += value
        elif isinstance(value, list):
            waiting += [(name, each) for each in value]
        elif isinstance(value, str):
            found.append((name, value))
    return found


def _load(raw: bytes, **hooks: Any) -> Any:
    return json.loads(raw, parse_int=str, parse_float=str, parse_constant=str, **hooks)


def _is_word(name: str, raw: bytes) -> bool:
    """Whether the name stands there by itself; a bare number, also not within a date, a time or a fraction."""
    before, after = (
        (r"(?<![\w.+-])(?<!\d:)", r"(?![\w-])(?![.:]\d)") if name.isdecimal() else (r"(?<!\w)", r"(?!\w)")
    )
    text = raw.decode("utf-8", "replace")
    return any(re.search(before + re.escape(form.decode()) + after, text) for form in _written(name))


async def blank_dead(
    connection: AsyncConnection, hash_key: bytes, stream: str, dead: Sequence[Dead], before: int | None
) -> list[Dead]:
    """The dead letters of a chunk; those from before their person or conversation was forgotten hold nothing.

    `before` is the latest moment at which anybody was forgotten (microseconds). Without one no letter is read.
    """
    if before is None or not dead:
        return list(dead)
    times = [_time(each.record) for each in dead]
    names = [
        set() if time is not None and time > before else _names(hash_key, stream, each.record)
        for each, time in zip(dead, times, strict=True)
    ]
    known = await forgotten_moments(connection, set().union(*names))
    return [
        _blank(each) if any(name in known and (time is None or time <= known[name]) for name in own) else each
        for each, time, own in zip(dead, times, names, strict=True)
    ]


def _blank(dead: Dead) -> Dead:
    record = Line(dead.record.offset, None, None, dead.record.timestamp)
    return msgspec.structs.replace(dead, record=record, message=BLANK_LETTER)


def _names(hash_key: bytes, stream: str, record: Record) -> set[bytes]:
    """The hashes by which the person and the conversation of a record would be remembered."""
    levels = _levels(record)
    people = [level.get(name) for level in levels for name in ("user", "customer")]
    people += [_text(value) for name, value in record.headers or () if name == "ce_subject"][:1]
    conversations = [level.get("conversation") for level in levels]
    # The topic's key is the one or the other.
    if record.key:
        (conversations if stream == "chat" else people).append(_text(record.key))
    hashes = {subject_hash(hash_key, name) for name in people if isinstance(name, str)}
    return hashes | {conversation_hash(hash_key, name) for name in conversations if isinstance(name, str)}


def _levels(record: Record) -> list[dict[str, Any]]:
    """Where an event's fields may stand: at the top, or in the data of a CloudEvent."""
    try:
        top = _load(record.value or b"")
    except (ValueError, RecursionError):
        return []
    found = [top, top.get("data")] if isinstance(top, dict) else []
    return [level for level in found if isinstance(level, dict)]


def _time(record: Record) -> int | None:
    """When it happened; None where that cannot be read."""
    headers = dict(record.headers or ())
    given = _text(headers.get("ce_time")) or next((level.get("time") for level in _levels(record)), None)
    try:
        return microseconds(datetime.fromisoformat(given or ""))
    except (TypeError, ValueError, OverflowError):
        return None


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
