"""The model card of a bundle, as the Hugging Face hub reads it, and the notice of what it was made from."""

from collections.abc import Mapping
from typing import Any

import msgspec

from models.base import PACKAGED_BASE
from models.behaviour import Result, as_markdown
from models.bundle import Head, Manifest
from models.recipe import DataRecipe, Recipe


def model_card(manifest: Manifest, recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    """README.md of a bundle: what it is for, its data and licences, its figures beside a baseline, its limits."""
    parts = [
        _front_matter(manifest, recipe),
        _body(manifest, recipe, metrics),
        _data(recipe, metrics),
        _scores(manifest, metrics),
        _thresholds(manifest, metrics),
        _behaviour(metrics),
        _making(metrics),
        _limits(manifest, recipe),
    ]
    return "\n".join(parts)


def notice(recipe: Recipe) -> str:
    """NOTICE of a bundle that is given away: base and data, with their licences and those to be named."""
    lines = [f"{recipe.name}", "", f"Encoder: {recipe.base} (Apache-2.0), changed by low-rank adapters."]
    if recipe.base != PACKAGED_BASE or recipe.encoder.tuning != "lora":
        lines[2] = f"Encoder: {recipe.base}; its licence is in its own card."
    lines += ["", "Trained on these data sets, none of whose texts is in this folder:", ""]
    for data in _sources(recipe):
        lines.append(f"- {data.name or data.path}: {data.licence or 'licence not stated'}")
        if data.attribution:
            lines.append(f"  {data.attribution}")
    return "\n".join(lines) + "\n"


def _sources(recipe: Recipe) -> list[DataRecipe]:
    return list({data.name or data.path: data for data in recipe.data}.values())


def _front_matter(manifest: Manifest, recipe: Recipe) -> str:
    data = "\n".join(f"- {source.name or source.path}" for source in _sources(recipe))
    licence = "license: apache-2.0\n" if recipe.ships else ""
    return f"""---
language: {manifest.languages[0] if manifest.languages else "en"}
{licence}library_name: onnxruntime
pipeline_tag: text-classification
base_model: {manifest.base.name}
datasets:
{data}
---
"""


_TUNING = {
    "frozen": "The encoder is the base as it is; only the heads were trained.",
    "lora": "Low-rank adapters were trained on the encoder's upper layers together with all heads.",
    "full": "The encoder's layers were trained in full; a bundle of this kind is for tables, not for shipping.",
}
_KINDS = {
    "label": "one label of a text",
    "entity": "spans of a text, by type",
    "span": "one label of each span",
    "embedding": "the sentence vector, L2-normalised, held to that of the untouched base",
}


def _body(manifest: Manifest, recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    heads = "\n".join(
        f"- `{head.name}` ({_streams(head)}): {_KINDS[head.kind]}{_labels(head)}" for head in manifest.heads
    )
    licence = "Apache-2.0" if manifest.base.name == PACKAGED_BASE else "licence: see its own card"
    return f"""# {manifest.name}

One encoder, [{manifest.base.name}](https://huggingface.co/{manifest.base.name}) ({licence}), read once for a text,
and heads with additive attention pooling over its words. {_TUNING[manifest.tuned.tuning]}
The attention is returned with each label: it names the words that the head read. How far taking these words away
changes the answer is measured by `salience model evaluate --faithfulness`.
{_ngrams(manifest, metrics)}
Heads, and the streams they apply to:

{heads}

Texts lose their URLs, white space is folded, and all beyond {manifest.max_length} tokens is cut off; the scored
message says how much. Languages other than {", ".join(manifest.languages)} are answered with the decision
`unsupported`.
"""


def _ngrams(manifest: Manifest, metrics: Mapping[str, Any]) -> str:
    """What of the answers does not come from the pooled states."""
    those = [
        f"`{head.name}` ({head.ngram_rows:,} {'tokens and pairs' if head.ngrams > 1 else 'tokens'})"
        for head in manifest.heads
        if head.ngram_rows
    ]
    if not those:
        return ""
    judges = sorted({note["judged_by"] for note in metrics["ngrams"].values()})
    return f"""
A linear model of the text's tokens stands beside the pooled states in {", ".join(those)}:
its logits are added, weighed on the {" and the ".join(judges)} split. It is no part of the attention; `salience
model explain --gradient` counts it.
"""


def _streams(head: Head) -> str:
    return ", ".join(head.streams) or "no stream"


def _labels(head: Head) -> str:
    if not head.labels:
        return ""
    shown = head.labels if len(head.labels) <= 20 else (*head.labels[:5], f"... {len(head.labels)} in all")
    of = f" that `{head.spans}` finds" if head.spans else ""
    return f"{of}: {', '.join(shown)}"


def _data(recipe: Recipe, metrics: Mapping[str, Any]) -> str:
    lines = [
        "## Data",
        "",
        "| set | licence | heads | train | validation | calibration | test |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = metrics["rows"]
    for data in recipe.data:
        counts = " | ".join(
            str(rows[split].get(data.path, 0)) for split in ("train", "validation", "calibration", "test")
        )
        lines.append(f"| {data.name or data.path} | {data.licence} | {', '.join(data.heads)} | {counts} |")
    lines += [
        "",
        "The licences are those that the data cards state; tweets are under the terms of their platform, too. No",
        "text is in this folder. Of texts that differ in URL, case or punctuation only, one is kept; the split",
        "follows a hash of the normalised text, so that no text stands on two sides, whatever file it comes from.",
        "",
    ]
    return "\n".join(lines)


def _scores(manifest: Manifest, metrics: Mapping[str, Any]) -> str:
    lines = [
        "## Figures",
        "",
        "On the test split, which chose nothing; in brackets the 95 % bootstrap interval. The baseline is TF-IDF",
        "under a linear support vector machine, trained on the same rows.",
        "",
        "| head | precision | n | accuracy | macro-F1 | ECE | baseline: accuracy | macro-F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    others: list[str] = []
    for head in manifest.heads:
        found = metrics["heads"][head.name]
        base = found.get("baseline", {})
        for name, figures in found.items():
            if name == "baseline" or not figures.get("n"):
                continue
            if "entity_f1" in figures:
                f1 = _with_interval(figures, "entity_f1")
                others.append(f"- `{head.name}`, {name}: span F1 {f1} over {figures['n']} texts")
            elif "cosine_to_base" in figures:
                cosine = f"mean cosine to the base's vector {figures['cosine_to_base']:.3f}"
                others.append(f"- `{head.name}`, {name}: {cosine} over {figures['n']} texts")
            else:
                shown = f"{base['accuracy']:.3f} | {base['macro_f1']:.3f}" if base else "- | -"
                lines.append(
                    f"| {head.name} | {name} | {figures['n']} | {_with_interval(figures, 'accuracy')} | "
                    f"{_with_interval(figures, 'macro_f1')} | {figures['ece']:.3f} | {shown} |"
                )
    parity = metrics["parity"]
    agreement = ", ".join(f"{name} {share:.3f}" for name, share in parity["labels"].items())
    others.append(
        f"- graph against network on {parity['texts']} probes: equal labels {agreement}; cosine of the sentence "
        f"vectors {parity['cosine']:.4f} on average, {parity['least_cosine']:.4f} for the worst text"
    )
    return "\n".join([*lines, "", *others, ""])


def _with_interval(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures["interval"][name]
    return f"{figures[name]:.3f} ({low:.3f}-{high:.3f})"


def _thresholds(manifest: Manifest, metrics: Mapping[str, Any]) -> str:
    lines = [
        "## Calibration",
        "",
        "| head | n | temperature | unsure below | precision aimed at | none below |",
        "|---|---|---|---|---|---|",
    ]
    for head in manifest.heads:
        notes = metrics["calibration"].get(head.name)
        if notes:
            unsure = notes.get("unsure", {})
            none = "-" if head.none_below is None else f"familiarity {head.none_below:.3f}"
            lines.append(
                f"| {head.name} | {notes['n']} | {head.temperature:.2f} | {head.unsure_below:.2f} | "
                f"{unsure.get('target', '-')} | {none} |"
            )
    lines += [
        "",
        "Thresholds are the lowest at which the lower confidence bound of the precision reaches the aim.",
        "",
    ]
    return "\n".join(lines)


def _behaviour(metrics: Mapping[str, Any]) -> str:
    results = [msgspec.convert(each, Result) for each in metrics["behaviour"]]
    if not results:
        return ""
    return f"""## Behaviour

Small sets of sentences written for what the heads must be able to do (`salience model behaviour`).

{as_markdown(results)}"""


def _making(metrics: Mapping[str, Any]) -> str:
    training, source = metrics["training"], metrics["source"]
    said = (
        f"Made by `{metrics['command']}` on {training['device']}: {training['epochs']} epochs, the best was "
        f"{training['best_epoch']}; {training['texts']} texts in {training['seconds']:.0f} s of training."
    )
    if metrics["refit"]:
        said += (
            f"\nN-grams, calibration, graphs and figures are from `{metrics['refit']}`, which took the network of "
            f"{source['bundle']}."
        )
    elif source:
        said += f"\nTraining began with the encoder of {source['bundle']}."
    if source.get("knew"):
        said += f"\n{source['knew']} texts of the test split had made that bundle, which flatters the figures."
    return said + "\n"


def _limits(manifest: Manifest, recipe: Recipe) -> str:
    lines = ["## Limits", ""]
    lines += [f"- {limit}" for limit in recipe.limits]
    if manifest.precision == "int8":
        lines.append(
            "- int8 takes a scale for each token, so a text scores the same in every batch; other processors\n"
            "  and releases of ONNX Runtime may still round differently: read stored scores, do not compute them\n"
            "  again."
        )
    return "\n".join(lines) + "\n"
