"""salience model evaluate: how good a bundle is on a file of labelled rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from models.bundle import load_bundle
from models.faithful import faithfulness as measure_faithfulness
from models.faithful import label_head, read_labelled
from pipeline.commands.explain import show_faithfulness
from pipeline.commands.figures import show
from pipeline.commands.model import BundleOption
from pipeline.commands.output import JsonOption, command, err, settings_with, show_json
from schemas.errors import ConfigError, UsageError

# Rows over which words are taken away: some sixty altered texts each.
_FAITHFUL = 500


def register(app: typer.Typer) -> None:
    app.command()(evaluate)


@command
def evaluate(
    task: Annotated[str, typer.Option(help="A head of the bundle: sentiment, topic, intent, entity, ...")],
    data: Annotated[Path, typer.Option(help="Rows with labels, entities or tags: JSONL or CSV, plain or .gz.")],
    bundle: BundleOption = None,
    label_map: Annotated[
        list[str] | None,
        typer.Option(
            help="label=LABEL of the head; label=none: out of scope; label=: left out; *=...: every other."
        ),
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="column=value: only such rows; of one column, any of its values.")
    ] = None,
    entity_type: Annotated[
        str, typer.Option(help="Type of entities that the rows give none; the head's first when left out.")
    ] = "",
    train: Annotated[
        Path | None,
        typer.Option(help="Folder of the data that trained the bundle: adds a baseline on the same rows."),
    ] = None,
    before: Annotated[bool, typer.Option("--before", help="Evaluate the untouched base too.")] = False,
    gazetteer: Annotated[
        list[Path] | None, typer.Option(help="File of company names, to find entities by for comparison.")
    ] = None,
    faithfulness: Annotated[
        bool,
        typer.Option("--faithfulness", help="Also whether the words with most attention decided, over 500 rows."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure a head on the rows of a file, with intervals and simpler models beside it.

    Example: salience model evaluate --task sentiment --data rows.jsonl --label-map bullish=positive --json
    """
    maps = dict(_pair(each, "--label-map", "label=label") for each in label_map or [])
    wanted: dict[str, tuple[str, ...]] = {}
    for each in where or []:
        column, value = _pair(each, "--where", "column=value")
        wanted[column] = (*wanted.get(column, ()), value)
    chosen = settings_with().model.bundle if bundle is None else bundle
    if chosen == "stub":
        raise UsageError("the stub has no bundle to evaluate; it answers by a hash of the text")
    try:
        from models.evaluate import Asked
        from models.evaluate import evaluate as measure
    except ImportError as error:
        raise ConfigError(f"evaluating needs {error.name}; pip install 'salience[train]'") from None
    asked = Asked(task, data, chosen, maps, wanted, entity_type, train, before, tuple(gazetteer or ()))
    with err.status("reading ...") as status:
        found = measure(asked, lambda doing: status.update(f"{doing} ..."))
        if faithfulness:
            status.update("taking words away ...")
            found["faithfulness"] = _faithful(chosen, task, data, maps)
    if json:
        show_json(found)
        return
    show(found)
    if faithfulness:
        show_faithfulness(found["faithfulness"])


def _faithful(bundle: str, task: str, data: Path, maps: Mapping[str, str]) -> dict[str, Any]:
    loaded = load_bundle(bundle)
    return measure_faithfulness(loaded, read_labelled(data, label_head(loaded, task), maps), task, limit=_FAITHFUL)


def _pair(given: str, option: str, form: str) -> tuple[str, str]:
    # A label of a file may hold the sign, one of a head hardly does.
    name, sign, value = given.rpartition("=") if option == "--label-map" else given.partition("=")
    if not sign or not name:
        raise UsageError(f"{option} {given!r} is not of the form {form}")
    return name, value
