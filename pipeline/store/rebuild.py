"""The evidence of a count alert, put together again from what is stored: the same, field for field."""

from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import ShareRule
from pipeline.store.attached import counted_runs
from pipeline.store.baselines import Baselines, Basis
from pipeline.store.confusions import confusion_of
from pipeline.store.database import Database
from pipeline.store.evidence import snapshot
from pipeline.store.judging import judge_span
from pipeline.store.panels import Counts
from pipeline.store.readings import reading_again
from pipeline.store.rulebook import count_rules
from pipeline.surge.groups import Change, Span
from pipeline.surge.rearm import Episode
from pipeline.times import microseconds
from schemas.counting import definitions
from schemas.errors import UsageError
from schemas.tables import alerts


async def rebuild(database: Database, tick: int, alert: int) -> dict[str, Any]:
    """The evidence of alert number `alert` as its events and counters give it now. tick: width in microseconds.

    Raises:
        UsageError: there is no such alert, it is none of a rule that counts, or what it was counted from is gone.
    """
    async with database.read() as connection:
        row = (await connection.execute(select(alerts).where(alerts.c.id == alert))).one_or_none()
        if row is None:
            raise UsageError(f"there is no alert {alert}; `salience alerts list` shows those that are there")
        if row.kind == "match":
            raise UsageError(f"the alert {alert} is of a match rule: its evidence is its event")
        counts = await _counts(connection, row, tick)
        moment = microseconds(datetime.fromisoformat(row.evidence["window"]["end"])) / 1e6
        change = await _change(connection, counts, row, moment)
        return (await snapshot(connection, counts, change, row.bundle)).evidence


async def _counts(connection: AsyncConnection, row: Any, tick: int) -> Counts:
    query = select(definitions).where(definitions.c.definition == row.definition)
    found = (await connection.execute(query.order_by(definitions.c.id.desc()).limit(1))).one_or_none()
    if found is None:
        raise UsageError(f"what the alert {row.id} was counted from has been pruned")
    rule = count_rules([found.rule])[0].model_copy(update={"name": row.rule})
    labels = (await confusion_of(connection, row.bundle, rule)).labels if isinstance(rule, ShareRule) else ("",)
    return Counts(found.id, rule, tick, labels)


async def _change(connection: AsyncConnection, counts: Counts, row: Any, moment: float) -> Change:
    """The decision at that moment, taken again."""
    rule, bucket = counts.rule, counts.buckets(moment)[1]
    span = Span(bucket, bucket, counts.plan.every)
    known, runs = await counts.known(connection), await counted_runs(connection, rule.stream)
    reading = None
    if isinstance(rule, ShareRule):
        end = counts.window(moment)[1] - 1
        reading = await reading_again(connection, row.bundle, rule, end, (end + 1) // (bucket + 1))
    found = await judge_span(connection, Basis(counts, known, runs, reading), span, Baselines(stored=False))
    assert found is not None, "all baselines are made at once"
    panel, judged = found
    group = list(panel.names).index(row.group) if row.group in panel.names else -1
    at = np.flatnonzero(judged.group == group)
    if not len(at):
        raise UsageError(f"what the alert {row.id} was counted from has been pruned")
    first = int(at[0])
    episode = Episode(row.start_time / 1e6, moment)
    numbers = (judged.value[first], judged.expected[first], judged.judgement.log_rate[first])
    value, expected, log_rate = (float(each) for each in numbers)
    return Change(moment, row.group, "firing", episode, value, expected, log_rate)
