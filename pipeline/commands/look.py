"""salience config and doctor: what is set, and what is wrong."""

import typer
from rich.table import Table
from rich.text import Text

from pipeline.commands.output import JsonOption, command, err, out, settings_with, show_json
from pipeline.doctor import examine
from pipeline.settings import each_setting
from pipeline.status import FAILED


def register(app: typer.Typer) -> None:
    app.command()(config)
    app.command()(doctor)


@command
def config(json: JsonOption = False) -> None:
    """Print every setting with its value, secrets masked.

    Example: salience config
    """
    shown = settings_with().masked()
    if json:
        show_json(shown)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("what it is")
    for name, _, description in each_setting():
        section, _, field = name.removeprefix("SALIENCE_").lower().partition("__")
        table.add_row(name, Text(str(shown[section][field])), description)
    out.print(table)


@command
def doctor(json: JsonOption = False) -> None:
    """Look at broker, database, model and packages, and say what is wrong and how to mend it.

    Example: salience doctor
    """
    settings = settings_with()
    with err.status("looking ..."):
        findings = examine(settings)
    well = all(finding.ok for finding in findings)
    if json:
        show_json({"ok": well, "findings": findings})
    else:
        for finding in findings:
            mark = Text("well ", "green") if finding.ok else Text("wrong", "red")
            out.print(mark, f"{finding.part:<16}", finding.message, highlight=False)
    if not well:
        raise typer.Exit(FAILED)
