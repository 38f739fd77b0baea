"""salience runs: what back-fills there were, and from which live tick on they count."""

import sqlite3
from contextlib import closing
from pathlib import Path

import commandline
import pytest
from commandline import answer, events_file, salience


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = commandline.workplace(tmp_path, monkeypatch)
    salience("db", "upgrade")
    return folder


def test_a_back_fill_is_a_run_that_can_be_attached(workplace: Path) -> None:
    salience("backfill", events_file(workplace), "--stream", "news", "--run", "may")
    (run,) = answer("runs", "list")["runs"]
    assert (run["run"], run["stream"], run["attached_tick"]) == ("may", "news", None)
    assert run["finished"] is not None
    assert run["events"] > 0
    attached = answer("runs", "attach", "may")
    (run,) = answer("runs", "list")["runs"]
    assert run["attached_tick"] == attached["attached_tick"]
    assert "may" in salience("runs", "list").stdout


def test_a_run_that_is_not_there_is_named(workplace: Path) -> None:
    said = salience("runs", "attach", "june", status=2).stderr
    assert "no run june" in said
    assert "runs list" in said


def test_all_events_of_a_back_fill_are_visible_to_its_own_time_at_its_end(workplace: Path) -> None:
    salience("backfill", events_file(workplace), "--stream", "news", "--run", "may")
    with closing(sqlite3.connect(workplace / "salience.db")) as database:
        closed = database.execute("SELECT closed_tick FROM watermarks WHERE run = 'may'").fetchone()[0]
        last = database.execute("SELECT max(visible_tick) FROM events WHERE run = 'may'").fetchone()[0]
    assert closed == last
