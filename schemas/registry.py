"""The tables of the bundles that were promoted; `schemas.tables` has them with all others."""

from sqlalchemy import BigInteger, Column, ForeignKey, Table, Text

from schemas.metadata import RowId, metadata

# Bundles that were promoted. `path` is "stub", a folder, or empty for the packaged one; vectors of two bundles can
# be compared when `embedding` is the same.
bundles = Table(
    "bundles",
    metadata,
    Column("identity", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("embedding", Text, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
)

# Which bundle scores what comes in (by the clock) from `active_tick` on; of two decisions that have begun the
# later `sequence` holds. Without a bundle the settings decide, as before the first one.
activations = Table(
    "activations",
    metadata,
    Column("sequence", RowId, primary_key=True, autoincrement=True),
    Column("bundle", Text, ForeignKey("bundles.identity")),
    Column("active_tick", BigInteger, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("made_at", BigInteger, nullable=False),
)

# What was built with an embedding (answers, prototypes, profiles, a bank), and with which.
embedding_dependents = Table(
    "embedding_dependents",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("embedding", Text, nullable=False),
    Column("built_at", BigInteger, nullable=False),
)
