"""What a servicer's method knows about the call it answers."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from google.protobuf.message import DecodeError, Message

from bookd.contract import metadata
from bookd.contract.call import Call, fingerprint
from bookd.errors import InvalidArgument, PermissionDenied
from bookd.wire.policy.v1 import policy_pb2

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Context:
    """The call: who makes it, under which id, and how long it may take.

    `peer` is the daemon name in the caller's certificate, empty without TLS. `metadata` holds the first value of each
    key. `principal` is who asks, as a trusted peer says; None when it does not say. `message_id` is the canonical text
    of the UUID that names the intent, or None. `client_address` is where the client of the gateway is, as a trusted peer
    says; empty when none does. `call` is what the inbox needs to know of the call.
    """

    def __init__(self, method: str, peer: str, invocation: Mapping[str, Any], grpc_context: Any) -> None:
        self.method = method
        self.peer = peer
        self.metadata: Mapping[str, str | bytes] = invocation
        self.principal: policy_pb2.Principal | None = None
        self.message_id: str | None = None
        self._request: Message | None = None
        self.client_address = ""
        self._grpc = grpc_context

    @property
    def call(self) -> Call:
        """What the inbox needs to know of the call."""
        return Call(
            self.message_id, self.method, b"" if self._request is None else fingerprint(self.method, self._request)
        )

    @property
    def request_id(self) -> str:
        """Id of the client's request, for logs; empty when none came along."""
        value = self.metadata.get(metadata.REQUEST_ID, "")
        return value if isinstance(value, str) else ""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None when it named none."""
        remaining: float | None = self._grpc.time_remaining()
        return remaining

    def admit(self, trusted: frozenset[str] | None) -> None:
        """Read principal and message id from the metadata. `trusted` names the peers that may speak for a principal;
        None trusts everybody. Raises `PermissionDenied` or `InvalidArgument`."""
        packed = self.metadata.get(metadata.PRINCIPAL)
        if packed is not None:
            if trusted is not None and self.peer not in trusted:
                raise PermissionDenied(
                    f"{self.peer or 'this peer'} may not speak for a principal", reason="UNTRUSTED_PEER"
                )
            self.principal = _principal(packed)
        if trusted is None or self.peer in trusted:
            self.client_address = str(self.metadata.get(metadata.CLIENT_ADDRESS, ""))[:64]
        named = self.metadata.get(metadata.MESSAGE_ID)
        if named is not None:
            try:
                self.message_id = _canonical(str(named))
            except ValueError:
                raise InvalidArgument.field(metadata.MESSAGE_ID, "must be a UUID") from None

    def describe(self, request: Message) -> None:
        """Note the request of a unary call, of which `call` tells."""
        self._request = request


def _canonical(named: str) -> str:
    # Nearly all are written so, and taking a UUID apart and together again costs more than a look at it.
    return named if _UUID.fullmatch(named) else str(UUID(named))


def _principal(packed: str | bytes) -> policy_pb2.Principal:
    try:
        return policy_pb2.Principal.FromString(packed if isinstance(packed, bytes) else packed.encode())
    except DecodeError:
        raise InvalidArgument.field(metadata.PRINCIPAL, "is not a serialized bookd.policy.v1.Principal") from None
