"""Messages that a service has to send, written in the transaction that caused them.

So a message exists if and only if its cause was committed. A relay (`bookd.bridge.relay`) sends what is here until the
MOM has it, under the message id that stands here: sending twice is harmless. What was answered, or kept by the MOM, is
removed in the transaction that applies the answer.

Messages of one lane are sent in the order they were put; lanes are independent.
"""

from attrs import frozen
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    select,
)

_metadata = MetaData()


@frozen
class Message:
    """One call to make through the MOM. `principal` is serialized, empty for none; `reply_to` is a method path, or empty."""

    message_id: str
    lane: str
    method: str
    request: bytes
    principal: bytes = b""
    reply_to: str = ""


@frozen
class Row:
    """A message in the outbox, with its place and its past."""

    seq: int
    message: Message
    attempts: int


def define(metadata: MetaData) -> Table:
    """The outbox table of the service whose schema `metadata` is."""
    return Table(
        "outbox",
        metadata,
        Column(
            "seq",
            BigInteger().with_variant(Integer, "sqlite"),
            Identity(),
            primary_key=True,
            comment="order in which the messages were put",
        ),
        Column("message_id", String(36), nullable=False, unique=True, comment="UUID of the message"),
        Column("lane", String(255), nullable=False, comment="messages of one lane are sent in order"),
        Column("method", String(255), nullable=False, comment="method path to call"),
        Column("request", LargeBinary, nullable=False, comment="serialized request message"),
        Column("principal", LargeBinary, nullable=False, comment="serialized principal; empty for none"),
        Column("reply_to", String(255), nullable=False, comment="method path that takes the outcome; empty for none"),
        Column("attempts", Integer, nullable=False, server_default="0", comment="times it was sent without an answer"),
        Column("ready_at", BigInteger, nullable=False, comment="not sent before; microseconds since the epoch, UTC"),
        Column("last_error", Text, nullable=False, server_default="", comment="what the last attempt failed with"),
        Column("created_at", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        CheckConstraint("length(message_id) = 36", name="outbox_message_id"),
        CheckConstraint("attempts >= 0", name="outbox_attempts"),
        sqlite_autoincrement=True,
        comment="messages to send",
    )


_outbox = define(_metadata)


def put(connection: Connection, message: Message, now: int) -> None:
    """Add a message. Putting the id of one that is still there changes nothing."""
    known = connection.execute(select(_outbox.c.seq).where(_outbox.c.message_id == message.message_id)).first()
    if known is None:
        connection.execute(
            _outbox.insert().values(
                message_id=message.message_id,
                lane=message.lane,
                method=message.method,
                request=message.request,
                principal=message.principal,
                reply_to=message.reply_to,
                ready_at=now,
                created_at=now,
            )
        )


def due(connection: Connection, now: int, limit: int) -> list[Row]:
    """The first message of each lane, where it is ready; oldest first, `limit` at most."""
    heads = select(func.min(_outbox.c.seq)).group_by(_outbox.c.lane)
    rows = connection.execute(
        select(_outbox).where(_outbox.c.seq.in_(heads), _outbox.c.ready_at <= now).order_by(_outbox.c.seq).limit(limit)
    )
    return [
        Row(
            seq=row.seq,
            message=Message(row.message_id, row.lane, row.method, row.request, row.principal, row.reply_to),
            attempts=row.attempts,
        )
        for row in rows
    ]


def next_ready(connection: Connection, after: int) -> int | None:
    """When the next message that is not ready at `after` will be, in microseconds; None when there is none."""
    waiting = select(func.min(_outbox.c.ready_at)).where(_outbox.c.ready_at > after)
    ready: int | None = connection.execute(waiting).scalar()
    return ready


def remove(connection: Connection, message_id: str) -> bool:
    """Forget a message that was answered or that the MOM has; False if it was gone."""
    return connection.execute(_outbox.delete().where(_outbox.c.message_id == message_id)).rowcount == 1


def postpone(connection: Connection, message_id: str, ready_at: int, error: str) -> None:
    """Send a message again, not before `ready_at`."""
    connection.execute(
        _outbox.update()
        .where(_outbox.c.message_id == message_id)
        .values(attempts=_outbox.c.attempts + 1, ready_at=ready_at, last_error=error[:1000])
    )
