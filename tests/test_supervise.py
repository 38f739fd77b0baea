"""Several workers under one supervisor: whose program they run."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.settings import Settings
from pipeline.supervise import supervise


@pytest.fixture
def _signals_are_put_back() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_are_put_back")
def test_a_worker_is_ours_wherever_the_person_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("open('imported', 'w').close(); raise SystemExit(2)")
    settings = Settings()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALIENCE_BROKER__SERVERS", "no address")

    status = supervise(settings, 1)

    assert status == 2
    assert not (tmp_path / "imported").exists()
