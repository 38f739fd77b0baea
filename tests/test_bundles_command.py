"""salience model promote, rollback and history, and what a worker does with a bundle that it cannot load."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import commandline
import pytest
from bundles import OTHER, STUB
from commandline import answer, salience
from helpers import settings_for
from workers import Deployment

from pipeline.settings import Settings
from pipeline.store.bundles import activate, register_dependent
from pipeline.store.database import Database
from pipeline.store.migrate import TICK
from pipeline.timer import Timer
from pipeline.times import now
from schemas.errors import BundleError


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = commandline.workplace(tmp_path, monkeypatch)
    salience("db", "upgrade")
    return folder


def write(settings: Settings, job: Callable[[Database], Any]) -> None:
    """Does something with the database as another process would."""

    async def run() -> None:
        database = Database(settings.database)
        await job(database)
        await database.close()

    asyncio.run(run())


def test_a_bundle_is_promoted_listed_and_rolled_back(workplace: Path) -> None:
    begun = now()
    settings = settings_for(f"sqlite:///{workplace / 'salience.db'}")
    write(settings, lambda database: register_dependent(database, "answers", "faq", OTHER.embedding, begun))
    promoted = answer("model", "promote", "stub", "--at", "+5m")
    assert (promoted["bundle"], promoted["before"], promoted["made_by"]) == (STUB.identity, None, "promote")
    assert promoted["active_tick"] * TICK >= begun + 300_000_000
    assert [(each["kind"], each["name"]) for each in promoted["stale"]] == [("answers", "faq")]
    back = answer("model", "rollback")
    assert (back["bundle"], back["made_by"]) == (None, "rollback")
    history = answer("model", "history")
    assert [each["state"] for each in history["activations"]] == ["overridden", "waiting"]
    assert history["active"] == STUB.identity


def test_a_person_is_told_from_when_on_and_what_must_be_rebuilt(workplace: Path) -> None:
    settings = settings_for(f"sqlite:///{workplace / 'salience.db'}")
    write(settings, lambda database: register_dependent(database, "answers", "faq", OTHER.embedding, 1))
    told = salience("model", "promote", "stub").stdout
    assert f"{STUB.identity} scores from 20" in told
    assert "until then: what SALIENCE_MODEL__BUNDLE names" in told
    assert f"must be rebuilt: answers faq, built with {OTHER.embedding}" in told
    shown = salience("model", "history").stdout
    assert "promote" in shown and "waiting" in shown and "must be rebuilt: answers faq" in shown


def test_there_is_nothing_to_go_back_to_at_first(workplace: Path) -> None:
    assert "there is nothing to go back to" in salience("model", "rollback", status=2).stderr


async def test_a_bundle_that_cannot_be_used_ends_the_worker_and_an_outage_does_not() -> None:
    refused: list[BaseException] = []
    nothing = cast(Any, None)
    timer = Timer(nothing, {}, nothing, nothing, lambda partition: None, refused.append)
    error = BundleError("the bundle other@2 cannot be used here")

    async def fail(what: Exception) -> None:
        raise what

    await timer._step("bundles", lambda: fail(TimeoutError("away")))
    assert refused == []
    await timer._step("bundles", lambda: fail(error))
    assert refused == [error]


def test_a_worker_without_the_active_bundle_says_so_and_ends_with_2(
    embedded_broker: Any, tmp_path: Path, deploy: Callable[..., Deployment]
) -> None:
    deployment = deploy(embedded_broker.servers, f"sqlite:///{tmp_path / 'salience.db'}")
    write(deployment.settings, lambda database: activate(database, OTHER, 1, "promote", 1))
    worker = deployment.worker()
    assert worker.process.wait(90) == 2
    assert "the bundle other@2 scores from tick 1 on and cannot be used here" in worker.log()
    assert "mend /bundles/other" in worker.log()
