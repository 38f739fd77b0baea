"""The latest stories can be asked for, and until when which bundle read a stream."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("stories") as batch:
        batch.drop_constraint(op.f("pk_stories"), type_="primary")
        batch.create_primary_key(op.f("pk_stories"), ["definition", "group", "band", "part", "tick", "signature"])
    op.create_table(
        "readings",
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("last_tick", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("stream", "bundle", name=op.f("pk_readings")),
    )


def downgrade() -> None:
    raise NotImplementedError("a downgrade would lose data; restore a backup instead")
