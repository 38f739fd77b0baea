"""Shows a state while the demo runs: the live view on a terminal, else a plain line now and then."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live

from pipeline.demo.view import State, View

# Seconds between two frames, and between two lines where there is no terminal.
_FRAME, _LINE = 0.2, 3.0


@contextlib.contextmanager
def shown(state: State, elapsed: Callable[[], float]) -> Iterator[None]:
    """On standard error, for standard output is for results. `elapsed` gives seconds since the start."""
    console = Console(stderr=True)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        with _every(_LINE, lambda: _line(console, state), state, elapsed):
            yield
        return
    # Drawn by the loop, never by a thread in the middle of a change.
    with (
        Live(View(state), console=console, auto_refresh=False) as live,
        _every(_FRAME, live.refresh, state, elapsed),
    ):
        yield


@contextlib.contextmanager
def _every(seconds: float, show: Callable[[], None], state: State, elapsed: Callable[[], float]) -> Iterator[None]:
    async def again() -> None:
        while True:
            await asyncio.sleep(seconds)
            state.elapsed = elapsed()
            show()

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        task.cancel()


def _line(console: Console, state: State) -> None:
    total = state.snapshot.total
    console.print(
        f"{state.elapsed:6.1f} s  {sum(state.sent.values()):,} sent  {total.stored:,} stored  "
        f"{total.repeated} repeated  {total.dead} dead  {state.snapshot.alerts} alerts",
        highlight=False,
    )
