"""Versions of the rules, kept so that an event's row can say which were in force."""

from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from pipeline.rules import RuleSet
from pipeline.store.database import Database
from schemas.errors import ConfigError
from schemas.tables import rule_sets


async def remember_rules(database: Database, rules: RuleSet, now: int, also_empty: bool = False) -> None:
    """Store this version of the rules, or that it is in use (at `now`, microseconds)."""
    if not rules.rules and not also_empty:
        return
    build = sqlite_insert if database.is_sqlite else postgresql_insert
    use = {"baseline": rules.baseline, "used_at": now}
    statement = build(rule_sets).values(version=rules.version, rules=rules.content, created_at=now, **use)
    async with database.begin() as connection:
        await connection.execute(statement.on_conflict_do_update(index_elements=[rule_sets.c.version], set_=use))


async def longest_baseline(database: Database, since: int) -> int:
    """Microseconds of stored events that rules used after `since` look back on."""
    query = select(func.max(rule_sets.c.baseline)).where(rule_sets.c.used_at >= since)
    async with database.read() as connection:
        return (await connection.execute(query)).scalar_one() or 0


async def used_rules(database: Database, since: int) -> list[RuleSet]:
    """The rules that a worker has worked by after `since`, microseconds.

    Raises:
        ConfigError: they are of another release.
    """
    query = select(rule_sets.c.version, rule_sets.c.rules).where(rule_sets.c.used_at >= since)
    async with database.read() as connection:
        found = (await connection.execute(query.order_by(rule_sets.c.version))).all()
    return [_read(row.version, row.rules) for row in found]


def _read(version: str, content: list[dict[str, Any]]) -> RuleSet:
    try:
        return RuleSet.of_content(content)
    except ValidationError as error:
        raise ConfigError(
            f"the rules {version} that workers use cannot be read by this release ({error.errors()[0]['msg']}); "
            "call the release that the workers run"
        ) from None
