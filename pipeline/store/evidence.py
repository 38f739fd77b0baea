"""What a count alert rests on, as it stood when it fired; from the same rows it can be put together again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, ShareRule
from pipeline.store import stored
from pipeline.store.panels import Counts
from pipeline.surge.groups import Change
from pipeline.surge.odds import odds
from pipeline.terms import terms
from pipeline.times import rfc3339
from schemas.counting import counters, sightings
from schemas.scores import Answer
from schemas.tables import events

# Texts that an alert quotes, characters of each, and sources that it names.
_EXAMPLES = 5
_QUOTE = 500
_SOURCES = 10
# Texts that terms are looked for in, and texts that they are compared with.
_TEXTS = 200
_OTHERS = 500
# With fewer texts of its own from before, a group is compared with all groups of its rule: those of so many ticks,
# then of more and more, so that a busy rule is not read in full.
_FEW = 20
_REACH, _FURTHER, _FARTHEST = 6, 8, 6 * 8**6


class Snapshot(Struct, frozen=True):
    """Evidence, and the rows of the events that it quotes."""

    evidence: dict[str, Any]
    events: Sequence[int]


async def snapshot(connection: AsyncConnection, counts: Counts, each: Change, bundle: str) -> Snapshot:
    """The evidence of a decision that was just taken, or could have been: it reads nothing of later ticks."""
    rule = counts.rule
    begin, end = counts.window(each.moment)
    quoted = await _examples(connection, counts, each.group, begin, end)
    raw, single = await _counted(connection, counts, each)
    texts = await _texts(connection, counts, each.group, begin, end)
    others = await _others(connection, counts, each.group, begin)
    evidence = {
        "rule": {"name": rule.name, "kind": rule.kind, "definition": rule.definition},
        "bundle": bundle,
        "window": {"start": rfc3339(_time(each.moment) - rule.window), "end": rfc3339(_time(each.moment))},
        "count": single if rule.counts == "distinct" else raw,
        "raw": raw,
        "distinct": single,
        "value": float(f"{each.value:.6g}"),
        "baseline": float(f"{each.expected:.4g}"),
        "odds": odds(each.value, each.expected, each.log_rate),
        "examples": [_example(rule, each) for each in quoted],
        "terms": [[word, z] for word, z in terms(texts, others)],
        "sources": await _sources(connection, counts, each.group, begin, end),
    }
    return Snapshot(evidence, [each.id for each in quoted])


def _time(moment: float) -> int:
    return round(moment * 1e6)


def _within(counts: Counts, group: str | None, begin: int, end: int) -> list[ColumnElement[bool]]:
    """Sightings of ticks [begin, end); of all groups when none is given."""
    found = [sightings.c.definition == counts.definition, sightings.c.tick >= begin, sightings.c.tick < end]
    return found if group is None else [*found, sightings.c.group == group]


def _latest(query: Select[Any]) -> Select[Any]:
    # The latest ticks first; within one an order that does not depend on that of arrival.
    return query.order_by(sightings.c.tick.desc(), sightings.c.signature, events.c.source, events.c.event_id)


async def _examples(
    connection: AsyncConnection, counts: Counts, group: str, begin: int, end: int
) -> list[stored.Stored]:
    query = stored.query().join(sightings, sightings.c.event == events.c.id).where(sightings.c.counted)
    if isinstance(counts.rule, ShareRule):
        query = query.where(sightings.c.label.in_(counts.rule.label))
    if counts.rule.kind == "absence":
        begin, end = 0, end
    within = query.where(*_within(counts, group, begin, end), events.c.forgotten_at.is_(None))
    # Whoever forgets or prunes one of them waits until the alert is there, and then finds that it quotes it.
    kept = _latest(within).limit(_EXAMPLES).with_for_update(read=True, of=events)
    return await stored.read(connection, kept)


def _example(rule: CountRule, each: stored.Stored) -> dict[str, Any]:
    answer = _answer(rule, each)
    told: Mapping[str, Any] = (
        {}
        if answer is None
        else {
            "label": answer.label,
            "probability": answer.probability,
            "words": [[word.text, word.weight] for word in answer.words],
        }
    )
    return {
        "event": each.id,
        "source": each.facts.source,
        "id": each.event_id,
        "time": rfc3339(each.event_time),
        "text": each.facts.text[:_QUOTE],
        **told,
    }


def _answer(rule: CountRule, each: stored.Stored) -> Answer | None:
    """What the head said that the rule looks at; else what the first one said."""
    asked = [rule.head] if isinstance(rule, ShareRule) else list(rule.when.heads if rule.when else ())
    for name in [*asked, "sentiment", *sorted(each.facts.heads)]:
        answer = each.facts.answer(name)
        if answer is not None:
            return answer
    return None


async def _counted(connection: AsyncConnection, counts: Counts, each: Change) -> tuple[int, int]:
    first, last = counts.buckets(each.moment)
    query = select(counters.c.raw, counters.c.single).where(
        counters.c.definition == counts.definition,
        counters.c.group == each.group,
        counters.c.bucket >= first,
        counters.c.bucket <= last,
    )
    found = (await connection.execute(query)).all()
    return sum(row.raw for row in found), sum(row.single for row in found)


async def _texts(
    connection: AsyncConnection, counts: Counts, group: str | None, begin: int, end: int, most: int = _TEXTS
) -> list[str]:
    query = (
        select(events.c.title, events.c.text)
        .join_from(sightings, events, sightings.c.event == events.c.id)
        .where(*_within(counts, group, begin, end), sightings.c.counted)
    )
    found = (await connection.execute(_latest(query).limit(most))).all()
    return [f"{row.title or ''} {row.text or ''}" for row in found]


async def _others(connection: AsyncConnection, counts: Counts, group: str, begin: int) -> list[str]:
    """Texts from before: of the group, or of all groups where it has few; the latest that are enough."""
    own = await _texts(connection, counts, group, 0, begin, _OTHERS)
    found, reach = own, _REACH
    while len(found) < _FEW and reach <= _FARTHEST:
        found = await _texts(connection, counts, None, begin - reach, begin, _OTHERS)
        reach *= _FURTHER
    return found if len(found) >= _FEW else own


async def _sources(
    connection: AsyncConnection, counts: Counts, group: str, begin: int, end: int
) -> list[list[Any]]:
    query = select(events.c.source).join_from(sightings, events, sightings.c.event == events.c.id)
    found = Counter((await connection.execute(query.where(*_within(counts, group, begin, end)))).scalars())
    most = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [[source, count] for source, count in most[:_SOURCES]]
