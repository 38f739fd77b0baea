"""Changing the bundle: looked at, held against the rules in force, and made active from a tick on."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from models.bundle import MANIFEST, Bundle, load_bundle
from models.runtime import labels_of
from models.stub import STUB_BUNDLE
from pipeline.active import LEAD
from pipeline.durations import parse_duration
from pipeline.retry import through_outage
from pipeline.rules import Labels, check_served
from pipeline.rules_file import load_rules
from pipeline.settings import Settings
from pipeline.store.bundles import (
    Activation,
    Dependent,
    MadeBy,
    Registered,
    activate,
    in_force,
    read_activations,
    registered,
    stale_dependents,
    way_back,
)
from pipeline.store.database import Database
from pipeline.store.rule_sets import used_rules
from pipeline.times import microseconds
from schemas.errors import BundleError, UsageError
from schemas.labels import STREAMS

# Microseconds from a decision to its tick when nothing else is said: twice what workers need to learn of it.
_DEFAULT_LEAD = 2 * LEAD
# Further ahead a time is a slip of the pen, microseconds.
_FURTHEST = 366 * 86_400 * 1_000_000
# Rules are in force when a worker has said so lately (each does once a minute), microseconds.
_IN_FORCE = 180 * 1_000_000
# Seconds for which a busy or absent database is asked again.
_PATIENCE = 60.0

STUB = "stub"
PACKAGED = "packaged"


class Candidate(Struct, frozen=True):
    """A bundle that was found whole, with the labels of its heads by stream."""

    bundle: Registered
    labels: dict[str, Labels]


class Decision(Struct, frozen=True):
    """What was decided, what scores until then (None: what the settings name), and what must be rebuilt."""

    made: Activation
    before: str | None
    stale: list[Dependent]


class History(Struct, frozen=True):
    """All decisions with what became of them, what is active now, and what must be rebuilt for it.

    A state is active, waiting, over, or overridden: another decision was made before its tick came.
    """

    active: str
    made: list[tuple[Activation, str]]
    stale: list[Dependent]


def embedding_identity(bundle: Bundle) -> str:
    """What decides whether vectors of two bundles can be compared."""
    return bundle.embedding


def look(path: str) -> Candidate:
    """Read a bundle and check it: "stub", a folder, or empty for the packaged one.

    Raises:
        BundleError: a file is missing or altered, or the bundle is of another format.
    """
    labels: dict[str, Labels] = {stream: labels_of(path, stream) for stream in STREAMS}
    if path == STUB:
        return Candidate(Registered(STUB_BUNDLE, STUB, STUB, STUB_BUNDLE), labels)
    found = load_bundle(path)
    where = str(Path(path).resolve()) if path else ""
    return Candidate(Registered(found.identity, found.manifest.name, where, embedding_identity(found)), labels)


class Found(Struct, frozen=True):
    """Where a bundle lies, and the identity that it must have when a person named it by that."""

    path: str
    identity: str | None = None


def find_here(name: str) -> str | None:
    """The path of a bundle that a person names by what it is: stub, packaged, a folder; None for other names."""
    if name == STUB or (Path(name) / MANIFEST).is_file():
        return name
    return "" if name == PACKAGED else None


async def find(database: Database, name: str) -> Found:
    """A bundle that a person names by what it is, or by name or identity when it was promoted before."""
    here = find_here(name)
    if here is not None:
        return Found(here)
    known = await registered(database, name)
    if known is None:
        return Found(name)
    return Found(known.path, name if name == known.identity else None)


async def promote(
    database: Database, settings: Settings, tick: int, name: str, at: str | None, now: int
) -> Decision:
    """Let a bundle score from a tick on; `tick` is the width of one, `now` the clock, microseconds.

    Raises:
        ConfigError: the bundle is not whole, or lacks what a rule in force names.
        UsageError: `at` cannot be.
    """
    first = first_tick(at, now, tick)
    found = await find(database, name)
    candidate = look(found.path)
    _require(candidate, found.identity)
    return await _decide(database, settings, candidate, candidate.bundle, "promote", first, now)


async def rollback(
    database: Database, settings: Settings, tick: int, name: str | None, at: str | None, now: int
) -> Decision:
    """Let the bundle before score again from a tick on, or one that was active earlier.

    Raises:
        ConfigError: as `promote`.
        UsageError: there is nothing to go back to, or `at` cannot be.
    """
    first = first_tick(at, now, tick)
    bundle = _goal(await read_activations(database), name)
    candidate = look(settings.model.bundle if bundle is None else bundle.path)
    _require(candidate, None if bundle is None else bundle.identity)
    return await _decide(database, settings, candidate, bundle, "rollback", first, now)


async def history(database: Database, settings: Settings, tick: int, now: int) -> History:
    """What was decided so far."""
    made = await read_activations(database)
    current = in_force(made, now // tick)
    bundle = None if current is None else current.bundle
    if bundle is None:
        bundle = look(settings.model.bundle).bundle
    stale = await stale_dependents(database, bundle.embedding)
    return History(bundle.identity, [(each, _state(made, each, now // tick)) for each in made], stale)


def first_tick(at: str | None, now: int, tick: int) -> int:
    """From which tick on: `+30s`, a tick's number, or a time in RFC 3339; the first one that begins then or later.

    Raises:
        UsageError: it cannot be read, or is too soon for the workers or absurdly late.
    """
    begin = now + _DEFAULT_LEAD if at is None else _moment(at, now, tick)
    if begin < now + LEAD:
        raise UsageError(
            f"--at {at} is too soon: workers need {LEAD // 1_000_000} s to learn of the bundle and to load it; "
            f"say --at +{LEAD // 1_000_000}s or later"
        )
    if begin > now + _FURTHEST:
        raise UsageError(f"--at {at} is more than a year ahead; give an earlier time")
    return -(-begin // tick)


def _moment(at: str, now: int, tick: int) -> int:
    if at.startswith("+"):
        return now + parse_duration(at[1:])
    if at.isascii() and at.isdigit():
        return int(at) * tick
    try:
        return microseconds(datetime.fromisoformat(at))
    except ValueError:
        raise UsageError(
            f"--at {at!r} is no time; write +30s, a tick's number, or a time like 2024-05-31T09:30:00Z"
        ) from None


def _goal(made: Sequence[Activation], name: str | None) -> Registered | None:
    """Where a rollback goes: one step back, or to what was active under this name or identity."""
    way = way_back(made)
    if name is None:
        if len(way) < 2:
            raise UsageError("there is nothing to go back to: no bundle was promoted since the settings decide")
        return way[-2]
    former = [*way[:-1], *[each.bundle for each in made]]
    known = [each for each in former if each is not None and each != way[-1]]
    found = [each for each in known if name in (each.identity, each.name)]
    if not found:
        names = ", ".join(dict.fromkeys(each.identity for each in known)) or "none"
        raise UsageError(f"no bundle {name!r} was active before; those that were: {names}")
    return found[-1]


def _require(candidate: Candidate, identity: str | None) -> None:
    found = candidate.bundle
    if identity is not None and found.identity != identity:
        raise BundleError(
            f"{found.path or 'the packaged bundle'} is {found.identity} by now, not {identity}; "
            "put that bundle back in its place, or promote it from where it is"
        )


async def _decide(
    database: Database,
    settings: Settings,
    candidate: Candidate,
    bundle: Registered | None,
    made_by: MadeBy,
    first: int,
    now: int,
) -> Decision:
    for rules in [load_rules(settings.rules.file, receivers=False), *await used_rules(database, now - _IN_FORCE)]:
        check_served(rules, candidate.labels, candidate.bundle.identity)
    before = in_force(await read_activations(database), first)
    # Alone, for it may be repeated: a step back that is looked for twice would be two.
    made = await through_outage(lambda: activate(database, bundle, first, made_by, now), _PATIENCE)
    stale = await stale_dependents(database, candidate.bundle.embedding)
    return Decision(made, None if before is None else before.identity, stale)


def _state(made: Sequence[Activation], each: Activation, tick: int) -> str:
    if in_force(made, each.active_tick) is not each:
        return "overridden"
    if each.active_tick > tick:
        return "waiting"
    return "active" if in_force(made, tick) is each else "over"
