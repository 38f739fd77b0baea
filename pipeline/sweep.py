"""Sends what was left in the outbox: messages that outlived their chunk, and tombstones."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from pipeline.store import outbox
from pipeline.store.database import Database
from pipeline.times import Now
from pipeline.work import Message

log = structlog.get_logger("salience.outbox")

# Messages claimed and sent at once.
BATCH = 100


class Sender(Protocol):
    """Where messages go that belong to no chunk in work."""

    async def send_messages(self, messages: Sequence[Message]) -> list[Exception | None]:
        """Send them; returns for each why it was not confirmed, or None."""


async def sweep(database: Database, outlet: Sender, now: Now) -> int:
    """Send what nobody else is sending; returns how many messages the broker confirmed.

    Raises:
        DatabaseError: the database is away; what was sent without being marked is sent again.
    """
    done = 0
    while True:
        messages = await outbox.claim(database, now(), BATCH)
        sent = await _send(database, outlet, messages, now) if messages else 0
        done += sent
        # Where nothing of a whole batch goes out, the rest would only use up its attempts.
        if len(messages) < BATCH or not sent:
            return done


async def _send(database: Database, outlet: Sender, messages: Sequence[Message], now: Now) -> int:
    sent = []
    failed: dict[int, str] = {}
    for message, failure in zip(messages, await outlet.send_messages(messages), strict=True):
        assert message.outbox is not None
        if failure is None:
            sent.append(message.outbox)
        else:
            failed[message.outbox] = str(failure) or type(failure).__name__
            log.warning("not sent", reason="broker", topic=message.topic, message=failed[message.outbox])
    try:
        if sent:
            await outbox.mark_sent(database, sent, now())
    finally:
        await _mark_failed(database, failed, now)
    return len(sent)


async def _mark_failed(database: Database, failed: Mapping[int, str], now: Now) -> None:
    if failed:
        await outbox.mark_failed(database, failed, now())
