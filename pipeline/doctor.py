"""What is wrong with this installation, and the mend: one finding for each part."""

import asyncio
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from models.runtime import labels_of
from pipeline import admin, embedded
from pipeline.compose import open_scorer
from pipeline.gazetteer.load import read_companies
from pipeline.reach import how_they_do
from pipeline.rules_file import load_rules
from pipeline.settings import Settings
from pipeline.store import migrate
from pipeline.store.bundles import in_force, read_activations
from pipeline.store.database import Database
from pipeline.times import now
from schemas.errors import ConfigError, SalienceError
from schemas.labels import STREAMS


class Finding(Struct):
    """One part: whether it is well, and what was seen or what to do."""

    part: str
    ok: bool
    message: str


def examine(settings: Settings) -> list[Finding]:
    """Look at every part; a part that is not well does not hide the others."""
    parts: list[tuple[str, Callable[[], str]]] = [
        ("python", _python),
        ("onnxruntime", _onnxruntime),
        ("bundle", lambda: _bundle(settings)),
        ("rules", lambda: _rules(settings)),
        ("receivers", lambda: asyncio.run(_receivers(settings))),
        ("gazetteer", lambda: _gazetteer(settings)),
        ("database", lambda: asyncio.run(_database(settings))),
        ("broker", lambda: _broker(settings)),
        ("embedded broker", _embedded),
    ]
    return [_find(part, look) for part, look in parts]


def _find(part: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, look())
    except SalienceError as error:
        return Finding(part, False, str(error))


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise ConfigError(f"Python {version} is not supported; use 3.11, 3.12 or 3.13")
    return f"Python {version}"


def _onnxruntime() -> str:
    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(found) == 2:
        raise ConfigError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files; "
            "pip uninstall both, then install 'salience[cpu]' or 'salience[gpu]'"
        )
    if not found:
        raise ConfigError("no onnxruntime is installed; pip install 'salience[cpu]' or 'salience[gpu]'")
    import onnxruntime

    name, version = next(iter(found.items()))
    return f"{name} {version}: {', '.join(onnxruntime.get_available_providers())}"


def _bundle(settings: Settings) -> str:
    scorer = open_scorer(settings)
    heads = {stream: ", ".join(scorer.heads(stream)) or "embedding only" for stream in STREAMS}
    return f"{scorer.bundle} ({'; '.join(f'{stream}: {names}' for stream, names in heads.items())})"


def _rules(settings: Settings) -> str:
    path = settings.rules.file
    if not path:
        return "no rules file is set (SALIENCE_RULES__FILE); no alerts will be raised"
    rules = load_rules(
        path, receivers=False, labels={stream: labels_of(settings.model.bundle, stream) for stream in STREAMS}
    )
    return f"{len(rules.rules)} rules in {path}"


async def _receivers(settings: Settings) -> str:
    try:
        load_rules(settings.rules.file, receivers=False)
    except ConfigError:
        return "not looked at: the rules file, which names them, must be mended first"
    receivers = load_rules(settings.rules.file).receivers
    if not receivers:
        return "no rule tells anybody but the topic; `receivers:` in the rules file names who is told"
    database = Database(settings.database)
    try:
        await migrate.check(database)
        found = await how_they_do(database, receivers)
    except SalienceError:
        # Told as the database's.
        found = []
    finally:
        await database.close()
    failing = [each for each in found if each["failures"] or each["kind"] is None]
    if failing:
        raise ConfigError("; ".join(map(_failing, failing)))
    return ", ".join(f"{name} ({each.shown})" for name, each in receivers.items())


def _failing(each: Mapping[str, Any]) -> str:
    if each["kind"] is None:
        return f"{each['waiting']} notifications wait for {each['name']}, which the rules file does not have"
    return f"{each['name']} failed {each['failures']} times in a row, {each['waiting']} wait: {each['error']}"


def _gazetteer(settings: Settings) -> str:
    path = settings.entities.gazetteer
    if not path:
        return "no gazetteer is set (SALIENCE_ENTITIES__GAZETTEER); events keep the entities that they bring"
    return f"{len(read_companies(path)):,} companies in {path}"


async def _database(settings: Settings) -> str:
    database = Database(settings.database)
    try:
        tick = (await migrate.check(database)).tick
        active = in_force(await read_activations(database), now() // tick)
        bundle = "" if active is None or active.bundle is None else f"; the bundle {active.identity} was promoted"
        return f"{database.shown} at schema version {migrate.head()}{bundle}"
    finally:
        await database.close()


def _broker(settings: Settings) -> str:
    cluster, topics = admin.describe(settings.broker)
    return f"{settings.broker.servers}, cluster {cluster}, {len(topics)} topics of ours"


def _embedded() -> str:
    why_not = embedded.available()
    return "can run (for the demo)" if why_not is None else f"not here: {why_not}"
