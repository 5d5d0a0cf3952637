"""Kept messages, and the lanes they wait in."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
QUEUED = sa.text("state = 1")
FINISHED = sa.text("finished_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "messages",
        sa.Column("seq", SEQUENCE, sa.Identity(), primary_key=True, comment="order of acceptance; never used again"),
        sa.Column("message_id", sa.String(36), nullable=False, unique=True, comment="UUID that names the intent"),
        sa.Column("destination", sa.String(255), nullable=False, comment="full proto name of the service it goes to"),
        sa.Column(
            "lane", sa.String(255), nullable=False, comment="ordering key; the message's own id when it has none"
        ),
        sa.Column("method", sa.String(255), nullable=False, comment="/package.Service/Method"),
        sa.Column("request", sa.LargeBinary, nullable=False, comment="serialized request message"),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False, comment="SHA-256 over method and request"),
        sa.Column(
            "principal", sa.LargeBinary, nullable=False, comment="serialized bookd.policy.v1.Principal; empty: nobody"
        ),
        sa.Column(
            "subject",
            sa.String(255),
            nullable=False,
            comment="the principal's subject, who owns the operation, or empty",
        ),
        sa.Column("metadata", sa.JSON, nullable=False, comment="further call metadata: request id, trace context"),
        sa.Column("reply_to", sa.String(255), comment="method path that gets the outcome"),
        sa.Column("state", sa.Integer, nullable=False, comment="bookd.mom.machine.MessageState"),
        sa.Column("attempts", sa.Integer, nullable=False, comment="deliveries that were answered without a decision"),
        sa.Column(
            "refusals", sa.Integer, nullable=False, comment="deliveries since the last attempt that could not be taken"
        ),
        sa.Column("ready_at", sa.BigInteger, nullable=False, comment="not before; microseconds since the epoch, UTC"),
        sa.Column("expire_at", sa.BigInteger, nullable=False, comment="given up then; microseconds"),
        sa.Column("last_error", sa.Text, nullable=False, comment="what the last delivery failed with; empty: nothing"),
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="when it was kept; microseconds"),
        sa.Column(
            "updated_at", sa.BigInteger, nullable=False, comment="when anything above last changed; microseconds"
        ),
        sa.Column("finished_at", sa.BigInteger, comment="when it left the queue; microseconds"),
        sa.Column("status_code", sa.Integer, comment="google.rpc.Code of the outcome; 0: success"),
        sa.Column("status", sa.LargeBinary, comment="serialized google.rpc.Status of an outcome that is no success"),
        sa.Column("response", sa.LargeBinary, comment="serialized response message of a success"),
        sa.CheckConstraint("state BETWEEN 1 AND 5", name="messages_state"),
        sa.CheckConstraint("length(message_id) = 36", name="messages_message_id"),
        sa.CheckConstraint("length(fingerprint) = 32", name="messages_fingerprint"),
        sa.CheckConstraint("attempts >= 0 AND refusals >= 0", name="messages_counts"),
        sa.CheckConstraint("(state = 1) = (finished_at IS NULL)", name="messages_finished"),
        sa.CheckConstraint("(state = 1) = (status_code IS NULL)", name="messages_outcome"),
        sa.CheckConstraint("(state = 2) = (response IS NOT NULL)", name="messages_response"),
        sa.CheckConstraint("(state IN (3, 4, 5)) = (status IS NOT NULL)", name="messages_status"),
        sqlite_autoincrement=True,
        comment="calls that were kept",
    )
    op.create_index(
        "messages_queued",
        "messages",
        ["destination", "lane", "seq"],
        sqlite_where=QUEUED,
        postgresql_where=QUEUED,
    )
    op.create_index("messages_expiring", "messages", ["expire_at"], sqlite_where=QUEUED, postgresql_where=QUEUED)
    op.create_index(
        "messages_finished_at", "messages", ["finished_at"], sqlite_where=FINISHED, postgresql_where=FINISHED
    )
    op.create_index("messages_by_state", "messages", ["state", "seq"])
    op.create_index("messages_by_subject", "messages", ["subject", "seq"])
    op.create_table(
        "lanes",
        sa.Column("destination", sa.String(255), primary_key=True, comment="full proto name of the service"),
        sa.Column("lane", sa.String(255), primary_key=True, comment="ordering key"),
        sa.Column(
            "head_seq",
            SEQUENCE,
            sa.ForeignKey("messages.seq"),
            nullable=False,
            unique=True,
            comment="its first message",
        ),
        sa.Column("ready_at", sa.BigInteger, nullable=False, comment="ready_at of that message; microseconds"),
        sa.Column(
            "blocked", sa.Boolean, nullable=False, comment="its first message is a dead letter that must not be passed"
        ),
        comment="lanes that have something to deliver",
    )
    op.create_index("lanes_ready", "lanes", ["destination", "blocked", "ready_at", "head_seq"])
