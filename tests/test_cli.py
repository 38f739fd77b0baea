"""Every command says what it does, what went wrong and how to mend it; exit status 0, 1 or 2."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from commandline import answer, events_file, salience, workplace
from typer.testing import CliRunner

from pipeline import child
from pipeline.commands import output
from pipeline.commands.app import app


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return workplace(tmp_path, monkeypatch)


@pytest.fixture
def events(folder: Path) -> str:
    return events_file(folder)


def commands() -> Iterator[tuple[str, Any]]:
    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None or (name and command.invoke_without_command):
            yield name, command
        for word, each in (inner or {}).items():
            yield from walk(each, f"{name} {word}".strip())

    yield from walk(typer.main.get_command(app), "")


# What every command has


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_command_has_help_with_an_example_and_an_option_for_json(name: str, command: Any) -> None:
    shown = salience(*name.split(), "--help").stdout

    assert "Example: " in shown
    assert f"salience {name}" in shown.partition("Example: ")[2]
    assert "--json" in shown


def test_the_commands_of_the_contract_are_there() -> None:
    assert {name for name, _ in commands()} >= {
        *("worker", "send", "backfill", "score", "config", "doctor", "demo", "bench", "forget"),
        *("topics create", "topics list", "dlq list", "dlq show", "dlq replay"),
        *("db upgrade", "db prune", "rules check", "rules backtest", "bench surge", "model info", "model export"),
        *("model compare", "model promote", "model rollback", "model history"),
        *("model explain", "model faithfulness", "model behaviour"),
        *("model evaluate", "model train", "model benchmark"),
        *("alerts list", "alerts show", "alerts ack", "alerts silence", "alerts resolve", "alerts rebuild"),
    }


def test_without_a_command_the_help_is_shown() -> None:
    assert "backfill" in CliRunner().invoke(app, []).output


# Bad usage: exit status 2 and a sentence


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["backfill", "events.jsonl", "--stream", "mail"],
            "'mail' is no stream; choose one of news, chat, behavior",
        ),
        (["send", "events.jsonl", "--stream", "mail"], "'mail' is no stream; choose one of news, chat, behavior"),
        (["score", "text", "--stream", "mail"], "'mail' is no stream; choose one of news, chat, behavior"),
        (["backfill", "nowhere.jsonl", "--stream", "news"], "the file nowhere.jsonl cannot be read: No such file"),
        (["send", "nowhere.jsonl", "--stream", "news"], "the file nowhere.jsonl cannot be read: No such file"),
        (["backfill", ".", "--stream", "news"], "the file . cannot be read: Is a directory"),
        (["backfill", "events.jsonl", "--stream", "news", "--step", "1"], "--step needs --start"),
        (["send", "events.jsonl", "--stream", "news", "--step", "1"], "--step needs --start"),
        (["backfill", "events.jsonl", "--stream", "news", "--map", "text"], "--map 'text' is not of the form"),
        (["backfill", "events.jsonl", "--stream", "news"], "has no tables of ours, this release needs"),
        (["dlq", "list"], "run `salience db upgrade`"),
        (["dlq", "replay"], "name dead letters by their numbers, or say --all"),
        (["db", "prune", "--older-than", "soon"], "'soon' is no length of time"),
        (["db", "prune", "--older-than", "9" * 400 + "d"], "is longer than a hundred years; write at most 36500d"),
        (["rules", "check", "nowhere.yaml"], "the rules file nowhere.yaml cannot be read"),
        (["model", "info", "--bundle", "nowhere"], "nowhere"),
        (["model", "info"], "the stub has no bundle to show"),
        (["model", "explain", "shares fall"], "the stub reads no words"),
        (["model", "faithfulness", "--data", "x"], "the stub reads no words"),
        (["model", "export", "--out", "x", "--precision", "fp8"], "the precision 'fp8' is unknown"),
        (["model", "promote", "stub"], "run `salience db upgrade`"),
        (["model", "history"], "run `salience db upgrade`"),
        (["model", "compare", "stub", "stub", "--data", "nowhere"], "the file nowhere cannot be read"),
        (["score", " "], "there is no text to score"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_bad_usage_gets_a_sentence_and_status_2(words: list[str], told: str, events: str) -> None:
    assert told in salience(*words, status=2).stderr
    problem = answer(*words, status=2)["error"]
    assert told in problem["message"]
    assert problem["reason"] in ("usage", "config", "bundle")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SALIENCE_DATABASE__URL", "mysql://host/name", "'mysql' is no database this product knows"),
        ("SALIENCE_DATABASE__URL", "postgresql://u:geheim@host:port/name", "the URL cannot be read"),
        ("SALIENCE_DATABASE__URL", "sqlite:////nowhere/at/all.db", "the folder /nowhere/at of the database"),
        ("SALIENCE_BROKER__SERVERS", "localhost", "'localhost' is not host:port"),
        ("SALIENCE_DATABASE__USER", "ann", "SALIENCE_DATABASE__USER is no setting of this version"),
    ],
)
def test_a_wrong_setting_gets_a_sentence_and_status_2(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)

    message = answer("db", "upgrade", status=2)["error"]["message"]

    assert told in message
    assert "geheim" not in message


@pytest.mark.parametrize("words", [["nothing"], ["send"], ["score"], ["backfill", "x", "--steam", "news"]])
def test_words_that_are_no_command_get_status_2(words: list[str]) -> None:
    assert "Usage: " in salience(*words, status=2).stderr


# A failed job: exit status 1 and a sentence


@pytest.mark.parametrize(
    "words", [["send", "events.jsonl", "--stream", "news"], ["topics", "list"], ["topics", "create"]], ids=" ".join
)
def test_a_closed_broker_is_named_with_the_mend_and_status_1(words: list[str], events: str) -> None:
    problem = answer(*words, status=1)["error"]

    assert problem["reason"] == "broker"
    assert os.environ["SALIENCE_BROKER__SERVERS"] in problem["message"]
    assert problem["message"].endswith("start it, or mend SALIENCE_BROKER__SERVERS")


def test_a_closed_database_is_named_without_its_password_and_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALIENCE_DATABASE__URL", f"postgresql://u:geheim@127.0.0.1:{child.free_port()}/name")

    result = salience("db", "upgrade", status=1)

    assert "cannot be reached" in result.stderr
    assert "mend SALIENCE_DATABASE__URL" in result.stderr
    assert "geheim" not in result.output


def test_a_file_that_is_no_database_gets_a_sentence(folder: Path) -> None:
    (folder / "salience.db").write_bytes(b"no database at all" * 100)

    assert "file is not a database" in salience("db", "upgrade", status=1).stderr


def test_a_stopped_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @output.command
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as caught:
        interrupted()
    assert caught.value.exit_code == 130


# As a process of its own


def process(*words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["backfill", "nowhere.jsonl", "--stream", "news"], 2),
        (["backfill", "events.jsonl", "--stream", "news", "--json"], 2),
        (["score", "shares fall", "--json"], 0),
    ],
    ids=["no file", "no schema", "score"],
)
def test_a_process_ends_with_its_status_and_without_a_traceback(
    words: list[str], status: int, events: str
) -> None:
    done = process(*words)

    assert done.returncode == status
    assert "Traceback" not in done.stderr + done.stdout
    if "--json" in words:
        assert isinstance(json.loads(done.stdout.splitlines()[-1]), dict)


def test_a_reader_who_goes_away_gets_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "config"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)

    assert done.returncode == 1
    assert done.stderr == ""
