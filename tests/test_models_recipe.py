"""A recipe is read and checked before anything is trained, and says in a sentence what is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import RECIPE, to_toml

from models.recipe import find_recipe, load_recipe
from schemas.errors import UsageError

Change = Callable[[dict[str, Any]], None]


def written(folder: Path, change: Change = lambda _: None) -> str:
    """The tiny recipe as a file, changed."""
    recipe: dict[str, Any] = {**RECIPE, "base": "somewhere"}
    recipe |= {name: [dict(each) for each in RECIPE[name]] for name in ("heads", "data")}
    change(recipe)
    path = folder / "r.toml"
    path.write_text(to_toml(recipe))
    return str(path)


def head(number: int, **fields: Any) -> Change:
    return lambda recipe: recipe["heads"][number].update(fields)


def file(number: int, **fields: Any) -> Change:
    return lambda recipe: recipe["data"][number].update(fields)


def part(**fields: Any) -> Change:
    return lambda recipe: recipe.update(fields)


def test_a_recipe_is_read_with_what_it_leaves_out(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))

    assert [each.kind for each in recipe.heads] == ["label", "label", "entity", "span", "embedding"]
    assert recipe.head("intent").none == "nearest"
    assert (recipe.max_length, recipe.languages, recipe.training.seed) == (128, ("en",), 0)


def test_the_recipe_of_the_packaged_bundle_comes_along() -> None:
    recipe = load_recipe("market-minilm")

    assert recipe.ships
    assert all(data.licence for data in recipe.data)


def test_sentiment_of_the_market_is_not_offered_to_chat() -> None:
    recipe = load_recipe("market-minilm")

    assert "chat" not in recipe.head("sentiment").streams
    assert "chat" not in recipe.head("entity_sentiment").streams


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            file(0, heads=["mood"]),
            r"data, sentiment\.jsonl: it names the head mood, and the recipe has sentiment, ",
        ),
        (file(0, rename={"bad": "grim"}), r"'grim' is no label of sentiment; it has negative, neutral, positive"),
        (file(2, entity_type="firm"), "'firm' is no label of entity; it has company, day"),
        (file(2, annotated=["firm"]), "'firm' is no label of entity"),
        (head(1, name="sentiment"), "two heads have the same name"),
        (
            head(3, spans="sentiment"),
            "heads, entity_sentiment: spans names 'sentiment', which is no head of kind e",
        ),
        (head(3, spans="nowhere"), "spans names 'nowhere', which is no head of kind entity"),
        (head(0, labels=[]), "heads, sentiment: a head of kind label needs labels"),
        (head(0, labels=["a", "a"]), "a label stands there twice"),
        (head(4, labels=["a"]), "an embedding has no labels"),
        (head(0, streams=["mail"]), "there is no stream mail; there are news, chat, behavior"),
        (head(0, name="the mood"), "a name is letters, digits and underscores"),
        (head(2, ngrams=1), "heads, entity: ngrams is for heads of kind label, and this one is of kind entity"),
        (head(0, ngrams=3), "Invalid enum value 3"),
        (head(0, kind="topic"), "Invalid enum value 'topic'"),
        (head(0, colour="red"), r"unknown field `colour`.*heads"),
        (part(colour="red"), "unknown field `colour`"),
        (part(training={"epoch": 3}), r"unknown field `epoch`.*training"),
        (part(training={"epochs": 0}), r">= 1.*training\.epochs"),
        (part(training={"learning_rate": -1.0}), r"> 0\.0.*training\.learning_rate"),
        (part(training={"r_drop": -1.0}), r">= 0\.0.*training\.r_drop"),
        (part(training={"r_drop": 1.0, "dropout": 0.0}), "r_drop compares two draws of dropout, and both"),
        (part(splits={"train": 90, "validation": 10, "calibration": 10}), "more than 100 percent together"),
        (part(encoder={"start": "packaged"}), "encoder: start needs tuning = full, and it is lora"),
        (
            part(encoder={"start": "packaged", "tuning": "full"}, ships=True),
            "encoder: a bundle that ships starts from the base",
        ),
        (part(heads=[]), "at least one head"),
        (part(data=[]), "at least one head and one file of data"),
        (lambda recipe: recipe["data"].pop(1), "the head intent has no data"),
        (lambda recipe: recipe["heads"].pop(4), "none = nearest compares sentence vectors"),
        (part(ships=True), "a bundle that ships needs the licence of each file"),
        (lambda recipe: recipe.pop("name"), "missing required field `name`"),
    ],
)
def test_what_cannot_be_is_told_with_its_place(tmp_path: Path, change: Change, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        load_recipe(written(tmp_path, change))
    assert "r.toml" in str(caught.value)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("name = ")
    with pytest.raises(UsageError, match=r"r\.toml is no recipe"):
        load_recipe(str(tmp_path / "r.toml"))


def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe nowhere; give a TOML file.*market-minilm"):
        find_recipe("nowhere")
