"""Bundles that were promoted, from which tick on each scores, and what was built with an embedding."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from pipeline.store.database import Database
from schemas.tables import activations, bundles, embedding_dependents

MadeBy = Literal["promote", "rollback"]
Kind = Literal["answers", "prototypes", "profiles", "bank"]


class Registered(Struct, frozen=True):
    """A bundle as it was promoted. `path`: "stub", a folder, or empty for the packaged one.

    Vectors of two bundles can be compared when `embedding` is the same.
    """

    identity: str
    name: str
    path: str
    embedding: str


class Activation(Struct, frozen=True):
    """What scores that which comes in from `active_tick` on; without a bundle the settings decide."""

    sequence: int
    bundle: Registered | None
    active_tick: int
    made_by: MadeBy
    made_at: int

    @property
    def identity(self) -> str | None:
        return None if self.bundle is None else self.bundle.identity


class Dependent(Struct, frozen=True):
    """Something that was built with an embedding; `built_at` in microseconds."""

    kind: str
    name: str
    embedding: str
    built_at: int


async def activate(
    database: Database, bundle: Registered | None, tick: int, made_by: MadeBy, now: int
) -> Activation:
    """Store that a bundle scores from `tick` on (None: what the settings name); `now` in microseconds."""
    build = sqlite_insert if database.is_sqlite else postgresql_insert
    values: dict[str, Any] = {"active_tick": tick, "made_by": made_by, "made_at": now}
    async with database.begin() as connection:
        if bundle is not None:
            values["bundle"] = bundle.identity
            row = {name: getattr(bundle, name) for name in Registered.__struct_fields__}
            statement = build(bundles).values(**row, registered_at=now)
            # The same bundle may lie in another folder by now.
            kept = {name: row[name] for name in ("path", "embedding")}
            await connection.execute(statement.on_conflict_do_update(index_elements=["identity"], set_=kept))
        made = await connection.execute(insert(activations).values(**values).returning(activations.c.sequence))
        return Activation(made.scalar_one(), bundle, tick, made_by, now)


async def read_activations(database: Database) -> list[Activation]:
    """All decisions, in the order in which they were made."""
    query = (
        select(activations, *[bundles.c[name] for name in Registered.__struct_fields__])
        .join_from(activations, bundles, activations.c.bundle == bundles.c.identity, isouter=True)
        .order_by(activations.c.sequence)
    )
    async with database.read() as connection:
        found = (await connection.execute(query)).all()
    return [
        Activation(
            row.sequence,
            None if row.identity is None else Registered(row.identity, row.name, row.path, row.embedding),
            row.active_tick,
            row.made_by,
            row.made_at,
        )
        for row in found
    ]


def in_force(made: Sequence[Activation], tick: int) -> Activation | None:
    """The decision by which what comes in at `tick` is scored; None when there is none yet."""
    return next((each for each in reversed(made) if each.active_tick <= tick), None)


def way_back(made: Sequence[Activation]) -> list[Registered | None]:
    """What a rollback goes back along, the latest decision last; None stands for the settings.

    A second rollback goes further back: what was rolled back is not on the way any more.
    """
    way: list[Registered | None] = [None]
    for each in made:
        names = [None if step is None else step.identity for step in way]
        if each.made_by == "rollback" and each.identity in names:
            del way[len(names) - names[::-1].index(each.identity) :]
        elif each.identity != names[-1]:
            way.append(each.bundle)
    return way


async def registered(database: Database, name: str) -> Registered | None:
    """The bundle of this identity, or the one of this name that was registered last."""
    query = (
        select(*[bundles.c[field] for field in Registered.__struct_fields__])
        .where((bundles.c.identity == name) | (bundles.c.name == name))
        .order_by((bundles.c.identity == name).desc(), bundles.c.registered_at.desc(), bundles.c.identity)
    )
    async with database.read() as connection:
        row = (await connection.execute(query)).first()
    return None if row is None else Registered(*row)


async def register_dependent(database: Database, kind: Kind, name: str, embedding: str, now: int) -> None:
    """Write down with which embedding something was built, at `now`, microseconds; the last time counts."""
    build = sqlite_insert if database.is_sqlite else postgresql_insert
    values = {"embedding": embedding, "built_at": now}
    statement = build(embedding_dependents).values(kind=kind, name=name, **values)
    async with database.begin() as connection:
        await connection.execute(statement.on_conflict_do_update(index_elements=["kind", "name"], set_=values))


async def stale_dependents(database: Database, active: str) -> list[Dependent]:
    """What must be rebuilt while `active` is the embedding of the bundle that scores."""
    query = (
        select(embedding_dependents)
        .where(embedding_dependents.c.embedding != active)
        .order_by(embedding_dependents.c.kind, embedding_dependents.c.name)
    )
    async with database.read() as connection:
        return [Dependent(**row) for row in (await connection.execute(query)).mappings()]
