"""Blockers: the dead letters that their lanes must not pass, wherever they stand in them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blockers",
        sa.Column("destination", sa.String(255), primary_key=True, comment="full proto name of the service"),
        sa.Column("lane", sa.String(255), primary_key=True, comment="ordering key"),
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.ForeignKey("messages.seq"),
            primary_key=True,
            unique=True,
            autoincrement=False,
            comment="the dead letter; what was kept after it waits",
        ),
        comment="dead letters that their lanes must not pass",
    )
    op.execute(
        "INSERT INTO blockers (destination, lane, seq) SELECT destination, lane, head_seq FROM lanes WHERE blocked"
    )
