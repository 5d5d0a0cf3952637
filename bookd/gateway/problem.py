"""Every failure as the client sees it: one table from errors to HTTP, one shape for the body (RFC 9457).

The body is {type, title, status, detail, code, request_id, violations}. `code` is the canonical code's name, `type`
names the reason, `violations` are {field, description}. What broke inside is never told: the log knows it under the
request id.
"""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil

from klein import Response

from bookd.errors import BookdError, Code

# Headers of a response, as Klein's Response takes them.
Headers = dict[str | bytes, str | bytes | Sequence[str | bytes]]

# As grpc-gateway and google/rpc/code.proto have it.
BY_CODE: Mapping[Code, int] = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
# Reasons that HTTP has a better status for than their code has.
METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
BODY_TOO_LARGE = "BODY_TOO_LARGE"
URI_TOO_LONG = "URI_TOO_LONG"
HEADERS_TOO_LARGE = "HEADERS_TOO_LARGE"
REQUEST_TOO_SLOW = "REQUEST_TOO_SLOW"
MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
TOO_MANY_REQUESTS = "TOO_MANY_REQUESTS"
MISDIRECTED = "MISDIRECTED_REQUEST"
BY_REASON: Mapping[str, int] = {
    "IDEMPOTENCY_KEY_REUSED": 422,
    "ETAG_MISMATCH": 412,
    METHOD_NOT_ALLOWED: 405,
    BODY_TOO_LARGE: 413,
    URI_TOO_LONG: 414,
    HEADERS_TOO_LARGE: 431,
    REQUEST_TOO_SLOW: 408,
    MEDIA_TYPE: 415,
    TOO_MANY_REQUESTS: 429,
    MISDIRECTED: 421,
}
# Nothing of these is told beyond that they happened.
HIDDEN = frozenset({Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS})
TYPE = "application/problem+json"
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content", 499: "Client Closed Request"}
_NOT_QUOTABLE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
# Seconds after which a client may try again, when the error names none.
_PATIENCE = 1


def status(error: BookdError) -> int:
    """The HTTP status of an error."""
    return BY_REASON.get(error.reason) or BY_CODE[error.code]


def fields(error: BookdError, request_id: str) -> dict[str, object]:
    """The members of the problem, in the order in which they are written."""
    code = status(error)
    hidden = error.code in HIDDEN
    return {
        "type": f"urn:bookd:problem:{error.reason}" if error.reason and not hidden else "about:blank",
        "title": _TITLES.get(code) or HTTPStatus(code).phrase,
        "status": code,
        "detail": "Something broke on our side; the log knows it under this request id." if hidden else error.message,
        "code": error.code.name,
        "request_id": request_id,
        "violations": [{"field": v.field, "description": v.description} for v in error.violations],
    }


def response(error: BookdError, request_id: str) -> Response:
    """The answer that tells of the error."""
    code = status(error)
    body = json.dumps(fields(error, request_id), ensure_ascii=False).encode()
    headers: Headers = {"Content-Type": TYPE, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    if error.code is Code.UNAVAILABLE or (error.retry_after is not None and code in (429, 503)):
        headers["Retry-After"] = retry_after(error.retry_after)
    if code == 401:
        headers["WWW-Authenticate"] = _challenge(error)
    if code == 405:
        headers["Allow"] = error.info.get("allow", "")
    return Response(code, headers, body)


def retry_after(seconds: float | None) -> str:
    """The value of Retry-After: whole seconds, at least one."""
    return str(max(_PATIENCE, ceil(seconds))) if seconds is not None else str(_PATIENCE)


def _challenge(error: BookdError) -> str:
    """WWW-Authenticate as RFC 6750, section 3 has it: a token that was given and refused is told so."""
    if error.reason in ("TOKEN_EXPIRED", "TOKEN_INVALID"):
        description = _NOT_QUOTABLE.sub("?", error.message)
        return f'Bearer error="invalid_token", error_description="{description}"'
    return "Bearer"
