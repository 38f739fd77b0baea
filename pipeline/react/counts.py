"""Rules that count: what each new event counts for, in the transaction that stored it."""

from collections.abc import Sequence

from pipeline.conditions import facts_of
from pipeline.store.counters import Sighting, count
from pipeline.store.transaction import Transaction
from pipeline.work import NewEvent
from schemas.errors import ReactionError


class CountEvents:
    """Moves the raw counters of the rules that are counted."""

    async def react(self, transaction: Transaction, new: Sequence[NewEvent]) -> None:
        counted = transaction.rules.counted
        if counted and new:
            found = [each for event in new for each in _sightings(transaction, event)]
            await count(transaction.connection, found)


def _sightings(transaction: Transaction, new: NewEvent) -> list[Sighting]:
    try:
        facts, shard = facts_of(new), transaction.place.partition
        return [
            Sighting(each.number, group, new.id, label, new.visible_tick, each.ticks, new.signature, shard)
            for each in transaction.rules.counted
            for group, label in each.sightings(facts)
        ]
    except Exception as error:
        event = new.event
        raise ReactionError(
            f"the rules fail on {event.stream}/{event.source}/{event.id}: {type(error).__name__}: {error}"
        ) from error
