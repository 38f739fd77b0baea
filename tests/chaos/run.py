"""The long form: rounds of chaos on Apache Kafka and PostgreSQL, each accounted for, and a table at the end.

usage: python tests/chaos/run.py --rounds 20 --events 2500 --seed 7 [--stock | --stock-only] [--json FILE]

Ends with 1 when anything was lost, stored twice, out of order, or otherwise not as it must be.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import msgspec
from faults import Fault, draw
from play import Outcome, play, play_stock
from world import World, environment_is_clean


def main(words: Sequence[str] | None = None) -> int:
    """Play the rounds; returns the exit status."""
    parser = argparse.ArgumentParser(description="Rounds of chaos, each accounted for.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--events", type=int, default=2500, help="events of a round")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=200.0, help="events a second")
    parser.add_argument("--stock", action="store_true", help="stock Faust under the same faults as well")
    parser.add_argument("--stock-only", action="store_true", help="only stock Faust, under the same faults")
    parser.add_argument("--json", type=Path, help="write all accounts to this file")
    given = parser.parse_args(words)
    environment_is_clean()
    with tempfile.TemporaryDirectory(prefix="salience-chaos-") as folder, World(Path(folder)) as world:
        outcomes = _rounds(world, given)
    ours = [ours for ours, _ in outcomes if ours is not None]
    stock = [stock for _, stock in outcomes if stock is not None]
    _table(ours, stock)
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode({"ours": ours, "stock": stock})))
    return 1 if any(outcome.wrong() for outcome in ours) else 0


def _rounds(world: World, given: argparse.Namespace) -> list[tuple[Outcome | None, Outcome | None]]:
    # One round in the middle is the product's own supervisor's.
    supervised = given.rounds // 2
    scripts = draw(random.Random(given.seed), given.rounds, supervised)
    return [_round(world, number, script, given, number == supervised) for number, script in enumerate(scripts)]


def _round(
    world: World, number: int, script: Sequence[Fault], given: argparse.Namespace, supervised: bool
) -> tuple[Outcome | None, Outcome | None]:
    seed = given.seed * 1000 + number
    options = {"rate": given.rate, "workers": 3}
    ours = None if given.stock_only else _safely(
        play, world, script, given.events, seed, brittle=not supervised and number % 2 == 0,
        supervised=supervised, **options,
    )  # fmt: skip
    if ours is not None:
        _say(number, "ours", ours)
    if not (given.stock or given.stock_only):
        return ours, None
    stock = _safely(play_stock, world, script, given.events, seed, **options)
    _say(number, "stock", stock)
    return ours, stock


def _safely(
    how: Callable[..., Outcome], world: World, script: Sequence[Fault], events: int, seed: int, **options: Any
) -> Outcome:
    """A round that came to no end is a result too; the servers are there for the next one."""
    begun = time.monotonic()
    try:
        return how(world, script, events, seed, **options)
    except Exception as error:
        world.repair()
        names = [fault.name for fault in script]
        return Outcome(names, time.monotonic() - begun, failed=f"{type(error).__name__}: {error}")


def _say(number: int, who: str, outcome: Outcome) -> None:
    words = [f"round {number + 1:2}", f"{who:5}", f"{outcome.seconds:5.0f} s"]
    if outcome.ours is not None:
        it = outcome.ours
        words += [
            f"{it.produced} events, {len(it.lost)} lost, {len(it.twice)} twice, {len(it.dead)} dead",
            f"{it.repeated:.1%} repeated",
        ]
    if outcome.stock is not None:
        its = outcome.stock
        words.append(f"{its.produced} events, {len(its.lost)} lost, {len(its.twice)} twice")
        words.append(f"its table counts {its.counted}")
    words.append(", ".join(outcome.faults))
    if outcome.surprises:
        words.append(f"ended by themselves: {outcome.surprises}")
    _print(" | ".join(words))
    for kind, which in ({"no end": [outcome.failed]} if outcome.failed else outcome.wrong()).items():
        _print(f"         {kind}: {which}")


def _table(ours: Sequence[Outcome], stock: Sequence[Outcome]) -> None:
    mine = [each.ours for each in ours if each.ours is not None]
    theirs = [each.stock for each in stock if each.stock is not None]
    events = sum(each.produced for each in mine)
    stock_events = sum(each.produced for each in theirs)
    counted = sum(abs(each.counted - each.produced) for each in theirs)
    repeated = sum(each.repeated * each.produced for each in mine) / max(1, events)
    rows = [
        ("", "Salience", "stock Faust"),
        ("rounds", len(mine), len(theirs)),
        ("events", events, stock_events),
        ("lost", sum(len(each.lost) for each in mine), sum(len(each.lost) for each in theirs)),
        ("twice", sum(len(each.twice) for each in mine), sum(len(each.twice) for each in theirs)),
        ("out of order", sum(len(each.disordered) for each in mine), "-"),
        ("dead letters", sum(len(each.dead) for each in mine), "-"),
        ("repeated reads", f"{repeated:.2%}", f"{sum(e.repeats for e in theirs) / max(1, stock_events):.2%}"),
        ("table off by", "-", counted),
        ("rounds without an end", sum(1 for e in ours if e.failed), sum(1 for e in stock if e.failed)),
        ("workers that ended by themselves", *(sum(len(e.surprises) for e in each) for each in (ours, stock))),
    ]
    for name, one, other in rows:
        _print(f"{name:34}{one!s:>12}" + (f"{other!s:>14}" if stock else ""))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
