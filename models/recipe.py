"""A recipe: which heads a bundle has, what they learn from, and how; TOML, checked before hours are spent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from models.base import PACKAGED_BASE
from schemas.errors import UsageError
from schemas.labels import STREAMS

Kind = Literal["label", "entity", "span", "embedding"]
Tuning = Literal["frozen", "lora", "full"]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0)]
Count = Annotated[int, Meta(ge=1)]

PACKAGED_RECIPES = Path(__file__).parent / "recipes"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class HeadRecipe(_Part, frozen=True):
    """One head.

    `label` pools a text and names one of `labels`; `entity` finds spans of the types `labels`; `span` pools a text
    for each span that the head `spans` found and names one of `labels`; `embedding` is the sentence vector, held
    to that of the untouched base. `layer` is the encoder layer that is read, 0 for the last one. `precision` is
    what a kept answer must reach on calibration texts, below it the head says `unsure`; 0 for an answer always.
    `none` = nearest asks a bank of training texts whether anything like this text was ever seen. `ngrams` adds,
    once training is over, a linear model of the text's tokens (1), or of pairs of neighbours too (2), to the
    logits of a head of kind label.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    spans: str = ""
    layer: Annotated[int, Meta(ge=0)] = 0
    attention_width: Count = 128
    classifier_width: Annotated[int, Meta(ge=0)] = 0
    weight: Positive = 1.0
    class_weight: Share = 0.0
    precision: Share = 0.0
    none: Literal["", "nearest"] = ""
    ngrams: Literal[0, 1, 2] = 0

    @property
    def ngram_rows(self) -> int:
        """None yet: they are found once training is over."""
        return 0


class DataRecipe(_Part, frozen=True):
    """One file of rows and the heads that learn from it, by the names of its columns.

    `rename` maps labels of the file to labels of the head, "" to leave such rows out. Entities come as `tokens`
    with `tags` (BIO), as spans with start, end and label, or as name to label; where the labels are sentiments,
    `entity_type` is the type of all of them. `annotated` are the types that the file marks; of the others it is
    unknown whether a word is one. A row with `where` = {column: [values]} is taken only if it matches.
    """

    path: str
    heads: tuple[str, ...]
    text: str = "text"
    label: str = "label"
    entities: str = "entities"
    tokens: str = "tokens"
    tags: str = "tags"
    rename: Mapping[str, str] = {}
    entity_type: str = ""
    annotated: tuple[str, ...] = ()
    where: Mapping[str, tuple[str | int, ...]] = {}
    name: str = ""
    licence: str = ""
    attribution: str = ""


class Encoder(_Part, frozen=True):
    """How the encoder under the heads is trained: not at all, by low-rank adapters (Hu et al. 2022), or in full.

    The bottom `frozen_layers` layers and the word embeddings stay as they are. Training begins with the base's
    weights or, by `start`, with those of a bundle over the same base, which another task has taught (Phang et al.
    2018): "packaged", or a bundle's folder. That needs tuning in full, for adapters say how a base was changed.
    """

    tuning: Tuning = "lora"
    frozen_layers: Annotated[int, Meta(ge=0)] = 0
    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    start: str = ""


class Training(_Part, frozen=True):
    """AdamW (Loshchilov and Hutter 2019) with a linear warm-up and decay; batches are cut by padded tokens.

    `mixing` is the power of a file's rows by which it is drawn: 1 as they are, 0.5 by the root. `patience`
    counts epochs without a better mean of the heads' validation figures. `refit_epochs` more train the heads
    alone, over the encoder as it is then, and are kept only if validation gets better. Above 0, `r_drop` reads
    each batch twice and weighs how far the answers of a head of kind label differ between two draws of dropout
    (R-Drop, Liang et al. 2021, whose alpha it is; the loss is divided by 2 here).
    """

    epochs: Count = 4
    patience: Count = 2
    batch_tokens: Count = 1024
    learning_rate: Positive = 5e-4
    head_learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Meta(ge=0.0)] = 0.01
    warm_up: Share = 0.1
    dropout: Share = 0.1
    label_smoothing: Share = 0.0
    r_drop: Annotated[float, Meta(ge=0.0)] = 0.0
    mixing: Share = 0.5
    clip: Positive = 1.0
    refit_epochs: Annotated[int, Meta(ge=0)] = 0
    seed: int = 0


class Pretraining(_Part, frozen=True):
    """A self-supervised stage before the heads, on texts without labels.

    `contrastive` tells two readings of a text under dropout from other texts (SimCSE, Gao et al. 2021);
    `mlm` guesses masked words (Devlin et al. 2019), where the base brings the head for it.
    """

    method: Literal["contrastive", "mlm"]
    paths: tuple[str, ...]
    text: str = "text"
    texts: Count = 20_000
    batch_texts: Count = 64
    learning_rate: Positive = 1e-4
    temperature: Positive = 0.05
    dropout: Share = 0.1
    masked: Share = 0.15


class Splits(_Part, frozen=True):
    """Percent of the texts, by a hash of the normalised text: what is left of 100 is the test split.

    With `folds` the test split is the fold numbered `fold`, and what is left of 100 percent of the others trains.
    """

    train: Annotated[int, Meta(ge=1, le=100)] = 80
    validation: Annotated[int, Meta(ge=1, le=50)] = 6
    calibration: Annotated[int, Meta(ge=0, le=50)] = 6
    folds: Annotated[int, Meta(ge=0, le=100)] = 0
    fold: Annotated[int, Meta(ge=0)] = 0


class Published(_Part, frozen=True):
    """Figures that others give, as they give them; `name` says of what, and by whom."""

    name: str
    accuracy: float | None = None
    macro_f1: float | None = None
    weighted_f1: float | None = None
    entity_f1: float | None = None
    auroc_none: float | None = None


class Benchmark(_Part, frozen=True):
    """What of a recipe is a row of the table of benchmarks.

    It is run once for each of `folds` or `seeds`, and figures are means over these. `unseen` labels of the head
    are drawn by the seed and held out: their texts are none of the labels. `test` is a file of its own, of the
    columns of the first data; without it the test split is.
    """

    title: str
    head: str
    metrics: tuple[str, ...]
    folds: Annotated[int, Meta(ge=0)] = 0
    seeds: Annotated[int, Meta(ge=0)] = 0
    unseen: Annotated[int, Meta(ge=0)] = 0
    test: str = ""
    note: str = ""
    published: tuple[Published, ...] = ()


class Recipe(_Part, frozen=True):
    """All that decides what is trained, besides the data themselves; `limits` are sentences for the card."""

    name: str
    heads: tuple[HeadRecipe, ...]
    data: tuple[DataRecipe, ...]
    base: str = PACKAGED_BASE
    max_length: Annotated[int, Meta(ge=8, le=512)] = 128
    languages: tuple[str, ...] = ("en",)
    ships: bool = False
    limits: tuple[str, ...] = ()
    encoder: Encoder = Encoder()
    training: Training = Training()
    splits: Splits = Splits()
    pretraining: Pretraining | None = None
    benchmark: Benchmark | None = None

    def head(self, name: str) -> HeadRecipe:
        return next(head for head in self.heads if head.name == name)


def find_recipe(recipe: str) -> Path:
    """A recipe's file: a path, or the name of one that comes with Salience.

    Raises:
        UsageError: there is neither.
    """
    packaged = {path.stem: path for path in sorted(PACKAGED_RECIPES.rglob("*.toml"))}
    if Path(recipe).is_file():
        return Path(recipe)
    if recipe in packaged:
        return packaged[recipe]
    known = ", ".join(packaged)
    raise UsageError(f"There is no recipe {recipe}; give a TOML file, or one of those that come along: {known}.")


def load_recipe(recipe: str) -> Recipe:
    """Read and check a recipe.

    Raises:
        UsageError: what is wrong with which field, and what is allowed.
    """
    path = find_recipe(recipe)
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no recipe: {error}; mend it there.") from None
    problem = _problem(found)
    if problem:
        raise UsageError(f"{path}: {problem}")
    return found


def _problem(recipe: Recipe) -> str:
    """The first thing that cannot be, as a sentence; empty when all is well."""
    kinds = {head.name: head.kind for head in recipe.heads}
    if not recipe.heads or not recipe.data:
        return "a recipe needs at least one head and one file of data."
    if len(kinds) != len(recipe.heads):
        return "two heads have the same name; a head's name is its identity."
    if recipe.encoder.start and recipe.encoder.tuning != "full":
        return f"encoder: start needs tuning = full, and it is {recipe.encoder.tuning}."
    if recipe.encoder.start and recipe.ships:
        return "encoder: a bundle that ships starts from the base, whose licence is known; leave start out."
    if recipe.training.r_drop and not (recipe.training.dropout or recipe.encoder.dropout):
        return "training: r_drop compares two draws of dropout, and both dropouts are 0; give one of them."
    splits = recipe.splits
    if splits.train + splits.validation + splits.calibration > 100:
        return "splits: train, validation and calibration are more than 100 percent together."
    for head in recipe.heads:
        if problem := _head_problem(head, kinds):
            return f"heads, {head.name}: {problem}"
    for data in recipe.data:
        if problem := _data_problem(data, recipe, kinds):
            return f"data, {data.path}: {problem}"
    taught = {name for data in recipe.data for name in data.heads}
    idle = [name for name, kind in kinds.items() if name not in taught and kind != "embedding"]
    if idle:
        return f"the head {idle[0]} has no data; name it in the heads of a file, or take it out."
    return ""


def _head_problem(head: HeadRecipe, kinds: Mapping[str, str]) -> str:
    if not head.name.isidentifier():
        return "a name is letters, digits and underscores."
    unknown = [stream for stream in head.streams if stream not in STREAMS]
    if unknown:
        return f"there is no stream {unknown[0]}; there are {', '.join(STREAMS)}."
    if (head.kind == "embedding") == bool(head.labels):
        return "an embedding has no labels." if head.labels else f"a head of kind {head.kind} needs labels."
    if len(set(head.labels)) != len(head.labels):
        return "a label stands there twice."
    if head.ngrams and head.kind != "label":
        return f"ngrams is for heads of kind label, and this one is of kind {head.kind}."
    if head.kind == "span" and kinds.get(head.spans) != "entity":
        return f"spans names {head.spans!r}, which is no head of kind entity."
    if head.none and "embedding" not in kinds.values():
        return "none = nearest compares sentence vectors, and the recipe has no head of kind embedding."
    return ""


def _data_problem(data: DataRecipe, recipe: Recipe, kinds: Mapping[str, str]) -> str:
    missing = [name for name in data.heads if name not in kinds]
    if missing:
        return f"it names the head {missing[0]}, and the recipe has {', '.join(kinds)}."
    if recipe.ships and not data.licence:
        return "a bundle that ships needs the licence of each file."
    for name in data.heads:
        head = recipe.head(name)
        types = [data.entity_type, *data.annotated] if head.kind == "entity" else []
        unknown = [label for label in types if label and label not in head.labels]
        if head.kind == "label":
            unknown = [label for label in data.rename.values() if label and label not in head.labels]
        if unknown:
            return f"{unknown[0]!r} is no label of {name}; it has {', '.join(head.labels)}."
    return ""
