"""Bytes to Event, or a DecodeError that says what is wrong: CloudEvents, binary or structured, and bare JSON."""

import hashlib
import json
import math
from datetime import datetime
from typing import Any, NoReturn

import msgspec

from pipeline.settings import EventSettings
from pipeline.times import microseconds
from pipeline.work import dead_letter
from schemas.errors import DecodeError, SchemaHeaderError
from schemas.events import Chunk, Dead, Event, Record, encode_json
from schemas.messages import BARE, DATA, BehaviorData, ChatData, Data, Envelope

_LATEST = microseconds(datetime(2201, 1, 1))
# Bytes of a Confluent schema registry's header.
_SCHEMA_HEADER = 5
_BOM = b"\xef\xbb\xbf"
_UNFIT = dict.fromkeys([0, *range(0xD800, 0xE000)], "\ufffd")
# Levels of lists and objects in attributes and entities.
_NESTING = 64
# Characters of a validation message, which quotes the value: a value may be a megabyte.
_SENTENCE = 200
# Names are keys of tables and topics: PostgreSQL's index takes 2,704 bytes, and a scored message repeats them.
_LONGEST_NAME = 1_000
_NAMES = ("conversation", "customer", "channel", "user", "item", "version", "session", "language")
_MUST_HAVE = {
    "news": "source, text, time",
    "chat": "source, text, time, conversation, role (customer, agent), kind (message, assigned, resolved)",
    "behavior": "source, user, item, action, time",
}


class Decoder:
    """Decodes the records of one stream.

    `key` is the installation's secret: derived ids and content hashes are BLAKE2b-128 keyed by it, taken of
    the unmasked content, so that they neither reveal it nor change with the form an event came in.
    """

    def __init__(self, stream: str, key: bytes, settings: EventSettings) -> None:
        self._stream = stream
        self._key = key
        self._max_bytes = settings.max_bytes
        self._actions = settings.action_set
        self._bare = msgspec.json.Decoder(BARE[stream])
        self._data = msgspec.json.Decoder(DATA[stream])
        self._fields = tuple(field for field in DATA[stream].__struct_fields__)

    def decode_all(self, chunk: Chunk) -> tuple[list[Event], list[Dead]]:
        """Every record becomes an event or a dead letter, in order; the chunk's own dead letters come first."""
        events: list[Event] = []
        dead: list[Dead] = list(chunk.dead)
        records = chunk.records
        if dead:
            given_up = {each.record.offset for each in dead}
            records = [record for record in records if record.offset not in given_up]
        for record in records:
            try:
                events.append(self.decode(record))
            except DecodeError as error:
                dead.append(dead_letter(record, error))
        return events, dead

    def decode(self, record: Record) -> Event:
        """One record to an event.

        Raises:
            DecodeError: the bytes are no event of this stream.
        """
        value = record.value
        if value is None:
            raise DecodeError(f"the message has no value; a {self._stream} event is a JSON object")
        if len(value) > self._max_bytes:
            raise DecodeError(
                f"the event has {len(value):,} bytes, {self._max_bytes:,} are allowed; "
                "shorten it or raise SALIENCE_EVENTS__MAX_BYTES"
            )
        headers = dict(record.headers) if record.headers else {}
        try:
            identity, data = self._read(value, headers)
        except RecursionError:
            raise DecodeError("the JSON is nested too deeply; flatten it") from None
        return self._event(record, identity, data)

    def _read(self, value: bytes, headers: dict[str, bytes]) -> tuple["_Identity", Data]:
        if "ce_specversion" in headers:
            return _from_headers(headers), self._parse(value, self._data)
        if b'"specversion"' in value:
            envelope = _envelope(value)
            if envelope is not None:
                identity = _Identity(envelope.id, envelope.source, envelope.time, envelope.traceparent)
                return identity, self._parse(bytes(envelope.data), self._data)
        message = self._parse(value, self._bare)
        traceparent = headers.get("traceparent")
        identity = _Identity(
            message.id,
            message.source,
            message.time,
            traceparent.decode("ascii", "replace").translate(_UNFIT) if traceparent else None,
        )
        return identity, message

    def _parse(self, value: bytes, decoder: "msgspec.json.Decoder[Any]") -> Any:
        unfit = b"\\u0000" in value or b"\\ud" in value or b"\\uD" in value
        try:
            if unfit:
                return msgspec.convert(_cleaned(_load(value)), decoder.type)
            return decoder.decode(value.removeprefix(_BOM))
        except msgspec.ValidationError as error:
            raise DecodeError(
                f"{_path(str(error))}; a {self._stream} event must have {_MUST_HAVE[self._stream]}"
            ) from None
        except UnicodeDecodeError:
            raise _no_utf8(value) from None
        except (msgspec.DecodeError, ValueError) as error:
            raise _schema_header(value) or DecodeError(f"the value is no JSON: {error}") from None

    def _event(self, record: Record, identity: "_Identity", data: Data) -> Event:
        time = _event_time(identity.time)
        source = identity.source
        if not source:
            raise DecodeError("source is empty; name where the event comes from")
        _check_names(source=source, id=identity.id, data=data)
        self._check(data)
        _check_depth(record.value or b"", data)
        # Only what is given: a field that a later version adds must not change the hashes of what came before.
        given = {name: value for name in self._fields if (value := getattr(data, name)) is not None}
        content = encode_json([self._stream, source, time, given])
        content_hash = hashlib.blake2b(content, digest_size=16, key=self._key).digest()
        return Event(
            self._stream,
            source,
            identity.id or content_hash.hex(),
            time,
            data,
            content_hash,
            record,
            identity.traceparent,
        )

    def _check(self, data: Data) -> None:
        if isinstance(data, BehaviorData):
            if data.action not in self._actions:
                raise DecodeError(
                    f"action {data.action[:40]!r} is none of {', '.join(sorted(self._actions))}; "
                    "SALIENCE_EVENTS__ACTIONS lists what is allowed"
                )
            if not (data.user and data.item):
                raise DecodeError("user or item is empty; a behavior event names both")
            return
        if isinstance(data, ChatData):
            if not data.conversation:
                raise DecodeError("conversation is empty; name the conversation the message belongs to")
            if data.kind != "message":
                return
        if not data.text.strip() and not getattr(data, "title", None):
            raise DecodeError("text is empty; there is nothing to read")


class _Identity:
    __slots__ = ("id", "source", "time", "traceparent")

    def __init__(self, id: str | None, source: str, time: str | None, traceparent: str | None) -> None:
        self.id = id
        self.source = source
        self.time = time
        self.traceparent = traceparent


def _check_names(source: str, id: str | None, data: Data) -> None:
    names = {"source": source, "id": id} | {name: getattr(data, name, None) for name in _NAMES}
    for name, value in names.items():
        # A character has at most four bytes in UTF-8.
        if value and len(value) * 4 > _LONGEST_NAME and len(value.encode("utf-8", "replace")) > _LONGEST_NAME:
            raise DecodeError(
                f"{name} has more than {_LONGEST_NAME:,} bytes ({value[:40]!r}...); a name is short, "
                "what is long belongs into text or attributes"
            )


def _from_headers(headers: dict[str, bytes]) -> _Identity:
    def text(name: str) -> str | None:
        raw = headers.get(name)
        if not raw:
            return None
        # The usual case; translating looks every character up.
        if raw.isascii() and b"\0" not in raw:
            return raw.decode("ascii")
        return raw.decode("utf-8", "replace").translate(_UNFIT)

    source = text("ce_source")
    if not source:
        raise DecodeError("the header ce_source is missing; a CloudEvent in binary form has ce_id and ce_source")
    return _Identity(text("ce_id"), source, text("ce_time"), text("ce_traceparent") or text("traceparent"))


def _envelope(value: bytes) -> Envelope | None:
    """The structured form, or None when the word only stood in a bare event's text."""
    try:
        fields = _load(value)
        if not (isinstance(fields, dict) and "specversion" in fields):
            return None
        if "data" not in fields:
            raise DecodeError("the CloudEvent has no data; put the event's fields there, as JSON")
        return msgspec.convert(
            {**_cleaned(fields), "data": msgspec.Raw(json.dumps(fields["data"]).encode())}, Envelope
        )
    except msgspec.ValidationError as error:
        raise DecodeError(f"{_path(str(error))}, in the CloudEvent's attributes") from None
    except UnicodeDecodeError:
        raise _no_utf8(value) from None
    except ValueError:
        return None


def _event_time(time: str | None) -> int:
    if not time:
        raise DecodeError("time is missing; give the event's time as RFC 3339, like 2024-05-31T09:30:00Z")
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise DecodeError(f"time {time[:40]!r} cannot be read; write it like 2024-05-31T09:30:00Z") from None
    try:
        found = microseconds(moment)
    except OverflowError:
        found = -1
    if not 0 <= found < _LATEST:
        raise DecodeError(f"time {time[:40]!r} lies outside the years 1970 to 2200")
    return found


def _check_depth(value: bytes, data: Data) -> None:
    """What nests deeper could be decoded here and then break the stack of whoever encodes it further down."""
    if value.count(b"[") + value.count(b"{") <= _NESTING:
        return
    if _is_deep(data.attributes, _NESTING) or _is_deep(getattr(data, "entities", None), _NESTING):
        raise DecodeError(f"the JSON is nested too deeply; flatten it to {_NESTING} levels")


def _is_deep(value: Any, left: int) -> bool:
    if not isinstance(value, (list, dict)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not left or any(_is_deep(each, left - 1) for each in inner)


def _load(value: bytes) -> Any:
    """With the standard library, which takes lone surrogates; as strict as msgspec in everything else."""
    return json.loads(value.decode("utf-8-sig"), parse_constant=_no_number, parse_float=_finite)


def _schema_header(value: bytes) -> SchemaHeaderError | None:
    """What a schema registry's serializer puts before the value: magic byte 0, then the schema's id."""
    if len(value) < _SCHEMA_HEADER or value[0] != 0:
        return None
    schema = int.from_bytes(value[1:_SCHEMA_HEADER], "big")
    return SchemaHeaderError(
        f"the message begins with a Confluent schema header (magic byte 0, schema id {schema}); send plain JSON, "
        "with a serializer that knows no schema registry"
    )


def _no_utf8(value: bytes) -> DecodeError:
    header = _schema_header(value)
    if header is not None:
        return header
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return DecodeError(f"byte {error.start} is no UTF-8; send JSON in UTF-8")
    return DecodeError("the value is no UTF-8; send JSON in UTF-8")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits[:40]} is out of range")
    return number


def _path(message: str) -> str:
    sentence, _, where = message.partition(" - at `$.")
    if len(sentence) > _SENTENCE:
        sentence = f"{sentence[:_SENTENCE]}..."
    return f"{where.rstrip('`')}: {sentence}" if where else sentence


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_UNFIT)
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    if isinstance(value, dict):
        return {_cleaned(name): _cleaned(each) for name, each in value.items()}
    return value
