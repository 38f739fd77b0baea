"""salience rules: check a file of rules before the workers meet it."""

from typing import Annotated

import typer

from models.runtime import labels_of
from pipeline.commands.output import JsonOption, command, out, settings_with, show_json
from pipeline.rules import load_rules
from schemas.labels import STREAMS

app = typer.Typer(no_args_is_help=True, help="Rules that raise alerts.")


@app.callback()
def _group() -> None:
    """Keeps `check` a word of its own while it is the only command."""


@app.command()
@command
def check(file: Annotated[str, typer.Argument(help="YAML file of rules.")], json: JsonOption = False) -> None:
    """Check a rules file: line, field and what is allowed, heads and labels of the bundle included.

    Example: salience rules check rules.yaml
    """
    bundle = settings_with().model.bundle
    rules = load_rules(file, {stream: labels_of(bundle, stream) for stream in STREAMS})
    found = [{"name": rule.name, "kind": rule.kind, "definition": rule.definition} for rule in rules.rules]
    if json:
        show_json({"ok": True, "version": rules.version, "rules": found})
        return
    for each in found:
        out.print(f"{each['kind']:<8}{each['name']}  {each['definition']}")
    out.print(f"{len(found)} rules, version {rules.version}")
