"""Decides from an access rule whether a principal may call. The gateway asks, and every service asks again."""

from google.protobuf.message import Message

from bookd.contract.descriptors import Method
from bookd.errors import PermissionDenied, Unauthenticated
from bookd.wire.policy.v1 import policy_pb2


def authorize(method: Method, principal: policy_pb2.Principal | None, request: Message) -> None:
    """Raise `Unauthenticated` or `PermissionDenied` unless `principal` may make this call.

    AUDIENCE_INTERNAL is decided by the peer's certificate, before a principal is looked at, so it passes here. For an
    `owned_resource` every principal passes: the service compares the owner once it has loaded the resource.
    """
    access = method.access
    if access.audience in (policy_pb2.AUDIENCE_PUBLIC, policy_pb2.AUDIENCE_INTERNAL):
        return
    if principal is None or not principal.subject:
        raise Unauthenticated(f"{method.name} needs an access token", reason="TOKEN_MISSING")
    if access.owned_resource or (access.roles and set(access.roles) & set(principal.roles)):
        return
    if access.owner_field:
        if value_at(request, access.owner_field) == principal.subject:
            return
    elif not access.roles:
        return
    raise PermissionDenied(f"{method.name} is not for you", reason="ROLE_MISSING")


def ordering_key(method: Method, principal: policy_pb2.Principal | None, request: Message) -> str:
    """The ordering key that the method's delivery policy gives to this call; empty when it has none."""
    delivery = method.delivery
    if delivery.ordering_subject:
        return principal.subject if principal is not None else ""
    for path in delivery.ordering_fields:
        if value := value_at(request, path):
            return str(value)
    return ""


def may_see(owner: str, principal: policy_pb2.Principal | None, *roles: str) -> bool:
    """Whether `principal` owns a loaded resource or has one of the roles that may see everybody's."""
    return principal is not None and (principal.subject == owner or bool(set(roles) & set(principal.roles)))


def value_at(message: Message, path: str) -> object:
    """The value of the singular field at the dotted `path`; unset messages on the way count as default ones."""
    *parents, last = path.split(".")
    for name in parents:
        message = getattr(message, name)
    value: object = getattr(message, last)
    return value
