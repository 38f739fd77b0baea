"""An alert on a terminal: evidence with its words marked, its history, and who was told."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline import wording
from pipeline.commands.output import plain
from pipeline.notify import body_of
from pipeline.store.alerts import of_row

_MARKED = "bold yellow"


def described(row: Any) -> Iterator[Text]:
    """Lines about an alert's row."""
    alert = body_of(of_row(row))
    yield plain(wording.title(alert)) + Text(f"  #{row.id}", "dim")
    yield plain(f"id {alert.id}, version {alert.version}, definition {alert.definition}, bundle {alert.bundle}")
    for line in wording.body(alert).splitlines()[:-1]:
        yield _marked(plain(line), row.evidence)


def _marked(line: Text, evidence: Mapping[str, Any]) -> Text:
    """The words that were looked at stand out in a line that quotes a text."""
    if line.plain.startswith("- "):
        line.highlight_words([word for word in _words(evidence) if word.strip()], _MARKED, case_sensitive=False)
    return line


def _words(evidence: Mapping[str, Any]) -> list[str]:
    parts = [*evidence.get("examples", ()), *evidence.get("heads", {}).values()]
    return [wording.name_of(word) for each in parts for word in wording.strongest(each)]


def history_table(changes: list[dict[str, Any]]) -> Table:
    """Every change, by whom."""
    table = Table("version", "state", "at", "author", "note", title="history", title_justify="left")
    for each in changes:
        cells = (each["version"], each["state"], each["at"], each["author"], each["note"] or "")
        table.add_row(*map(plain, cells))
    return table


def deliveries_table(told: list[dict[str, Any]]) -> Table:
    """Who was told, or why not."""
    table = Table("to", "state", "outcome", "at", "attempts", "why", title="told", title_justify="left")
    for each in told:
        to = f"topic {each['receiver']}" if each["kind"] == "topic" else each["receiver"]
        cells = (to, each["state"], each["outcome"], each["sent"] or "", each["attempts"], each["error"] or "")
        table.add_row(*map(plain, cells))
    return table
