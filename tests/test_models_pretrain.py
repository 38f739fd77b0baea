"""The self-supervised stage: what it reads, that it learns, and which base it refuses."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("transformers", reason="needs transformers: install salience[train]")

from tiny_bundle import write_rows  # noqa: E402 (needs torch)

from models.base import load_encoder  # noqa: E402
from models.pretrain import PRETRAINED, pretrain, read_texts  # noqa: E402
from models.recipe import Encoder, Pretraining  # noqa: E402
from models.tokens import TextTokenizer  # noqa: E402
from models.tune import learning, prepare  # noqa: E402
from schemas.errors import UsageError  # noqa: E402

pytestmark = pytest.mark.train
OPTIONS = Pretraining(method="contrastive", paths=("texts.jsonl",), batch_texts=16, learning_rate=5e-3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"text": f"{name} {verb} on day {day}"} for name in "abcdefgh" for verb in ("up", "off") for day in "12345"
    ]
    write_rows(tmp_path / "texts.jsonl", [*rows, *rows])
    return tmp_path


def trained(base: Path, data: Path, options: Pretraining) -> tuple[dict[str, float], dict[str, "torch.Tensor"]]:
    encoder, _ = prepare(load_encoder(base), Encoder(tuning="full"))
    figures = pretrain(encoder, base, options, data, TextTokenizer(base / "tokenizer.json", 32), data, 0)
    return figures, {name: weight.detach().clone() for name, weight in learning(encoder).items()}


def test_each_text_is_read_once_and_no_more_than_asked_for(data: Path) -> None:
    assert len(read_texts(data, OPTIONS, 0)) == 80
    assert len(set(read_texts(data, Pretraining(method="contrastive", paths=("texts.jsonl",), texts=7), 0))) == 7


def test_the_contrastive_loss_falls(random_base: Path, data: Path) -> None:
    figures, _ = trained(random_base, data, OPTIONS)

    assert figures["texts"] == 80
    assert figures["last_loss"] < figures["first_loss"]


def test_what_came_of_it_is_taken_from_the_folder_the_next_time(random_base: Path, data: Path) -> None:
    figures, weights = trained(random_base, data, OPTIONS)
    assert (data / PRETRAINED).is_file()
    (data / "texts.jsonl").unlink()

    again, same = trained(random_base, data, OPTIONS)

    assert again == figures
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_files_without_a_text_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "texts.jsonl", [{"text": " "}])

    with pytest.raises(UsageError, match="the files have no text"):
        read_texts(tmp_path, OPTIONS, 0)


def test_a_base_without_a_head_for_masked_words_is_refused(random_base: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="brings no head that guesses masked words"):
        trained(random_base, data, Pretraining(method="mlm", paths=("texts.jsonl",)))


def test_masked_words_are_learned_where_the_base_brings_the_head(random_base: Path, data: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(random_base)
    folder = data / "masked"
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((random_base / "tokenizer.json").read_bytes())

    figures, _ = trained(folder, data, Pretraining(method="mlm", paths=("texts.jsonl",), learning_rate=5e-3))

    assert figures["last_loss"] < figures["first_loss"]
