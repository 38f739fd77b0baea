"""Tables of an evaluation, for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from pipeline.commands.output import out

Found = Mapping[str, Any]

# Labels up to which the whole confusion matrix is shown, and how many confusions of a larger one.
_WHOLE = 12
_MOST = 15
_FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "ece": "calibration error",
    "coverage_at_95": "coverage at 95 % precision",
    "auroc_none": "AUROC of none",
    "entity_f1": "entity F1",
    "precision": "precision",
    "recall": "recall",
}
_OTHERS = {
    "without_leaked": "without leaked rows",
    "baseline": "baseline",
    "text_level": "text level",
    "gazetteer": "gazetteer",
    "before": "before training",
}


def show(found: Found) -> None:
    """The figures of `models.evaluate.evaluate` as tables."""
    out.print(f"{found['task']} of {found['bundle']} on {found['data']}: n = {found['n']}", highlight=False)
    _show_figures(found)
    for name, title in _OTHERS.items():
        other = found[name]
        if other and "model" in other:
            out.print(f"{title}: {other['model']}", highlight=False)
    _show_remarks(found)
    if found["per_class"]:
        _show_classes(found["per_class"])
    if found["confusion"]:
        _show_confusion(found["confusion"], found["labels"])


def _show_figures(found: Found) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("figure", "of", "value", "95 % interval"):
        table.add_column(title, no_wrap=True)
    for name, title in _FIGURES.items():
        if found[name] is None:
            continue
        table.add_row(title, "this bundle", _number(found[name]), _bounds(found, name))
        for other, whose in _OTHERS.items():
            if (found[other] or {}).get(name) is not None:
                table.add_row("", whose, _number(found[other][name]), _bounds(found[other], name))
    out.print(table)


def _cell(other: Found, name: str) -> str:
    return f"{_number(other[name])} {_bounds(other, name)}" if other.get(name) is not None else ""


def _show_remarks(found: Found) -> None:
    for remark in (*_of_decisions(found), *_of_others(found), *_of_what_is_missing(found)):
        out.print(remark, highlight=False)


def _of_decisions(found: Found) -> Iterator[str]:
    yield f"{found['leaked']} rows made the bundle (trained, chose or calibrated it)"
    shares = {name: share for name, share in (found["decisions"] or {}).items() if share}
    if shares:
        yield "decisions: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    if found["sure"]:
        sure = found["sure"]
        yield f"sure (from {sure['above']}): {sure['share']:.1%} kept, precision {sure['precision']:.1%}"
    if found["out_of_scope"]:
        yield _scope(found["out_of_scope"])


def _of_others(found: Found) -> Iterator[str]:
    if found["few_shot"]:
        few = found["few_shot"]
        seeds = ", ".join(_number(value) for value in few["by_seed"])
        yield f"{few['shots']} texts for each of {few['labels']} labels, nearest prototype; by seed: {seeds}"
        yield f"a linear machine on the same: {_cell(few['linear'], 'accuracy')}"
    for name in ("baseline", "text_level", "before"):
        if found[name] and "difference" in found[name]:
            gap = found[name]["difference"]
            yield f"above {_OTHERS[name]}: accuracy {gap['accuracy']:+.4f} {_bounds(gap, 'accuracy')}"
    if found["cosine_to_base"] is not None:
        yield f"mean cosine to the base: {_number(found['cosine_to_base'])}"


def _of_what_is_missing(found: Found) -> Iterator[str]:
    if found["not_counted"]:
        types = ", ".join(f"{name} {count}" for name, count in found["not_counted"].items())
        yield f"not counted, for the head has no such type: {types}"
    if found["unsupported"]:
        yield f"in a language the bundle does not read: {found['unsupported']:.1%} of the texts"
    if found["truncated"]:
        yield f"cut at the bundle's most tokens: {found['truncated']:.1%} of the texts"
    if found["cut_off"]:
        yield f"entities beyond the bundle's most tokens: {found['cut_off']}"


def _scope(scope: Found) -> str:
    said = f"{scope['n']} rows out of scope"
    if scope["caught"] is None:
        return (
            f"{said}; the head has no bank to tell them by (AUROC of the chance: {scope['auroc_by_chance']:.4f})"
        )
    return f"{said}, {scope['caught']:.1%} of them called none; {scope['wrongly_none']:.1%} of the others were"


def _show_classes(classes: Found) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("label", "n", "precision", "recall", "F1", "95 % interval"):
        table.add_column(title)
    for label, each in classes.items():
        numbers = (_number(each[name]) for name in ("precision", "recall", "f1"))
        table.add_row(Text(label), str(each["n"]), *numbers, _bounds(each, "f1"))
    out.print(table)


def _show_confusion(counts: list[list[int]], labels: list[str]) -> None:
    table = Table(box=None, pad_edge=False)
    if len(labels) <= _WHOLE:
        for title in ("true / said", *labels):
            table.add_column(Text(title))
        for label, row in zip(labels, counts, strict=True):
            table.add_row(Text(label), *(str(count) for count in row))
    else:
        for title in ("true", "said", "times"):
            table.add_column(title)
        wrong = [
            (count, true, said)
            for true, row in enumerate(counts)
            for said, count in enumerate(row)
            if count and true != said
        ]
        for count, true, said in sorted(wrong, key=lambda each: -each[0])[:_MOST]:
            table.add_row(Text(labels[true]), Text(labels[said]), str(count))
    out.print(table)


def _number(value: float) -> str:
    return f"{value:.4f}"


def _bounds(found: Found, name: str) -> str:
    low_high = (found.get("interval") or {}).get(name)
    return f"[{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else ""
