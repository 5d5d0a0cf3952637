"""Carries `bookd.errors` over gRPC and back, as google.rpc.Status in the trailing metadata `grpc-status-details-bin`."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from bookd.contract.status import from_status, to_status
from bookd.errors import BookdError, Code, Unavailable

DETAILS_KEY = "grpc-status-details-bin"

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def grpc_code(code: Code) -> grpc.StatusCode:
    """gRPC's own name of a canonical code."""
    return _BY_NUMBER[code.value]


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
    """The trailing metadata that carries the error; empty when code and message say it all. What gRPC says itself, where
    nobody answers or a server stops, always has some."""
    status = to_status(error)
    if not status.details and error.code not in (Code.UNAVAILABLE, Code.CANCELLED):
        return ()
    return ((DETAILS_KEY, status.SerializeToString()),)


def stopped() -> Unavailable:
    """What a call hears that its client did not cancel, but the server did, as it stops."""
    return Unavailable("the server is stopping", reason="STOPPING", retry_after=1.0)
