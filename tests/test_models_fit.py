"""The training loop: seeds, checkpoints, early stopping, and what stops it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("peft", reason="needs peft: install salience[train]")

from training import Bench  # noqa: E402 (needs torch)

from models import fit as fitting  # noqa: E402
from models.corpus import gather  # noqa: E402
from models.fit import CHECKPOINT, LOG, Progress, Report, fit, label_counts  # noqa: E402
from models.losses import disagreement  # noqa: E402
from models.network import Network  # noqa: E402
from models.recipe import Recipe  # noqa: E402
from models.tune import learning  # noqa: E402
from schemas.errors import TrainingError  # noqa: E402

pytestmark = pytest.mark.train
SHORT = {"epochs": 2, "batch_tokens": 256}


class StoppedError(Exception):
    """What a kill is in these tests."""


@pytest.fixture(scope="module")
def bench(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(random_base, tmp_path_factory.mktemp("fit"), **SHORT)


def run(
    bench: Bench, folder: Path, report: Report = lambda *_: None, recipe: Recipe | None = None, seed: int = 0
) -> tuple[Network, Progress]:
    network = bench.network(seed)
    train, validation = bench.splits["train"], bench.splits["validation"]
    return network, fit(network, recipe or bench.recipe, train, validation, bench.tokenizer, folder, report)


def same(one: Network, other: Network) -> bool:
    others = dict(other.named_parameters())
    return all(torch.equal(weight, others[name]) for name, weight in one.named_parameters())


def stop_at(epoch: int, batch: int) -> Report:
    def report(_line: str, progress: Progress, done: int, _of: int) -> None:
        if (progress.epoch, done) == (epoch, batch):
            raise StoppedError

    return report


def test_the_same_seed_gives_the_same_weights(bench: Bench, tmp_path: Path) -> None:
    assert same(run(bench, tmp_path / "a")[0], run(bench, tmp_path / "b")[0])


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_that_was_killed_goes_on_to_the_weights_of_one_that_was_not(
    bench: Bench, tmp_path: Path, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(bench, tmp_path / "whole")
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(fitting, "LOG_BATCHES", 2)
    with pytest.raises(StoppedError):
        run(bench, tmp_path / "killed", stop_at(epoch, 4))
    # A new process begins with other weights and another state of the dice.
    again, progress = run(bench, tmp_path / "killed", seed=9)

    assert progress.epoch == 2
    assert same(again, whole)


def test_a_kill_while_the_checkpoint_is_written_leaves_the_old_one(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(fitting, "LOG_BATCHES", 2)
    with pytest.raises(StoppedError):
        run(bench, tmp_path, stop_at(0, 4))
    before = (tmp_path / CHECKPOINT).read_bytes()

    def half(_state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise StoppedError

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(StoppedError):
        run(bench, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_the_checkpoint_of_a_run_on_other_texts_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(bench, tmp_path, lambda line, *_: _stop(line))
    first = bench.splits["train"].texts[0]
    bench.splits["train"].texts[0] = "another text"
    try:
        with pytest.raises(TrainingError, match="a run on other texts; give back the data that made it"):
            run(bench, tmp_path)
    finally:
        bench.splits["train"].texts[0] = first


def test_the_checkpoint_of_another_recipe_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(bench, tmp_path, lambda line, *_: _stop(line))
    other = msgspec.structs.replace(bench.recipe.training, learning_rate=0.5)
    with pytest.raises(TrainingError, match="checkpoint of another recipe, or of another release; give back what"):
        run(bench, tmp_path, recipe=msgspec.structs.replace(bench.recipe, training=other))


def _stop(line: str) -> None:
    if line.startswith("validation"):
        raise StoppedError


def test_what_training_does_not_ask_about_may_change_between_two_calls(bench: Bench) -> None:
    heads = tuple(msgspec.structs.replace(head, precision=0.5, streams=()) for head in bench.recipe.heads)
    other = msgspec.structs.replace(bench.recipe, heads=heads, limits=("none",))

    assert fitting.fingerprint(other) == fitting.fingerprint(bench.recipe)
    assert fitting.fingerprint(msgspec.structs.replace(other, name="x")) != fitting.fingerprint(bench.recipe)


def test_a_loss_that_is_no_number_stops_with_a_sentence_before_a_weight_is_spoilt(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_number(*_: Any) -> Any:
        return lambda *_: {"sentiment": torch.tensor(float("nan"), requires_grad=True)}

    monkeypatch.setattr(fitting, "Losses", no_number)
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1, is not a number; lower learning_rate \(0\.001\)"):
        run(bench, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_training_stops_when_nothing_gets_better_and_keeps_the_best_epoch(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.5, 0.9, 0.4, 0.3, 0.2])
    monkeypatch.setattr(fitting, "headline", lambda *_: {"sentiment": next(figures)})
    training = msgspec.structs.replace(bench.recipe.training, epochs=5, patience=2)
    kept: dict[int, dict[str, Any]] = {}
    network = bench.network()

    def keep(line: str, progress: Progress, *_: int) -> None:
        if line.startswith("validation"):
            kept[progress.epoch] = {name: weight.detach().clone() for name, weight in learning(network).items()}

    asked = msgspec.structs.replace(bench.recipe, training=training)
    train, validation = bench.splits["train"], bench.splits["validation"]
    progress = fit(network, asked, train, validation, bench.tokenizer, tmp_path, keep)

    assert (progress.epoch, progress.best_epoch) == (4, 2)
    assert all(torch.equal(weight, kept[2][name]) for name, weight in learning(network).items())


def test_the_log_has_losses_and_validation_as_json_lines(bench: Bench, tmp_path: Path) -> None:
    run(bench, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]

    assert [line["epoch"] for line in lines if "validation" in line] == [1, 2]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert set(losses[0]) == {head.name for head in bench.recipe.heads}


def test_readings_under_dropout_come_to_agree_where_the_recipe_asks_for_it(bench: Bench, tmp_path: Path) -> None:
    def differ(r_drop: float) -> float:
        training = msgspec.structs.replace(bench.recipe.training, r_drop=r_drop, dropout=0.5)
        asked = msgspec.structs.replace(bench.recipe, training=training)
        network = Network(bench.network().encoder, asked.heads, 0.5)
        train, validation = bench.splits["train"], bench.splits["validation"]
        fit(network, asked, train, validation, bench.tokenizer, tmp_path / str(r_drop))
        network.train()
        _, inputs = gather(train, list(range(64)), bench.tokenizer, torch.device("cpu"))
        place = network.output_names().index("sentiment.logits")
        with torch.inference_mode():
            one, other = (network(*inputs)[place] for _ in range(2))
        return float(disagreement(one, other))

    assert differ(200.0) < 0.75 * differ(0.0)


def test_what_stays_frozen_is_the_same_after_training(bench: Bench, tmp_path: Path) -> None:
    network = bench.network()
    frozen = {name: weight.clone() for name, weight in network.named_parameters() if not weight.requires_grad}
    fit(network, bench.recipe, bench.splits["train"], bench.splits["validation"], bench.tokenizer, tmp_path)

    assert frozen
    assert all(torch.equal(weight, dict(network.named_parameters())[name]) for name, weight in frozen.items())


def test_labels_are_counted_by_head_for_texts_and_for_spans(bench: Bench) -> None:
    counts = label_counts(bench.splits["train"], bench.recipe)

    assert set(counts) == {"sentiment", "intent", "entity_sentiment"}
    assert sum(counts["sentiment"]) == bench.splits["train"].files[0]
    negative, neutral, positive = counts["entity_sentiment"]
    assert (negative, neutral, positive) == (bench.splits["train"].files[2], 0, bench.splits["train"].files[2])
