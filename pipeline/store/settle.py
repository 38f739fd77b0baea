"""The way of announced rules into force: their counters are filled, batch by batch, then they are activated."""

from sqlalchemy import select

from pipeline.rules import CountRule
from pipeline.store.announce import activate, fill
from pipeline.store.clock import try_decisions
from pipeline.store.collapse import collapse
from pipeline.store.database import Database
from pipeline.store.rulebook import count_rules
from schemas.counting import definitions, rule_activations
from schemas.tables import watermarks


async def settle(database: Database, tick: int, now: int, batches: int | None = None) -> str | None:
    """Go on with it, for so many batches (None: to the end); returns the version that came into force.

    Any worker may at any time. tick: its width in microseconds.
    """
    done = 0
    while batches is None or done < batches:
        done += 1
        if not await fill(database, tick) and not await _collapse(database, tick):
            return await activate(database, now)
    return None


async def any_active(database: Database) -> bool:
    """Whether rules have ever come into force in this database."""
    query = select(rule_activations.c.sequence).where(rule_activations.c.active_tick.is_not(None)).limit(1)
    async with database.read() as connection:
        return (await connection.execute(query)).first() is not None


async def _collapse(database: Database, tick: int) -> bool:
    """Collapse a batch of a definition that is behind the decisions; False when there is none, or not for us."""
    query = (
        select(definitions, watermarks.c.decided_tick)
        .join(watermarks, (watermarks.c.stream == definitions.c.stream) & (watermarks.c.run == ""))
        .where(
            definitions.c.stopped_at.is_(None),
            definitions.c.filled_event >= definitions.c.last_event,
            definitions.c.collapsed_tick < watermarks.c.decided_tick,
        )
        .order_by(definitions.c.id)
        .limit(1)
    )
    async with database.read() as connection:
        behind = (await connection.execute(query)).one_or_none()
    if behind is None:
        return False
    async with database.begin() as connection:
        if not await try_decisions(connection, behind.stream):
            return False
        rule: CountRule = count_rules([behind.rule])[0]
        await collapse(connection, behind.id, rule.every // tick, behind.decided_tick, tick)
    return True
