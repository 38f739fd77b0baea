"""Owners of partitions, closed ticks, deaths over records, the forgotten, and what a live arrival takes over."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

# Rows without a value in the first column cost them nothing.
_PARTIAL = {
    "ix_events_run": ["run", "visible_tick"],
    "ix_events_former_run": ["former_run", "former_tick"],
    "ix_events_item": ["item", "item_hash"],
    "ix_events_conversation": ["conversation"],
}


def upgrade() -> None:
    for table, columns in _added().items():
        for column in columns:
            op.add_column(table, column)
    with op.batch_alter_table("outbox") as outbox:
        outbox.alter_column("value", existing_type=sa.LargeBinary(), nullable=True)
        outbox.add_column(sa.Column("version", sa.BigInteger()))
    op.create_index(op.f("ix_outbox_receiver_key"), "outbox", ["receiver", "key"])
    op.create_index(op.f("ix_alerts_event"), "alerts", ["event"])
    for name, keys in _PARTIAL.items():
        where = sa.text(f"{keys[0]} IS NOT NULL")
        op.create_index(name, "events", keys, postgresql_where=where, sqlite_where=where)
    _fill_times()
    op.create_table(
        "owners",
        *_partition("owners"),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("assigned_at", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("left_at", sa.BigInteger()),
        sa.Column("died", sa.Boolean(), nullable=False),
        sa.Column("idle_from", sa.BigInteger()),
        sa.Column("idle_at", sa.BigInteger()),
    )
    op.create_table(
        "attempts",
        *_partition("attempts"),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "closings",
        sa.Column("id", _ROW_ID, autoincrement=True, nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("first_tick", sa.BigInteger(), nullable=False),
        sa.Column("last_tick", sa.BigInteger(), nullable=False),
        sa.Column("watermark", sa.BigInteger(), nullable=False),
        sa.Column("moved_by", sa.Text(), nullable=False),
        sa.Column("left_out", _JSON, nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_closings")),
        sa.UniqueConstraint("stream", "run", "first_tick", name=op.f("uq_closings_stream_run_first_tick")),
    )
    op.create_index(op.f("ix_closings_closed_at"), "closings", ["closed_at"])


def _added() -> dict[str, list[sa.Column[int] | sa.Column[str]]]:
    return {
        "instance": [sa.Column("forgotten_before", sa.BigInteger())],
        "events": [
            sa.Column("former_run", sa.Text()),
            sa.Column("former_tick", sa.BigInteger()),
            sa.Column("forgotten_at", sa.BigInteger()),
        ],
        "progress": [
            sa.Column("newest", sa.BigInteger()),
            sa.Column("timed", sa.BigInteger(), nullable=False, server_default="0"),
            sa.Column("ended_at", sa.BigInteger()),
        ],
        "watermarks": [
            sa.Column("idle_since", sa.BigInteger()),
            sa.Column("idle_base", sa.BigInteger()),
        ],
        "rule_sets": [sa.Column("baseline", sa.BigInteger()), sa.Column("used_at", sa.BigInteger())],
    }


def _partition(table: str) -> list[sa.Column[str] | sa.Column[int] | sa.PrimaryKeyConstraint]:
    names = ("cluster", "topic", "incarnation")
    return [
        *[sa.Column(name, sa.Text(), nullable=False) for name in names],
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint(*names, "partition", name=op.f(f"pk_{table}")),
    ]


def _fill_times() -> None:
    """Partitions that were read before know their newest event, or their time would begin at the clock."""
    place = "cluster, topic, incarnation, partition"
    op.execute(
        sa.text(
            f"UPDATE progress SET newest = found.newest, timed = found.timed FROM (SELECT {place}, "
            'max(event_time) AS newest, max("offset") + 1 AS timed FROM events'
            f" WHERE NOT future AND run IS NULL GROUP BY {place}) AS found"
            " WHERE progress.cluster = found.cluster AND progress.topic = found.topic"
            " AND progress.incarnation = found.incarnation AND progress.partition = found.partition"
        )
    )


def downgrade() -> None:
    raise NotImplementedError("a downgrade would lose data; restore a backup instead")
