"""Rules that count: activations, counters, what fires, its history, and who is told."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "alert_events",
        sa.Column("alert", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("event", _ROW_ID, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("alert", "event", name=op.f("pk_alert_events")),
    )
    op.create_index(op.f("ix_alert_events_event"), "alert_events", ["event"])
    op.create_table(
        "alert_history",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("alert", _ROW_ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert_history")),
        sa.UniqueConstraint("alert", "version", name=op.f("uq_alert_history_alert_version")),
    )
    op.create_table(
        "confusions",
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("head", sa.Text(), nullable=False),
        sa.Column("labels", _JSON, nullable=False),
        sa.Column("counts", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("bundle", "head", name=op.f("pk_confusions")),
    )
    op.create_table(
        "counters",
        sa.Column("definition", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("bucket", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("raw", sa.BigInteger(), nullable=False),
        sa.Column("single", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("definition", "group", "bucket", "label", "shard", name=op.f("pk_counters")),
    )
    op.create_index(op.f("ix_counters_definition_bucket"), "counters", ["definition", "bucket"])
    op.create_table(
        "definitions",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("rule", _JSON, nullable=False),
        sa.Column("since_tick", sa.BigInteger(), nullable=False),
        sa.Column("last_event", sa.BigInteger(), nullable=False),
        sa.Column("filled_event", sa.BigInteger(), nullable=False),
        sa.Column("collapsed_tick", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_definitions")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_definitions_stream_definition"), "definitions", ["stream", "definition"])
    op.create_table(
        "firings",
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("start_time", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.BigInteger(), nullable=False),
        sa.Column("due_time", sa.BigInteger(), nullable=True),
        sa.Column("alert", _ROW_ID, nullable=False),
        sa.PrimaryKeyConstraint("stream", "rule", "group", name=op.f("pk_firings")),
    )
    op.create_table(
        "groups",
        sa.Column("definition", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("first_tick", sa.BigInteger(), nullable=False),
        sa.Column("last_tick", sa.BigInteger(), nullable=False),
        sa.Column("fitted_until", sa.BigInteger(), nullable=True),
        sa.Column("fitted_runs", sa.Integer(), nullable=True),
        sa.Column("fitted", _JSON, nullable=True),
        sa.PrimaryKeyConstraint("definition", "group", name=op.f("pk_groups")),
    )
    op.create_index(op.f("ix_groups_definition_last_tick"), "groups", ["definition", "last_tick"])
    op.create_table(
        "receivers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.Column("failed_at", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("window_start", sa.BigInteger(), nullable=False),
        sa.Column("window_sent", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_receivers")),
    )
    op.create_table(
        "reposts",
        sa.Column("alert", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("alert", "receiver", name=op.f("pk_reposts")),
    )
    op.create_index(op.f("ix_reposts_due_at"), "reposts", ["due_at"])
    op.create_table(
        "rule_activations",
        sa.Column("sequence", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("announced_at", sa.BigInteger(), nullable=False),
        sa.Column("active_tick", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_rule_activations")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_rule_activations_stream_active_tick"), "rule_activations", ["stream", "active_tick"])
    op.create_table(
        "sightings",
        sa.Column("definition", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("event", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("tick", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.BigInteger(), nullable=True),
        sa.Column("counted", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("definition", "group", "event", name=op.f("pk_sightings")),
    )
    op.create_index(op.f("ix_sightings_definition_tick"), "sightings", ["definition", "tick"])
    op.create_index(op.f("ix_sightings_definition_group_tick"), "sightings", ["definition", "group", "tick"])
    uncounted = sa.text("counted IS NULL")
    op.create_index(
        "ix_sightings_open",
        "sightings",
        ["definition", "tick"],
        postgresql_where=uncounted,
        sqlite_where=uncounted,
    )
    op.create_index(op.f("ix_sightings_event"), "sightings", ["event"])
    op.create_table(
        "silences",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("rule", sa.Text(), nullable=True),
        sa.Column("group", sa.Text(), nullable=True),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_silences")),
    )
    op.create_index(op.f("ix_silences_ends_at"), "silences", ["ends_at"])
    op.create_table(
        "stories",
        sa.Column("definition", _ROW_ID, autoincrement=False, nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("band", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("signature", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tick", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("definition", "group", "band", "part", "signature", name=op.f("pk_stories")),
    )
    op.create_index(
        "ix_alerts_open",
        "alerts",
        ["stream"],
        postgresql_where=sa.text("state IN ('pending', 'firing', 'acknowledged')"),
        sqlite_where=sa.text("state IN ('pending', 'firing', 'acknowledged')"),
    )
    op.add_column("alerts", sa.Column("receivers", _JSON, nullable=True))
    op.add_column("outbox", sa.Column("alert", _ROW_ID, nullable=True))
    op.create_index(op.f("ix_outbox_alert"), "outbox", ["alert"])
    with op.batch_alter_table("rule_sets") as rule_sets:
        rule_sets.drop_column("active_tick")
    op.add_column("runs", sa.Column("counted_event", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("runs", sa.Column("counted", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("watermarks", sa.Column("decided_tick", sa.BigInteger(), server_default="-1", nullable=False))
    # No rule has counted so far: there is nothing to decide on, and attached rows have nothing to be counted for.
    op.execute("UPDATE watermarks SET decided_tick = closed_tick")
    op.execute("UPDATE runs SET counted = true WHERE attached_tick IS NOT NULL")


def downgrade() -> None:
    raise NotImplementedError("a downgrade would lose data; restore a backup instead")
