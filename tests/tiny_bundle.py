"""A bundle that is trained in seconds: every kind of head over a BERT of random weights, on rows made up here."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRMS = ("Acme", "Corvane", "Nokira", "Zenith", "Bolt", "Orion", "Vela", "Quanta")
GOOD, BAD, EVEN = ("rises", "soars", "gains", "climbs"), ("falls", "sinks", "drops", "slides"), ("meets", "opens")
DAYS = ("today", "on Monday", "in June", "at noon", "after results", "this week")
INTENTS = {
    "card_lost": ("my card is lost", "somebody stole my card", "I cannot find the card"),
    "exchange_rate": ("what is the exchange rate", "which rate do you give", "the rate for euros"),
    "top_up": ("my top up failed", "adding money does not work", "the top up is missing"),
}
INTENT_WAYS = ("please", "hello", "help", "again", "now", "since Monday", "and I am abroad", "quickly")

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "limits": ["Made of random weights; it knows nothing."],
    "splits": {"train": 60, "validation": 12, "calibration": 14},
    "encoder": {"tuning": "lora", "frozen_layers": 1, "rank": 4},
    "training": {
        "epochs": 8,
        "patience": 8,
        "batch_tokens": 256,
        "learning_rate": 1e-3,
        "head_learning_rate": 2e-2,
    },
    "heads": [
        {
            "name": "sentiment",
            "kind": "label",
            "labels": ["negative", "neutral", "positive"],
            "streams": ["news", "behavior"],
            "precision": 0.8,
            "ngrams": 2,
        },
        {
            "name": "intent",
            "kind": "label",
            "labels": list(INTENTS),
            "streams": ["chat"],
            "classifier_width": 16,
            "none": "nearest",
            "ngrams": 1,
        },
        {
            "name": "entity",
            "kind": "entity",
            "labels": ["company", "day"],
            "streams": ["news"],
            "attention_width": 32,
        },
        {
            "name": "entity_sentiment",
            "kind": "span",
            "spans": "entity",
            "labels": ["negative", "neutral", "positive"],
            "streams": ["news"],
        },
        {"name": "embedding", "kind": "embedding", "streams": ["news", "chat", "behavior"]},
    ],
    "data": [
        {"path": "sentiment.jsonl", "heads": ["sentiment"], "rename": {"bad": "negative", "good": "positive"}},
        {"path": "intents.jsonl", "heads": ["intent"]},
        {
            "path": "firms.jsonl",
            "heads": ["entity", "entity_sentiment"],
            "entity_type": "company",
            "annotated": ["company"],
        },
        {"path": "tags.jsonl", "heads": ["entity"]},
    ],
}


def tiny_bundle(folder: Path) -> Path:
    """Train the bundle into `folder`/bundle; base, data and recipe lie beside it."""
    from models.train import train

    out = folder / "bundle"
    train(str(tiny_recipe(folder)), tiny_data(folder / "data"), out, "fp32")
    return out


def tiny_base(folder: Path) -> Path:
    """A BERT of random weights: two layers, 32 wide, with the tokenizer of the packaged base."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from models.base import PACKAGED_BASE, base_folder

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    weights = transformers.BertModel(config, add_pooling_layer=False).state_dict()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(base_folder(PACKAGED_BASE) / "tokenizer.json", folder / "tokenizer.json")
    return folder


def tiny_recipe(folder: Path, **changes: Any) -> Path:
    """The recipe as a file, over a base that is made when it is not there; `changes` replace parts of it."""
    base = folder / "base"
    if not base.is_dir():
        tiny_base(base)
    path = folder / "tiny.toml"
    path.write_text(to_toml({"base": str(base), **RECIPE, **changes}))
    return path


def tiny_data(folder: Path) -> Path:
    """The rows that the recipe names."""
    folder.mkdir(parents=True, exist_ok=True)
    verbs = [(verb, label) for label, words in (("good", GOOD), ("bad", BAD), ("neutral", EVEN)) for verb in words]
    lines = [(f"{firm} {verb}", label) for firm in FIRMS for verb, label in verbs]
    write_rows(folder / "sentiment.jsonl", [{"text": text, "label": label} for text, label in lines])
    intents = [
        {"text": f"{text} {way}", "label": label}
        for label, texts in INTENTS.items()
        for text in texts
        for way in INTENT_WAYS
    ]
    write_rows(folder / "intents.jsonl", intents)
    pairs = [
        (one, other, up, down)
        for number, one in enumerate(FIRMS)
        for other in FIRMS[number + 1 : number + 4]
        for up, down in zip(GOOD, BAD, strict=True)
    ]
    firms = [
        {"text": f"{one} {up} as {other} {down}", "entities": {one: "positive", other: "negative"}}
        if number % 2
        else {"text": f"{other} {down} as {one} {up}", "entities": {one: "positive", other: "negative"}}
        for number, (one, other, up, down) in enumerate(pairs)
    ]
    write_rows(folder / "firms.jsonl", firms)
    tagged = [
        {
            "tokens": [firm, verb, *day.split()],
            "tags": ["B-company", "O", *(["B-day"] + ["I-day"] * len(day.split()))[: len(day.split())]],
        }
        for firm in FIRMS
        for day in DAYS
        for verb in ("opens", "rises")
    ]
    write_rows(folder / "tags.jsonl", tagged)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def to_toml(values: Mapping[str, Any]) -> str:
    """What a recipe needs of TOML: values, arrays and inline tables."""
    return "".join(f"{json.dumps(name)} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
