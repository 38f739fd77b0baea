"""SALIENCE_TEST_STRICT=1: a skipped test fails the session, unless allowed_skips.txt has its reason."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

# In the order in which they came, each once.
_refused: dict[str, None] = {}


def allowed() -> list[re.Pattern[str]]:
    """The reasons a skip may have: one regular expression a line, `#` begins a comment."""
    lines = Path(__file__).with_name("allowed_skips.txt").read_text().splitlines()
    return [re.compile(line) for line in map(str.strip, lines) if line and not line.startswith("#")]


def reason(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Why the test or module was skipped; None when it was not, or was expected to fail."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return None
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    why = reason(report)
    if os.environ.get("SALIENCE_TEST_STRICT") != "1" or why is None:
        return
    if not any(pattern.search(why) for pattern in allowed()):
        _refused[f"{report.nodeid}: {why}"] = None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Look at each test."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Look at each module that skips itself."""
    _note(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session; a process of a parallel run tells the one that began it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["refused"] = list(_refused)
    if _refused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a process of a parallel run found: modules that skip themselves are not reported otherwise."""
    _refused.update(dict.fromkeys(getattr(node, "workeroutput", {}).get("refused", [])))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips failed the session."""
    if _refused:
        terminalreporter.section("skipped, and may not be (SALIENCE_TEST_STRICT)", red=True)
        for line in _refused:
            terminalreporter.line(line)
