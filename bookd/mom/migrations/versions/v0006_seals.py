"""Seals: by which key what is secret of a message, its outcome and an event were sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BOX = "id of the key that sealed request, principal, metadata and fingerprint, all in request; null: plain"


def upgrade() -> None:
    op.add_column("messages", sa.Column("key_id", sa.String(16), comment=_BOX))
    outcome = "id of the key that sealed status or response; null: plain"
    op.add_column("messages", sa.Column("outcome_key_id", sa.String(16), comment=outcome))
    op.add_column("events", sa.Column("key_id", sa.String(16), comment="id of the key that sealed event; null: plain"))
