"""The figures of what a head said of a file, by the head's kind. N texts or spans, L labels."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import beside, fewshot
from models.bootstrap import auroc, auroc_interval, class_intervals, difference, entity_intervals, label_intervals
from models.data import Span
from models.exam import Asked
from models.figures import Scored, entity_figures, label_figures, scored
from models.gazetteer import Gazetteer, read_names
from models.interpret import familiarity
from models.paper import Paper
from models.predict import Pairs
from models.runtime import load_banks

DECISIONS = ("label", "unsure", "none", "unsupported")

Said = Callable[[str], None]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


def grade_labels(asked: Asked, paper: Paper, report: Said) -> dict[str, Any]:
    """Figures of a head that names a label of each text, and of how it finds what is none of its labels."""
    head, said = paper.head, paper.said
    texts = said.texts[head.name]
    answers = scored(said.logits[head.name], paper.exam.true[texts], head.temperature)
    similar = None
    if head.none_below is not None and said.vectors is not None:
        bank = load_banks(paper.bundle)[head.name]
        similar = familiarity(said.vectors[texts], bank, answers.chances.max(axis=1))
    found = _label_grades(paper, answers, texts, similar)
    inside = answers.true >= 0
    if asked.train is not None:
        report("training the baseline")
        rows = beside.training_rows(asked.train, paper.recipe, head)
        chosen = texts[inside]
        name, named = beside.by_words(rows, head, [paper.corpus.texts[each] for each in chosen])
        found["baseline"] = _other(name, named, _only(answers, inside), head.labels)
        if asked.before:
            report("asking the untouched base")
            name, named = beside.by_base(rows, paper, [int(each) for each in chosen])
            found["before"] = _other(name, named, _only(answers, inside), head.labels)
    return found


def grade_spans(asked: Asked, paper: Paper, report: Said) -> dict[str, Any]:
    """Figures of a head that names a label of each span, beside the one that reads the whole text."""
    head, said = paper.head, paper.said
    texts, true = said.texts[head.name], said.labels[head.name]
    answers = scored(said.logits[head.name], true, head.temperature)
    found = _label_grades(paper, answers, texts, None)
    found["cut_off"] = sum(len(example.spans) for example in paper.exam.examples) - len(texts)
    if paper.text_level is not None:
        other = paper.text_level
        row_of = {text: row for row, text in enumerate(said.texts[other.name].tolist())}
        best = said.logits[other.name].argmax(axis=1)
        named = [head.labels.index(other.labels[best[row_of[text]]]) for text in texts.tolist()]
        found["text_level"] = _other(f"the head {other.name}", np.array(named, np.int64), answers, head.labels)
    if asked.train is not None:
        report("training the baseline")
        rows = beside.training_rows(asked.train, paper.recipe, head)
        name, numbers = beside.by_words(rows, head, beside.marked_spans(paper.corpus, texts))
        found["baseline"] = _other(name, numbers, answers, head.labels)
    return found


def grade_entities(asked: Asked, paper: Paper, report: Said) -> dict[str, Any]:
    """Figures of whole spans of the types that the file marks."""
    head, types = paper.head, paper.exam.labels
    said = paper.said.tags[head.name]
    cut = [_cut_off(paper, int(position)) for position in paper.order]
    pairs: Pairs = [(wanted + lost, given) for (wanted, given), lost in zip(said, cut, strict=True)]
    leaked = paper.leaked[paper.order]
    found = _entity_grades(pairs, types)
    found |= {
        "cut_off": sum(map(len, cut)),
        "leaked": int(leaked.sum()),
        "without_leaked": _entity_grades([pairs[each] for each in np.flatnonzero(~leaked)], types),
    }
    if asked.gazetteers:
        kind = asked.entity_type or types[0]
        names = Gazetteer(read_names(asked.gazetteers))
        by_name = [
            ([span for span in example.spans if span.type == kind], names.find(example.text, kind))
            for example in paper.exam.examples
        ]
        found["gazetteer"] = {"type": kind, **_entity_grades(by_name, [kind])}
    if asked.train is not None:
        report("training the baseline")
        rows = beside.training_rows(asked.train, paper.recipe, head)
        by_tagger = beside.by_tagger(rows, paper.exam.examples, types)
        if by_tagger is not None:
            name, given = by_tagger
            found["baseline"] = {"model": name, **_entity_grades(given, types)}
    return found


def grade_embedding(asked: Asked, paper: Paper, report: Said) -> dict[str, Any]:
    """Ten-shot figures of the vectors, and how near they stayed to those of the base."""
    vectors, true, texts = paper.said.vectors, paper.exam.true, paper.corpus.texts
    assert vectors is not None  # read of the head that this is about
    report("drawing ten texts a label")
    drawn = fewshot.draws(true)
    ours = fewshot.of_prototypes(vectors, true, drawn), fewshot.of_machine(vectors, true, drawn)
    found: dict[str, Any] = {
        "n": len(drawn[0][1]),
        **fewshot.figures(ours[0]),
        "few_shot": {
            "shots": fewshot.SHOTS,
            "labels": len(set(true[drawn[0][0]].tolist())),
            "by_seed": fewshot.by_seed(vectors, true, drawn),
            "linear": fewshot.figures(ours[1]),
        },
        "baseline": {"model": "TF-IDF 1-2 grams + LinearSVC, C=1.0", **_few_words(texts, true, drawn, ours[1])},
        "leaked": int(paper.leaked.sum()),
        "without_leaked": _few_without(vectors, true, paper.leaked),
    }
    if asked.before or beside.installed(paper.bundle.manifest.base.name):
        report("asking the untouched base")
        base = beside.base_vectors_of(paper, texts)
        cosine = (vectors * base).sum(axis=1)
        found["cosine_to_base"] = round(float(cosine.mean()), 4)
        if asked.before:
            theirs = fewshot.of_prototypes(base, true, drawn), fewshot.of_machine(base, true, drawn)
            found["before"] = {
                "model": f"{paper.bundle.manifest.base.name}, nearest prototype",
                **fewshot.figures(theirs[0]),
                "by_seed": fewshot.by_seed(base, true, drawn),
                "difference": fewshot.compared(ours[0], theirs[0]),
                "linear": {
                    **fewshot.figures(theirs[1]),
                    "difference": fewshot.compared(ours[1], theirs[1]),
                },
            }
    return found


def _label_grades(
    paper: Paper, answers: Scored, texts: Numbers, similar: NDArray[np.float64] | None
) -> dict[str, Any]:
    head = paper.head
    inside, leaked = answers.true >= 0, paper.leaked[texts]
    sure = answers.chances.max(axis=1) >= head.unsure_below
    unlike = np.zeros(len(texts), bool) if similar is None else similar < np.float32(head.none_below or 0.0)
    decided = np.where(paper.unsupported[texts], 3, np.where(unlike, 2, np.where(sure, 0, 1)))
    found = _figures(_only(answers, inside), head.labels)
    without = _figures(_only(answers, inside & ~leaked), head.labels)
    without.pop("confusion", None)
    kept = inside & sure
    found |= {
        "decisions": {name: _share(decided[inside] == number) for number, name in enumerate(DECISIONS)},
        "sure": {
            "above": head.unsure_below,
            "share": _share(sure[inside]),
            "precision": _share((answers.found == answers.true)[kept]),
        },
        "leaked": int(leaked[inside].sum()),
        "without_leaked": without,
    }
    if not inside.all():
        found |= _scope(answers, inside, similar, unlike, found["interval"])
    return found


def _scope(
    answers: Scored,
    inside: Flags,
    similar: NDArray[np.float64] | None,
    unlike: Flags,
    intervals: dict[str, list[float]],
) -> dict[str, Any]:
    """How texts out of scope are told from the others: by familiarity, and by the chance of the label alone."""
    doubt = 1.0 - answers.chances.max(axis=1)
    scope = {
        "n": int((~inside).sum()),
        "caught": _share(unlike[~inside]) if similar is not None else None,
        "wrongly_none": _share(unlike[inside]) if similar is not None else None,
        "auroc_by_chance": round(auroc(doubt, ~inside), 4),
    }
    if similar is None:
        return {"out_of_scope": scope}
    return {
        "auroc_none": round(auroc(-similar, ~inside), 4),
        "interval": {**intervals, "auroc_none": auroc_interval(-similar, ~inside)},
        "out_of_scope": scope,
    }


def _figures(answers: Scored, labels: tuple[str, ...]) -> dict[str, Any]:
    found = label_figures(answers, labels)
    if not found["n"]:
        return found
    found["interval"] = label_intervals(answers, len(labels))
    each = dict(zip(labels, class_intervals(answers.true, answers.found, len(labels)), strict=True))
    for label, figures in found["per_class"].items():
        figures["interval"] = {"f1": each[label]}
    return found


def _other(model: str, named: Numbers, ours: Scored, labels: tuple[str, ...]) -> dict[str, Any]:
    """Figures of another model on the same rows, and how much better ours is."""
    certain = Scored(ours.true, np.eye(len(labels), dtype=np.float32)[named])
    figures, intervals = label_figures(certain, labels), label_intervals(certain, len(labels))
    metrics = ("accuracy", "macro_f1", "weighted_f1")
    return {
        "model": model,
        **{name: figures[name] for name in metrics},
        "interval": {name: intervals[name] for name in metrics},
        "difference": difference(ours.true, ours.found, named, len(labels)),
    }


def _cut_off(paper: Paper, position: int) -> list[Span]:
    """The entities beyond a text's last token, which nobody can find; their places are unlike any other's."""
    end = max((end for _, end in paper.corpus.encodings[position].offsets), default=0)
    spans = paper.exam.examples[position].spans
    return [Span(-span.end, -span.start, span.type) for span in spans if span.start >= end]


def _entity_grades(pairs: Pairs, types: Any) -> dict[str, Any]:
    found = entity_figures(pairs, types)
    if not pairs:
        return {"n": 0}
    intervals = entity_intervals(pairs, types)
    by_type = intervals.pop("per_class")
    for kind, figures in found["per_class"].items():
        figures["interval"] = {"f1": by_type[kind]}
    return {**found, "interval": intervals}


def _few_words(texts: list[str], true: Numbers, drawn: Any, ours: fewshot.Tally) -> dict[str, Any]:
    theirs = fewshot.of_texts(texts, true, drawn)
    return {**fewshot.figures(theirs), "difference": fewshot.compared(ours, theirs)}


def _few_without(vectors: NDArray[np.float32], true: Numbers, leaked: Flags) -> dict[str, Any]:
    rest = np.where(leaked, -1, true)
    if not fewshot.enough(rest):
        return {"n": 0}
    drawn = fewshot.draws(rest)
    return {"n": len(drawn[0][1]), **fewshot.figures(fewshot.of_prototypes(vectors, rest, drawn))}


def _only(answers: Scored, chosen: Flags) -> Scored:
    return Scored(answers.true[chosen], answers.chances[chosen])


def _share(flags: Flags) -> float:
    return round(float(flags.mean()), 4) if len(flags) else 0.0
