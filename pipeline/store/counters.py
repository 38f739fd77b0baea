"""What counts for which rule: sightings, and counters that move with them."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.store import bulk
from schemas.counting import counters, sightings

# The shard of counts without repeats: only the one who closes ticks writes them.
SINGLE_SHARD = -1
_KEY = ("definition", "group", "bucket", "label", "shard")


class Sighting(NamedTuple):
    """An event that counts for a group of a definition; `ticks` are those of a bucket."""

    definition: int
    group: str
    event: int
    label: str
    tick: int
    ticks: int
    signature: int | None
    shard: int


async def count(connection: AsyncConnection, found: Sequence[Sighting]) -> None:
    """Write sightings of events that are new, and move the raw counters."""
    await bulk.insert_all(
        connection,
        sightings,
        {
            "definition": [each.definition for each in found],
            "group": [each.group for each in found],
            "event": [each.event for each in found],
            "label": [each.label for each in found],
            "tick": [each.tick for each in found],
            "signature": [each.signature for each in found],
        },
    )
    await _move_raw(connection, found)


async def count_stored(connection: AsyncConnection, found: Sequence[Sighting]) -> None:
    """The same for stored events, of which some may have been counted before."""
    columns = ("definition", "group", "event", "label", "tick", "signature")
    rows = [{name: getattr(each, name) for name in columns} for each in found]
    new = set(await bulk.insert_returning(connection, sightings, rows, ["definition", "group", "event"]))
    await _move_raw(connection, [each for each in found if (each.definition, each.group, each.event) in new])


async def _move_raw(connection: AsyncConnection, found: Sequence[Sighting]) -> None:
    moved = Counter(
        (each.definition, each.group, each.tick // each.ticks, each.label, each.shard) for each in found
    )
    await move(connection, moved, "raw")


async def move(connection: AsyncConnection, moved: "Counter[tuple[int, str, int, str, int]]", kind: str) -> None:
    """Add to the counters of (definition, group, bucket, label, shard); `kind` is raw or single."""
    keys = sorted(moved)
    columns = {name: [key[at] for key in keys] for at, name in enumerate(_KEY)}
    amounts = [moved[key] for key in keys]
    other = {"raw": "single", "single": "raw"}[kind]
    await bulk.merge_all(connection, counters, {**columns, kind: amounts, other: [0] * len(keys)}, {kind: "sum"})
