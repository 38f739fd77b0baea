"""The rows of a file as questions to one head of a bundle. N texts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import Head
from models.data import Example, Span, with_entities
from models.recipe import DataRecipe
from models.rows import Row, read_rows, required, text_of
from models.text import normalise
from schemas.errors import UsageError

# What --label-map says of rows that are none of the labels.
OUT_OF_SCOPE = "none"
LEFT_OUT = ""
# In place of a label: every one that neither the map nor the head names.
OTHERS = "*"
_ANY = "entity"


@dataclass(frozen=True, slots=True)
class Asked:
    """What shall be evaluated.

    Args:
        task: the head's name.
        data: JSON Lines or CSV, plain or .gz.
        bundle: a bundle's folder, or "" for the packaged one.
        label_map: label of the file, or `OTHERS`, to label of the head, to `OUT_OF_SCOPE`, or to `LEFT_OUT`.
        where: only rows whose column has one of these values.
        entity_type: the type of the entities of rows with `entities`; "" for what they say where that is a type of
            the head, else for the head's first.
        train: folder of the data that trained the bundle, for the baselines.
        before: whether the untouched base is evaluated too.
        gazetteers: files of names, for the entity task.
    """

    task: str
    data: Path
    bundle: str = ""
    label_map: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    entity_type: str = ""
    train: Path | None = None
    before: bool = False
    gazetteers: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Exam:
    """N examples, and for a head of kind label or embedding `true` [N], numbers in `labels`, -1 for out of scope.

    `not_counted` are entities of types that the head does not have.
    """

    examples: list[Example]
    labels: tuple[str, ...]
    true: NDArray[np.int64]
    not_counted: dict[str, int]


def read_exam(asked: Asked, head: Head) -> Exam:
    """The rows that were asked for.

    Raises:
        UsageError: the file, a row, a label or an option is not usable; says which, and what is allowed.
    """
    _check(asked, head)
    rows = [(where, row) for where, row in read_rows(asked.data) if _matches(row, asked.where, where)]
    if head.kind in ("label", "embedding"):
        exam = _of_labels(rows, asked, head)
    else:
        exam = _of_entities(rows, asked, head)
    if not exam.examples:
        raise UsageError(f"{asked.data} has no row to evaluate; check --where and --label-map.")
    if not (exam.true >= 0).any() and head.kind == "label":
        raise UsageError(f"All rows of {asked.data} are out of scope; some must have a label of {head.name}.")
    return exam


def _check(asked: Asked, head: Head) -> None:
    if head.kind == "embedding":
        return
    allowed = [*head.labels, *([OUT_OF_SCOPE] if head.kind == "label" else [])]
    for old, new in asked.label_map.items():
        if new != LEFT_OUT and new not in allowed:
            raise UsageError(f"--label-map {old}={new}: {_knows(head)}{_scope_hint(head, old)}.")
    if asked.entity_type and head.kind == "entity" and asked.entity_type not in head.labels:
        raise UsageError(f"--entity-type {asked.entity_type}: {_knows(head)}.")


def _matches(row: Row, wanted: Mapping[str, tuple[str, ...]], where: str) -> bool:
    return all(str(required(row, column, where)) in values for column, values in wanted.items())


def _of_labels(rows: Iterable[tuple[str, Row]], asked: Asked, head: Head) -> Exam:
    examples: list[Example] = []
    names: list[str] = []
    for where, row in rows:
        text, label = normalise(text_of(row, "text", where)), str(required(row, "label", where))
        others = label if label in head.labels else asked.label_map.get(OTHERS, label)
        named = asked.label_map.get(label, others)
        if named == LEFT_OUT:
            continue
        mapped = label in asked.label_map or OTHERS in asked.label_map
        outside = named == OUT_OF_SCOPE and mapped and named not in head.labels
        if head.kind == "embedding":
            examples.append(Example(text))
        elif outside or named in head.labels:
            # A text out of scope is asked all the same, so it carries some label, which nobody reads.
            examples.append(Example(text, {head.name: head.labels[0] if outside else named}))
        else:
            raise UsageError(_unknown(where, label, head))
        names.append(LEFT_OUT if outside else named)
    labels = head.labels or tuple(sorted({name for name in names if name}))
    numbers = {label: number for number, label in enumerate(labels)}
    return Exam(examples, labels, np.array([numbers.get(name, -1) for name in names], np.int64), {})


def _of_entities(rows: Sequence[tuple[str, Row]], asked: Asked, head: Head) -> Exam:
    rename = asked.label_map
    # For a head that judges spans their type is nothing, but without one a label would be taken for it.
    data = DataRecipe(path=str(asked.data), heads=(head.name,), rename=rename, entity_type=_ANY)
    if head.kind == "entity":
        kind = asked.entity_type or ("" if _typed(rows, head, rename) else head.labels[0])
        data = DataRecipe(path=data.path, heads=data.heads, rename=rename, entity_type=kind)
    read = [(where, with_entities(row, data, {head.name: head.kind}, where)) for where, row in rows]
    not_counted: Counter[str] = Counter()
    examples: list[Example] = []
    for where, example in read:
        kept = []
        for span in example.spans:
            name = span.type if head.kind == "entity" else span.label
            if name in head.labels:
                kept.append(Span(span.start, span.end, span.type) if head.kind == "entity" else span)
            elif head.kind == "span" and name != LEFT_OUT:
                raise UsageError(_unknown(where, name, head))
            elif name != LEFT_OUT:
                not_counted[name] += 1
        examples.append(replace(example, spans=tuple(kept)))
    marked = {span.type for example in examples for span in example.spans}
    if not any(example.spans for example in examples):
        seen = f" It has {', '.join(sorted(not_counted))}." if not_counted else ""
        raise UsageError(f"{asked.data} has no entity to evaluate: {_knows(head)}; check --label-map.{seen}")
    if head.kind == "entity":
        types = tuple(label for label in head.labels if label in marked)
        return Exam(
            [replace(each, annotated=types) for each in examples], types, _no_numbers(examples), dict(not_counted)
        )
    return Exam([each for each in examples if each.spans], head.labels, _no_numbers(examples), {})


def _typed(rows: Iterable[tuple[str, Row]], head: Head, rename: Mapping[str, str]) -> bool:
    """Whether the entities of a file carry types of the head, and not sentiments or the like."""
    for _, row in rows:
        if "tokens" in row and "tags" in row:
            return True
        entities = row.get("entities")
        labels = entities.values() if isinstance(entities, dict) else _labels_of(entities)
        if any(isinstance(label, str) and rename.get(label, label) in head.labels for label in labels):
            return True
    return False


def _labels_of(entities: object) -> list[object]:
    each = entities if isinstance(entities, list) else []
    return [entity.get("label") for entity in each if isinstance(entity, dict)]


def _no_numbers(examples: Sequence[Example]) -> NDArray[np.int64]:
    return np.full(len(examples), -1, np.int64)


def _knows(head: Head) -> str:
    return f"the head {head.name} of the bundle knows {', '.join(head.labels)}"


def _scope_hint(head: Head, label: str) -> str:
    none = f"{label}={OUT_OF_SCOPE} says that such rows are out of scope, " if head.kind == "label" else ""
    return f"; {none}{label}= leaves them out"


def _unknown(where: str, label: str, head: Head) -> str:
    return (
        f"{where}, has the label {label!r}, and {_knows(head)}; map it with --label-map {label}=LABEL"
        f"{_scope_hint(head, label)}."
    )
