"""Two figures: memory and lag through a long outage of the database, and a million events through the engine.

usage: python tests/chaos/load.py --database-down 600 [--rate 300]
       python tests/chaos/load.py --million [--events 1000000] [--workers 1]

Ends with 1 when anything was lost, stored twice or dead-lettered.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from crew import children
from kafka import KafkaProducer
from msgspec import Struct
from workers import Deployment, Worker
from world import World, environment_is_clean

from pipeline.bench.load import news_events
from schemas.events import Line

# The outage is waited for by the workers themselves: nobody is restarted, and memory can be compared.
_DEADLINE, _POLL_INTERVAL = 900, 1000
_WARM = 60.0
# Seconds between two looks at memory and lag.
_LOOK = 1.0
_MEGABYTE = 1024.0
_COUNTS = "SELECT coalesce(sum(new), 0), coalesce(sum(repeated), 0), coalesce(sum(dead), 0) FROM progress"


class Sample(Struct):
    """One look: seconds since the begin, MiB of each worker by process, records sent and handled (-1: unknown)."""

    at: float
    memory: dict[int, float]
    sent: int
    handled: int


class Sender:
    """Sends events from a thread, at `rate` a second; 0 is as fast as it goes."""

    def __init__(self, servers: str, topic: str, lines: Iterator[Line], rate: float) -> None:
        self.sent = 0
        self.error: BaseException | None = None
        self._ended = threading.Event()
        self._servers, self._topic, self._lines, self._rate = servers, topic, lines, rate
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still sends."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Send no more; returns when the broker has all."""
        self._ended.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        begun = time.monotonic()
        producer = KafkaProducer(bootstrap_servers=self._servers, linger_ms=20, batch_size=1 << 17)
        try:
            with closing(producer):
                for line in self._lines:
                    if self._ended.is_set():
                        break
                    if self._rate and (early := begun + self.sent / self._rate - time.monotonic()) > 0:
                        self._ended.wait(early)
                    producer.send(self._topic, line.value, key=line.key)
                    self.sent += 1
                producer.flush()
        except BaseException as error:
            self.error = error


class Watch:
    """Looks at memory and lag once a second, from begin to end."""

    def __init__(
        self, world: World, deployment: Deployment, sender: Sender, pids: Callable[[], list[int]]
    ) -> None:
        self.samples: list[Sample] = []
        self.begun = time.monotonic()
        self._world, self._sender, self._pids = world, sender, pids
        self._database = deployment.settings.broker.prefix

    def counts(self) -> tuple[int, int, int] | None:
        """Records that were (new, repeated, dead); None while the database is away."""
        found = self._world.numbers(self._database, _COUNTS)
        return None if found is None else (int(found[0][0]), int(found[0][1]), int(found[0][2]))

    def look(self) -> int:
        """Take a sample; returns the records handled."""
        counts = self.counts()
        handled = -1 if counts is None else sum(counts)
        memory = {pid: rss for pid in self._pids() if (rss := resident(pid))}
        self.samples.append(Sample(time.monotonic() - self.begun, memory, self._sender.sent, handled))
        return handled

    def until(self, reached: Callable[[int], bool], patience: float) -> None:
        """Sample until it is so."""
        end = time.monotonic() + patience
        due = time.monotonic()
        while not reached(self.look()):
            if time.monotonic() > end:
                raise AssertionError(f"not reached within {patience:.0f} s: {self.samples[-1]}")
            due = max(due + _LOOK, time.monotonic())
            time.sleep(due - time.monotonic())

    def during(self, seconds: float) -> None:
        """Sample for so long."""
        end = time.monotonic() + seconds
        self.until(lambda _: time.monotonic() >= end, seconds + 60)


def database_down(world: World, seconds: float, rate: float) -> bool:
    """Steady load, the database stopped for `seconds`; returns whether all is accounted for."""
    deployment = world.deployment(
        broker={"session_timeout": 10, "max_poll_interval": _POLL_INTERVAL},
        database={"outage_deadline": _DEADLINE},
        worker={"chunk": 256},
    ).prepare()
    supervisor = deployment.worker("--workers", "2")
    sender = _sender(deployment, news_events(10**9, "d"), rate)
    watch = Watch(world, deployment, sender, lambda: children(supervisor.process.pid))
    try:
        watch.until(lambda handled: handled > 0, 120)
        watch.during(_WARM)
        before = set(watch.samples[-1].memory)
        down = watch.samples[-1].at
        world.postgres.stop()
        watch.during(seconds)
        world.postgres.start()
        up = watch.samples[-1].at
        watch.until(lambda handled: sender.sent - handled < rate * 2 and handled > 0, 600 + seconds)
        watch.during(_WARM)
        sender.stop()
        watch.until(lambda handled: handled >= sender.sent, 300)
        _tell_outage(watch.samples, down, up)
        _say(f"workers that were replaced: {len(before - set(watch.samples[-1].memory))}")
        return _tell_counts(watch, sender.sent)
    finally:
        sender.stop()
        deployment.close()


def million(world: World, events: int, workers: int) -> bool:
    """So many events through the engine, sent ahead of it; returns whether all is accounted for."""
    deployment = world.deployment(
        broker={"session_timeout": 30}, database={"pool": 8}, worker={"chunk": 256}, rules={"file": ""}
    ).prepare()
    sender = _sender(deployment, news_events(events, "m"), 0.0)
    # A good lead, so that the engine never waits for the sender.
    while sender.alive and sender.sent < events // 5:
        time.sleep(0.1)
    crew: list[Worker] = [deployment.worker() for _ in range(workers)]
    watch = Watch(world, deployment, sender, lambda: [worker.process.pid for worker in crew])
    try:
        watch.until(lambda handled: handled >= events, max(600.0, events / 500))
        sender.stop()
        working = [sample for sample in watch.samples if sample.handled > 0]
        seconds = working[-1].at - working[0].at
        _say(f"{events} events in {seconds:.0f} s: {(events - working[0].handled) / seconds:,.0f} events/s")
        _tell_halves(working)
        assert [worker.terminate() for worker in crew] == [0] * workers
        return _tell_counts(watch, events)
    finally:
        sender.stop()
        deployment.close()


def resident(pid: int) -> float:
    """Resident memory of a process in MiB; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / _MEGABYTE for line in lines if line.startswith("VmRSS:")), 0.0)


def _sender(deployment: Deployment, lines: Iterator[Line], rate: float) -> Sender:
    broker = deployment.settings.broker
    return Sender(broker.servers, f"{broker.prefix}.news", lines, rate)


def _tell_outage(samples: Sequence[Sample], down: float, up: float) -> None:
    parts = {
        "before": [each for each in samples if down - _WARM / 2 < each.at <= down],
        # The buffers fill in the first part of the outage; then nothing may grow any more.
        "during": [each for each in samples if down + (up - down) / 4 < each.at <= up],
        "after": [each for each in samples if each.at > samples[-1].at - _WARM / 2],
    }
    for pid in samples[-1].memory:
        words = []
        for name, part in parts.items():
            values = [each.memory[pid] for each in part if pid in each.memory]
            if values:
                middle = statistics.median(values)
                off = max(abs(value - middle) for value in values) / middle
                words.append(f"{name} {middle:.1f} MiB (off by {off:.1%} at most)")
        _say(f"worker {pid}: {', '.join(words)}")
    curve = [(each.at - up, each.sent - each.handled) for each in samples if each.at >= up and each.handled >= 0]
    step = max(1, len(curve) // 15)
    _say("lag after the end of the outage: " + ", ".join(f"{at:.0f} s {lag}" for at, lag in curve[::step]))


def _tell_halves(samples: Sequence[Sample]) -> None:
    end = samples[-1].at
    for pid in samples[-1].memory:
        series = [(each.at / end, each.memory[pid]) for each in samples if pid in each.memory]
        third = statistics.median(value for at, value in series if 0.5 <= at < 0.75)
        fourth = statistics.median(value for at, value in series if at >= 0.75)
        second = [value for at, value in series if at >= 0.5]
        spread = (max(second) - min(second)) / statistics.median(second)
        _say(
            f"worker {pid}: third quarter {third:.1f} MiB, fourth {fourth:.1f} MiB ({fourth / third - 1:+.2%}), "
            f"spread in the second half {spread:.2%}"
        )


def _tell_counts(watch: Watch, sent: int) -> bool:
    counts = watch.counts()
    _say(f"{sent} sent; new, repeated, dead: {counts}")
    return counts == (sent, 0, 0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> int:
    """Run one of the two; returns the exit status."""
    parser = argparse.ArgumentParser(description="Memory and lag under load.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--database-down", type=float, metavar="SECONDS")
    what.add_argument("--million", action="store_true")
    parser.add_argument("--rate", type=float, default=300.0, help="events a second, of --database-down")
    parser.add_argument("--events", type=int, default=1_000_000, help="of --million")
    parser.add_argument("--workers", type=int, default=1, help="of --million")
    given: Any = parser.parse_args(words)
    environment_is_clean()
    with tempfile.TemporaryDirectory(prefix="salience-load-") as folder, World(Path(folder)) as world:
        if given.million:
            good = million(world, given.events, given.workers)
        else:
            good = database_down(world, given.database_down, given.rate)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
