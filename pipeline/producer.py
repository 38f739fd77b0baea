"""The producer of a worker: every message confirmed by all replicas."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from pipeline.admin import DEAD_LETTER_BYTES
from pipeline.security import client_options, unreachable
from pipeline.settings import BrokerSettings
from schemas.errors import BrokerError

# Bytes: a broker takes batches of 1 MiB by default.
_BATCH = 900_000
_REQUEST = DEAD_LETTER_BYTES + 1_048_576
# Seconds for what is under way when the producer closes; with the broker away it would wait for ever.
_CLOSING = 2.0


@contextlib.asynccontextmanager
async def open_producer(broker: BrokerSettings) -> AsyncIterator[AIOKafkaProducer]:
    """A started producer.

    Raises:
        BrokerError: the broker cannot be reached, with what may be wrong.
    """
    producer = AIOKafkaProducer(
        acks="all",
        client_id="salience",
        max_batch_size=_BATCH,
        max_request_size=_REQUEST,
        **client_options(broker),
    )
    try:
        await producer.start()
    except (KafkaError, OSError) as error:
        await producer.stop()
        raise BrokerError(unreachable(broker, error)) from error
    try:
        yield producer
    finally:
        with contextlib.suppress(TimeoutError, KafkaError):
            await asyncio.wait_for(producer.stop(), _CLOSING)
