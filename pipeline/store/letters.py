"""Dead letters as they are looked at and replayed."""

import base64
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update

from pipeline.store.database import Database
from pipeline.times import rfc3339
from schemas.errors import UsageError
from schemas.events import Line, Place
from schemas.tables import dead_letters

_SHORT = ("id", "stream", "topic", "partition", "offset", "stage", "reason", "message", "attempts")


async def list_letters(
    database: Database, *, stream: str | None, reason: str | None, limit: int | None, waiting: bool = False
) -> list[dict[str, Any]]:
    """The newest first; `waiting` leaves out those that were replayed."""
    query = select(dead_letters).order_by(dead_letters.c.id.desc()).limit(limit)
    if stream:
        query = query.where(dead_letters.c.stream == stream)
    if reason:
        query = query.where(dead_letters.c.reason == reason)
    if waiting:
        query = query.where(dead_letters.c.replayed_at.is_(None))
    async with database.read() as connection:
        return [dict(row) for row in (await connection.execute(query)).mappings()]


async def read_letters(database: Database, ids: Sequence[int]) -> list[dict[str, Any]]:
    """These dead letters, oldest first.

    Raises:
        UsageError: one is not there.
    """
    query = select(dead_letters).where(dead_letters.c.id.in_(list(ids))).order_by(dead_letters.c.id)
    async with database.read() as connection:
        found = [dict(row) for row in (await connection.execute(query)).mappings()]
    missing = set(ids) - {row["id"] for row in found}
    if missing:
        raise UsageError(f"there is no dead letter {min(missing)}; `salience dlq list` shows those that are there")
    return found


async def count_by_reason(database: Database) -> dict[str, int]:
    query = select(dead_letters.c.reason, func.count().label("letters")).group_by(dead_letters.c.reason)
    async with database.read() as connection:
        return {row.reason: row.letters for row in await connection.execute(query)}


async def mark_replayed(database: Database, ids: Sequence[int], now: int) -> None:
    async with database.begin() as connection:
        await connection.execute(
            update(dead_letters).where(dead_letters.c.id.in_(list(ids))).values(replayed_at=now)
        )


def short(row: dict[str, Any]) -> dict[str, Any]:
    """One line's worth of a dead letter."""
    return {name: row[name] for name in _SHORT} | {
        "time": rfc3339(row["ingest_time"]),
        "replayed": row["replayed_at"] is not None,
    }


def full(row: dict[str, Any]) -> dict[str, Any]:
    """All of it; bytes as text where they are text."""
    return short(row) | {
        "exception": row["exception"],
        "origin": row["origin"],
        "run": row["run"],
        "cluster": row["cluster"],
        "incarnation": row["incarnation"],
        "key": _text(row["key"]),
        "value": _text(row["value"]),
        "headers": [[name, _text(value)] for name, value in line_of(row).headers],
    }


def line_of(row: dict[str, Any]) -> Line:
    """The record as it was: bytes untouched."""
    stamp = row["broker_time"]
    headers: list[Any] = [(name, _bytes(value)) for name, value in row["headers"]]
    return Line(row["offset"], row["value"], row["key"], None if stamp is None else stamp // 1000, headers)


def place_of(row: dict[str, Any]) -> Place:
    """Where it came from."""
    names = ("stream", "cluster", "topic", "incarnation", "partition", "origin", "run")
    return Place(**{name: row[name] for name in names})


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _bytes(value: str | None) -> bytes | None:
    # msgspec writes bytes as base64; a header may have no value at all.
    return None if value is None else base64.b64decode(value)
