"""A strict session fails for a skipped test, unless the reason is on the list."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import pytest

@pytest.mark.skipif(True, reason={reason!r})
def test_skipped():
    pass

@pytest.mark.xfail
def test_expected_to_fail():
    raise AssertionError

def test_passes():
    pass
"""
WHOLE_MODULE = "import pytest\npytest.importorskip('no_such_module_anywhere')\n"


@pytest.fixture(params=["0", "2"], ids=["one process", "two"])
def processes(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def session(folder: Path, module: str, processes: str, strict: str = "1") -> "subprocess.CompletedProcess[str]":
    (folder / "test_one.py").write_text(module)
    (folder / "test_two.py").write_text("def test_passes():\n    pass\n")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "strict", "-q", "-n", processes, "."],
        cwd=folder,
        env={**os.environ, "SALIENCE_TEST_STRICT": strict, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_skip_fails_the_session_and_is_named(tmp_path: Path, processes: str) -> None:
    done = session(tmp_path, MODULE.format(reason="there is no Kafka"), processes)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "test_one.py::test_skipped: there is no Kafka" in done.stdout
    assert "test_expected_to_fail:" not in done.stdout


def test_a_module_that_skips_itself_fails_the_session(tmp_path: Path, processes: str) -> None:
    done = session(tmp_path, WHOLE_MODULE, processes)

    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "could not import 'no_such_module_anywhere'" in done.stdout


@pytest.mark.parametrize(("reason", "strict"), [("needs a GPU", "1"), ("there is no Kafka", "0")])
def test_a_skip_on_the_list_or_in_an_easy_session_does_not(
    tmp_path: Path, reason: str, strict: str, processes: str
) -> None:
    assert session(tmp_path, MODULE.format(reason=reason), processes, strict).returncode == pytest.ExitCode.OK
