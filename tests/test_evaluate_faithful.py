"""salience model evaluate --faithfulness: the figures come with those of the same rows."""

from pathlib import Path

import pytest
from commandline import answer, salience, workplace

pytest.importorskip("torch", reason="needs torch: install salience[train]")
pytest.importorskip("transformers", reason="needs transformers: install salience[train]")

from tiny_bundle import write_rows

pytestmark = pytest.mark.train


def rows(folder: Path) -> str:
    texts = [
        f"{firm} {verb} in June after long talks" for firm in ("Acme", "Zenith") for verb in ("rises", "falls")
    ]
    return str(write_rows(folder / "rows.jsonl", [{"text": text, "label": "good"} for text in texts]))


def test_faithfulness_is_measured_on_the_rows_of_the_evaluation(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--bundle", str(tiny), "--task", "sentiment", "--data", rows(workplace(tmp_path, monkeypatch)))

    found = answer("model", "evaluate", *asked, "--label-map", "good=positive", "--faithfulness")

    assert found["n"] == found["faithfulness"]["rows"] == 4


def test_a_head_that_labels_no_texts_has_none(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workplace(tmp_path, monkeypatch)
    data = write_rows(folder / "rows.jsonl", [{"text": "Acme rises", "entities": {"Acme": "positive"}}])
    asked = ("--bundle", str(tiny), "--task", "entity_sentiment", "--data", str(data), "--faithfulness")

    result = salience("model", "evaluate", *asked, status=2)

    assert "has no head 'entity_sentiment' that labels texts" in result.output
