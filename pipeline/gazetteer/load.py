"""A gazetteer's file: CSV or JSON lines, plain or .gz, with columns for name, ticker and aliases."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from schemas.errors import ConfigError

# The columns, by the names under which public lists have them.
NAME = ("name", "company", "security")
TICKER = ("ticker", "symbol")
ALIASES = ("aliases", "alias")
# Characters of a name; a longer one is a cell that belongs elsewhere.
_LONGEST = 200


class Company(Struct, frozen=True):
    """A row: the name that is shown, the ticker (None where there is none), and other names."""

    name: str
    ticker: str | None
    aliases: tuple[str, ...] = ()


def read_companies(path: str) -> list[Company]:
    """Read and check a file of companies. A row needs a name, or aliases of which the first is the name.

    Raises:
        ConfigError: names file, line, and what to mend.
    """
    found: list[Company] = []
    lines: dict[str, int] = {}
    for number, row in _rows(path):
        company = _company(path, number, row)
        if company.ticker is not None:
            key = company.ticker.upper()
            if key in lines:
                raise ConfigError(
                    f"{path}, line {number}: the ticker {company.ticker!r} is taken by line {lines[key]}; "
                    "put further names of a company into its aliases"
                )
            lines[key] = number
        found.append(company)
    if not found:
        raise ConfigError(f"{path} holds no companies; give a row for each, with name, ticker and aliases")
    return found


def _company(path: str, number: int, row: Mapping[str, Any]) -> Company:
    names, tickers, others = (_column(row, each) for each in (NAME, TICKER, ALIASES))
    if names is None and others is None:
        raise ConfigError(f"{path}, line {number}: there is no column {' or '.join((*NAME, *ALIASES))}")
    if tickers is None:
        raise ConfigError(f"{path}, line {number}: there is no column {' or '.join(TICKER)}")
    aliases = _aliases(path, number, row[others]) if others is not None else ()
    name = _text(path, number, names, row[names]) if names is not None else (aliases[0] if aliases else "")
    if not name:
        raise ConfigError(f"{path}, line {number}: the name is empty; every company has one")
    ticker = _text(path, number, tickers, row[tickers]).removeprefix("$")
    return Company(name, ticker or None, aliases)


def _column(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((column for name in names for column in row if column.strip().lower() == name), None)


def _aliases(path: str, number: int, value: Any) -> tuple[str, ...]:
    if value is None or isinstance(value, str):
        parts: list[Any] = (value or "").split("|")
    elif isinstance(value, list):
        parts = value
    else:
        raise ConfigError(f"{path}, line {number}: aliases are a list, or names with | between them")
    return tuple(text for each in parts if (text := _text(path, number, "an alias", each)))


def _text(path: str, number: int, what: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"{path}, line {number}: {what} is {str(value)[:40]!r}; write it as text")
    if len(value) > _LONGEST:
        raise ConfigError(f"{path}, line {number}: {what} has more than {_LONGEST} characters")
    return value.strip()


def _rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows as dicts, with their lines."""
    try:
        raw = Path(path).read_bytes()
        if path.endswith(".gz"):
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"the gazetteer {path} cannot be read: {reason}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: this is not UTF-8; save the file as UTF-8") from None
    rows = _csv(path, text) if path.removesuffix(".gz").lower().endswith(".csv") else _json_lines(path, text)
    yield from rows


def _csv(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    before = 1
    try:
        for row in reader:
            number, before = before + 1, reader.line_num
            # Excess cells stand under None, which is most often a comma within a name.
            if None in row:
                raise ConfigError(
                    f"{path}, line {number}: more cells than columns; put names with commas in quotes"
                )
            yield number, row
    except csv.Error as error:
        raise ConfigError(f"{path}, line {before + 1}: this is no CSV: {error}") from None


def _json_lines(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ConfigError(f"{path}, line {number}: this is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number}: this is no JSON object; give one with name and ticker")
        yield number, row
