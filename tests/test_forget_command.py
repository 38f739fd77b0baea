"""salience forget tells what it did and never whom it was told to forget."""

import json
from pathlib import Path

import pytest
from ann import LATER
from commandline import answer, salience, workplace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    workplace(tmp_path, monkeypatch)
    salience("db", "upgrade")
    body = {"source": "shop", "time": LATER, "item": "i1", "action": "click"}
    lines = [json.dumps(body | {"id": f"b{index}", "user": "Xylophonia"}) for index in range(3)]
    (tmp_path / "clicks.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_the_command_tells_the_counts_of_each_kind_and_never_the_name(folder: Path) -> None:
    salience("backfill", "clicks.jsonl", "--stream", "behavior")

    result = salience("forget", "Xylophonia")

    assert "3 events" in result.stdout
    assert "1 tombstones" in result.stdout
    assert "Xylophonia" not in result.output


def test_the_command_answers_as_json(folder: Path) -> None:
    salience("backfill", "clicks.jsonl", "--stream", "behavior")

    first, second = answer("forget", "Xylophonia"), answer("forget", "Xylophonia")

    assert first == {
        "events": 3, "conversations": 0, "alerts": 0, "messages": 0, "tombstones": 1, "dead_letters": 0
    }  # fmt: skip
    assert set(second.values()) == {0}


def test_the_command_says_when_nothing_is_stored_of_a_person(folder: Path) -> None:
    shown = salience("forget", "Xylophonia").stdout

    assert "no event of them is stored" in shown
    assert "remembered" in shown
    assert "Xylophonia" not in shown
    salience("backfill", "clicks.jsonl", "--stream", "behavior")
    assert answer("forget", "Xylophonia")["events"] == 0


def test_the_command_refuses_an_empty_name(folder: Path) -> None:
    assert "the subject is empty" in salience("forget", "", status=2).stderr
