"""Messages that a service has to send, written in the transaction that caused them.

So a message exists if and only if its cause was committed. A relay (`bookd.bridge.relay`) sends what is here until the
MOM has it, under the message id that stands here: sending twice is harmless. What was answered is removed in the
transaction that applies the answer; what the MOM has kept is removed too, as its outcome comes by the reply method.

Messages of one lane are sent in the order they were put, the next one once the one before is removed; a message that is
postponed holds up its lane. Lanes are independent. Events that were not tried yet are many at times, and can be published
together in their order; they are found by themselves (`fresh_events`), and what else there is by `due`.
"""

from collections.abc import Collection, Iterable
from typing import Any

from attrs import frozen
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    Text,
    all_,
    bindparam,
    func,
    select,
    text,
)

from bookd.storage.indexes import partial
from bookd.storage.prepared import Prepared, inserting

# Microseconds that a message waits at most before it is sent (again). What shall wait for longer was put while the clock
# was ahead, and is sent now.
LONGEST_WAIT = 300_000_000
# Longest error text that is kept with a message.
LONGEST_ERROR = 1000

# The method that events are published by, and in SQL: events that were not tried yet, and all else. Indexes and questions say
# it in the same words, so that each finds its own however many there are of the other.
PUBLISH = "/bookd.mom.v1.EventService/Publish"
FRESH_EVENT = text(f"method = '{PUBLISH}' AND attempts = 0")
SINGLE = text(f"(method <> '{PUBLISH}' OR attempts > 0)")

# Where a connection notes what is put in its transaction.
_NOTES = "bookd_put"

_metadata = MetaData()


@frozen
class Trace:
    """Where a message comes from, for logs and traces: the client's request id and the W3C traceparent, or empty."""

    request_id: str = ""
    traceparent: str = ""


@frozen
class Message:
    """One call to make through the MOM. `principal` is serialized, empty for none; `reply_to` is a method path, or empty."""

    message_id: str
    lane: str
    method: str
    request: bytes
    principal: bytes = b""
    reply_to: str = ""
    trace: Trace = Trace()


@frozen
class Row:
    """A message in the outbox: from when on it is to be sent, in microseconds since the epoch, and how often it was sent
    without an answer."""

    message: Message
    ready_at: int
    attempts: int = 0


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
            comment="order in which the messages were put; never used again",
        ),
        Column("message_id", String(36), nullable=False, unique=True, comment="UUID of the message"),
        Column("lane", String(255), nullable=False, comment="messages of one lane are sent in order"),
        Column("method", String(255), nullable=False, comment="method path to call"),
        Column("request", LargeBinary, nullable=False, comment="serialized request message"),
        Column("principal", LargeBinary, nullable=False, comment="serialized principal; empty for none"),
        Column("reply_to", String(255), nullable=False, comment="method path that takes the outcome; empty for none"),
        Column("request_id", String(128), nullable=False, comment="id of the client's request; empty for none"),
        Column("traceparent", String(255), nullable=False, comment="W3C trace context; empty for none"),
        Column("attempts", Integer, nullable=False, comment="times it was sent without an answer"),
        Column("ready_at", BigInteger, nullable=False, comment="not sent before; microseconds since the epoch, UTC"),
        Column("last_error", Text, nullable=False, comment="what the last attempt failed with; empty for none"),
        Column("created_at", BigInteger, nullable=False, comment="when it was put; microseconds since the epoch, UTC"),
        CheckConstraint("length(message_id) = 36", name="outbox_message_id"),
        CheckConstraint("length(lane) >= 1", name="outbox_lane"),
        CheckConstraint("attempts >= 0", name="outbox_attempts"),
        Index("outbox_by_lane", "lane", "seq"),
        partial("outbox_by_time", "ready_at", "seq", where=SINGLE),
        partial("outbox_fresh_events", "seq", where=FRESH_EVENT),
        sqlite_autoincrement=True,
        comment="messages to send",
    )


_outbox = define(_metadata)


_PUT = Prepared(
    lambda dialect: inserting(dialect, _outbox).on_conflict_do_nothing(index_elements=["message_id"]).inline()
)
_REMOVE = Prepared(_outbox.delete().where(_outbox.c.message_id == bindparam("sent")))
_POSTPONE = Prepared(
    _outbox.update()
    .where(_outbox.c.message_id == bindparam("sent"))
    .values(attempts=_outbox.c.attempts + 1, ready_at=bindparam("at"), last_error=bindparam("error"))
)
_FIRST_ATTEMPTS = Prepared(
    select(_outbox.c.attempts).where(_outbox.c.lane == bindparam("wanted")).order_by(_outbox.c.seq).limit(1)
)
_NEXT_READY = Prepared(select(func.min(_outbox.c.ready_at)).where(SINGLE, _outbox.c.ready_at > bindparam("now")))


def put(connection: Connection, message: Message, now: int, not_before: int | None = None) -> bool:
    """Add a message, to be sent from `not_before` on if that is given, `LONGEST_WAIT` from now at most. Putting the id of
    one that is still there changes nothing, and answers False."""
    ready_at = now if not_before is None else not_before
    values = {
        "message_id": message.message_id,
        "lane": message.lane,
        "method": message.method,
        "request": message.request,
        "principal": message.principal,
        "reply_to": message.reply_to,
        "request_id": message.trace.request_id,
        "traceparent": message.trace.traceparent,
        "attempts": 0,
        "ready_at": ready_at,
        "last_error": "",
        "created_at": now,
    }
    if _PUT.run(connection, values) != 1:
        return False
    notes = connection.info.get(_NOTES)
    if notes is not None:
        notes.append(Row(message, ready_at))
    return True


def note(connection: Connection) -> list[Row]:
    """A new list, in which is noted what is put on this connection from now on. Whoever undoes a part of the transaction
    takes out what the part has put."""
    notes: list[Row] = []
    connection.info[_NOTES] = notes
    return notes


def _not_in(dialect: str, column: Any, name: str) -> ColumnElement[bool]:
    """That a column is none of a list. Each kind of database has a way of its own to take a list as one value."""
    if dialect == "postgresql":
        there: ColumnElement[bool] = column != all_(bindparam(name, type_=ARRAY(String)))
        return there
    listed = func.json_each(bindparam(name, type_=JSON)).table_valued("value")
    free: ColumnElement[bool] = column.not_in(select(listed.c.value))
    return free


def _found(question: Select[Any]) -> Prepared:
    """Those of lanes that are not busy."""
    return Prepared(lambda dialect: question.where(_not_in(dialect, _outbox.c.lane, "busy")))


_OTHERS = Prepared(
    lambda dialect: select(
        select(_outbox.c.seq).where(SINGLE, _not_in(dialect, _outbox.c.message_id, "known")).exists()
    )
)
_earlier = _outbox.alias("earlier")
_IN_FRONT = select(_earlier.c.seq).where(_earlier.c.lane == _outbox.c.lane, _earlier.c.seq < _outbox.c.seq)


def _first_ones(ready: ColumnElement[bool]) -> Prepared:
    first = select(_outbox).where(SINGLE, ready, ~_IN_FRONT.exists())
    return _found(first.order_by(_outbox.c.ready_at, _outbox.c.seq).limit(bindparam("most")))


_DUE = _first_ones(_outbox.c.ready_at <= bindparam("now"))
_PUT_WHILE_THE_CLOCK_WAS_AHEAD = _first_ones(_outbox.c.ready_at > bindparam("now") + LONGEST_WAIT)
_FRESH_EVENTS = _found(
    select(_outbox)
    .where(FRESH_EVENT, ~_IN_FRONT.where(_earlier.c.attempts > 0).exists())
    .order_by(_outbox.c.seq)
    .limit(bindparam("most"))
)


def fresh_events(connection: Connection, limit: int, busy: Collection[str] = ()) -> list[Row]:
    """The first events that were not tried yet, in their order, `limit` at most; none behind one of its lane that failed, and
    none of lanes that are `busy`."""
    return _rows(_FRESH_EVENTS.rows(connection, {"most": limit, "busy": list(busy)}))


def due(connection: Connection, now: int, limit: int, busy: Collection[str] = ()) -> list[Row]:
    """Of all but fresh events the first message of each lane that is not `busy`, where it is ready: those that waited
    longest, `limit` at most."""
    rows: list[Any] = []
    for statement in (_DUE, _PUT_WHILE_THE_CLOCK_WAS_AHEAD):
        if len(rows) < limit:
            rows += statement.rows(connection, {"now": now, "most": limit - len(rows), "busy": list(busy)})
    return _rows(rows)


def _rows(rows: Collection[Any]) -> list[Row]:
    return [
        Row(
            Message(
                row.message_id,
                row.lane,
                row.method,
                row.request,
                row.principal,
                row.reply_to,
                Trace(row.request_id, row.traceparent),
            ),
            row.ready_at,
            row.attempts,
        )
        for row in rows
    ]


def others(connection: Connection, known: Collection[str]) -> bool:
    """Whether there is anything but fresh events and the messages with these ids."""
    return bool(_OTHERS.value(connection, {"known": list(known)}))


def next_ready(connection: Connection, now: int) -> int | None:
    """When the next message that is not ready now will be, in microseconds; None when there is none."""
    return _NEXT_READY.value(connection, {"now": now})


def trying(connection: Connection, lane: str, attempts: int) -> bool:
    """Whether the lane holds a message, and its first one was sent less than `attempts` times without an answer."""
    tried = _FIRST_ATTEMPTS.value(connection, {"wanted": lane})
    return tried is not None and tried < attempts


def remove(connection: Connection, message_id: str) -> bool:
    """Forget a message that was answered or that the MOM has; False if it was gone."""
    return _REMOVE.run(connection, {"sent": message_id}) == 1


def remove_all(connection: Connection, message_ids: Iterable[str]) -> None:
    """Forget messages that were answered."""
    _REMOVE.run_each(connection, [{"sent": each} for each in message_ids])


def postpone(connection: Connection, message_ids: Iterable[str], ready_at: int, error: str) -> None:
    """Count an attempt that `error` ended; the messages are sent again, not before `ready_at`."""
    _POSTPONE.run_each(
        connection, [{"sent": each, "at": ready_at, "error": error[:LONGEST_ERROR]} for each in message_ids]
    )
