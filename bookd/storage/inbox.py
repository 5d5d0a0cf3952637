"""Remembers which messages a service has decided, and what it answered.

A message may come more than once: the MOM delivers again whatever it has no answer for, clients retry, and what a network
held back may arrive after its own redelivery. `once` puts the id and the response into the transaction of the write
itself. So after a crash either both are there or neither is, and a message takes effect once however often it is
delivered. A refusal that is final is remembered as well: else a late copy of a call could take effect after its sender was
told that it will not. Any other failure leaves nothing behind: the call may be tried again under the same id.

The id is claimed before the work starts. Where several instances share a database (PostgreSQL), the second waits there
until the first has committed, and then finds the response. Only where all is undone and done again if anything is wrong
(`savepoint.is_tried`) the id and the response are written together after the work, as few messages come twice.
"""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message
from google.rpc import status_pb2
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    select,
)

from bookd.contract.call import Call
from bookd.contract.status import from_status, to_status
from bookd.errors import FINAL, BookdError, InvalidArgument
from bookd.storage import savepoint
from bookd.storage.prepared import Prepared, inserting

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
        Column("response", LargeBinary, nullable=False, comment="serialized response message; empty for a refusal"),
        Column("status", LargeBinary, comment="serialized google.rpc.Status of a refusal; null for a success"),
        Column("applied_at", BigInteger, nullable=False, index=True, comment="microseconds since the epoch, UTC"),
        CheckConstraint("length(fingerprint) = 32", name="inbox_fingerprint"),
        comment="messages that were decided, with what was answered",
    )


_inbox = define(_metadata)


class Refused(Exception):
    """The call was refused, and that is in the transaction: it has to be committed, and `error` told."""

    def __init__(self, error: BookdError) -> None:
        super().__init__(str(error))
        self.error = error


class _DecidedBefore(Exception):
    """What was tried has been decided before; the work was done in vain, and is undone."""


def once(connection: Connection, call: Call, response_class: type[M], now: int, work: Callable[[Connection], M]) -> M:
    """What `work` answers; or, if the message of `call` was decided before, what it answered then.

    A call without a message id is worked at once and leaves no trace. Raises `InvalidArgument` with the reason
    IDEMPOTENCY_KEY_REUSED when the id was used for another request. A final error of `work` is raised as `Refused`, and
    nothing of the work is left but the refusal, which the caller commits (as a desk does). Any other error passes
    through; the caller rolls back, and the claim with it. Where all is tried first, anything but a new message that succeeds
    raises, and is done again by this function where it is not.
    """
    if call.message_id is None:
        return work(connection)
    if savepoint.is_tried(connection):
        response = work(connection)
        if not _claim(connection, call, now, response.SerializeToString(deterministic=True)):
            raise _DecidedBefore
        return response
    if not _claim(connection, call, now):
        return _recorded(connection, call, response_class)
    try:
        with savepoint.part(connection):
            response = work(connection)
    except BookdError as error:
        if error.code not in FINAL:
            raise
        refusal = to_status(error).SerializeToString(deterministic=True)
        _RECORD_STATUS.run(connection, {"called": call.message_id, "answered": refusal})
        raise Refused(error) from error
    answered = response.SerializeToString(deterministic=True)
    _RECORD_RESPONSE.run(connection, {"called": call.message_id, "answered": answered})
    return response


def purge(connection: Connection, before: int, limit: int) -> int:
    """Forget at most `limit` messages decided before that time, the oldest first; answers how many.

    Only what cannot be delivered again may be forgotten: see docs/protocol.md, "How long ids are good".
    """
    oldest = select(_inbox.c.message_id).where(_inbox.c.applied_at < before).order_by(_inbox.c.applied_at).limit(limit)
    return connection.execute(_inbox.delete().where(_inbox.c.message_id.in_(oldest))).rowcount


_RECORDED = Prepared(
    select(_inbox.c.fingerprint, _inbox.c.response, _inbox.c.status).where(_inbox.c.message_id == bindparam("called"))
)
_RECORD = _inbox.update().where(_inbox.c.message_id == bindparam("called"))
_RECORD_RESPONSE = Prepared(_RECORD.values(response=bindparam("answered")))
_RECORD_STATUS = Prepared(_RECORD.values(status=bindparam("answered")))
_CLAIM = Prepared(lambda dialect: inserting(dialect, _inbox).on_conflict_do_nothing().inline())


def _claim(connection: Connection, call: Call, now: int, response: bytes = b"") -> bool:
    values = {
        "message_id": call.message_id,
        "method": call.method,
        "fingerprint": call.fingerprint,
        "response": response,
        "applied_at": now,
    }
    return _CLAIM.run(connection, values) == 1


def _recorded(connection: Connection, call: Call, response_class: type[M]) -> M:
    row = _RECORDED.row(connection, {"called": call.message_id})
    assert row is not None  # the claim has just met it
    if row.fingerprint != call.fingerprint:
        raise InvalidArgument(
            f"message id {call.message_id} was used for another request", reason="IDEMPOTENCY_KEY_REUSED"
        )
    if row.status is not None:
        raise from_status(status_pb2.Status.FromString(row.status))
    return response_class.FromString(row.response)
