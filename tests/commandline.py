"""What the tests of the commands share: a folder to work in, events in it, and a command's answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipeline import admin, child, send
from pipeline.commands.app import app

TIME = "2024-05-31T09:30:00Z"


def news(number: int, text: str = "shares rise", **fields: Any) -> str:
    return json.dumps({"id": f"n{number}", "source": "wire", "time": TIME, "text": text} | fields) + "\n"


def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, the stub as model, and a broker that is not there and is soon given up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SALIENCE_CONFIG", raising=False)
    monkeypatch.setenv("SALIENCE_MODEL__BUNDLE", "stub")
    monkeypatch.setenv("SALIENCE_BROKER__SERVERS", f"127.0.0.1:{child.free_port()}")
    monkeypatch.setattr(send, "_FIRST_ANSWER", 200)
    monkeypatch.setattr(admin, "_FIRST_ANSWER", 200)
    return tmp_path


def events_file(folder: Path) -> str:
    """Three events, one of them twice, and a line of garbage."""
    path = folder / "events.jsonl"
    path.write_text(news(1) + news(2, "Corvane is bankrupt") + "garbage\n" + news(1) + news(3))
    return str(path)


def salience(*words: str, status: int = 0, stdin: str | None = None) -> Result:
    """Runs a command in this process; nothing but an exit may leave it."""
    result = CliRunner().invoke(app, list(words), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == status, result.output
    return result


def answer(*words: str, status: int = 0) -> Any:
    """The one JSON object that --json prints as the last line of standard output."""
    lines = salience(*words, "--json", status=status).stdout.splitlines()
    found = json.loads(lines[-1])
    assert isinstance(found, dict)
    return found
