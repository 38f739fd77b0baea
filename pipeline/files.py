"""Events from files: JSONL or CSV, plain or .gz, or standard input; columns can be renamed and filled in."""

import codecs
import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from pipeline.times import microseconds, rfc3339
from schemas.errors import UsageError
from schemas.events import Line
from schemas.labels import STREAMS

KEYS = {"news": "source", "chat": "conversation", "behavior": "user"}
# A cell of a CSV file may hold a whole article.
_CELL = 16 * 1_048_576


class Fields(Struct, frozen=True):
    """How a row becomes an event: other names for columns, constants, and times for rows without one."""

    mapping: Mapping[str, str] = {}
    constants: Mapping[str, str] = {}
    start: int | None = None
    step: int = 0

    @property
    def untouched(self) -> bool:
        return not (self.mapping or self.constants or self.start is not None)


def fields(
    mapping: Sequence[str] = (), constants: Sequence[str] = (), start: str | None = None, step: float | None = None
) -> Fields:
    """From the command line: `field=column`, `field=value`, RFC 3339, seconds.

    Raises:
        UsageError: one of them cannot be read.
    """
    if step is not None and start is None:
        raise UsageError("--step needs --start, the time of the first row")
    begin = None
    if start is not None:
        try:
            begin = microseconds(datetime.fromisoformat(start))
        except ValueError:
            raise UsageError(f"--start {start!r} is no time; write it like 2024-05-31T09:30:00Z") from None
    return Fields(_pairs("--map", mapping), _pairs("--set", constants), begin, int((step or 0) * 1_000_000))


def check_stream(stream: str) -> str:
    """Raises UsageError for a stream that does not exist."""
    if stream not in STREAMS:
        raise UsageError(f"{stream!r} is no stream; choose one of {', '.join(STREAMS)}")
    return stream


def read_lines(path: str, stream: str, how: Fields = Fields()) -> Iterator[Line]:  # noqa: B008 - it is frozen
    """The rows of a file as records, numbered from 0; blank lines are passed over.

    A row that is no JSON object is handed on as it is: what it is worth is decided where it is decoded.

    Raises:
        UsageError: the file cannot be read, or is no text.
    """
    try:
        with _open(path) as file:
            yield from _records(file, _kind(path), stream, how)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"the file {path} is no CSV in UTF-8: {error}") from None


def read_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a file as they are.

    Raises:
        UsageError: the file cannot be read, or a row is no JSON object.
    """
    for line in read_lines(path, "news"):
        try:
            row = msgspec.json.decode(line.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UsageError(f"{path}: row {line.offset + 1} is no JSON object")
        yield row


def count_rows(path: str) -> int | None:
    """Lines of a file, for a progress bar; None for standard input and other pipes, which are read once.

    Raises:
        UsageError: the file cannot be read.
    """
    if is_pipe(path):
        return None
    try:
        with _open(path) as file:
            return sum(1 for _ in file)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from None


def is_pipe(path: str) -> bool:
    """Whether what is there can be read only once: standard input, or a shell's <(command)."""
    return path == "-" or Path(path).is_fifo()


def _records(file: BinaryIO, kind: str, stream: str, how: Fields) -> Iterator[Line]:
    number = 0
    for row in _csv_rows(file) if kind == "csv" else file:
        if isinstance(row, bytes):
            raw = row.strip() if number else row.removeprefix(codecs.BOM_UTF8).strip()
            if not raw:
                continue
            value, key = _from_json(raw, stream, how, number)
        else:
            value, key = _from_row(row, stream, how, number)
        yield Line(number, value, key)
        number += 1


def _csv_rows(file: BinaryIO) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_CELL)
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        for row in csv.DictReader(text):
            yield {name: cell for name, cell in row.items() if name is not None and cell not in (None, "")}


def _from_json(raw: bytes, stream: str, how: Fields, number: int) -> tuple[bytes, bytes | None]:
    try:
        row = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return raw, None
    if not isinstance(row, dict):
        return raw, None
    if how.untouched:
        return raw, _key(row, stream)
    return _from_row(row, stream, how, number)


def _from_row(row: dict[str, Any], stream: str, how: Fields, number: int) -> tuple[bytes, bytes | None]:
    event = dict(row)
    for field, column in how.mapping.items():
        value = event.pop(column, None)
        if value is not None:
            _put(event, field, str(value) if field == "id" else value)
    for field, value in how.constants.items():
        _put(event, field, value)
    if how.start is not None and "time" not in event:
        event["time"] = rfc3339(how.start + number * how.step)
    if isinstance(event.get("value"), str) and stream == "behavior":
        event["value"] = _number(event["value"])
    return msgspec.json.encode(event), _key(event, stream)


def _put(event: dict[str, Any], field: str, value: Any) -> None:
    """`attributes.user` puts `user` into `attributes`."""
    outer, dot, inner = field.partition(".")
    if not dot:
        event[field] = value
        return
    inside = event.setdefault(outer, {})
    if isinstance(inside, dict):
        inside[inner] = value


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _key(event: dict[str, Any], stream: str) -> bytes | None:
    data = event.get("data")
    inner = data if isinstance(data, dict) and "specversion" in event else event
    value = inner.get(KEYS[stream], event.get(KEYS[stream]))
    return value.encode("utf-8", "replace") if isinstance(value, str) and value else None


def _open(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    if path.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return Path(path).open("rb")


def _unreadable(path: str, error: Exception) -> UsageError:
    return UsageError(f"the file {path} cannot be read: {getattr(error, 'strerror', None) or error}")


def _kind(path: str) -> str:
    return "csv" if path.removesuffix(".gz").endswith(".csv") else "jsonl"


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (equals and name):
            raise UsageError(f"{option} {each!r} is not of the form field=something")
        if each != each.encode("utf-8", "replace").decode():
            raise UsageError(f"{option} {each!r} is not UTF-8")
        pairs[name] = value
    return pairs
