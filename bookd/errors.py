"""The one error tree.

The core raises what happened (`NotFound("no book 17")`); which gRPC status and which HTTP status that is gets looked up:
each class names its canonical code (google/rpc/code.proto), `bookd.bridge.status` carries it over gRPC, and the gateway's
table turns it into an HTTP status. Whatever is not a `BookdError` is INTERNAL: logged with an id, never shown.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import ClassVar

from attrs import frozen
from google.protobuf.message import Message


class Code(IntEnum):
    """The canonical codes of google/rpc/code.proto, which are gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@frozen
class Violation:
    """One field of a request that is wrong: its path (`items[0].quantity`) and what is wrong with it, for a person."""

    field: str
    description: str


class BookdError(Exception):
    """Something that a caller is to be told.

    `message` is for a person. `reason` is for a program: UPPER_SNAKE_CASE, stable (google.rpc.ErrorInfo.reason).
    `violations` name the fields at fault. `retry_after` is in seconds. `details` are further messages for the rich
    status (google.rpc.Status.details).
    """

    code: ClassVar[Code] = Code.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        details: Sequence[Message] = (),
        info: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.details = tuple(details)
        self.info = dict(info or {})


class Cancelled(BookdError):
    """The caller went away."""

    code = Code.CANCELLED


class Unknown(BookdError):
    """A peer failed without saying how."""

    code = Code.UNKNOWN


class InvalidArgument(BookdError):
    """The request is wrong, whatever the state of the system."""

    code = Code.INVALID_ARGUMENT

    @classmethod
    def field(cls, field: str, description: str) -> "InvalidArgument":
        """The error that one wrong field makes."""
        return cls(f"{field}: {description}", violations=[Violation(field, description)])


class DeadlineExceeded(BookdError):
    """Time ran out; whether the call took effect is not known."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(BookdError):
    """What the request names is not there, or not for this caller."""

    code = Code.NOT_FOUND


class AlreadyExists(BookdError):
    """What the request would create is there already."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(BookdError):
    """The caller is known and may not."""

    code = Code.PERMISSION_DENIED


class ResourceExhausted(BookdError):
    """A limit is reached."""

    code = Code.RESOURCE_EXHAUSTED


class FailedPrecondition(BookdError):
    """The state of the system does not allow it; repeating the call will not help until that state changes."""

    code = Code.FAILED_PRECONDITION


class Aborted(BookdError):
    """Something else changed the state in between; the caller may read again and retry."""

    code = Code.ABORTED


class OutOfRange(BookdError):
    """The request goes past the end of something."""

    code = Code.OUT_OF_RANGE


class Unimplemented(BookdError):
    """There is no such rpc here."""

    code = Code.UNIMPLEMENTED


class Internal(BookdError):
    """An invariant broke. The message carries an id that the log knows, and nothing else."""

    code = Code.INTERNAL


class Unavailable(BookdError):
    """The service does not answer now; the same call may succeed later."""

    code = Code.UNAVAILABLE


class DataLoss(BookdError):
    """Stored data is damaged."""

    code = Code.DATA_LOSS


class Unauthenticated(BookdError):
    """The caller did not say, or not credibly, who it is."""

    code = Code.UNAUTHENTICATED


BY_CODE: Mapping[Code, type[BookdError]] = {
    kind.code: kind
    for kind in (
        Cancelled,
        Unknown,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}

# The service was up and said no: delivering the same call again gets the same answer.
FINAL = frozenset(
    {
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.FAILED_PRECONDITION,
        Code.PERMISSION_DENIED,
        Code.UNAUTHENTICATED,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.ABORTED,
    }
)
