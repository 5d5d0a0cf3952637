"""What the sender of a kept call is told, when it asked for a reply: a message of its own, to the method it named."""

from collections.abc import Mapping
from uuid import NAMESPACE_URL, uuid5

from google.protobuf.message import Message
from google.rpc import status_pb2

from bookd.contract.call import fingerprint
from bookd.contract.descriptors import Contract, Method
from bookd.contract.names import named
from bookd.contract.policy import ordering_key
from bookd.errors import InvalidArgument
from bookd.mom.machine import Policy
from bookd.mom.records import Draft, Kept, Outcome
from bookd.wire.mom.v1 import message_pb2

_OUTCOME = message_pb2.Outcome.DESCRIPTOR.full_name
# Number of the field that takes the outcome or the event, in the request of a method that takes such.
_FIELD = 1
# Longest ordering key that names a lane as it is.
_LONGEST = 200
_NAMESPACE = uuid5(NAMESPACE_URL, "https://bookd/lane")


def require_taker(contract: Contract, path: str) -> Method:
    """The method that takes replies at `path`. Raises `InvalidArgument` when it takes none."""
    method = contract.methods.get(path)
    if method is None or method.client_streaming or method.server_streaming:
        raise InvalidArgument.field("bookd-reply-to", "names no unary method that is served here")
    field = method.request.DESCRIPTOR.fields_by_number.get(_FIELD)
    kind = None if field is None else field.message_type
    if kind is None or kind.full_name != _OUTCOME or not method.delivery.deferrable:
        raise InvalidArgument.field("bookd-reply-to", "names a method that takes no replies")
    return method


def lane_of(method: Method, principal: object, request: Message, message_id: str) -> str:
    """The lane of a call within its destination: its ordering key; its own id when it has none."""
    key = ordering_key(method, principal, request) or message_id  # type: ignore[arg-type]
    return key if len(key) <= _LONGEST else named(_NAMESPACE, key)


def reply(contract: Contract, defaults: Policy, kept: Kept, outcome: Outcome, now: int) -> Draft | None:
    """The message that tells of `outcome`; None when nobody asked for it, or nobody takes it any more.

    Its id follows from the message and its outcome, so that it is sent once however often this is asked; and a dead
    letter that is delivered after all tells of that too.
    """
    if kept.reply_to is None:
        return None
    try:
        method = require_taker(contract, kept.reply_to)
    except InvalidArgument:
        return None
    told = message_pb2.Outcome(message_id=kept.message_id, method=kept.method, response=outcome.response or b"")
    if outcome.status is not None:
        told.status.CopyFrom(status_pb2.Status.FromString(outcome.status))
    request = enclosed(method, told)
    said = fingerprint(method.path, request)
    message_id = named(_NAMESPACE, f"reply:{kept.message_id}:{said.hex()}")
    metadata: Mapping[str, str] = kept.metadata
    return Draft(
        message_id=message_id,
        destination=method.service,
        lane=lane_of(method, None, request, message_id),
        method=method.path,
        request=request.SerializeToString(deterministic=True),
        fingerprint=said,
        principal=b"",
        subject="",
        metadata=metadata,
        reply_to=None,
        expire_at=now + defaults.of(method.delivery).expire_after,
    )


def enclosed(method: Method, content: Message) -> Message:
    """The request of `method` that holds `content` as its field 1, and nothing else."""
    packed = content.SerializeToString(deterministic=True)
    # As the wire format has it (length-delimited), since the two may come from different pools.
    return method.request.FromString(bytes([_FIELD << 3 | 2]) + _varint(len(packed)) + packed)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
