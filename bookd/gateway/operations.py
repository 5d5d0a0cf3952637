"""Kept calls: 202 and the operation, or its outcome when the client would rather wait.

The paths of the service that answers for operations stand here and nowhere else.
"""

from google.longrunning import operations_pb2

from bookd.contract.status import detail, from_status
from bookd.errors import BookdError, Internal, Unavailable
from bookd.gateway.calls import Calls, Metadata
from bookd.wire.mom.v1 import message_pb2

WAIT = "/bookd.mom.v1.MomService/WaitOperation"
# The reads that tell what became of kept calls.
_TELL = frozenset({WAIT, "/bookd.mom.v1.MomService/GetOperation", "/bookd.mom.v1.MomService/ListOperations"})
# The URL of an operation is this and its name ("operations/…").
PREFIX = "/v1/"
# What a call of WaitOperation may take beyond the wait itself.
_SLACK = 1.0


def kept(error: BookdError) -> message_pb2.Deferred | None:
    """What the MOM says of a call that it has kept; None when the failure is a real one."""
    return detail(error, message_pb2.Deferred) if isinstance(error, Unavailable) else None


def tells(path: str) -> bool:
    """Whether the answer of this rpc may tell that a kept call has taken effect."""
    return path in _TELL


async def wait(
    calls: Calls, operation: operations_pb2.Operation, seconds: float, metadata: Metadata
) -> operations_pb2.Operation:
    """The operation after `seconds` at most, done or not; as it was when nobody can say."""
    request = operations_pb2.WaitOperationRequest(name=operation.name)
    request.timeout.FromNanoseconds(round(seconds * 1e9))
    try:
        answer = await calls.read(WAIT, request.SerializeToString(), seconds + _SLACK, metadata)
    except BookdError:
        return operation
    return operations_pb2.Operation.FromString(answer)


def outcome(operation: operations_pb2.Operation) -> bytes:
    """The response of an operation that is done, serialized. Raises what the call failed with."""
    kind = operation.WhichOneof("result")
    if kind == "error":
        raise from_status(operation.error)
    if kind is None:
        raise Internal(f"{operation.name} is done and has no result")
    response: bytes = operation.response.value
    return response
