"""The workers of a round, restarted when they end, as `salience worker --workers N` does."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from msgspec import Struct
from workers import PATIENCE, Deployment, Worker

# Seconds before a worker that ended is started again.
_WAIT = 1.0


class Crew(Protocol):
    """Who works in a round."""

    def pids(self) -> list[int]:
        """The processes that run."""

    def look(self) -> None:
        """Start what ended again; called all the time."""

    def expect(self, pid: int) -> None:
        """This one is about to end by our doing."""

    def surprises(self) -> list[str]:
        """Exit status and last words of those that ended by themselves."""

    def stop(self) -> list[int]:
        """Tell all to stop; their exit statuses."""


class _Slot(Struct):
    worker: Worker | None = None
    due: float = 0.0


class OwnCrew:
    """Processes that the harness starts: each may get an environment, and so a fault, of its own."""

    def __init__(self, start: Callable[[int, dict[str, str]], Worker], size: int) -> None:
        self._start = start
        self._slots = [_Slot() for _ in range(size)]
        self._armed: list[dict[str, str]] = []
        self._expected: set[int] = set()
        self._surprises: list[str] = []
        self.look()

    def pids(self) -> list[int]:
        return [slot.worker.process.pid for slot in self._slots if slot.worker is not None]

    @property
    def size(self) -> int:
        """How many should work."""
        return len(self._slots)

    def workers(self) -> list[Worker]:
        """Those that run."""
        return [slot.worker for slot in self._slots if slot.worker is not None]

    def arm(self, **environment: str) -> None:
        """The next worker that starts gets this on top."""
        self._armed.append(environment)

    def grow(self) -> None:
        """One more worker."""
        self._slots.append(_Slot())
        self.look()

    def shrink(self) -> None:
        """The last one leaves, in order."""
        worker = self._slots.pop().worker
        if worker is not None:
            worker.terminate()

    def look(self) -> None:
        for index, slot in enumerate(self._slots):
            if slot.worker is not None and slot.worker.process.poll() is not None:
                self._ended(slot, slot.worker)
            if slot.worker is None and time.monotonic() >= slot.due:
                armed = self._armed.pop(0) if self._armed else {}
                slot.worker = self._start(index, armed)
                if armed:
                    self.expect(slot.worker.process.pid)

    def _ended(self, slot: _Slot, worker: Worker) -> None:
        slot.worker, slot.due = None, time.monotonic() + _WAIT
        status = worker.process.returncode
        if status == 2:
            raise AssertionError(f"a worker refuses to work:\n{worker.log()[-3000:]}")
        if worker.process.pid not in self._expected:
            self._surprises.append(f"{status}: {_last_words(worker)}")

    def expect(self, pid: int) -> None:
        self._expected.add(pid)

    def surprises(self) -> list[str]:
        return self._surprises

    def stop(self) -> list[int]:
        workers = self.workers()
        for worker in workers:
            for number in (signal.SIGCONT, signal.SIGTERM):
                worker.process.send_signal(number)
        return [_end(worker) for worker in workers]


class SupervisedCrew:
    """`salience worker --workers N`: the product's own supervisor keeps them running."""

    def __init__(self, deployment: Deployment, size: int) -> None:
        self._supervisor = deployment.worker("--workers", str(size))
        deployment.until(lambda: len(self.pids()) == size, "the supervisor's workers")

    def pids(self) -> list[int]:
        return children(self._supervisor.process.pid)

    def look(self) -> None:
        assert self._supervisor.process.poll() is None, f"the supervisor ended:\n{self._supervisor.log()[-3000:]}"

    def expect(self, pid: int) -> None:
        return

    def surprises(self) -> list[str]:
        return []

    def log(self) -> str:
        """What supervisor and workers logged."""
        return self._supervisor.log()

    def stop(self) -> list[int]:
        return [self._supervisor.terminate()]


def _last_words(worker: Worker) -> str:
    said = [line.get("message", "") for line in worker.events() if line.get("event") == "stopping"]
    lines = worker.log().splitlines()
    return str((said or lines or [""])[-1])[-300:]


def _end(worker: Worker) -> int:
    try:
        return worker.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.process.returncode


def children(pid: int) -> list[int]:
    """Processes that `pid`'s main thread started and that still run."""
    try:
        found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for each in found if state(each) not in ("Z", "")]


def state(pid: int) -> str:
    """The letter that Linux gives a process's state: Z ended, T stopped; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def send(pid: int, number: signal.Signals) -> None:
    """A signal to a process that may have ended meanwhile."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
