"""The texts by which two bundles are compared: rows of a file, with a label where there is one."""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from models.compare import Comparison, Truth, compare
from pipeline.compose import open_scorer
from pipeline.settings import Settings
from schemas.events import Line


class Rows(Struct, frozen=True):
    """Texts, and their labels (None where a row has none)."""

    texts: list[str]
    labels: list[str | None]


def read_rows(lines: Iterable[Line], label_field: str | None) -> Rows:
    """Rows without a text are passed over; a line that is no JSON object is a text."""
    rows = Rows([], [])
    for line in lines:
        row = _row(line.value or b"")
        text = row.get("text")
        if isinstance(text, str) and text.strip():
            label = None if label_field is None else row.get(label_field)
            rows.texts.append(text)
            rows.labels.append(None if label is None else str(label))
    return rows


def compare_bundles(
    settings: Settings, a: str, b: str, rows: Rows, stream: str, head: str | None = None
) -> Comparison:
    """Score the rows with both bundles; with a head, hold it against their labels.

    Raises:
        BundleError: a bundle is not whole.
        UsageError: there is no text, or head or labels are not known.
    """
    # What is remembered would be faster the second time, and rows repeat.
    uncached = settings.model_copy(update={"model": settings.model.model_copy(update={"cache": 0})})
    truth = None if head is None else Truth(head, rows.labels)
    return compare(open_scorer(uncached, a), open_scorer(uncached, b), rows.texts, stream, truth)


def _row(value: bytes) -> dict[str, Any]:
    text = value.decode("utf-8", "replace")
    try:
        row = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {"text": text}
    return row if isinstance(row, dict) else {"text": text}
