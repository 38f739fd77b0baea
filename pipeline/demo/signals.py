"""What Ctrl-C, SIGTERM and a closed terminal mean for the demo."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopping(stop: asyncio.Event, hurry: Callable[[], None]) -> Iterator[None]:
    """The first signal asks for an end in good order, each later one for less waiting."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def on_signal() -> None:
        if stop.is_set():
            hurry()
        stop.set()

    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
            if stop.is_set():
                # All is cleared away: one more Ctrl-C could only spoil the last line.
                signal.signal(number, signal.SIG_IGN)
