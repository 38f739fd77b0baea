"""Training: splits, heads, calibration, and one whole run over a small base."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")
transformers = pytest.importorskip("transformers", reason="needs transformers: install salience[train]")

from models.bundle import TOKENIZER, HeadShape, find_bundle, load_bundle  # noqa: E402
from models.calibrate import fit_temperature  # noqa: E402 (needs torch)
from models.data import SOURCES, Source, identity, read_splits, split_of  # noqa: E402
from models.evaluate import by_label, figures  # noqa: E402
from models.fit import Recipe, States, fit, fit_best, label_weights, predict, shuffled  # noqa: E402
from models.runtime import load_scorer  # noqa: E402
from models.train import main, train  # noqa: E402
from schemas.errors import UsageError  # noqa: E402

pytestmark = pytest.mark.train
CPU = torch.device("cpu")
WIDTH = 16
SHAPE = HeadShape(layer=1, attention_width=8, classifier_width=16)
SOURCE = Source("set", "sentiment", ("negative", "positive"), "public/set", "MIT", {"bad": "negative"})


def write_rows(folder: Path, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "train.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)


def states(count: int, seed: int) -> tuple[States, list[int]]:
    """Texts of 3 to 8 tokens whose label is told by one token that stands out."""
    generator = torch.Generator().manual_seed(seed)
    tokens, labels = [], []
    for number in range(count):
        text = torch.randn(3 + number % 6, WIDTH, generator=generator) * 0.3
        text[1 + number % 2, number % 3] += 3.0
        tokens.append(text.half())
        labels.append(number % 3)
    words = [torch.tensor([0] + [1] * (len(text) - 2) + [0]) for text in tokens]
    return States(tokens, words), labels


def test_texts_that_differ_in_link_case_or_punctuation_are_one_and_stand_on_one_side(tmp_path: Path) -> None:
    rows = [(f"Stock {number} falls", "bad") for number in range(300)]
    again = [(f"STOCK {number}: falls! https://t.co/{number}", "positive") for number in range(300)]
    write_rows(tmp_path / "set", rows + again)
    splits = read_splits(tmp_path, SOURCE)
    texts = [text for side in splits.values() for text in side.texts]
    assert sorted(texts) == sorted(text for text, _ in rows)
    assert len({identity(text) for text in texts}) == 300
    assert all(label == 0 for side in splits.values() for label in side.labels)
    assert [len(splits[name].texts) > 10 for name in splits] == [True] * 4
    assert len(splits["train"].texts) > 150


def test_a_text_stands_on_the_same_side_whatever_the_set() -> None:
    assert split_of(identity("Crude FALLS https://t.co/a")) == split_of(identity("crude falls."))


def test_a_label_that_no_one_knows_and_a_broken_row_are_refused_with_their_line(tmp_path: Path) -> None:
    write_rows(tmp_path / "set", [("fine", "bad"), ("odd", "great")])
    with pytest.raises(UsageError, match=r"line 2, has the label 'great'"):
        read_splits(tmp_path, SOURCE)
    (tmp_path / "set" / "a.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(UsageError, match="line 1, is no row"):
        read_splits(tmp_path, SOURCE)
    with pytest.raises(UsageError, match="no JSONL file"):
        read_splits(tmp_path / "nowhere", SOURCE)


def test_a_head_learns_which_token_decides() -> None:
    fitted = fit(states(300, 0), states(90, 1), 3, Recipe(SHAPE, learning_rate=1e-2, batch_texts=16), CPU)
    assert fitted.validation_macro_f1 > 0.95
    test, labels = states(90, 2)
    logits = predict(fitted.head, test, CPU)
    assert (logits.argmax(dim=1) == torch.tensor(labels)).float().mean() > 0.95


def test_the_same_seed_gives_the_same_head() -> None:
    one, other = (fit(states(60, 0), states(30, 1), 3, Recipe(SHAPE, epochs=2, seed=5), CPU) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.head.parameters(), other.head.parameters(), strict=True))


def test_training_stops_when_validation_gets_no_better_and_keeps_the_best_epoch() -> None:
    noise, labels = states(60, 0)
    silent = Recipe(SHAPE, epochs=50, patience=2, learning_rate=1e-9)
    fitted = fit((noise, labels), states(30, 1), 3, silent, CPU)
    assert fitted.epoch == 1


def test_the_recipe_that_does_best_on_validation_is_kept() -> None:
    idle, able = Recipe(SHAPE, learning_rate=1e-9, epochs=1), Recipe(SHAPE, learning_rate=1e-2, epochs=4)
    assert fit_best(states(300, 0), states(90, 1), 3, [idle, able], CPU).recipe == able


def test_rare_labels_weigh_more_by_the_power_asked_for() -> None:
    assert label_weights([0, 0, 0, 1], 2, 0.0).tolist() == [1.0, 1.0]
    assert label_weights([0, 0, 0, 1], 2, 1.0).tolist() == pytest.approx([2 / 3, 2.0])


def test_shuffling_gives_every_text_once() -> None:
    some, _ = states(50, 0)
    assert sorted(position for batch in shuffled(some, 8) for position in batch) == list(range(50))


def test_the_temperature_of_logits_that_are_too_sure_is_found() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4_000, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = [int(generator.choice(3, p=row)) for row in chances]
    assert fit_temperature(torch.from_numpy(logits * 2.5).float(), labels) == pytest.approx(2.5, rel=0.1)


def test_figures_are_those_of_the_field() -> None:
    found = figures([0, 0, 0, 1], np.array([0, 0, 1, 1]))
    assert found == {"macro_f1": 0.7333, "accuracy": 0.75, "weighted_f1": 0.7667}
    assert by_label(["no", "yes", "never"], [0, 0, 0, 1], np.array([0, 0, 1, 1])) == {
        "no": {"f1": 0.8, "texts": 3},
        "yes": {"f1": 0.6667, "texts": 1},
    }


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights, small enough to export in seconds."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained(folder)
    (folder / TOKENIZER).write_bytes((find_bundle("") / TOKENIZER).read_bytes())
    return folder


def labelled(folder: Path) -> Path:
    """A few rows for each source, whose label is spelled in the text."""
    for source in SOURCES:
        names = {new: old for old, new in source.renamed.items()}
        rows = [
            (f"{label} {number} {label}", names.get(label, label))
            for number in range(150 if len(source.labels) == 3 else 40)
            for label in source.labels
        ]
        write_rows(folder / source.folder, rows)
    return folder


def test_a_run_writes_a_bundle_that_scores_with_its_figures_and_card(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "bundle"
    arguments = [
        "--data",
        str(labelled(tmp_path)),
        "--out",
        str(out),
        "--base",
        str(small_base),
        "--name",
        "small",
    ]
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    assert main() == 0
    assert "sentiment: macro-F1" in capsys.readouterr().out
    bundle = load_bundle(str(out))
    assert bundle.identity.startswith("small@")
    (score,) = load_scorer(str(out), threads=1).score(["positive 7 positive"], "news")
    assert set(score.heads) == {"sentiment", "topic"}
    assert len(score.embedding) == 32
    card = (out / "README.md").read_text()
    assert "zeroshot/twitter-financial-news-topic" in card and "| sentiment | this, int8 |" in card
    assert [entry.name for entry in out.parent.iterdir()] == ["bundle"]


def test_a_wrong_data_folder_is_told_in_a_sentence(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["train", "--data", str(tmp_path), "--out", str(tmp_path / "b"), "--base", str(small_base)]
    )
    assert main() == 2
    assert capsys.readouterr().err.startswith("There is no JSONL file")


def test_a_run_never_writes_over_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        train(tmp_path, tmp_path)
