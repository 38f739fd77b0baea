"""A program started on this machine that cannot outlive the process that started it, and ports for it."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

KEPT_LINES = 200  # of a child's output: enough for a stack trace
# Below the ports that Linux hands to outgoing connections (from 32768 on): a client that knocks at a stopped
# server's port again and again would in the end be connected to itself, and the server could not come back.
PORTS = range(20_000, 32_000)
LAUNCHER = Path(__file__).with_name("launch.py")


class Account(NamedTuple):
    """Whom a program runs as, by number."""

    user: int
    group: int


class Child:
    """One running program; its output is read all the time and the last lines are kept.

    It ends with us even when we are killed (on Linux), or are garbage-collected without having stopped it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        account: Account | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        on_orphaned: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Start `command`, an absolute path first; only root can give an `account`.

        `on_orphaned` is the signal it gets when we die without having stopped it.
        """
        words = (LAUNCHER, os.getpid(), int(on_orphaned), *(account or (-1, -1)))
        launch = [sys.executable, "-I", "-S", *map(str, words), *command]
        self._process = _starter().submit(_start, launch, env, cwd).result()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=_keep, args=(self._process.stdout, self._lines), name=f"output-{self.pid}", daemon=True
        )
        self._reader.start()
        self._forgotten = weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """The last lines it wrote; complete once it has ended."""
        if self.exit_status() is not None:
            self._reader.join(timeout=1)
        return "".join(list(self._lines))

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status; TimeoutExpired after `timeout` seconds."""
        status = self._process.wait(timeout)
        self._reader.join(timeout=1)
        self._forgotten.detach()
        return status

    def stop(self, how: signal.Signals = signal.SIGTERM, grace: float = 10.0) -> int:
        """Ask it to end, kill it after `grace` seconds, and return its exit status."""
        self._process.send_signal(how)
        try:
            return self.wait(grace)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it at once (SIGKILL), as a crash would."""
        self._process.kill()
        return self.wait()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on at the moment; check who answers there later."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"none of 100 ports tried from {PORTS.start} to {PORTS.stop} of 127.0.0.1 is free")


_starters: list[ThreadPoolExecutor] = []
os.register_at_fork(after_in_child=_starters.clear)


def _starter() -> ThreadPoolExecutor:
    # One thread starts all children and lives as long as we do: Linux sends the signal at a parent's death
    # when the THREAD that forked ends, and callers may be threads that end sooner.
    if not _starters:
        _starters.append(ThreadPoolExecutor(1, thread_name_prefix="starts-children"))
    return _starters[0]


def _start(launch: list[str], env: Mapping[str, str] | None, cwd: Path | None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        launch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        cwd=cwd,
        text=True,
        errors="replace",
        # Ctrl-C in a terminal goes to its whole foreground group; children are told by us, in order.
        process_group=0,
    )


def _keep(stream: IO[str], lines: deque[str]) -> None:
    with stream:
        lines.extend(stream)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
