"""Examples for training and evaluation: read by a recipe's columns, split so that no text is on two sides."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from models.entities import runs
from models.recipe import DataRecipe, Recipe, Splits
from models.rows import Row, read_rows, required, text_of
from models.text import normalise, normalise_spans
from schemas.errors import UsageError

Split = Literal["train", "validation", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "calibration", "test")

_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a text, [start, end) in characters, with its type and its label where there are such."""

    start: int
    end: int
    type: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One normalised text and what is known of it.

    `labels` gives the label by head; `spans` its entities; `tagging` and `judging` name the heads of kind entity
    and span that learn from them. Of types that are not in `annotated` it is unknown whether a word is one.
    `words` are the [start, end) of the words that carry tags, where the row came as tokens with tags.
    """

    text: str
    labels: dict[str, str] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()
    tagging: str = ""
    judging: str = ""
    annotated: tuple[str, ...] = ()
    words: tuple[tuple[int, int], ...] = ()


Sources = dict[Split, list[list[Example]]]


def read_splits(folder: Path, recipe: Recipe) -> Sources:
    """All examples of a recipe by split, one list for each file, in the recipe's order.

    Of texts within one file that differ in URL, case or punctuation only, the first is kept; as the split follows
    a hash of the text alone, a text that stands in two files is on the same side in both.

    Raises:
        UsageError: a file or a row is not as the recipe says.
    """
    found: Sources = {split: [] for split in SPLITS}
    for data in recipe.data:
        parts: dict[Split, list[Example]] = {split: [] for split in SPLITS}
        seen: set[str] = set()
        for example in read_examples(folder / data.path, data, recipe):
            key = identity(example.text)
            if key and key not in seen:
                seen.add(key)
                parts[split_of(key, recipe.splits)].append(example)
        if not parts["train"]:
            raise UsageError(
                f"{folder / data.path} gives no row to train on; check `where`, `rename` and the columns."
            )
        for split in SPLITS:
            found[split].append(parts[split])
    return found


def read_examples(path: Path, data: DataRecipe, recipe: Recipe) -> Iterator[Example]:
    """Examples of one file, in its order.

    Raises:
        UsageError: a row lacks a column, or has a label that the recipe does not know.
    """
    kinds = {name: recipe.head(name).kind for name in data.heads}
    for where, row in read_rows(path):
        if any(row.get(column) not in wanted for column, wanted in data.where.items()):
            continue
        if "entity" in kinds.values() or "span" in kinds.values():
            example = with_entities(row, data, kinds, where)
        else:
            example = Example(normalise(text_of(row, data.text, where)))
        for name, kind in kinds.items():
            if kind == "label":
                label = str(required(row, data.label, where))
                example.labels[name] = data.rename.get(label, label)
        if "" not in example.labels.values():
            _check(example, data, recipe, where)
            yield example


def identity(text: str) -> str:
    """What makes two texts one: letters and digits, in lower case, URLs left out."""
    return _NEITHER_LETTER_NOR_DIGIT.sub(" ", normalise(text).lower()).strip()


def split_of(key: str, splits: Splits) -> Split:
    """The side on which a text stands, from 64 bits of a hash of its identity."""
    whole = int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    number = whole % 100
    held = splits.validation + splits.calibration
    if splits.folds:
        if whole // 100 % splits.folds == splits.fold:
            return "test"
        return "train" if number >= held else "validation" if number < splits.validation else "calibration"
    if number < splits.train:
        return "train"
    if number < splits.train + splits.validation:
        return "validation"
    return "calibration" if number < splits.train + held else "test"


def tagged_words(words: Sequence[tuple[int, int]], spans: Sequence[Span]) -> list[str]:
    """BIO tags of words; both are [start, end) in characters, and of spans that overlap the longest holds."""
    tags = ["O"] * len(words)
    for span in sorted(spans, key=lambda each: each.start - each.end):
        inside = [number for number, (start, end) in enumerate(words) if start < span.end and span.start < end]
        if inside and all(tags[number] == "O" for number in inside):
            tags[inside[0]] = f"B-{span.type}"
            tags[inside[0] + 1 : inside[-1] + 1] = [f"I-{span.type}"] * (len(inside) - 1)
    return tags


def spans_of(words: Sequence[tuple[int, int]], tags: Sequence[str]) -> list[Span]:
    """Entities of BIO tags; an I- that follows nothing of its type begins one, as in the CoNLL evaluation."""
    return [Span(words[first][0], words[last - 1][1], kind) for first, last, kind in runs(tags)]


def with_entities(row: Row, data: DataRecipe, kinds: Mapping[str, str], where: str) -> Example:
    """The example of one row for heads of kind entity and span, of which `kinds` gives the kind by name.

    Raises:
        UsageError: the row lacks a column, or its entities or tags are not of a form that is known.
    """
    tagging = next((name for name, kind in kinds.items() if kind == "entity"), "")
    judging = next((name for name, kind in kinds.items() if kind == "span"), "")
    words: tuple[tuple[int, int], ...] = ()
    if data.tokens in row and data.tags in row:
        text, words, spans = _from_tags(row, data, where)
    else:
        text = text_of(row, data.text, where)
        spans = _from_entities(text, required(row, data.entities, where), data, where)
    clean, moved = normalise_spans(text, [(span.start, span.end) for span in spans])
    kept = tuple(
        Span(place[0], place[1], span.type, span.label) for span, place in zip(spans, moved, strict=True) if place
    )
    if words:
        clean_words = normalise_spans(text, words)[1]
        words = tuple(place or (0, 0) for place in clean_words)
    return Example(clean, {}, kept, tagging, judging, data.annotated, words)


def _from_tags(row: Row, data: DataRecipe, where: str) -> tuple[str, tuple[tuple[int, int], ...], list[Span]]:
    tokens, tags = row[data.tokens], row[data.tags]
    if not _texts(tokens) or not _texts(tags):
        raise UsageError(f"{where}, {data.tokens} and {data.tags}: give a list of texts each.")
    strange = next((tag for tag in tags if tag != "O" and not tag.startswith(("B-", "I-"))), None)
    if strange is not None:
        raise UsageError(f"{where}, has the tag {strange!r}; give O, B-TYPE and I-TYPE.")
    if len(tokens) != len(tags):
        raise UsageError(f"{where}, has {len(tokens)} {data.tokens} and {len(tags)} {data.tags}; mend the row.")
    places: list[tuple[int, int]] = []
    position = 0
    for token in tokens:
        places.append((position, position + len(token)))
        position += len(token) + 1
    renamed = [_renamed(tag, data) for tag in tags]
    return " ".join(tokens), tuple(places), spans_of(places, renamed)


def _renamed(tag: str, data: DataRecipe) -> str:
    mark, dash, kind = tag.partition("-")
    kind = data.rename.get(kind, kind)
    return f"{mark}{dash}{kind}" if kind or not dash else "O"


def _from_entities(text: str, entities: object, data: DataRecipe, where: str) -> list[Span]:
    """Spans from {name: label} or from [{start, end, label}]; a name that the text lacks marks nothing."""
    found: list[Span] = []
    if isinstance(entities, dict):
        for name, label in entities.items():
            if not isinstance(label, str):
                raise UsageError(f"{where}, {data.entities}: {name!r} has no label that is text; mend the row.")
            start = text.find(name)
            if start >= 0:
                found.append(_span(start, start + len(name), str(label), data))
        return found
    if not isinstance(entities, list):
        raise UsageError(f"{where}, {data.entities}: give name to label, or a list of start, end and label.")
    for each in entities:
        if not _is_span(each):
            raise UsageError(f"{where}, {data.entities}: {each!r:.60} has no start, end and label; mend the row.")
        start, end, label = each["start"], each["end"], each["label"]
        # Some sets count from another normalisation of the text; the words themselves tell.
        if each.get("text") and text[start:end] != each["text"]:
            start = text.find(each["text"])
            end = start + len(each["text"])
        if start >= 0:
            found.append(_span(start, end, label, data))
    return found


def _texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_span(value: object) -> bool:
    """Whether it has start, end and label, and a text, if any, that is text."""
    if not isinstance(value, dict):
        return False
    kinds = {"start": int, "end": int, "label": str}
    return all(isinstance(value.get(name), kind) for name, kind in kinds.items()) and isinstance(
        value.get("text", ""), str
    )


def _span(start: int, end: int, label: str, data: DataRecipe) -> Span:
    label = data.rename.get(label, label)
    return Span(start, end, data.entity_type, label) if data.entity_type else Span(start, end, label)


def _check(example: Example, data: DataRecipe, recipe: Recipe, where: str) -> None:
    asked = [(name, label) for name, label in example.labels.items()]
    asked += [(example.tagging, span.type) for span in example.spans if example.tagging]
    asked += [(example.judging, span.label) for span in example.spans if example.judging]
    for name, label in asked:
        known = recipe.head(name).labels
        if label not in known:
            raise UsageError(
                f"{where}, has the label {label!r}, and the head {name} of the recipe knows {', '.join(known)}; "
                f"name it under rename for {data.path}, or mend the row."
            )
