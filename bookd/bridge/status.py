"""Carries `bookd.errors` over gRPC and back, as google.rpc.Status in the trailing metadata `grpc-status-details-bin`.

The standard details (google/rpc/error_details.proto) become the error's own attributes: ErrorInfo its reason and info,
BadRequest its violations, RetryInfo its retry_after. Any other detail travels as it is, so that a proxy that raises what
it caught loses nothing.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from bookd.errors import BY_CODE, BookdError, Code, Violation

DETAILS_KEY = "grpc-status-details-bin"
# ErrorInfo.domain: who gave the reason its meaning.
DOMAIN = "bookd"

M = TypeVar("M", bound=Message)
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def grpc_code(code: Code) -> grpc.StatusCode:
    """gRPC's own name of a canonical code."""
    return _BY_NUMBER[code.value]


def to_status(error: BookdError) -> status_pb2.Status:
    """The error as google.rpc.Status."""
    status = status_pb2.Status(code=error.code.value, message=error.message)
    if error.reason or error.info:
        _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.info))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        _pack(status, bad)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        _pack(status, retry)
    for message in error.details:
        _pack(status, message)
    return status


def _pack(status: status_pb2.Status, message: Message) -> None:
    if isinstance(message, AnyMessage):
        status.details.append(message)
    else:
        status.details.add().Pack(message)


def from_status(status: status_pb2.Status) -> BookdError:
    """The error that a google.rpc.Status tells of; its code must not be OK. A code that does not exist is UNKNOWN."""
    reason, info, retry_after = "", {}, None
    violations: list[Violation] = []
    details: list[Message] = []
    for packed in status.details:
        try:
            if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                error_info = error_details_pb2.ErrorInfo.FromString(packed.value)
                reason, info = error_info.reason, dict(error_info.metadata)
            elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest.FromString(packed.value)
                violations += [Violation(v.field, v.description) for v in bad.field_violations]
            elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry_after = error_details_pb2.RetryInfo.FromString(packed.value).retry_delay.ToNanoseconds() / 1e9
            else:
                details.append(packed)
        except DecodeError:
            details.append(packed)
    kind = BY_CODE.get(status.code, BY_CODE[Code.UNKNOWN])  # type: ignore[call-overload]
    error: BookdError = kind(
        status.message, reason=reason, violations=violations, retry_after=retry_after, details=details, info=info
    )
    return error


def from_call(code: grpc.StatusCode, message: str, trailing: Sequence[tuple[str, Any]]) -> BookdError:
    """The error of a failed call. A rich status that contradicts the plain one is ignored."""
    for key, value in trailing:
        if key == DETAILS_KEY:
            try:
                status = status_pb2.Status.FromString(value)
            except DecodeError:
                break
            if status.code == code.value[0]:
                return from_status(status)
    return from_status(status_pb2.Status(code=code.value[0], message=message))


def trailing_metadata(error: BookdError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries the error; empty when code and message say it all. UNAVAILABLE always has some,
    since that is what gRPC says itself where nobody answers."""
    status = to_status(error)
    if not status.details and error.code is not Code.UNAVAILABLE:
        return ()
    return ((DETAILS_KEY, status.SerializeToString()),)


def detail(error: BookdError, kind: type[M]) -> M | None:
    """The error's detail of one message type, if it has one."""
    for message in error.details:
        if isinstance(message, kind):
            return message
        if isinstance(message, AnyMessage) and message.TypeName() == kind.DESCRIPTOR.full_name:
            try:
                return kind.FromString(message.value)
            except DecodeError:
                return None
    return None
