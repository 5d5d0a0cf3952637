"""Published events, and the durable subscriptions to them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("seq", SEQUENCE, sa.Identity(), primary_key=True, comment="order of publication; never used again"),
        sa.Column("source", sa.String(255), nullable=False, comment="CloudEvents source: where it happened"),
        sa.Column("event_id", sa.String(128), nullable=False, comment="CloudEvents id, unique within the source"),
        sa.Column("type", sa.String(255), nullable=False, comment="CloudEvents type: full proto name of the data"),
        sa.Column("subject", sa.String(255), nullable=False, comment="CloudEvents subject: what it happened to"),
        sa.Column(
            "event", sa.LargeBinary, nullable=False, comment="serialized bookd.mom.v1.Event, without its sequence"
        ),
        sa.Column(
            "published_at", sa.BigInteger, nullable=False, index=True, comment="microseconds since the epoch, UTC"
        ),
        sa.UniqueConstraint("source", "event_id", name="events_identity"),
        sa.Index("events_by_type", "type", "seq"),
        sa.Index("events_by_subject", "subject", "seq"),
        sqlite_autoincrement=True,
        comment="events that were published, until nobody is to get them any more",
    )
    op.create_table(
        "subscriptions",
        sa.Column(
            "peer", sa.String(64), primary_key=True, comment="whose subscription it is: the name in the certificate"
        ),
        sa.Column("name", sa.String(64), primary_key=True, comment="its name among those of the peer"),
        sa.Column("types", sa.JSON, nullable=False, comment="only events of these types; an empty list: all"),
        sa.Column("subject", sa.String(255), nullable=False, comment="only events of this subject; empty: of any"),
        sa.Column("cursor", sa.BigInteger, nullable=False, comment="seq of the last event that is dealt with"),
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.Column("seen_at", sa.BigInteger, nullable=False, comment="when its client was last heard; microseconds"),
        sa.CheckConstraint("cursor >= 0", name="subscriptions_cursor"),
        comment="durable subscriptions, and how far each has come",
    )
