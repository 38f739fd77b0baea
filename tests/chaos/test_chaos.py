"""The short form of the chaos: one script of faults on Apache Kafka and PostgreSQL, every event accounted for."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import BY_NAME, FAULTS, draw
from play import play
from run import main
from servers import missing
from world import World

from pipeline import pgprograms

SCRIPT = ("kill", "term", "broker kill", "database kill", "stop", "abort in store")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    why = missing() or pgprograms.available()
    if why is not None:
        pytest.skip(why)
    with World(tmp_path) as world:
        yield world


@pytest.mark.kafka
@pytest.mark.postgres
def test_every_event_is_accounted_for_after_kills_outages_and_an_abort(world: World) -> None:
    outcome = play(world, [BY_NAME[name] for name in SCRIPT], 4_000, 7, rate=400.0, brittle=True)

    assert outcome.wrong() == {}
    assert outcome.ours is not None
    assert outcome.ours.stored + len(outcome.ours.dead) == 4_000
    assert not any("not reached" in told for told in outcome.faults)
    assert outcome.ends == [0] * len(outcome.ends)


@pytest.mark.chaos
@pytest.mark.kafka
@pytest.mark.postgres
def test_twenty_rounds_lose_nothing_and_store_nothing_twice() -> None:
    assert main(["--rounds", "20", "--events", "2500", "--seed", "7"]) == 0


def test_twenty_rounds_hold_each_kind_of_fault_and_three_to_five_each() -> None:
    scripts = draw(random.Random(7), 20, supervised=10)

    assert {fault.name for script in scripts for fault in script} == {fault.name for fault in FAULTS}
    assert all(3 <= len(script) <= 5 for script in scripts)
    assert not any(fault.alone for fault in scripts[10])
    assert scripts == draw(random.Random(7), 20, supervised=10)
