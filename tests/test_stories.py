"""Repeats of a story are found among what a group was told lately, however much that is."""

import random
from pathlib import Path

import pytest
from day import day, rule
from helpers import rows

from pipeline.store import collapse as collapsing
from pipeline.store.collapse import LATEST, NEAR, collapse, distance
from pipeline.store.counters import Sighting, count
from pipeline.store.database import Database
from schemas.counting import counters, definitions, sightings, stories
from schemas.tables import events

TICKS, TICK = 6, 10_000_000
# The first bit of each band, and bits that all the stories here have in common: those of the first band.
BITS = [0, 9, 18, 27, 36, 45, 54]
COMMON = 0b101010101


def unlike(many: int) -> list[int]:
    """Signatures that agree in the first band, and are far apart otherwise."""
    rng = random.Random(1)
    found: list[int] = []
    while len(found) < many:
        new = rng.getrandbits(54) << 9 | COMMON
        if all(distance(new, each) > 12 for each in found):
            found.append(new)
    return [each - (1 << 64) if each >> 63 else each for each in found]


def changed(signature: int) -> int:
    """As near as a repeat may be: another bit in each band but the first."""
    for bit in BITS[1:]:
        signature ^= 1 << bit
    assert distance(signature, unlike(1)[0]) == NEAR
    return signature


async def told(database: Database, signatures: list[int]) -> list[bool]:
    """Tell a group so many stories, one a tick; whether each counted as a story of its own."""
    async with database.begin() as connection:
        [number] = [row.id for row in await connection.execute(definitions.select())]
        given = [row.id for row in await connection.execute(events.select().order_by(events.c.id))]
        found = [
            Sighting(number, "g", event, "", at, TICKS, signature, 0)
            for at, (event, signature) in enumerate(zip(given, signatures, strict=False))
        ]
        assert len(found) == len(signatures)
        await count(connection, found)
    done = -1
    while done < len(signatures):
        async with database.begin() as connection:
            done = await collapse(connection, number, TICKS, len(signatures), TICK)
    kept = sorted(await rows(database, sightings), key=lambda each: each["tick"])
    assert sum(each["single"] for each in await rows(database, counters)) == sum(each["counted"] for each in kept)
    return [each["counted"] for each in kept]


@pytest.mark.parametrize("batch", [5_000, 7])
@pytest.mark.parametrize(("between", "new"), [(LATEST - 2, False), (LATEST - 1, False), (LATEST, True)])
async def test_the_latest_stories_with_a_part_in_common_are_remembered(
    between: int, new: bool, batch: int, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapsing, "BATCH", batch)
    first, *others = unlike(between + 1)
    async with day(database_url, tmp_path, rule(when={"source": "nobody"})) as today:
        await today.tell(*[(at / 10, f"story {at}") for at in range(between + 2)])
        counted = await told(today.database, [first, *others, changed(first)])

    assert counted == [True] * (between + 1) + [new]


async def test_the_same_text_is_found_by_any_part(database_url: str, tmp_path: Path) -> None:
    # Its other parts are its own, however many stories have the first one in common.
    first, *others = unlike(2 * LATEST)
    async with day(database_url, tmp_path, rule(when={"source": "nobody"})) as today:
        await today.tell(*[(at / 10, f"story {at}") for at in range(2 * LATEST + 1)])
        counted = await told(today.database, [first, *others, first])
        kept = len(await rows(today.database, stories))

    assert counted == [True] * 2 * LATEST + [False]
    assert kept == 2 * LATEST * len(BITS)
