"""Reactions to new events, each a file that knows no other: alerts now, routing and features later."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.store.transaction import Transaction
from pipeline.work import NewEvent


class Reaction(Protocol):
    """Reacts inside the transaction that stored the events; what it writes stands or falls with them."""

    async def react(self, transaction: Transaction, new: Sequence[NewEvent]) -> None:
        """Raises ReactionError when it fails on an event; that event is then found and left out."""
