"""The inbox remembers refusals too."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A new table: SQLite puts an added column behind the table's checks, where a fresh table does not have it.
    op.drop_index("ix_inbox_applied_at", "inbox")
    op.rename_table("inbox", "inbox_before")
    op.create_table(
        "inbox",
        sa.Column("message_id", sa.String(36), primary_key=True, comment="UUID of the message"),
        sa.Column("method", sa.String(255), nullable=False, comment="method path that was called"),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False, comment="SHA-256 over method and request"),
        sa.Column(
            "response", sa.LargeBinary, nullable=False, comment="serialized response message; empty for a refusal"
        ),
        sa.Column("status", sa.LargeBinary, comment="serialized google.rpc.Status of a refusal; null for a success"),
        sa.Column("applied_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.CheckConstraint("length(fingerprint) = 32", name="inbox_fingerprint"),
        comment="messages that were decided, with what was answered",
    )
    op.execute(
        "INSERT INTO inbox (message_id, method, fingerprint, response, applied_at)"
        " SELECT message_id, method, fingerprint, response, applied_at FROM inbox_before"
    )
    op.drop_table("inbox_before")
    op.create_index("ix_inbox_applied_at", "inbox", ["applied_at"])
