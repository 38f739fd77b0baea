"""The benchmark of decisions takes them, and says how long they took."""

import json

import pytest
from typer.testing import CliRunner

from pipeline.commands.app import app


@pytest.mark.postgres
def test_decisions_with_a_history_and_with_half_of_it_are_timed() -> None:
    asked = ["--groups", "10", "--rows", "20000", "--decisions", "5"]
    done = CliRunner().invoke(app, ["bench", "decide", *asked, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])

    assert (found["groups"], found["decisions"]) == (10, 5)
    assert 0 < found["short"]["p50_s"] <= found["short"]["p99_s"] <= found["short"]["max_s"]
    assert 9_000 < found["short"]["rows"] < 15_000 < found["long"]["rows"]
    assert min(found["short"]["alerts"], found["long"]["alerts"]) > 0
