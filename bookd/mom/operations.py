"""The public face of a kept message: google.longrunning.Operation, and the errors that tell of it."""

from uuid import UUID

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc import status_pb2

from bookd.contract.descriptors import Contract
from bookd.contract.status import from_status, to_status
from bookd.errors import BookdError, Code, NotFound, Unavailable
from bookd.mom.machine import Event, MessageState
from bookd.mom.records import Kept, Outcome
from bookd.mom.store import sealed
from bookd.wire.mom.v1 import message_pb2

PREFIX = "operations/"
_TYPES = "type.googleapis.com/"
_METADATA = _TYPES + message_pb2.OperationMetadata.DESCRIPTOR.full_name
_DEFERRED = _TYPES + message_pb2.Deferred.DESCRIPTOR.full_name
# Seconds after which asking for an operation is worth while.
ASK_AGAIN = 1.0
_ASK_AGAIN = Duration(seconds=int(ASK_AGAIN))


def operation(contract: Contract, kept: Kept) -> operations_pb2.Operation:
    """The operation of a kept message."""
    # What cannot be opened is not done for whoever asks, until it can be.
    done = kept.state is not MessageState.QUEUED and not kept.fault
    about = message_pb2.OperationMetadata(
        message_id=kept.message_id,
        method=kept.method,
        destination=kept.destination,
        state=int(kept.state),  # type: ignore[arg-type]
        attempts=kept.attempts,
        last_error=kept.last_error,
        created_at=_time(kept.created_at),
        updated_at=_time(kept.updated_at),
        expire_time=_time(kept.expire_at),
        subject=kept.subject,
    )
    made = operations_pb2.Operation(
        name=PREFIX + kept.message_id,
        done=done,
        metadata=AnyMessage(type_url=_METADATA, value=about.SerializeToString()),
    )
    if kept.fault:
        return made
    if kept.state is MessageState.SUCCEEDED:
        made.response.CopyFrom(_response(contract, kept))
    elif kept.status is not None:
        made.error.ParseFromString(kept.status)
    return made


def _response(contract: Contract, kept: Kept) -> AnyMessage:
    value = kept.response or b""
    method = contract.methods.get(kept.method)
    if method is None:  # its descriptor set was taken out of the configuration
        packed = AnyMessage()
        packed.Pack(BytesValue(value=value))
        return packed
    return AnyMessage(type_url=_TYPES + method.response.DESCRIPTOR.full_name, value=value)


def _time(microseconds: int) -> Timestamp:
    seconds, rest = divmod(microseconds, 1_000_000)
    return Timestamp(seconds=seconds, nanos=1000 * rest)


def message_id(name: str) -> str:
    """The message id in the name of an operation. Raises `NotFound` for what is no such name."""
    try:
        if name.startswith(PREFIX):
            return str(UUID(name.removeprefix(PREFIX)))
    except ValueError:
        pass
    raise unknown(name)


def unknown(name: str) -> NotFound:
    """There is no such operation, or not for this caller."""
    return NotFound(f"there is no operation {name[:100]!r}", reason="OPERATION_UNKNOWN")


def answer(contract: Contract, kept: Kept) -> bytes:
    """What a call is answered whose message is kept: its response. Raises its error, with a detail that says so when it was
    given up or cancelled; or, while it is queued, `Unavailable` with the detail that says so."""
    if kept.fault:
        raise sealed()
    if kept.state is MessageState.SUCCEEDED:
        return kept.response or b""
    if kept.status is not None:
        error = from_status(status_pb2.Status.FromString(kept.status))
        if kept.state in (MessageState.DEAD, MessageState.CANCELLED):
            # Its code is one after which a call is usually worth repeating; this one is not.
            error.details += (message_pb2.Outcome(message_id=kept.message_id, method=kept.method),)
        raise error
    deferred = message_pb2.Deferred(operation=operation(contract, kept), retry_after=_ASK_AGAIN)
    # Packed at once, it is serialized once on its way, and not for each of the messages that it is put into.
    packed = AnyMessage(type_url=_DEFERRED, value=deferred.SerializeToString())
    raise Unavailable(
        "kept, and delivered as soon as its turn comes", reason="DEFERRED", retry_after=ASK_AGAIN, details=[packed]
    )


def succeeded(response: bytes) -> Outcome:
    """The destination answered OK."""
    return Outcome(Event.ANSWERED, Code.OK, response=response)


def ended(event: Event, error: BookdError) -> Outcome:
    """The message left the queue with an error."""
    return Outcome(event, error.code, status=to_status(error).SerializeToString(), error=in_one_line(error))


def in_one_line(error: BookdError) -> str:
    """The error for an operator, of bounded length."""
    return f"{error.code.name}: {error.message}"[:1000]
