"""Faithfulness tells attention that is right from attention that is useless."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import salience
from fake_reader import GOOD, HEAD, FakeReader, fake_bundle, rows

from models.faithful import compared, faithfulness, label_head, read_labelled, without
from models.tokens import Batch
from schemas.errors import UsageError


def measured(folder: Path, right: bool, count: int = 60, **options: Any) -> dict[str, Any]:
    bundle = fake_bundle(folder, mask=options.pop("mask", True))
    return faithfulness(bundle, rows(count), "sentiment", runner=FakeReader(right), **options)


@pytest.mark.parametrize("operator", ["deletion", "masking"])
def test_attention_on_the_word_that_decides_beats_random_words(tmp_path: Path, operator: str) -> None:
    found = measured(tmp_path, right=True)[operator]

    over = found["comprehensiveness"]["attention_over_random"]
    assert over["ratio"] > 2
    assert over["interval"][0] > 1
    assert found["comprehensiveness"]["attention"]["mean"] > 0.9
    assert found["sufficiency"]["attention"]["mean"] == pytest.approx(0.0, abs=1e-4)
    assert found["sufficiency"]["attention_over_random"]["difference_interval"][1] < 0


def test_useless_attention_is_about_as_good_as_random_words(tmp_path: Path) -> None:
    over = measured(tmp_path, right=False, count=400)["deletion"]["comprehensiveness"]["attention_over_random"]

    assert 0.75 < over["ratio"] < 1.25
    assert over["interval"][0] < 1 < over["interval"][1]


def test_rows_that_are_wrong_or_short_are_left_out(tmp_path: Path) -> None:
    given = [*rows(4), ("the a of and to in on", "positive"), ("good the a of", "positive")]
    found = faithfulness(fake_bundle(tmp_path), given, "sentiment", runner=FakeReader(True))

    assert (found["n"], found["wrong"], found["short"]) == (4, 1, 1)


def test_without_a_row_that_counts_nothing_is_claimed(tmp_path: Path) -> None:
    found = faithfulness(fake_bundle(tmp_path), [("good", "positive")], "sentiment", runner=FakeReader(True))

    assert found["n"] == 0
    assert "deletion" not in found


def test_a_base_without_a_mask_is_measured_by_deletion_alone(tmp_path: Path) -> None:
    found = measured(tmp_path, right=True, count=5, mask=False)

    assert found["masking"] is None
    assert found["deletion"]["comprehensiveness"]["attention"]["mean"] > 0.9


def test_what_was_cut_off_does_not_come_in_for_words_that_go(tmp_path: Path) -> None:
    bundle = fake_bundle(tmp_path, max_length=12)
    given = [(f"{text} {'good ' * 20}", label) for text, label in rows(5)]
    found = faithfulness(bundle, given, "sentiment", runner=FakeReader(True))

    assert found["deletion"]["comprehensiveness"]["attention"]["mean"] > 0.9


def test_a_second_way_of_weighing_stands_beside_attention(tmp_path: Path) -> None:
    def right(batch: Batch, _head: str, chosen: Any, _labels: Any, _relation: Any = None) -> Any:
        return (batch.input_ids[chosen] == GOOD).astype(np.float32)

    found = measured(tmp_path, right=False, relevance=right)["masking"]["comprehensiveness"]

    assert found["gradient_over_random"]["interval"][0] > 1
    assert found["gradient"]["mean"] > found["attention"]["mean"]


def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    one, two = (measured(tmp_path, right=True, count=12, limit=8, seed=4) for _ in range(2))

    assert one == two
    assert one["rows"] == 8


def test_a_ratio_to_words_that_move_nothing_is_not_claimed() -> None:
    found = compared({"attention": np.array([0.5, 0.25]), "random": np.zeros(2)})["attention_over_random"]

    assert found["ratio"] is None
    assert found["interval"] is None
    assert found["difference"] == 0.375


def test_a_deleted_word_leaves_its_neighbours_apart() -> None:
    assert without("Moody's cuts", [(0, 5), (5, 6), (6, 7), (8, 12)], frozenset({1})) == "Moody s cuts"


def test_a_head_that_labels_no_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no head 'entity' that labels texts; it has sentiment"):
        label_head(fake_bundle(tmp_path), "entity")


def test_labels_of_a_file_are_renamed_and_left_out_as_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "up", "label": "bullish"}\n{"text": "hm", "label": "oos"}\n')

    assert read_labelled(path, HEAD, {"bullish": "positive", "oos": "none"}) == [("up", "positive")]
    with pytest.raises(UsageError, match=r"line 1, has the label 'bullish'.*--label-map bullish=LABEL"):
        read_labelled(path, HEAD, {})


def test_a_label_map_that_maps_nothing_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.commands.explain._load", lambda _settings: fake_bundle(tmp_path))
    words = ("model", "faithfulness", "--data", "x.jsonl", "--label-map", "bullish")

    assert "--label-map 'bullish' is not of the form" in salience(*words, status=2).stderr
