"""Pictures of what a rehearsal fired: windows, baseline and alerts of the groups that fired most."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.rules import CountRule, RuleSet, ShareRule
from pipeline.store.baselines import Baselines, Basis
from pipeline.store.database import Database
from pipeline.store.panels import Counts
from pipeline.surge.backtest import Fired
from pipeline.surge.baseline import Baseline
from pipeline.surge.groups import Need, Span, needs
from pipeline.surge.plot import Panel
from pipeline.times import microseconds
from schemas.counting import counters, definitions
from schemas.tables import instance

# Pictures at most, and buckets of each: what is longer is drawn in part, the latest.
_MOST = 12
_BUCKETS = 200_000


async def panels(database: Database, rules: RuleSet, alerts: Sequence[Fired]) -> list[Panel]:
    """A picture for each of the groups that fired most; of a share, the counts of what it watches."""
    by_name = {rule.name: rule for rule in rules.rules if isinstance(rule, CountRule)}
    fired = Counter((each.rule, each.group) for each in alerts)
    found = []
    async with database.read() as connection:
        tick = (await connection.execute(select(instance.c.tick))).scalar_one()
        for rule, group in sorted(fired, key=lambda each: (-fired[each], each))[:_MOST]:
            mine = [each for each in alerts if (each.rule, each.group) == (rule, group)]
            found.append(await _panel(connection, by_name[rule], group, mine, tick))
    return found


async def _panel(
    connection: AsyncConnection, rule: CountRule, group: str, alerts: Sequence[Fired], tick: int
) -> Panel:
    number = select(definitions.c.id).where(definitions.c.definition == rule.definition).limit(1)
    labels = rule.label if isinstance(rule, ShareRule) else ("",)
    counts = Counts((await connection.execute(number)).scalar_one(), rule, tick, labels)
    extent = select(func.min(counters.c.bucket), func.max(counters.c.bucket)).where(
        counters.c.definition == counts.definition, counters.c.group == group
    )
    first, last = (await connection.execute(extent)).one()
    span = Span(max(first, last - _BUCKETS), last, counts.plan.every)
    known = {group: (await counts.known(connection))[group]}
    panel = await counts.panel(connection, span, known)
    row = list(panel.names).index(group)
    values = panel.windows[row].sum(axis=0)
    expected = np.full(span.size, np.nan)
    if not isinstance(rule, ShareRule):
        places = np.full(span.size, row, dtype=np.int64), np.arange(span.size, dtype=np.int64)
        needed = needs(panel, span, counts.plan, places)
        fitted = await Baselines(stored=False).of(connection, Basis(counts, known, 0), needed) or {}
        places_of: dict[Need, list[int]] = {}
        for place, need in enumerate(needed):
            places_of.setdefault(need, []).append(place)
        for need, at in places_of.items():
            baseline = fitted.get(need)
            if isinstance(baseline, Baseline):
                expected[at] = baseline.expected(span.ends[at] - counts.plan.window, span.ends[at])
    begun = [(_bucket(each.start, span), _bucket(each.end or each.start, span)) for each in alerts]
    what = f"{rule.name} on {group}" if group else rule.name
    title = f"{what}: count of the window (blue), baseline (green), alerts (red)"
    return Panel(title, span.ends[0] - span.every, span.every, values, expected, begun)


def _bucket(moment: str, span: Span) -> int:
    seconds = microseconds(datetime.fromisoformat(moment)) / 1e6
    return int(np.clip(round(seconds / span.every) - 1 - span.first, 0, span.size - 1))
