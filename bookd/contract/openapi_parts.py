"""What every operation of the OpenAPI document shares: the problem, the headers, who may call, and the statuses."""

from typing import Any, Final

Schema = dict[str, Any]

INTRODUCTION: Final = """\
Every operation is an rpc of the suite, made into HTTP from its proto.

**Names** are written as in the proto (`book_id`); the lowerCamel spelling is taken too. Integers of 64 bits are strings.

**Errors** are `application/problem+json` (RFC 9457). `code` is the canonical gRPC code, `type` names the reason,
`violations` the fields at fault. Each response has an `X-Request-Id` that the log knows; a well-formed one that the client
sends is kept.

**Writes** take an `Idempotency-Key`: the same key with the same request is the same intent, has its effect once, and gets
the same answer. The same key with another request is 422.

**Deferred**: while a service is down, many of its writes are kept on disk and delivered in order when it is back. The answer is
202 with the operation to follow, at `Location`. `Prefer: respond-async` asks for that at once, `Prefer: wait=N` waits up
to N seconds for the outcome (RFC 7240).

**Time**: `Request-Timeout` (seconds) or `Grpc-Timeout` bounds a call.

**Limits**: `RateLimit` and `RateLimit-Policy` say what is left of a quota; over it the answer is 429 with `Retry-After`."""

PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Names the reason; about:blank for none."},
        "title": {"type": "string", "description": "The status in words."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What went wrong this time, for a person."},
        "code": {
            "type": "string",
            "description": "The canonical code (google/rpc/code.proto).",
            "enum": [
                "CANCELLED",
                "UNKNOWN",
                "INVALID_ARGUMENT",
                "DEADLINE_EXCEEDED",
                "NOT_FOUND",
                "ALREADY_EXISTS",
                "PERMISSION_DENIED",
                "RESOURCE_EXHAUSTED",
                "FAILED_PRECONDITION",
                "ABORTED",
                "OUT_OF_RANGE",
                "UNIMPLEMENTED",
                "INTERNAL",
                "UNAVAILABLE",
                "DATA_LOSS",
                "UNAUTHENTICATED",
            ],
        },
        "request_id": {"type": "string", "description": "The value of X-Request-Id."},
        "violations": {
            "type": "array",
            "description": "The fields at fault.",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string", "description": "Path of the field, as in items[0].quantity."},
                    "description": {"type": "string", "description": "What is wrong with it."},
                },
                "required": ["field", "description"],
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "request_id", "violations"],
}

_SECONDS: Final[Schema] = {"type": "string", "pattern": "^[0-9]+$"}
HEADERS: Final[dict[str, Schema]] = {
    "X-Request-Id": {
        "description": "Names the request; the log knows it.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "Retry-After": {"description": "Seconds after which to try again.", "schema": _SECONDS},
    "RateLimit": {
        "description": "What is left of the quota (draft-ietf-httpapi-ratelimit-headers).",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {"description": "The quota, and its window in seconds.", "schema": {"type": "string"}},
    "Location": {"description": "Where the operation is.", "schema": {"type": "string", "format": "uri-reference"}},
    "Preference-Applied": {"description": "What of Prefer was done (RFC 7240).", "schema": {"type": "string"}},
    "ETag": {"description": "The version of what was answered.", "schema": {"type": "string"}},
    "Allow": {"description": "The verbs that the path answers.", "required": True, "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "Bearer (RFC 6750).", "required": True, "schema": {"type": "string"}},
}
# The headers of problems beyond those of all responses.
_HEADERS_OF: Final = {401: ("WWW-Authenticate",), 405: ("Allow",), 429: ("Retry-After",), 503: ("Retry-After",)}
_ALWAYS: Final = ("X-Request-Id", "RateLimit", "RateLimit-Policy")

PARAMETERS: Final[dict[str, Schema]] = {
    "X-Request-Id": {
        "description": "An id for the request: 1 to 128 characters of A-Z a-z 0-9 - _ . ; another value is replaced.",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "Names the intent, so that sending it again does no harm: a string of 1 to 255 characters, best a "
        "UUID, with or without quotes.",
        "schema": {
            "type": "string",
            "pattern": r"""^("([ !#-\[\]-~]|\\["\\]){1,255}"|[A-Za-z0-9!#$%&'*+.^_`|~:/=@-]{1,255})$""",
        },
    },
    "Prefer": {
        "description": "`respond-async` to be answered 202 at once; `wait=N` to wait up to N seconds for the outcome.",
        "schema": {"type": "string"},
    },
    "If-Match": {
        "description": "Only if what is changed still has this strong ETag; else 412.",
        "schema": {"type": "string", "pattern": '^(\\*|"[!#-~]*")?$'},
    },
    "If-None-Match": {
        "description": "ETags that the client has; 304 when one of them is the right one.",
        "schema": {"type": "string"},
    },
    "Last-Event-ID": {"description": "The last event that the client has.", "schema": {"type": "string"}},
}

BEARER: Final = "bearer"
SECURITY: Final[Schema] = {
    BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The access token of a session."}
}

# Problems by status. The first are those that any request may meet.
ANY: Final = (400, 401, 404, 405, 408, 413, 414, 415, 421, 429, 431, 500, 501, 503, 504)
USER: Final = (403,)
WRITE: Final = (409, 422)
CONDITIONAL: Final = (412,)
_ABOUT: Final = {
    400: "The request is wrong, or the state of what it names does not allow it; the violations say where.",
    401: "No access token, or one that is not valid.",
    403: "Not for this caller.",
    404: "What the request names is not there, or not for this caller.",
    405: "The path does not answer this verb; Allow says which.",
    408: "The request took too long to arrive.",
    409: "It is there already, or something else changed it in between.",
    412: "What is changed has another ETag.",
    413: "The body is too large.",
    414: "The address is too long.",
    415: "The body is not application/json in UTF-8.",
    421: "The host that the request names is not served here.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests, or another quota is used up.",
    431: "The headers are too large, or too many.",
    500: "Something broke; the log knows it under the request id.",
    501: "The service does not have this rpc.",
    503: "The service does not answer now. Nothing was kept.",
    504: "Time ran out.",
}


def headers(*names: str) -> Schema:
    """References to the headers that all responses have, and to further ones."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*_ALWAYS, *names)}


def problem_name(status: int) -> str:
    """The name of a problem's response among the components."""
    return f"problem-{status}"


def problems() -> dict[str, Schema]:
    """The responses that tell of problems, by name."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/problem"}}}
    return {
        problem_name(status): {
            "description": about,
            "headers": headers(*_HEADERS_OF.get(status, ())),
            "content": content,
        }
        for status, about in _ABOUT.items()
    }
