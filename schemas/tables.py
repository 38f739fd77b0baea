"""The tables. Times are int64 microseconds since 1970, UTC; hashes are 16 bytes; JSON is JSONB on PostgreSQL."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from schemas import counting
from schemas.metadata import Json, RowId, metadata
from schemas.registry import activations, bundles, embedding_dependents

# One row: what is fixed when the database is created, and how far it has been pruned.
instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("hash_key", LargeBinary, nullable=False),
    Column("tick", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("pruned_before", BigInteger),
    Column("seen_before", BigInteger),
    # The latest moment at which somebody was forgotten: younger events need not be asked about.
    Column("forgotten_before", BigInteger),
)

# One event, counted once: (stream, source, event_id), as CloudEvents says.
events = Table(
    "events",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("stream", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("content_hash", LargeBinary, nullable=False),
    Column("origin", Text, nullable=False),
    Column("run", Text),
    Column("cluster", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("broker_time", BigInteger),
    Column("ingest_time", BigInteger, nullable=False),
    Column("visible_tick", BigInteger, nullable=False),
    Column("future", Boolean, nullable=False),
    Column("too_old", Boolean, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("bundle", Text),
    Column("rules", Text),
    Column("traceparent", Text),
    Column("subject", Text),
    Column("apply_sequence", BigInteger),
    Column("language", Text),
    Column("signature", BigInteger),
    Column("title", Text),
    Column("text", Text),
    Column("url", Text),
    Column("entities", Json),
    Column("attributes", Json),
    # chat
    Column("conversation", Text),
    Column("role", Text),
    Column("kind", Text),
    Column("channel", Text),
    # behavior
    Column("item", Text),
    Column("item_hash", LargeBinary),
    Column("item_version", Text),
    Column("action", Text),
    Column("value", Double),
    Column("session", Text),
    # A row that a live arrival took over from a back-fill keeps where that run saw it.
    Column("former_run", Text),
    Column("former_tick", BigInteger),
    Column("forgotten_at", BigInteger),
    UniqueConstraint("stream", "source", "event_id"),
    Index(None, "stream", "visible_tick"),
    Index(None, "event_time"),
    Index(None, "subject"),
    Index(
        "ix_events_run",
        "run",
        "visible_tick",
        postgresql_where=text("run IS NOT NULL"),
        sqlite_where=text("run IS NOT NULL"),
    ),
    Index(
        "ix_events_former_run",
        "former_run",
        "former_tick",
        postgresql_where=text("former_run IS NOT NULL"),
        sqlite_where=text("former_run IS NOT NULL"),
    ),
    Index(
        "ix_events_item",
        "item",
        "item_hash",
        postgresql_where=text("item IS NOT NULL"),
        sqlite_where=text("item IS NOT NULL"),
    ),
    Index(
        "ix_events_conversation",
        "conversation",
        postgresql_where=text("conversation IS NOT NULL"),
        sqlite_where=text("conversation IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

# What a bundle said of an event; stored scores are the truth and are never computed again.
scores = Table(
    "scores",
    metadata,
    Column("event", RowId, ForeignKey("events.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("bundle", Text, primary_key=True),
    Column("heads", Json, nullable=False),
    Column("embedding", LargeBinary),
    Column("scale", Double),
    Column("tokens", Integer, nullable=False),
)

# What a bundle said of an item's text; behavior events refer to it by item and text hash.
item_scores = Table(
    "item_scores",
    metadata,
    Column("item", Text, primary_key=True),
    Column("text_hash", LargeBinary, primary_key=True),
    Column("bundle", Text, primary_key=True),
    Column("heads", Json, nullable=False),
    Column("embedding", LargeBinary),
    Column("scale", Double),
    Column("tokens", Integer, nullable=False),
    Column("truncated", Boolean, nullable=False),
)

# Identity (rule, group, episode); a match rule's episode is its event.
alerts = Table(
    "alerts",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("rule", Text, nullable=False),
    Column("group", Text, nullable=False),
    Column("episode", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("severity", Text, nullable=False),
    Column("stream", Text, nullable=False),
    Column("event", RowId),
    Column("run", Text),
    Column("start_time", BigInteger, nullable=False),
    Column("end_time", BigInteger),
    Column("visible_tick", BigInteger, nullable=False),
    Column("definition", Text, nullable=False),
    Column("bundle", Text, nullable=False),
    Column("evidence", Json, nullable=False),
    # Names of who is told beside the topic.
    Column("receivers", Json),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("rule", "group", "episode"),
    Index(None, "created_at"),
    Index(None, "event"),
    Index("ix_alerts_open", "stream", postgresql_where=counting.OPEN, sqlite_where=counting.OPEN),
)

# What could not be used, bytes untouched. `identity` is the hash of where it came from.
dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("identity", LargeBinary, nullable=False, unique=True),
    Column("stream", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("run", Text),
    Column("cluster", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("stage", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("exception", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    Column("headers", Json, nullable=False),
    Column("broker_time", BigInteger),
    Column("ingest_time", BigInteger, nullable=False),
    Column("replayed_at", BigInteger),
    Index(None, "ingest_time"),
)

# What must go out and survive a crash; claimed by lease. `event` leads a redelivered chunk to its messages,
# `alert` an alert to what was said of it.
outbox = Table(
    "outbox",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("identity", Text, nullable=False, unique=True),
    Column("event", RowId),
    Column("alert", RowId),
    Column("receiver", Text, nullable=False),
    Column("key", LargeBinary),
    # None is a tombstone.
    Column("value", LargeBinary),
    # Of two messages with one key and receiver the higher version holds.
    Column("version", BigInteger),
    Column("headers", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("lease_until", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("sent_at", BigInteger),
    Column("error", Text),
    Index(None, "sent_at", "lease_until"),
    Index(None, "event"),
    Index(None, "alert"),
    Index(None, "receiver", "key"),
)

# How far each partition has come: `stored` and `published` are the next offsets; the counts are of records.
# `newest` is the greatest event time that moves the watermark, `timed` the offset after the last such event;
# `ended_at` is set when the topic was made again and nothing more can come.
progress = Table(
    "progress",
    metadata,
    Column("cluster", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("incarnation", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("published", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("new", BigInteger, nullable=False),
    Column("repeated", BigInteger, nullable=False),
    Column("dead", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("newest", BigInteger),
    Column("timed", BigInteger, nullable=False, server_default="0"),
    Column("ended_at", BigInteger),
)

# Who reads a partition. `left_at` is set when a worker gives it up in order: where it is missing, one died, and
# `died` stays set until what it had in work is through. `idle_from` is the offset at which the owner found nothing
# for a while.
owners = Table(
    "owners",
    metadata,
    Column("cluster", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("incarnation", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("stream", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("assigned_at", BigInteger, nullable=False),
    Column("beat_at", BigInteger, nullable=False),
    Column("left_at", BigInteger),
    Column("died", Boolean, nullable=False),
    Column("idle_from", BigInteger),
    Column("idle_at", BigInteger),
)

# Records [first, until) of a partition that a worker had in hand, alone, after another died over them.
attempts = Table(
    "attempts",
    metadata,
    Column("cluster", Text, primary_key=True),
    Column("topic", Text, primary_key=True),
    Column("incarnation", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("first", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

# Keys of pruned events, so that a replay of the log does not bring them back. `day` counts from 1970.
seen = Table(
    "seen",
    metadata,
    Column("key_hash", LargeBinary, primary_key=True),
    Column("day", Integer, nullable=False),
    Index(None, "day"),
)

# Keyed hash of a user or customer: the order of what was applied to a profile, and when they were forgotten.
subjects = Table(
    "subjects",
    metadata,
    Column("subject_hash", LargeBinary, primary_key=True),
    Column("apply_sequence", BigInteger, nullable=False),
    Column("forgotten_at", BigInteger),
)

# Event time of a stream (run empty: live; else that of a back-fill). While all partitions are idle it goes on
# from `idle_base` at the clock's pace. Decisions of rules are taken up to `decided_tick`.
watermarks = Table(
    "watermarks",
    metadata,
    Column("stream", Text, primary_key=True),
    Column("run", Text, primary_key=True),
    Column("closed_tick", BigInteger, nullable=False),
    Column("decided_tick", BigInteger, nullable=False, server_default="-1"),
    Column("watermark", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("idle_since", BigInteger),
    Column("idle_base", BigInteger),
)

# Ticks [first_tick, last_tick] were closed in one step; `left_out` names the partitions that had no say.
closings = Table(
    "closings",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("stream", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("first_tick", BigInteger, nullable=False),
    Column("last_tick", BigInteger, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("moved_by", Text, nullable=False),
    Column("left_out", Json, nullable=False),
    Column("closed_at", BigInteger, nullable=False),
    UniqueConstraint("stream", "run", "first_tick"),
    Index(None, "closed_at"),
)

# Back-fills. Their rows count for live rules from `attached_tick` on, once they are `counted`.
runs = Table(
    "runs",
    metadata,
    Column("run", Text, primary_key=True),
    Column("stream", Text, nullable=False),
    Column("file", Text, nullable=False),
    Column("notify", Boolean, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("attached_tick", BigInteger),
    Column("counted", Boolean, nullable=False, server_default=text("false")),
    # The last row that was counted so far.
    Column("counted_event", BigInteger, nullable=False, server_default="0"),
)

# Versions of the rules file as workers met them.
rule_sets = Table(
    "rule_sets",
    metadata,
    Column("version", Text, primary_key=True),
    Column("rules", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # Microseconds of stored events that its rules look back on, and when a worker last worked by it.
    Column("baseline", BigInteger),
    Column("used_at", BigInteger),
)

__all__ = [
    "Json",
    "activations",
    "alerts",
    "attempts",
    "bundles",
    "closings",
    "counting",
    "dead_letters",
    "embedding_dependents",
    "events",
    "instance",
    "item_scores",
    "metadata",
    "outbox",
    "owners",
    "progress",
    "rule_sets",
    "runs",
    "scores",
    "seen",
    "subjects",
    "watermarks",
]
