"""Steps know when they were asked for, so that what nobody answers is asked for again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A new table, as SQLite adds no column that must have a value.
    op.drop_index("ix_steps_order_id", "steps")
    op.rename_table("steps", "steps_before")
    op.create_table(
        "steps",
        sa.Column("message_id", sa.String(36), primary_key=True, comment="UUID of the message that asks for the step"),
        sa.Column(
            "order_id", sa.String(36), sa.ForeignKey("orders.order_id"), nullable=False, comment="whose saga it is"
        ),
        sa.Column("step", sa.String(7), nullable=False, comment="ADDRESS, RESERVE or RELEASE"),
        sa.Column(
            "sweep_from",
            sa.BigInteger,
            nullable=False,
            comment="the sweep comes `sweep_after` after this time; microseconds since the epoch, UTC",
        ),
        sa.Column("done_at", sa.BigInteger, comment="when its outcome was applied; null while it is open"),
        sa.CheckConstraint("step IN ('ADDRESS', 'RESERVE', 'RELEASE')", name="steps_step"),
        comment="the saga of each order: what was asked of others, and whether they answered",
    )
    op.execute(
        "INSERT INTO steps (message_id, order_id, step, sweep_from, done_at)"
        " SELECT message_id, steps_before.order_id, step, updated_at, done_at"
        " FROM steps_before JOIN orders ON orders.order_id = steps_before.order_id"
    )
    op.drop_table("steps_before")
    op.create_index("ix_steps_order_id", "steps", ["order_id"])
    for name, column, which in (("steps_open", "sweep_from", "IS NULL"), ("steps_done", "done_at", "IS NOT NULL")):
        where = sa.text(f"done_at {which}")
        op.create_index(name, "steps", [column], sqlite_where=where, postgresql_where=where)
