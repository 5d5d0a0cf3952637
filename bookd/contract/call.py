"""One write as the inbox knows it: which intent, which method, which request."""

from hashlib import sha256

from attrs import frozen
from google.protobuf.message import Message


@frozen
class Call:
    """A call that may come more than once under the same id.

    `message_id` is None when the caller named no intent; then every call counts. `fingerprint` tells whether two calls
    with one id carry the same request.
    """

    message_id: str | None
    method: str
    fingerprint: bytes


def fingerprint(method: str, request: Message) -> bytes:
    """SHA-256 over the method path and the request's deterministic serialization, 32 bytes."""
    return sha256(method.encode() + b"\0" + request.SerializeToString(deterministic=True)).digest()
