"""Several workers of one consumer group, each a process of its own, restarted when it dies."""

import os
import signal
import subprocess
import sys
import threading
import time

import structlog
from msgspec import Struct

from pipeline.child import LAUNCHER
from pipeline.settings import Settings

log = structlog.get_logger("salience.supervisor")

# Seconds before a worker that died is started again, doubled up to the longest while it keeps dying.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
# Seconds after which a worker counts as having run well.
_RAN_WELL = 60.0
# Exit status for settings that cannot work: starting again would not help.
_BAD_SETTINGS = 2
_POLL = 0.1


class _Slot(Struct):
    index: int
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    wait: float = _FIRST_WAIT
    due: float = 0.0


def supervise(settings: Settings, workers: int) -> int:
    """Run `workers` processes until SIGTERM or SIGINT; returns the exit status.

    They are told to stop, and killed if they outlast their own deadline.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    slots = [_Slot(index) for index in range(workers)]
    status = 0
    while not stop.wait(_POLL):
        for slot in slots:
            status = max(status, _look(slot))
        if status == _BAD_SETTINGS:
            break
    _stop_all(slots, settings.worker.shutdown_timeout + 5)
    return status


def _look(slot: _Slot) -> int:
    now = time.monotonic()
    if slot.process is None:
        if now >= slot.due:
            slot.process = _start(slot.index)
            slot.started = now
        return 0
    ended = slot.process.poll()
    if ended is None:
        return 0
    slot.process = None
    if ended == _BAD_SETTINGS:
        log.error("worker cannot start", worker=slot.index)
        return _BAD_SETTINGS
    slot.wait = _FIRST_WAIT if now - slot.started > _RAN_WELL else min(slot.wait * 2, _LONGEST_WAIT)
    slot.due = now + slot.wait
    log.warning("worker ended", worker=slot.index, status=ended, starts_again_in=slot.wait)
    return 0


def _start(index: int) -> "subprocess.Popen[bytes]":
    # It is told to stop when we die without having told it.
    launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(int(signal.SIGTERM)), "-1", "-1"]
    # -P: a folder named pipeline where the person happens to stand is not ours.
    command = [*launch, sys.executable, "-P", "-m", "pipeline", "worker", "--index", str(index)]
    # A group of its own: Ctrl-C in the terminal reaches us alone, and we tell the workers.
    return subprocess.Popen(command, start_new_session=True)


def _stop_all(slots: list[_Slot], deadline: float) -> None:
    running = [slot.process for slot in slots if slot.process is not None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + deadline
    for process in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
