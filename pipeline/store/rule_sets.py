"""Versions of the rules, kept so that an event's row can say which were in force."""

from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from pipeline.rules import RuleSet
from pipeline.store.database import Database
from schemas.tables import rule_sets


async def remember_rules(database: Database, rules: RuleSet, now: int) -> None:
    """Store this version of the rules unless it is there."""
    if not rules.rules:
        return
    build = sqlite_insert if database.is_sqlite else postgresql_insert
    values = {"version": rules.version, "rules": rules.content, "created_at": now}
    async with database.begin() as connection:
        await connection.execute(build(rule_sets).values(**values).on_conflict_do_nothing())
