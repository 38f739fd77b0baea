"""The model card of a bundle, in the form that the Hugging Face hub reads."""

from collections.abc import Mapping
from typing import Any

from models.base import PACKAGED_BASE
from models.bundle import Manifest
from models.data import SOURCES


def model_card(manifest: Manifest, metrics: Mapping[str, Any]) -> str:
    """README.md of a bundle: what it is for, its data and licences, its scores beside a baseline, its limits."""
    return "\n".join([_front_matter(manifest), _body(manifest), _scores(metrics), _limits(metrics)])


def _front_matter(manifest: Manifest) -> str:
    data = "\n".join(f"- {source.public_name}" for source in SOURCES)
    return f"""---
language: en
license: apache-2.0
library_name: onnxruntime
pipeline_tag: text-classification
base_model: {manifest.base.name}
datasets:
{data}
---
"""


def _body(manifest: Manifest) -> str:
    heads = "\n".join(
        f"- `{head.name}` ({', '.join(head.streams)}): "
        + (", ".join(head.labels) if head.labels else "the base's own sentence vector, L2-normalised")
        for head in manifest.heads
    )
    licence = "Apache-2.0" if manifest.base.name == PACKAGED_BASE else "licence: see its own card"
    sources = "\n".join(f"- {source.public_name} ({source.licence}): `{source.head}`" for source in SOURCES)
    return f"""# {manifest.name}

One frozen encoder, [{manifest.base.name}](https://huggingface.co/{manifest.base.name}) ({licence}), under one
additive attention pooling and classifier per head, which read the token states of layer {manifest.shape.layer}.
The attention over words is returned with each label: it names the words that the head read, and is an indication
rather than a proof of why.

Heads, and the streams they apply to:

{heads}

Texts lose their URLs, white space is folded, and all beyond {manifest.max_length} tokens is cut off.

## Data

{sources}

The licences are those that the data cards state; the texts are tweets, under the terms of their platform, and
none of them is in this folder. Of texts that differ in URL, case or punctuation only, one is kept; the split into
train, validation, calibration and test (70/10/10/10) follows a hash of the text.
"""


def _scores(metrics: Mapping[str, Any]) -> str:
    lines = [
        "## Scores",
        "",
        "On the test split, which chose nothing. The baseline was trained on the same rows.",
        "",
        "| head | model | macro-F1 | accuracy | weighted F1 |",
        "|---|---|---|---|---|",
    ]
    for name, head in metrics["heads"].items():
        test = head["test"]
        for kind, title in (
            ("fp32", "this, fp32"),
            ("int8", "this, int8"),
            ("baseline", test["baseline"]["model"]),
        ):
            row = test[kind]
            lines.append(
                f"| {name} | {title} | {row['macro_f1']:.3f} | {row['accuracy']:.3f} | {row['weighted_f1']:.3f} |"
            )
    lines += ["", "| head | train | validation | calibration | test | temperature |", "|---|---|---|---|---|---|"]
    for name, head in metrics["heads"].items():
        rows = head["rows"]
        counts = " | ".join(str(rows[split]) for split in ("train", "validation", "calibration", "test"))
        lines.append(f"| {name} | {counts} | {head['temperature']:.2f} |")
    parity = metrics["int8_against_fp32"]
    agreement = ", ".join(f"{name} {share:.3f}" for name, share in parity["labels"].items())
    lines += [
        "",
        f"int8 against fp32 on the {parity['texts']} test texts: equal labels {agreement}; cosine of the sentence "
        f"vectors {parity['cosine']:.4f} on average, {parity['least_cosine']:.4f} for the worst text.",
        "",
        f"Made by `{metrics['command']}` in {metrics['seconds']:.0f} s on {metrics['device']}.",
        "",
    ]
    return "\n".join(lines)


def _limits(metrics: Mapping[str, Any]) -> str:
    weakest = []
    for name, head in metrics["heads"].items():
        label, score = min(head["test"]["labels"].items(), key=lambda item: item[1]["f1"])
        weakest.append(f"`{name}` is weakest at {label} (F1 {score['f1']:.2f}, {score['texts']} texts)")
    return f"""## Limits

- English headlines and tweets on finance. Other languages, long articles and other subjects were not measured.
- `sentiment` is the market's: whether the news is good or bad for a price. It says nothing of a customer's mood.
- `topic` always names one of its labels, also for a text that has none of these topics.
- The encoder was not trained further. {"; ".join(weakest)}.
- int8 takes a scale for each token, so a text scores the same in every batch; other processors and releases of
  ONNX Runtime may still round differently: read stored scores, do not compute them again.
"""
