"""A kept message as the world sees it: google.longrunning.Operation."""

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2

from bookd.bridge.status import from_status
from bookd.contract.descriptors import Contract
from bookd.errors import BookdError, InvalidArgument, Unavailable
from bookd.mom.machine import MessageState
from bookd.mom.store import Kept
from bookd.wire.mom.v1 import message_pb2

PREFIX = "operations/"
# When asking again is worth while, in seconds.
RETRY_AFTER = 1
_TYPES = "type.googleapis.com/"


def to_operation(kept: Kept, contract: Contract) -> operations_pb2.Operation:
    """The operation of a message, with its outcome once it has one."""
    metadata = message_pb2.OperationMetadata(
        message_id=kept.message_id,
        method=kept.method,
        destination=kept.destination,
        state=f"MESSAGE_STATE_{kept.state.name}",
        attempts=kept.attempts,
        last_error=kept.last_error,
        created_at=_timestamp(kept.created_at),
        updated_at=_timestamp(kept.updated_at),
        expire_time=_timestamp(kept.expire_at),
        subject=kept.subject,
    )
    operation = operations_pb2.Operation(name=PREFIX + kept.message_id, done=kept.state is not MessageState.QUEUED)
    operation.metadata.Pack(metadata)
    if kept.state is MessageState.SUCCEEDED:
        response = contract.methods[kept.method].response.DESCRIPTOR.full_name
        operation.response.CopyFrom(AnyMessage(type_url=_TYPES + response, value=kept.response or b""))
    elif kept.status is not None:
        operation.error.CopyFrom(status_pb2.Status.FromString(kept.status))
    return operation


def deferred(kept: Kept, contract: Contract) -> Unavailable:
    """What a caller is told whose call is on disk."""
    detail = message_pb2.Deferred(operation=to_operation(kept, contract))
    detail.retry_after.FromSeconds(RETRY_AFTER)
    return Unavailable(
        f"{kept.destination} does not answer; the call is kept as {PREFIX}{kept.message_id}",
        reason="DEFERRED",
        details=[detail],
        retry_after=RETRY_AFTER,
    )


def error_of(kept: Kept) -> BookdError:
    """The error that a finished message ended with."""
    return from_status(status_pb2.Status.FromString(kept.status or b""))


def message_id(name: str) -> str:
    """The message id in an operation's name. Raises `InvalidArgument`."""
    if not name.startswith(PREFIX) or len(name) == len(PREFIX):
        raise InvalidArgument.field("name", f"must be {PREFIX} and an id")
    return name.removeprefix(PREFIX)


def _timestamp(microseconds: int) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(microseconds)
    return made
