"""The tables of rules that count: what was counted for which rule, what is usual, what fires, and who is told.

Times are int64 microseconds since 1970, UTC; ticks count from 1970; groups are "" where a rule has none.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from schemas.metadata import Json, RowId, metadata

# A version of the rules as a stream takes it up: announced (its counters are filled), then active from a tick.
rule_activations = Table(
    "rule_activations",
    metadata,
    Column("sequence", RowId, primary_key=True, autoincrement=True),
    Column("stream", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("announced_at", BigInteger, nullable=False),
    # The first tick whose decisions are taken by it; missing until its counters are filled.
    Column("active_tick", BigInteger),
    Index(None, "stream", "active_tick"),
    sqlite_autoincrement=True,
)

# A rule's definition while it is counted. Events up to row `last_event` are counted from what is stored, from tick
# `since_tick` on (`filled_event` says how far); later ones in their own transactions. Repeats are collapsed up to
# `collapsed_tick`. Announced again after it was stopped, it is another row.
definitions = Table(
    "definitions",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("definition", Text, nullable=False),
    Column("stream", Text, nullable=False),
    Column("rule", Json, nullable=False),
    Column("since_tick", BigInteger, nullable=False),
    Column("last_event", BigInteger, nullable=False),
    Column("filled_event", BigInteger, nullable=False),
    Column("collapsed_tick", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("stopped_at", BigInteger),
    Index(None, "stream", "definition"),
    sqlite_autoincrement=True,
)

# An event that counts for a definition, once a group. `signature` is that of its text, `counted` whether it is
# evidence of its own (missing until its tick is closed) or repeats what the group has.
sightings = Table(
    "sightings",
    metadata,
    Column("definition", RowId, primary_key=True, autoincrement=False),
    Column("group", Text, primary_key=True),
    Column("event", RowId, primary_key=True, autoincrement=False),
    Column("label", Text, nullable=False),
    Column("tick", BigInteger, nullable=False),
    Column("signature", BigInteger),
    Column("counted", Boolean),
    Index(None, "definition", "tick"),
    Index(
        "ix_sightings_open",
        "definition",
        "tick",
        postgresql_where=text("counted IS NULL"),
        sqlite_where=text("counted IS NULL"),
    ),
    Index(None, "definition", "group", "tick"),
    Index(None, "event"),
)

# Counts by bucket, as wide as the time between a rule's decisions. `raw` moves with the events, one row a shard
# (the partition, so that workers do not wait for each other); `single`, without repeats, when a tick is closed.
counters = Table(
    "counters",
    metadata,
    Column("definition", RowId, primary_key=True, autoincrement=False),
    Column("group", Text, primary_key=True),
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    Column("label", Text, primary_key=True),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("raw", BigInteger, nullable=False),
    Column("single", BigInteger, nullable=False),
    Index(None, "definition", "bucket"),
)

# Texts that a group has been told, findable by parts of their signatures.
stories = Table(
    "stories",
    metadata,
    Column("definition", RowId, primary_key=True, autoincrement=False),
    Column("group", Text, primary_key=True),
    Column("band", SmallInteger, primary_key=True, autoincrement=False),
    Column("part", Integer, primary_key=True, autoincrement=False),
    Column("tick", BigInteger, primary_key=True, autoincrement=False),
    Column("signature", BigInteger, primary_key=True, autoincrement=False),
)

# A group that was seen, and what is usual in it: `fitted` on counts up to `fitted_until` (seconds since 1970) with
# so many attached back-fills.
groups = Table(
    "groups",
    metadata,
    Column("definition", RowId, primary_key=True, autoincrement=False),
    Column("group", Text, primary_key=True),
    Column("first_tick", BigInteger, nullable=False),
    Column("last_tick", BigInteger, nullable=False),
    Column("fitted_until", BigInteger),
    Column("fitted_runs", Integer),
    Column("fitted", Json),
    Index(None, "definition", "last_tick"),
)

# What fires: the state of re-arming, which no person changes.
firings = Table(
    "firings",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("group", Text, primary_key=True),
    Column("start_time", BigInteger, nullable=False),
    Column("last_time", BigInteger, nullable=False),
    # Pending until then; missing once it has fired.
    Column("due_time", BigInteger),
    Column("alert", RowId, nullable=False),
)

# Every change of an alert, by whom.
alert_history = Table(
    "alert_history",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("alert", RowId, nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("note", Text),
    UniqueConstraint("alert", "version"),
)

# Events that an alert quotes: who is forgotten is taken out of the evidence, too.
alert_events = Table(
    "alert_events",
    metadata,
    Column("alert", RowId, primary_key=True, autoincrement=False),
    Column("event", RowId, primary_key=True, autoincrement=False),
    Index(None, "event"),
)

# While one lasts, nobody is told of the alerts that it names; missing rule or group means any.
silences = Table(
    "silences",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("rule", Text),
    Column("group", Text),
    Column("starts_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("author", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "ends_at"),
)

# How a receiver of notifications does: what went out lately bounds what may go out now.
receivers = Table(
    "receivers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sent_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("failures", Integer, nullable=False),
    Column("error", Text),
    Column("window_start", BigInteger, nullable=False),
    Column("window_sent", Integer, nullable=False),
)

# Alerts that a receiver must be told of again and again while they last; leased by who is doing so.
reposts = Table(
    "reposts",
    metadata,
    Column("alert", RowId, primary_key=True, autoincrement=False),
    Column("receiver", Text, primary_key=True),
    Column("due_at", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Index(None, "due_at"),
)

# How often a bundle's head takes a label for another, as its manifest says (rows: truth, columns: predictions).
confusions = Table(
    "confusions",
    metadata,
    Column("bundle", Text, primary_key=True),
    Column("head", Text, primary_key=True),
    Column("labels", Json, nullable=False),
    Column("counts", Json, nullable=False),
)

# The last tick of which a bundle read events; that of the bundle "" says how far was looked.
readings = Table(
    "readings",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("last_tick", BigInteger, nullable=False),
)

OPEN = text("state IN ('pending', 'firing', 'acknowledged')")
