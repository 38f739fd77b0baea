"""Sends the scenario, or a file, in a thread of its own: at its pace, and never far ahead of the worker."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct

from pipeline.demo.scenario import CLOSE, OPEN, market_day
from pipeline.files import read_lines
from pipeline.send import Sender
from pipeline.settings import BrokerSettings
from pipeline.topics import Topics
from schemas.errors import SalienceError
from schemas.events import Record

THREAD = "demo-feed"
# Events of a file that may be under way, so that all that was sent can be worked off when time is up.
_UNDER_WAY = 2_000
_POLL = 0.05  # seconds


class Due(Struct, frozen=True):
    """A record to send. `after` is seconds from the first; `time` the market's, None outside the scenario."""

    stream: str
    record: Record
    after: float = 0.0
    time: int | None = None


def scenario(seconds: float) -> Iterator[Due]:
    """The market day, squeezed into `seconds`."""
    for entry in market_day().entries:
        after = (entry.time - OPEN) / (CLOSE - OPEN) * seconds
        yield Due(entry.stream, entry.line, after, entry.time)


def file(path: str, stream: str) -> Iterator[Due]:
    """The rows of a file, as fast as they are worked off."""
    return (Due(stream, line) for line in read_lines(path, stream))


class Feed:
    """The sender. `sent` counts by stream; `cut` tells that time was up before all was sent."""

    def __init__(self, broker: BrokerSettings, source: Iterable[Due], seconds: float, paced: bool) -> None:
        """Send from `source` for at most `seconds`, heeding how far the worker is unless `paced` by time."""
        self.sent: Counter[str] = Counter()
        self.accounted = 0
        self.market: int | None = None
        self.cut = False
        self._error: SalienceError | None = None
        self._broker = broker
        self._source = source
        self._seconds = seconds
        self._paced = paced
        self._stop = threading.Event()
        # A daemon: a thread that waits for standard input cannot be told to end.
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._end = 0.0

    def start(self) -> None:
        self._end = time.monotonic() + self._seconds
        self._thread.start()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    @property
    def total(self) -> int:
        return self.sent.total()

    @property
    def finished(self) -> bool:
        """Whether nothing more will be sent.

        Raises:
            SalienceError: it ended because the file or the broker failed.
        """
        if self._error is not None:
            raise self._error
        if self._thread.is_alive() and time.monotonic() > self._end + 1:
            self.cut = True
            self.stop()
            return True
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with Sender(self._broker) as sender:
                self._send(sender)
                sender.flush()
        except SalienceError as error:
            self._error = error

    def _send(self, sender: Sender) -> None:
        topics = Topics(self._broker.prefix).inputs
        begun = time.monotonic()
        for due in self._source:
            if not self._wait(begun + due.after):
                return
            # Counted first: what is stored may never be more than what was sent.
            self.sent[due.stream] += 1
            sender.post(topics[due.stream], due.record)
            self.market = due.time

    def _wait(self, moment: float) -> bool:
        """Wait for the record's turn; false when nothing more is to be sent."""
        while not self._stop.is_set():
            now = time.monotonic()
            if not self._paced and now > self._end:
                self.cut = True
                return False
            full = not self._paced and self.total - self.accounted >= _UNDER_WAY
            if now >= moment and not full:
                return True
            self._stop.wait(_POLL if full else min(_POLL, moment - now))
        return False
