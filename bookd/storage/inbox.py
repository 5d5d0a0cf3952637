"""Remembers which messages a service has applied, and what it answered.

A message may come more than once: the MOM delivers again whatever it has no answer for, clients retry. `once` puts the
id and the response into the transaction of the write itself. So after a crash either both are there or neither is, and
a message takes effect once however often it is delivered. A call that fails leaves nothing behind: it may be tried again
under the same id.

The id is claimed before the work starts. Where several instances share a database (PostgreSQL), the second waits there
until the first has committed, and then finds the response.
"""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message
from sqlalchemy import BigInteger, CheckConstraint, Column, Connection, LargeBinary, MetaData, String, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from bookd.contract.call import Call
from bookd.errors import InvalidArgument

M = TypeVar("M", bound=Message)

# The table as each service has it; statements run on any of them, the columns being the same.
_metadata = MetaData()


def define(metadata: MetaData) -> Table:
    """The inbox table of the service whose schema `metadata` is."""
    return Table(
        "inbox",
        metadata,
        Column("message_id", String(36), primary_key=True, comment="UUID of the message"),
        Column("method", String(255), nullable=False, comment="method path that was called"),
        Column("fingerprint", LargeBinary(32), nullable=False, comment="SHA-256 over method and request"),
        Column("response", LargeBinary, nullable=False, comment="serialized response message"),
        Column("applied_at", BigInteger, nullable=False, index=True, comment="microseconds since the epoch, UTC"),
        CheckConstraint("length(fingerprint) = 32", name="inbox_fingerprint"),
        comment="messages that were applied, with what was answered",
    )


_inbox = define(_metadata)


def once(connection: Connection, call: Call, response_class: type[M], now: int, work: Callable[[Connection], M]) -> M:
    """What `work` answers; or, if the message of `call` was applied before, what it answered then.

    A call without a message id is worked at once and leaves no trace. Raises `InvalidArgument` with the reason
    IDEMPOTENCY_KEY_REUSED when the id was used for another request. What `work` raises passes through; the caller rolls
    back, and the claim with it.
    """
    if call.message_id is None:
        return work(connection)
    if not _claim(connection, call, now):
        return _recorded(connection, call, response_class)
    response = work(connection)
    replace(connection, call.message_id, response)
    return response


def replace(connection: Connection, message_id: str, response: Message) -> bool:
    """Answer `response` from now on when the message comes again; False if it was never applied."""
    result = connection.execute(
        _inbox.update()
        .where(_inbox.c.message_id == message_id)
        .values(response=response.SerializeToString(deterministic=True))
    )
    return result.rowcount == 1


def purge(connection: Connection, before: int, limit: int) -> int:
    """Forget at most `limit` messages applied before that time, the oldest first; answers how many.

    Only what cannot be delivered again may be forgotten: see docs/protocol.md, "How long ids are good".
    """
    oldest = select(_inbox.c.message_id).where(_inbox.c.applied_at < before).order_by(_inbox.c.applied_at).limit(limit)
    return connection.execute(_inbox.delete().where(_inbox.c.message_id.in_(oldest))).rowcount


def _claim(connection: Connection, call: Call, now: int) -> bool:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = {
        "message_id": call.message_id,
        "method": call.method,
        "fingerprint": call.fingerprint,
        "response": b"",
        "applied_at": now,
    }
    return connection.execute(insert(_inbox).values(values).on_conflict_do_nothing()).rowcount == 1


def _recorded(connection: Connection, call: Call, response_class: type[M]) -> M:
    row = connection.execute(
        select(_inbox.c.fingerprint, _inbox.c.response).where(_inbox.c.message_id == call.message_id)
    ).one()
    if row.fingerprint != call.fingerprint:
        raise InvalidArgument(
            f"message id {call.message_id} was used for another request", reason="IDEMPOTENCY_KEY_REUSED"
        )
    return response_class.FromString(row.response)
