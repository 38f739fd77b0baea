"""The companies of a text as entities of its event, and what an entity may be called."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.gazetteer.match import Gazetteer
from pipeline.gazetteer.names import without_suffix
from schemas.events import Event
from schemas.messages import Entity

SOURCE = "gazetteer"
# Companies that an event is given at most: a list of all constituents is no news about any of them.
_MOST = 50
# Characters of a text that are looked at: a text of megabytes must not hold up the model's thread.
_LOOKED_AT = 100_000


class Mentions:
    """Gives events the companies that a gazetteer finds in their texts."""

    def __init__(self, gazetteer: Gazetteer) -> None:
        self._gazetteer = gazetteer

    def add(self, events: Sequence[Event]) -> None:
        """Set the mentions of each event; again gives the same. What the event brought itself stays as it is."""
        for event in events:
            event.mentions = self._of(event)

    def _of(self, event: Event) -> list[dict[str, Any]]:
        spans = self._gazetteer.find(event.text[:_LOOKED_AT])
        if not spans:
            return []
        event.mentions = ()
        taken = _tickers(event.entities or ())
        found: list[dict[str, Any]] = []
        for span in spans:
            identity = (span.ticker or span.name).casefold()
            if identity not in taken and len(found) < _MOST:
                taken.add(identity)
                found.append(
                    {
                        "name": span.name,
                        "ticker": span.ticker,
                        "start": span.start,
                        "end": span.end,
                        "source": SOURCE,
                    }
                )
        return found


def identities(entities: Iterable[Entity]) -> frozenset[str]:
    """What entities can be called in a rule: ticker, name, and name without its legal suffix, in any case."""
    found: set[str] = set()
    for entity in entities:
        given = [entity] if isinstance(entity, str) else [entity.get(key) for key in ("ticker", "symbol", "name")]
        for each in given:
            if isinstance(each, str) and each.strip():
                found |= {each.strip().casefold(), without_suffix(each).casefold()}
    return frozenset(found)


def _tickers(entities: Iterable[Entity]) -> set[str]:
    """What the event says itself; one that it calls only by another name is found again, with its ticker."""
    given = [each if isinstance(each, str) else each.get("ticker") or each.get("symbol") for each in entities]
    return {each.casefold() for each in given if isinstance(each, str)}
