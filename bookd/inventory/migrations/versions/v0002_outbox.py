"""Events that are on their way to the MOM."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "outbox",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
            comment="order in which the messages were put; never used again",
        ),
        sa.Column("message_id", sa.String(36), nullable=False, unique=True, comment="UUID of the message"),
        sa.Column("lane", sa.String(255), nullable=False, comment="messages of one lane are sent in order"),
        sa.Column("method", sa.String(255), nullable=False, comment="method path to call"),
        sa.Column("request", sa.LargeBinary, nullable=False, comment="serialized request message"),
        sa.Column("principal", sa.LargeBinary, nullable=False, comment="serialized principal; empty for none"),
        sa.Column(
            "reply_to", sa.String(255), nullable=False, comment="method path that takes the outcome; empty for none"
        ),
        sa.Column("request_id", sa.String(128), nullable=False, comment="id of the client's request; empty for none"),
        sa.Column("traceparent", sa.String(255), nullable=False, comment="W3C trace context; empty for none"),
        sa.Column("attempts", sa.Integer, nullable=False, comment="times it was sent without an answer"),
        sa.Column(
            "ready_at", sa.BigInteger, nullable=False, comment="not sent before; microseconds since the epoch, UTC"
        ),
        sa.Column("last_error", sa.Text, nullable=False, comment="what the last attempt failed with; empty for none"),
        sa.Column(
            "created_at", sa.BigInteger, nullable=False, comment="when it was put; microseconds since the epoch, UTC"
        ),
        sa.CheckConstraint("length(message_id) = 36", name="outbox_message_id"),
        sa.CheckConstraint("length(lane) >= 1", name="outbox_lane"),
        sa.CheckConstraint("attempts >= 0", name="outbox_attempts"),
        sqlite_autoincrement=True,
        comment="messages to send",
    )
    op.create_index("outbox_by_lane", "outbox", ["lane", "seq"])
    op.create_index("outbox_by_time", "outbox", ["ready_at", "seq"])
