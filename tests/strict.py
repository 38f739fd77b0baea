"""SALIENCE_TEST_STRICT=1: a skipped test fails the session, unless allowed_skips.txt has its reason."""

import os
import re
from pathlib import Path

import pytest

_refused: list[str] = []


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
        _refused.append(f"{report.nodeid}: {why}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Look at each test."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Look at each module that skips itself."""
    _note(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session."""
    if _refused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips failed the session."""
    if _refused:
        terminalreporter.section("skipped, and may not be (SALIENCE_TEST_STRICT)", red=True)
        for line in _refused:
            terminalreporter.line(line)
