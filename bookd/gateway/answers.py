"""A successful call as an HTTP response: its status, its validator, and how long it may be kept.

A response message with an `etag` field brings its own validator; the answer of a cacheable rpc without one gets a weak
one made of its body (RFC 9110, section 8.8). Everything else is `no-store`.
"""

from collections.abc import Sequence
from hashlib import blake2b

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from klein import Response

from bookd.contract.descriptors import Method
from bookd.gateway import headers
from bookd.gateway.problem import Headers
from bookd.wire.policy.v1 import policy_pb2

JSON = "application/json"
# Seconds that a client may use the description of the routes without asking again.
_DOCUMENT_KEPT = 300


def success(method: Method, message: Message, body: bytes, *, read: bool, if_none_match: Sequence[str]) -> Response:
    """The response to a call that succeeded with `message`, whose JSON is `body`."""
    status = method.rest.success_status or 200
    found: Headers = {"Cache-Control": _keeping(method) if read else "no-store"}
    etag = _etag(method, message, body, read)
    if etag:
        found["ETag"] = etag
        if read and headers.matches(if_none_match, etag):
            return Response(304, found, b"")
    if status == 204:
        return Response(204, found, b"")
    return json(status, body, found)


def unchanged(response: Response) -> Response:
    """304 in the place of a response that the client has already."""
    kept = {name: value for name, value in response.headers.items() if name not in ("Content-Type", "Content-Length")}
    return Response(304, kept, b"")


def json(status: int, body: bytes, more: Headers) -> Response:
    """A response with a JSON body."""
    return Response(status, {**more, "Content-Type": JSON, "Content-Length": str(len(body))}, body)


def document(body: bytes, if_none_match: Sequence[str]) -> Response:
    """A JSON document that anybody may keep for a while, and that only changes with the daemon."""
    etag = f'"{_digest(body)}"'
    found: Headers = {"ETag": etag, "Cache-Control": f"public, max-age={_DOCUMENT_KEPT}"}
    return Response(304, found, b"") if headers.matches(if_none_match, etag) else json(200, body, found)


def _keeping(method: Method) -> str:
    if not method.rest.cacheable:
        return "no-store"
    return "no-cache" if method.access.audience == policy_pb2.AUDIENCE_PUBLIC else "private, no-cache"


def _etag(method: Method, message: Message, body: bytes, read: bool) -> str:
    field = message.DESCRIPTOR.fields_by_name.get("etag")
    if field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
        own: str = message.etag  # type: ignore[attr-defined]
        if own:
            return own if own.startswith(('"', 'W/"')) else f'"{own}"'
    if read and method.rest.cacheable:
        return f'W/"{_digest(body)}"'
    return ""


def _digest(body: bytes) -> str:
    return blake2b(body, digest_size=12).hexdigest()
