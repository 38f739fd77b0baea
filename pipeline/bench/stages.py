"""Where the CPU time of an event goes: the worker's parts, one chunk at a time so that none hides another."""

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaConsumer

from pipeline.admin import describe
from pipeline.bench.site import Run
from pipeline.compose import Pipeline, compose
from pipeline.decode import Decoder
from pipeline.deliver import KafkaOutlet
from pipeline.flow import Flow
from pipeline.observe import Observer
from pipeline.producer import open_producer
from pipeline.security import client_options
from pipeline.signature import signatures
from pipeline.store import rows
from pipeline.topics import Topics
from pipeline.turn import Turn
from pipeline.work import ScoredEvent
from schemas.events import Chunk, Place, Record

STREAM = "news"
# Chunks that pay for what is done once: connections, compiled statements.
_WARM = 2
_NAMES = {"decode": "decoding", "score": "scoring", "store": "storing", "deliver": "publishing"}


class _ModelApart(Observer):
    """Counts the model's threads in scoring alone: they spin for a moment after it, through the stages behind.

    Right where those do their work in the loop's own thread, as with PostgreSQL.
    """

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        clock = time.process_time if name == "score" else time.thread_time
        begun = clock()
        try:
            yield
        finally:
            self.cpu[name] = self.cpu.get(name, 0.0) + clock() - begun


async def measure_stages(run: Run, count: int) -> dict[str, float]:
    """Microseconds of this process's CPU an event, by stage, over the `count` events of the run's topic.

    `reading` is a plain consumer's pass, `rows` the building of columns, which is left out of `storing`, as the
    near-duplicate `signatures` are left out of `scoring`. The servers' CPU time is in none of them.
    """
    cluster, topics = describe(run.settings.broker)
    topic = topics[Topics(run.name).inputs[STREAM]]
    records, reading = await _read(run, topic.name, count)
    size = run.settings.worker.chunk
    chunks = [
        Chunk(Place(STREAM, cluster, topic.name, topic.incarnation, partition), part[start : start + size])
        for partition, part in records.items()
        for start in range(0, len(part), size)
    ]
    # The shortest first: they warm up what the full ones are measured with.
    chunks.sort(key=lambda chunk: len(chunk.records))
    warm = min(_WARM, len(chunks) - 1)
    async with await compose(run.settings) as pipeline, open_producer(run.settings.broker) as producer:
        if run.settings.model.bundle != "stub":
            pipeline.observer = _ModelApart()
        flow = pipeline.flow(STREAM, KafkaOutlet(producer, Topics(run.name).scored))
        found = await _flow(pipeline, flow, chunks[:warm], chunks[warm:])
        apart = _pure(pipeline, [record for chunk in chunks[warm:] for record in chunk.records])
    found["scoring"] -= apart["signatures"]
    found["storing"] -= apart["rows"]
    return {"reading": reading, **found, **apart}


async def _read(run: Run, topic: str, count: int) -> tuple[dict[int, list[Record]], float]:
    consumer = AIOKafkaConsumer(topic, auto_offset_reset="earliest", **client_options(run.settings.broker))
    records: dict[int, list[Record]] = {}
    await consumer.start()
    try:
        begun, left = time.process_time(), count
        while left > 0:
            for tp, got in (await consumer.getmany(timeout_ms=1000)).items():
                records.setdefault(tp.partition, []).extend(got)
                left -= len(got)
        return records, (time.process_time() - begun) / count * 1e6
    finally:
        await consumer.stop()


async def _flow(
    pipeline: Pipeline, flow: Flow, warm: Sequence[Chunk], chunks: Sequence[Chunk]
) -> dict[str, float]:
    for chunk in warm:
        await flow.process(chunk, Turn())
    # A worker holds a few chunks, not all of them: what is held here may cost the collector nothing.
    gc.collect()
    gc.freeze()
    before = dict(pipeline.observer.cpu)
    for chunk in chunks:
        await flow.process(chunk, Turn())
    gc.unfreeze()
    count = sum(len(chunk.records) for chunk in chunks)
    after = pipeline.observer.cpu
    return {name: (after[stage] - before.get(stage, 0.0)) / count * 1e6 for stage, name in _NAMES.items()}


def _pure(pipeline: Pipeline, records: Sequence[Record]) -> dict[str, float]:
    """The parts without input or output, timed alone."""
    decoder = Decoder(STREAM, pipeline.instance.hash_key, pipeline.settings.events)
    events = [decoder.decode(record) for record in records]
    texts = [event.text for event in events]
    scored = [ScoredEvent(event, None) for event in events]
    now, tick = events[-1].time, pipeline.instance.tick

    def build(part: list[ScoredEvent]) -> Any:
        futures = [rows.is_future(each.event, now) for each in part]
        ticks = [rows.own_tick(each.event, late, now, tick) for each, late in zip(part, futures, strict=True)]
        return rows.columns(STREAM, part, futures), ticks

    size = pipeline.settings.worker.chunk
    return {"signatures": _cost(signatures, texts, size), "rows": _cost(build, scored, size)}


def _cost(step: Callable[[list[Any]], Any], items: Sequence[Any], size: int) -> float:
    begun = time.process_time()
    left = iter(items)
    while part := list(islice(left, size)):
        step(part)
    return (time.process_time() - begun) / len(items) * 1e6
