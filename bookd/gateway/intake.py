"""What stands between a request and its call: who asks, whether they may, what exactly they ask for.

The order matters. The token comes first, then the roles as far as they can be judged without the request, so that a
stranger learns nothing about what a request should look like. Then the body and its type, then the transcoding, then
ownership, and last what the headers ask for.
"""

from collections.abc import Callable
from hashlib import blake2b
from secrets import token_bytes
from typing import NamedTuple
from uuid import UUID

from attrs import frozen
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from bookd.contract import metadata as keys
from bookd.contract import policy
from bookd.contract.binding import Binding
from bookd.contract.descriptors import Method
from bookd.contract.names import named
from bookd.errors import InvalidArgument
from bookd.gateway import headers, problem
from bookd.gateway.calls import Metadata
from bookd.gateway.rates import Rates
from bookd.gateway.request import Request
from bookd.gateway.tokens import Tokens
from bookd.wire.policy.v1 import policy_pb2

# Message ids made of idempotency keys are UUIDs of this namespace (RFC 9562, section 5.5).
_NAMESPACE = UUID("6e1dbd8e-6a0c-5a3f-9d55-0d1e6f1f4b1d")
READS = frozenset({"GET", "HEAD"})


@frozen
class Limits:
    """Seconds that a call may take: when its client names none, and at most."""

    default_deadline: float
    max_deadline: float


class Asked(NamedTuple):
    """A request that has been understood and is allowed."""

    binding: Binding
    message: Message
    read: bool
    # Seconds for the call; and what the client itself named, which is all that bounds a stream.
    seconds: float
    named: float | None
    preferences: headers.Preferences
    metadata: Metadata
    # Raises `Unauthenticated` once the client's token has expired or is revoked.
    allowed: Callable[[], object]

    @property
    def method(self) -> Method:
        """The rpc asked for."""
        method: Method = self.binding.method
        return method


class Intake:
    """Understands requests. `new_id` makes UUIDs."""

    def __init__(self, tokens: Tokens, rates: Rates, limits: Limits, new_id: Callable[[], str]) -> None:
        self._tokens = tokens
        self._rates = rates
        self._limits = limits
        self._new_id = new_id
        self._secret = token_bytes(32)

    def identify(self, request: Request, verb: str, method: Method) -> policy_pb2.Principal | None:
        """Who asks, and whether so often. Raises `Unauthenticated`, and `ResourceExhausted`."""
        if method.access.audience != policy_pb2.AUDIENCE_PUBLIC:
            request.vary.add("Authorization")
        principal = self._tokens.principal(one(request, "authorization"))
        request.subject = principal.subject if principal is not None else ""
        self._rates.identified(request, method, principal, read=verb in READS)
        return principal

    def understand(self, request: Request, verb: str, binding: Binding, variables: dict[str, str]) -> Asked:
        """Read, check and authorize a request whose path and verb fit `binding`. Raises what is wrong with it."""
        method = binding.method
        request.route = binding.template.text
        principal = self.identify(request, verb, method)
        if principal is None or not method.access.owner_field:
            policy.authorize(method, principal, method.request())
        body = request.body()
        if body and not headers.is_json(one(request, "content-type"), one(request, "content-encoding")):
            raise InvalidArgument("the body must be application/json in UTF-8", reason=problem.MEDIA_TYPE)
        message = binding.bind(variables, request.uri.partition(b"?")[2].decode("utf-8"), body)
        policy.authorize(method, principal, message)
        request.privileged = verb not in READS and _by_role(method, principal, message)
        if method.rest.resume_field:
            _resume(message, method.rest.resume_field, one(request, "last-event-id"))
        if verb not in READS:
            _precondition(message, headers.if_match(request.every("if-match")))
        named = headers.deadline(one(request, "grpc-timeout"), one(request, "request-timeout"))
        preferences = headers.preferences(request.every("prefer"))
        authorization = one(request, "authorization")
        return Asked(
            binding=binding,
            message=message,
            read=verb in READS,
            seconds=min(named or self._limits.default_deadline, self._limits.max_deadline),
            named=named,
            preferences=preferences,
            metadata=self._metadata(request, verb, method, principal, message, preferences),
            allowed=lambda: self._tokens.principal(authorization),
        )

    def _metadata(
        self,
        request: Request,
        verb: str,
        method: Method,
        principal: policy_pb2.Principal | None,
        message: Message,
        preferences: headers.Preferences,
    ) -> Metadata:
        found: list[tuple[str, str | bytes]] = [
            (keys.REQUEST_ID, request.request_id),
            (keys.TRACEPARENT, headers.traceparent(one(request, "traceparent"))),
        ]
        if principal is not None:
            found.append((keys.PRINCIPAL, principal.SerializeToString()))
        if verb not in READS:
            found.append((keys.CLIENT_ADDRESS, request.address))
            found.append((keys.MESSAGE_ID, self._message_id(request, method, principal, message)))
            # With a wait, the client would rather have the outcome than the operation.
            if method.delivery.deferrable and preferences.respond_async and preferences.wait is None:
                found.append((keys.RESPOND_ASYNC, "1"))
        return found

    def _message_id(
        self, request: Request, method: Method, principal: policy_pb2.Principal | None, message: Message
    ) -> str:
        """Names the intent: the same key of the same caller is the same intent, no key is a new one.

        Strangers cannot be told apart, and two of them may choose the same key. So the key of a caller without a token
        counts for one request only, its password included: who sends another one never meets what was answered there.
        What is made of a password must not be guessed from the id, which services store; hence the secret. It ends with
        this process: a stranger's retry after that is a new intent.
        """
        key = headers.idempotency_key(request.every("idempotency-key"))
        if key is None:
            return self._new_id()
        if principal is not None:
            return named(_NAMESPACE, f"{principal.subject}\n{key}")
        asked = f"{method.path}\n{key}\n".encode() + message.SerializeToString(deterministic=True)
        return named(_NAMESPACE, f"\n{blake2b(asked, key=self._secret).hexdigest()}")


def _by_role(method: Method, principal: policy_pb2.Principal | None, message: Message) -> bool:
    """Whether the principal may do this by a role of its own, not because it is about itself."""
    access = method.access
    if principal is None or not access.roles or not set(access.roles) & set(principal.roles):
        return False
    return not access.owner_field or policy.value_at(message, access.owner_field) != principal.subject


def _precondition(message: Message, etag: str | None) -> None:
    """Put the tag of If-Match where the service looks for it (AIP-154): into the request's `etag`, or into that of the
    resource that the request holds. An rpc that has neither cannot promise anything, so the header is refused."""
    if etag is None:
        return
    holders = [
        message,
        *(value for field, value in message.ListFields() if field.message_type and not field.is_repeated),
    ]
    for holder in holders:
        field = holder.DESCRIPTOR.fields_by_name.get("etag")
        if field is not None and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
            holder.etag = etag
            return
    raise InvalidArgument.field("If-Match", "this request cannot be made conditional")


def _resume(message: Message, field: str, last_event_id: str | None) -> None:
    """Put Last-Event-ID where the rpc looks for it. It is newer than what a client that reconnects has in its query.

    It is the one header that is UTF-8 (HTML, section 9.2.4).
    """
    if last_event_id:
        try:
            setattr(message, field, last_event_id.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError:
            raise InvalidArgument.field("Last-Event-ID", "must be UTF-8") from None


def one(request: Request, name: str) -> str | None:
    """The header's only value; None when it is absent. Raises `InvalidArgument` when it comes twice."""
    values = request.every(name)
    if len(values) > 1:
        raise InvalidArgument.field(name.title(), "must not come more than once")
    return values[0] if values else None
