"""Bundles are promoted and rolled back from a stored tick on, and what depends on an embedding is named."""

import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bundles import OTHER, STUB
from helpers import NOW, SECOND, rows, settings_for, upgraded

from models.bundle import find_bundle, load_bundle
from pipeline import bundles
from pipeline.bundles import Decision
from pipeline.rules_file import load_rules
from pipeline.settings import Settings
from pipeline.store.bundles import (
    Activation,
    MadeBy,
    Registered,
    in_force,
    read_activations,
    register_dependent,
    stale_dependents,
    way_back,
)
from pipeline.store.database import Database
from pipeline.store.migrate import TICK
from pipeline.store.rule_sets import remember_rules
from schemas.errors import BundleError, ConfigError, UsageError
from schemas.tables import activations
from schemas.tables import bundles as bundles_table

MINUTE = 60 * SECOND


class Desk:
    """A person at the command line, on one database."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database, self.now = settings, database, NOW

    async def promote(self, name: str, at: str | None = None) -> Decision:
        return await bundles.promote(self.database, self.settings, TICK, name, at, self.now)

    async def rollback(self, name: str | None = None, at: str | None = None) -> Decision:
        return await bundles.rollback(self.database, self.settings, TICK, name, at, self.now)

    async def states(self) -> list[tuple[str | None, str]]:
        found = await bundles.history(self.database, self.settings, TICK, self.now)
        return [(made.identity, state) for made, state in found.made]

    async def active(self) -> str | None:
        made = in_force(await read_activations(self.database), self.now // TICK)
        return None if made is None else made.identity


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    settings = await upgraded(settings_for(database_url))
    database = Database(settings.database)
    yield Desk(settings, database)
    await database.close()


def tiny(folder: Path, name: str) -> str:
    """A bundle that is whole, with the heads of the packaged one and next to nothing in its files."""
    folder.mkdir()
    manifest = json.loads((find_bundle("") / "manifest.json").read_text())
    for file in manifest["files"]:
        (folder / file).write_text(name)
    files = dict.fromkeys(manifest["files"], hashlib.sha256(name.encode()).hexdigest())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"name": name, "files": files}))
    return str(folder)


@pytest.fixture
def first(tmp_path: Path) -> str:
    return tiny(tmp_path / "first", "first")


@pytest.fixture
def second(tmp_path: Path) -> str:
    return tiny(tmp_path / "second", "second")


def identity(folder: str) -> str:
    return load_bundle(folder).identity


def ruled(tmp_path: Path, head: str, label: str) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(
        f"rules: [{{name: desk-rule, kind: match, stream: news, when: {{heads: {{{head}: {{label: {label}}}}}}}}}]"
    )
    return str(path)


def made(*steps: tuple[str, str | None]) -> list[Activation]:
    """Decisions by who made them and for which bundle, each a tick after the one before."""
    known: dict[str, MadeBy] = {"p": "promote", "r": "rollback"}
    return [
        Activation(number, None if name is None else Registered(name, name, name, name), number, known[by], NOW)
        for number, (by, name) in enumerate(steps)
    ]


# From which tick on


@pytest.mark.parametrize(
    ("at", "begin"),
    [
        (None, NOW + MINUTE),
        ("+30s", NOW + 30 * SECOND),
        ("+2h", NOW + 120 * MINUTE),
        (str(NOW // TICK + 7), (NOW // TICK + 7) * TICK),
        ("2024-05-31T09:40:01Z", NOW + 596 * SECOND),
        ("2024-05-31T11:40:01+02:00", NOW + 596 * SECOND),
    ],
)
def test_a_bundle_is_active_from_the_first_tick_that_begins_then_or_later(at: str | None, begin: int) -> None:
    first = bundles.first_tick(at, NOW, TICK)
    assert first * TICK >= begin > (first - 1) * TICK


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("+29s", "too soon: workers need 30 s"),
        ("0", "too soon"),
        ("2024-05-31T09:30:00Z", "too soon"),
        ("+400d", "more than a year ahead"),
        ("99999999999999999999", "more than a year ahead"),
        ("soon", "'soon' is no time; write"),
        ("+soon", "'soon' is no length of time"),
        ("-5", "'-5' is no time"),
    ],
)
def test_a_time_that_cannot_be_is_refused(at: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        bundles.first_tick(at, NOW, TICK)


# The way back


@pytest.mark.parametrize(
    ("steps", "way"),
    [
        ([], [None]),
        ([("p", "a"), ("p", "b")], [None, "a", "b"]),
        ([("p", "a"), ("p", "a")], [None, "a"]),
        ([("p", "a"), ("p", "b"), ("p", "c"), ("r", "b")], [None, "a", "b"]),
        ([("p", "a"), ("p", "b"), ("r", "a"), ("r", "a")], [None, "a"]),
        ([("p", "a"), ("p", "b"), ("r", None)], [None]),
        ([("p", "a"), ("p", "b"), ("r", "a"), ("r", "b")], [None, "a", "b"]),
        ([("p", "a"), ("p", "b"), ("p", "a"), ("r", "b"), ("r", "a")], [None, "a"]),
    ],
)
def test_a_rollback_goes_back_the_way_that_was_come(
    steps: list[tuple[str, str | None]], way: list[str | None]
) -> None:
    assert [None if each is None else each.identity for each in way_back(made(*steps))] == way


async def test_a_second_rollback_goes_further_back(desk: Desk, second: str) -> None:
    await desk.promote("stub")
    desk.now += 10 * MINUTE
    await desk.promote(second)
    found = []
    for _ in range(2):
        desk.now += 10 * MINUTE
        found.append(await desk.active())
        await desk.rollback()
    desk.now += 10 * MINUTE
    assert [*found, await desk.active()] == [identity(second), STUB.identity, None]
    with pytest.raises(UsageError, match="there is nothing to go back to"):
        await desk.rollback()


async def test_a_rollback_goes_to_the_bundle_that_is_named(desk: Desk, first: str, second: str) -> None:
    for name in (first, second, "stub"):
        await desk.promote(name)
    for name, folder, before in (("first", first, STUB.identity), (identity(second), second, identity(first))):
        decision = await desk.rollback(name)
        assert (decision.made.identity, decision.made.made_by) == (identity(folder), "rollback")
        assert decision.before == before
    with pytest.raises(
        UsageError, match=rf"no bundle 'third' was active before; those that were: {identity(first)}"
    ):
        await desk.rollback("third")


async def test_a_decision_that_waits_is_taken_back(desk: Desk, first: str) -> None:
    await desk.promote(first, "+1h")
    await desk.rollback(at="+30s")
    assert await desk.states() == [(identity(first), "overridden"), (None, "waiting")]
    desk.now += 61 * MINUTE
    assert await desk.states() == [(identity(first), "overridden"), (None, "active")]


async def test_a_history_says_what_became_of_each_decision(desk: Desk, first: str) -> None:
    await desk.promote(first)
    desk.now += 10 * MINUTE
    await desk.promote("stub")
    assert await desk.states() == [(identity(first), "active"), (STUB.identity, "waiting")]
    desk.now += 10 * MINUTE
    assert await desk.states() == [(identity(first), "over"), (STUB.identity, "active")]


# What is looked at before


async def test_a_bundle_is_stored_with_its_folder_and_its_embedding(desk: Desk, second: str) -> None:
    made = (await desk.promote(second)).made
    embedding = bundles.embedding_identity(load_bundle(second))
    assert made.bundle == Registered(identity(second), "second", second, embedding)
    assert made.active_tick == -(-(NOW + MINUTE) // TICK)
    (row,) = await rows(desk.database, bundles_table)
    assert (row["identity"], row["path"], row["registered_at"]) == (identity(second), second, NOW)


async def test_the_packaged_bundle_needs_no_folder(desk: Desk) -> None:
    made = (await desk.promote("packaged")).made
    assert made.bundle is not None
    assert (made.identity, made.bundle.path) == (load_bundle("").identity, "")


async def test_a_bundle_that_has_moved_is_promoted_from_where_it_is(
    desk: Desk, second: str, tmp_path: Path
) -> None:
    await desk.promote(second)
    moved = shutil.move(second, str(tmp_path / "moved"))
    await desk.promote(moved)
    (row,) = await rows(desk.database, bundles_table)
    assert row["path"] == moved


async def test_a_bundle_that_was_promoted_before_is_found_by_its_name(desk: Desk, second: str) -> None:
    await desk.promote(second)
    for name in ("second", identity(second)):
        await desk.promote("stub")
        assert (await desk.promote(name)).made.identity == identity(second)


async def test_a_folder_that_holds_another_bundle_by_now_is_refused(desk: Desk, second: str) -> None:
    former = identity(second)
    await desk.promote(second)
    await desk.promote("stub")
    manifest = Path(second) / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    for refused in (desk.promote(former), desk.rollback()):
        with pytest.raises(
            BundleError, match=rf"{second} is second@.* by now, not {former}; put that bundle back"
        ):
            await refused
    assert len(await rows(desk.database, activations)) == 2


async def test_a_bundle_that_is_altered_or_missing_is_refused(desk: Desk, second: str) -> None:
    (Path(second) / "model.onnx").unlink()
    for name, told in ((second, r"model\.onnx is missing"), ("nowhere", "no model bundle at nowhere")):
        with pytest.raises(BundleError, match=told):
            await desk.promote(name)
    assert await rows(desk.database, activations) == []


@pytest.mark.parametrize(
    ("head", "label", "told"),
    [
        ("intent", "refund", "the model has no head 'intent' for news; it has sentiment, topic"),
        ("sentiment", "bullish", "'bullish' is no label of sentiment; it has negative, neutral, positive"),
    ],
)
async def test_a_bundle_that_lacks_what_a_rule_in_force_names_is_refused(
    desk: Desk, tmp_path: Path, first: str, head: str, label: str, told: str
) -> None:
    await desk.promote(first)
    path = ruled(tmp_path, head, label)
    own, desk.settings = desk.settings, settings_for(desk.database.url, rules={"file": path})
    with pytest.raises(ConfigError, match=rf"stub@.* cannot serve the rule desk-rule .*: {told}; change the rule"):
        await desk.promote("stub")
    desk.settings = own
    # Of a worker whose rules lie elsewhere.
    await remember_rules(desk.database, load_rules(path), NOW - MINUTE)
    for refused in (desk.promote("stub"), desk.rollback()):
        with pytest.raises(ConfigError, match=rf"stub@.* cannot serve the rule desk-rule .*: {told}"):
            await refused
    assert len(await rows(desk.database, activations)) == 1
    # The worker is gone.
    desk.now += 3 * MINUTE
    assert (await desk.promote("stub")).made.identity == STUB.identity


# What depends on an embedding


async def test_what_was_built_with_another_embedding_must_be_rebuilt(desk: Desk, first: str) -> None:
    await register_dependent(desk.database, "answers", "desk-faq", STUB.identity, NOW)
    await register_dependent(desk.database, "profiles", "users", OTHER.embedding, NOW)
    await register_dependent(desk.database, "bank", "users", STUB.identity, NOW)
    assert [(each.kind, each.name) for each in await stale_dependents(desk.database, STUB.identity)] == [
        ("profiles", "users")
    ]
    stale = (await desk.promote(first)).stale
    assert [(each.kind, each.name, each.embedding) for each in stale] == [
        ("answers", "desk-faq", STUB.identity),
        ("bank", "users", STUB.identity),
        ("profiles", "users", OTHER.embedding),
    ]


async def test_what_was_rebuilt_is_not_stale_any_more(desk: Desk) -> None:
    await register_dependent(desk.database, "answers", "desk-faq", OTHER.embedding, NOW)
    await register_dependent(desk.database, "answers", "desk-faq", STUB.identity, NOW + 1)
    assert await stale_dependents(desk.database, STUB.identity) == []


async def test_a_history_names_what_is_stale_for_the_active_bundle(desk: Desk, first: str) -> None:
    await register_dependent(desk.database, "answers", "desk-faq", STUB.identity, NOW)
    await desk.promote(first)
    found = []
    for _ in range(2):
        history = await bundles.history(desk.database, desk.settings, TICK, desk.now)
        found.append((history.active, [each.name for each in history.stale]))
        desk.now += 10 * MINUTE
    assert found == [(STUB.identity, []), (identity(first), ["desk-faq"])]
