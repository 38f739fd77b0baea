"""A deployment for tests: broker, database, and workers as processes of their own."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from sqlalchemy import text

from pipeline import admin
from pipeline.launch import __file__ as launcher
from pipeline.settings import Settings, load_settings
from pipeline.store import migrate
from pipeline.store.database import Database
from pipeline.times import now

# Seconds that a test waits for something that should happen at once; a slow machine may take long.
PATIENCE = 90.0
# What Python is told to run.
SALIENCE = ("-m", "pipeline")


class Deployment:
    """Settings of one installation, its database made and its topics created."""

    def __init__(
        self, folder: Path, servers: str, database: str, prefix: str, /, **sections: dict[str, Any]
    ) -> None:
        self.folder = folder
        broker = {
            "servers": servers,
            "prefix": prefix,
            "group": prefix,
            "session_timeout": 2,
            "partitions": 4,
            **sections.pop("broker", {}),
        }
        model = {"bundle": "stub", **sections.pop("model", {})}
        worker = {"port": 0, **sections.pop("worker", {})}
        database_section = {"url": database, **sections.pop("database", {})}
        self.sections: dict[str, dict[str, Any]] = {
            "broker": broker,
            "database": database_section,
            "model": model,
            "worker": worker,
            **sections,
        }
        self.workers: list[Worker] = []

    @property
    def settings(self) -> Settings:
        return load_settings(**self.sections)

    @property
    def environment(self) -> dict[str, str]:
        named = {
            f"SALIENCE_{section}__{name}".upper(): str(value)
            for section, values in self.sections.items()
            for name, value in values.items()
        }
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SALIENCE_")}
        return kept | named

    def prepare(self, topics: bool = True) -> "Deployment":
        if topics:
            admin.create_topics(self.settings.broker)

        async def upgrade() -> None:
            database = Database(self.settings.database)
            await migrate.upgrade(database, now())
            await database.close()

        asyncio.run(upgrade())
        return self

    def worker(self, *arguments: str, program: Sequence[str] = SALIENCE, **environment: str) -> "Worker":
        """Start a worker process; it ends with the deployment."""
        worker = Worker(self, len(self.workers), arguments, environment, program)
        self.workers.append(worker)
        return worker

    def rows(self, query: str) -> list[Any]:
        """What a query gives."""

        async def ask() -> list[Any]:
            database = Database(self.settings.database)
            try:
                async with database.read() as connection:
                    return list((await connection.execute(text(query))).all())
            finally:
                await database.close()

        return asyncio.run(ask())

    def run(self, statement: str) -> None:
        """Change something behind the workers' backs."""

        async def change() -> None:
            database = Database(self.settings.database)
            try:
                async with database.begin() as connection:
                    await connection.execute(text(statement))
            finally:
                await database.close()

        asyncio.run(change())

    def counts(self) -> tuple[int, int, int]:
        """Records that were (new, repeated, dead), by the partitions' progress."""
        row = self.rows(
            "SELECT coalesce(sum(new), 0), coalesce(sum(repeated), 0), coalesce(sum(dead), 0) FROM progress"
        )
        return int(row[0][0]), int(row[0][1]), int(row[0][2])

    def until(self, reached: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
        """Wait until it is so; without patience left the test fails and shows the workers' logs."""
        end = time.monotonic() + patience
        while not reached():
            if time.monotonic() > end:
                raise AssertionError(f"waited {patience:.0f} s for {what}\n{self.logs()}")
            time.sleep(0.05)

    def until_handled(self, count: int) -> None:
        self.until(lambda: sum(self.counts()) >= count, f"{count} records, got {self.counts()}")

    def logs(self) -> str:
        """How far each partition is, and what each worker has said."""
        logs = "\n".join(f"--- worker {worker.index}\n{worker.log()[-3000:]}" for worker in self.workers)
        try:
            return f"{self.standings()}\n{logs}"
        except Exception as error:
            # Broker or database may be away, and what the test waited for must still be told.
            return f"standings are not to be had: {error!r}\n{logs}"

    def standings(self) -> str:
        """A line for each partition: what the database and the broker know of it, and who reads it."""
        query = (
            "SELECT progress.topic, progress.partition, stored, published, new, repeated, dead, worker, left_at, "
            "died, beat_at FROM progress LEFT JOIN owners ON owners.topic = progress.topic "
            "AND owners.partition = progress.partition ORDER BY 1, 2"
        )
        with contextlib.closing(KafkaConsumer(bootstrap_servers=self.settings.broker.servers)) as consumer:
            rows = self.rows(query)
            places = [TopicPartition(row.topic, row.partition) for row in rows]
            ends = consumer.end_offsets(places) if places else {}
        return "\n".join(f"{row._asdict()} end {ends[place]}" for row, place in zip(rows, places, strict=True))

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()

    def consume(self, topic: str) -> list[Any]:
        """All records of a topic so far: read until each partition gives nothing more for a while."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.settings.broker.servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            partitions = consumer.partitions_for_topic(topic) or set()
            consumer.assign([TopicPartition(topic, number) for number in sorted(partitions)])
            consumer.seek_to_beginning()
            found: list[Any] = []
            empty = 0
            while empty < 3:
                got = [record for records in consumer.poll(timeout_ms=500).values() for record in records]
                found += got
                empty = 0 if got else empty + 1
            return found
        finally:
            consumer.close()


class Worker:
    """One `salience worker` process, its log in a file."""

    def __init__(
        self,
        deployment: Deployment,
        index: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        program: Sequence[str] = SALIENCE,
    ) -> None:
        self.index = index
        self._log = deployment.folder / f"worker-{index}.log"
        launch = [sys.executable, "-I", "-S", launcher, str(os.getpid()), str(int(signal.SIGKILL)), "-1", "-1"]
        command = [*launch, sys.executable, *program, "worker", *arguments]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=deployment.environment | environment,
                cwd=deployment.folder,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The log's lines that are JSON."""
        found = []
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def has_logged(self, word: str) -> bool:
        return word in self.log()

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)


def numbered(count: int, seed: int = 1) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(stream, key, event) of `count` events over all streams; the number within its key is in `n`."""
    chosen = random.Random(seed)
    numbers: dict[str, int] = {}
    for index in range(count):
        stream = chosen.choice(("news", "news", "chat", "behavior"))
        key = f"{stream}-{chosen.randrange(12)}"
        number = numbers[key] = numbers.get(key, 0) + 1
        event: dict[str, Any] = {
            "id": f"{key}-{number}",
            "source": key if stream == "news" else "test",
            "time": f"2024-05-31T{9 + index // 3600 % 8:02}:{index // 60 % 60:02}:{index % 60:02}Z",
            "text": f"text number {number} of {key}",
            "attributes": {"n": number, "key": key},
        }
        if stream == "chat":
            event |= {"conversation": key, "role": "customer", "kind": "message", "customer": key}
        elif stream == "behavior":
            event |= {"user": key, "item": f"item-{number % 7}", "action": "click", "text": f"item {number % 7}"}
        yield stream, key, event
