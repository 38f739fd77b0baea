"""Rows of a data set: JSON Lines or CSV, plain or gzip, each with the place it came from."""

import csv
import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from schemas.errors import UsageError

Row = dict[str, Any]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Each row with where it stands, as "FILE, line N".

    Raises:
        UsageError: there is no such file, or a line is no row; says which.
    """
    try:
        with _open(path) as file:
            yield from _csv_rows(path, file) if ".csv" in path.suffixes else _json_rows(path, file)
    except (OSError, EOFError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}; check the folder of the data and the file's name."
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8.") from None


def required(row: Row, column: str, where: str) -> Any:
    """A column that a row must have.

    Raises:
        UsageError: it has not.
    """
    if column not in row:
        raise UsageError(
            f"{where}, has no column {column!r}; it has {', '.join(map(str, row))}. Name the right one."
        )
    return row[column]


def text_of(row: Row, column: str, where: str) -> str:
    """A column that must be text.

    Raises:
        UsageError: it is not.
    """
    value = required(row, column, where)
    if not isinstance(value, str):
        raise UsageError(f"{where}, {column}: {value!r:.60} is no text; mend the row.")
    return value


@contextmanager
def _open(path: Path) -> Iterator[IO[str]]:
    with (
        gzip.open(path) if path.suffix == ".gz" else path.open("rb") as binary,
        io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as file,
    ):
        yield file


def _json_rows(path: Path, lines: IO[str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise UsageError(f"{where}, is no JSON: {error}; mend it.") from None
        if not isinstance(row, dict):
            raise UsageError(f"{where}, is no JSON object; one row is one object.")
        yield where, row


def _csv_rows(path: Path, lines: IO[str]) -> Iterator[tuple[str, Row]]:
    try:
        for number, row in enumerate(csv.DictReader(lines, strict=True), 1):
            yield f"{path}, row {number}", {name: value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise UsageError(f"{path} is no CSV: {error}; mend it.") from None
