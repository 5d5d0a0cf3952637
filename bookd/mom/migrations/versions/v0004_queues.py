"""Queues: how much waits for each destination, and whether an operator has paused it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "queues",
        sa.Column("destination", sa.String(255), primary_key=True, comment="full proto name of the service"),
        sa.Column("depth", sa.BigInteger, nullable=False, comment="queued messages"),
        sa.Column("bytes", sa.BigInteger, nullable=False, comment="bytes of their requests"),
        sa.Column("dead", sa.BigInteger, nullable=False, comment="dead letters"),
        sa.Column("paused_at", sa.BigInteger, comment="when an operator paused it; microseconds since the epoch, UTC"),
        sa.CheckConstraint("depth >= 0 AND bytes >= 0 AND dead >= 0", name="queues_counts"),
        comment="what waits for each destination, counted",
    )
    op.execute(
        "INSERT INTO queues (destination, depth, bytes, dead)"
        " SELECT destination, sum(CASE state WHEN 1 THEN 1 ELSE 0 END),"
        " sum(CASE state WHEN 1 THEN length(request) ELSE 0 END), sum(CASE state WHEN 4 THEN 1 ELSE 0 END)"
        " FROM messages GROUP BY destination"
    )
