"""The tables of the MOM's database.

`messages` holds every kept message. `lanes` holds one row for each lane that has something to deliver: its first message
and when that may be tried. So "may this call overtake nobody?" is a lookup by key, and "what can be delivered now?" reads
one row for each lane that is ready, in the order of an index, however many messages wait behind. `blockers` names
the dead letters that a lane must not pass, wherever they stand in it. `queues` counts what waits, so that nobody has to.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from bookd.storage.indexes import partial

# SQLite gives out row numbers to a column of exactly this type.
_SEQUENCE: Final = BigInteger().with_variant(Integer(), "sqlite")
_FINISHED: Final = text("finished_at IS NOT NULL")

metadata = MetaData()

messages = Table(
    "messages",
    metadata,
    Column("seq", _SEQUENCE, Identity(), primary_key=True, comment="order of acceptance; never used again"),
    Column("message_id", String(36), nullable=False, unique=True, comment="UUID that names the intent"),
    Column("destination", String(255), nullable=False, comment="full proto name of the service it goes to"),
    Column("lane", String(255), nullable=False, comment="ordering key; the message's own id when it has none"),
    Column("method", String(255), nullable=False, comment="/package.Service/Method"),
    Column("request", LargeBinary, nullable=False, comment="serialized request message"),
    Column("fingerprint", LargeBinary(32), nullable=False, comment="SHA-256 over method and request"),
    Column("principal", LargeBinary, nullable=False, comment="serialized bookd.policy.v1.Principal; empty: nobody"),
    Column("subject", String(255), nullable=False, comment="the principal's subject, who owns the operation, or empty"),
    Column("metadata", JSON, nullable=False, comment="further call metadata: request id, trace context"),
    Column("reply_to", String(255), comment="method path that gets the outcome"),
    Column("state", Integer, nullable=False, comment="bookd.mom.machine.MessageState"),
    Column("attempts", Integer, nullable=False, comment="deliveries that were answered without a decision"),
    Column("refusals", Integer, nullable=False, comment="deliveries since the last attempt that could not be taken"),
    Column("ready_at", BigInteger, nullable=False, comment="not before; microseconds since the epoch, UTC"),
    Column("expire_at", BigInteger, nullable=False, comment="given up then; microseconds"),
    Column("last_error", Text, nullable=False, comment="what the last delivery failed with; empty: nothing"),
    Column("created_at", BigInteger, nullable=False, comment="when it was kept; microseconds"),
    Column("updated_at", BigInteger, nullable=False, comment="when anything above last changed; microseconds"),
    Column("finished_at", BigInteger, comment="when it left the queue; microseconds"),
    Column("status_code", Integer, comment="google.rpc.Code of the outcome; 0: success"),
    Column("status", LargeBinary, comment="serialized google.rpc.Status of an outcome that is no success"),
    Column("response", LargeBinary, comment="serialized response message of a success"),
    Column(
        "key_id",
        String(16),
        comment="id of the key that sealed request, principal, metadata and fingerprint, all in request; null: plain",
    ),
    Column("outcome_key_id", String(16), comment="id of the key that sealed status or response; null: plain"),
    CheckConstraint("state BETWEEN 1 AND 5", name="messages_state"),
    CheckConstraint("length(message_id) = 36", name="messages_message_id"),
    CheckConstraint("length(fingerprint) = 32", name="messages_fingerprint"),
    CheckConstraint("attempts >= 0 AND refusals >= 0", name="messages_counts"),
    CheckConstraint("(state = 1) = (finished_at IS NULL)", name="messages_finished"),
    CheckConstraint("(state = 1) = (status_code IS NULL)", name="messages_outcome"),
    CheckConstraint("(state = 2) = (response IS NOT NULL)", name="messages_response"),
    CheckConstraint("(state IN (3, 4, 5)) = (status IS NOT NULL)", name="messages_status"),
    # With the state in the key, not as a condition: SQLite's planner then sees that these narrow most.
    Index("messages_by_lane", "destination", "lane", "state", "seq"),
    Index("messages_expiring", "state", "expire_at"),
    partial("messages_finished_at", "finished_at", where=_FINISHED),
    Index("messages_by_state", "state", "seq"),
    Index("messages_by_subject", "subject", "seq"),
    sqlite_autoincrement=True,
    comment="calls that were kept",
)

lanes = Table(
    "lanes",
    metadata,
    Column("destination", String(255), primary_key=True, comment="full proto name of the service"),
    Column("lane", String(255), primary_key=True, comment="ordering key"),
    Column(
        "head_seq",
        _SEQUENCE,
        ForeignKey("messages.seq"),
        nullable=False,
        unique=True,
        comment="its first message",
    ),
    Column("ready_at", BigInteger, nullable=False, comment="ready_at of that message; microseconds"),
    Column("blocked", Boolean, nullable=False, comment="its first message is a dead letter that must not be passed"),
    Index("lanes_ready", "destination", "blocked", "ready_at", "head_seq"),
    comment="lanes that have something to deliver",
)

blockers = Table(
    "blockers",
    metadata,
    Column("destination", String(255), primary_key=True, comment="full proto name of the service"),
    Column("lane", String(255), primary_key=True, comment="ordering key"),
    Column(
        "seq",
        _SEQUENCE,
        ForeignKey("messages.seq"),
        primary_key=True,
        unique=True,
        autoincrement=False,
        comment="the dead letter; what was kept after it waits",
    ),
    comment="dead letters that their lanes must not pass",
)

queues = Table(
    "queues",
    metadata,
    Column("destination", String(255), primary_key=True, comment="full proto name of the service"),
    Column("depth", BigInteger, nullable=False, comment="queued messages"),
    Column("bytes", BigInteger, nullable=False, comment="bytes of their requests"),
    Column("dead", BigInteger, nullable=False, comment="dead letters"),
    Column("paused_at", BigInteger, comment="when an operator paused it; microseconds since the epoch, UTC"),
    CheckConstraint("depth >= 0 AND bytes >= 0 AND dead >= 0", name="queues_counts"),
    comment="what waits for each destination, counted",
)

events = Table(
    "events",
    metadata,
    Column("seq", _SEQUENCE, Identity(), primary_key=True, comment="order of publication; never used again"),
    Column("source", String(255), nullable=False, comment="CloudEvents source: where it happened"),
    Column("event_id", String(128), nullable=False, comment="CloudEvents id, unique within the source"),
    Column("type", String(255), nullable=False, comment="CloudEvents type: full proto name of the data"),
    Column("subject", String(255), nullable=False, comment="CloudEvents subject: what it happened to"),
    Column("event", LargeBinary, nullable=False, comment="serialized bookd.mom.v1.Event, without its sequence"),
    Column("published_at", BigInteger, nullable=False, index=True, comment="microseconds since the epoch, UTC"),
    Column("key_id", String(16), comment="id of the key that sealed event; null: plain"),
    UniqueConstraint("source", "event_id", name="events_identity"),
    Index("events_by_type", "type", "seq"),
    Index("events_by_subject", "subject", "seq"),
    sqlite_autoincrement=True,
    comment="events that were published, until nobody is to get them any more",
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("peer", String(64), primary_key=True, comment="whose subscription it is: the name in the certificate"),
    Column("name", String(64), primary_key=True, comment="its name among those of the peer"),
    Column("types", JSON, nullable=False, comment="only events of these types; an empty list: all"),
    Column("subject", String(255), nullable=False, comment="only events of this subject; empty: of any"),
    Column("cursor", BigInteger, nullable=False, comment="seq of the last event that is dealt with"),
    Column("created_at", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
    Column("seen_at", BigInteger, nullable=False, comment="when its client was last heard; microseconds"),
    CheckConstraint("cursor >= 0", name="subscriptions_cursor"),
    comment="durable subscriptions, and how far each has come",
)
