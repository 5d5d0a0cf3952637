"""Errors as google.rpc.Status, and back.

The standard details (google/rpc/error_details.proto) become the error's own attributes: ErrorInfo its reason and info,
BadRequest its violations, RetryInfo its retry_after. Any other detail travels as it is, so that a proxy that raises what
it caught loses nothing.
"""

from functools import lru_cache
from typing import TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from bookd.errors import BY_CODE, BookdError, Code, Violation

# ErrorInfo.domain: who gave the reason its meaning.
DOMAIN = "bookd"

M = TypeVar("M", bound=Message)


def to_status(error: BookdError) -> status_pb2.Status:
    """The error as google.rpc.Status."""
    status = status_pb2.Status(code=error.code.value, message=error.message)
    if error.info:
        _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.info))
    elif error.reason:
        status.details.append(_reason(error.reason))
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        _pack(status, bad)
    if error.retry_after is not None:
        status.details.append(_retry(error.retry_after))
    for message in error.details:
        _pack(status, message)
    return status


# What most errors say has few values, and packing it takes longer than looking it up.


@lru_cache(256)
def _reason(reason: str) -> AnyMessage:
    return _packed(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))


@lru_cache(256)
def _retry(seconds: float) -> AnyMessage:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromNanoseconds(round(seconds * 1e9))
    return _packed(retry)


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


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
