"""Which rules hold for a chunk: as the database says inside the chunk's transaction, so for all workers alike."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.counting import Counted
from pipeline.in_force import InForce, Match, matches_of
from pipeline.rules import CountRule, RuleSet
from pipeline.store.clock import Clock, Rules
from pipeline.work import Work
from schemas.counting import definitions, rule_activations
from schemas.errors import ConfigError
from schemas.tables import rule_sets


class Rulebook:
    """Knows the rules in force, and reads them again when the database has others."""

    def __init__(self, own: RuleSet, tick: int) -> None:
        """`own` are the rules of the settings, by which back-fills go; `tick` is in microseconds."""
        self.own = own
        self._tick = tick
        self._known: dict[str, tuple[Rules, InForce]] = {}
        self._matches: dict[str, Sequence[Match]] = {}

    async def of(self, connection: AsyncConnection, work: Work, clock: Clock) -> InForce:
        """The rules for a chunk whose clock is locked.

        Raises:
            ConfigError: those in force are of another release.
        """
        stream = work.place.stream
        known = self._known.get(stream)
        if known is None or known[0] != clock.rules:
            known = (clock.rules, await _read(connection, stream, clock.rules, self._tick))
            self._known[stream] = known
        live = known[1]
        if not work.place.run:
            return live
        version = self.own.version if self.own.rules else None
        if stream not in self._matches:
            self._matches[stream] = matches_of(self.own, stream)
        return InForce(version, self._matches[stream], live.counted if clock.counts else ())


async def _read(connection: AsyncConnection, stream: str, rules: Rules, tick: int) -> InForce:
    counted = [Counted(number, rule, tick) for number, rule in await counted_rules(connection, stream)]
    if rules.active is None:
        return InForce(counted=counted)
    active = await rule_set_of(connection, rules.active)
    return InForce(active.version if active.rules else None, matches_of(active, stream), counted)


async def counted_rules(connection: AsyncConnection, stream: str) -> list[tuple[int, CountRule]]:
    """The rules of a stream that are counted, by the numbers of their rows in `definitions`."""
    query = select(definitions.c.id, definitions.c.rule).where(
        definitions.c.stream == stream, definitions.c.stopped_at.is_(None)
    )
    found = (await connection.execute(query.order_by(definitions.c.id))).all()
    return list(zip([row.id for row in found], count_rules(row.rule for row in found), strict=True))


async def rule_set_of(connection: AsyncConnection, sequence: int) -> RuleSet:
    """The rules of an activation."""
    query = (
        select(rule_sets.c.rules)
        .join_from(rule_activations, rule_sets, rule_activations.c.version == rule_sets.c.version)
        .where(rule_activations.c.sequence == sequence)
    )
    return read_rules((await connection.execute(query)).scalar_one())


def count_rules(contents: Iterable[Any]) -> list[CountRule]:
    """Rules that count, as `definitions` keeps them."""
    return [rule for rule in read_rules(list(contents)).rules if isinstance(rule, CountRule)]


def read_rules(content: list[Any]) -> RuleSet:
    """Rules as the database keeps them.

    Raises:
        ConfigError: they are of another release.
    """
    try:
        return RuleSet.of_content(content)
    except ValidationError as error:
        raise ConfigError(
            f"the rules in the database cannot be read by this release ({error.errors()[0]['msg']}); "
            "let all workers run one release"
        ) from None
