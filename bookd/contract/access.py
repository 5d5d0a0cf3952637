"""The table of who may call what, made of the access rules, for docs/security.md and for the tests that try each cell."""

from collections.abc import Iterable
from enum import Enum

from google.protobuf.message import Message

from bookd.contract.descriptors import Contract, Method
from bookd.contract.policy import authorize, may_see
from bookd.errors import PermissionDenied, Unauthenticated
from bookd.wire.policy.v1 import policy_pb2

OWNER, OTHER = "u1", "u2"
BEGIN = "<!-- made by protos/generate.py: begin -->"
END = "<!-- end -->"


class Who(Enum):
    """Who asks, as the columns have it. The resource, where there is one, is that of the user `OWNER`."""

    PUBLIC = "public"
    OWN = "customer, own"
    ANOTHERS = "customer, another's"
    STAFF = "staff"
    ADMIN = "admin"
    DAEMON = "daemon"

    @property
    def principal(self) -> policy_pb2.Principal | None:
        """Whom a call speaks for."""
        if self in (Who.PUBLIC, Who.DAEMON):
            return None
        role = self.value.partition(",")[0]
        return policy_pb2.Principal(subject=OWNER if self is Who.OWN else OTHER, roles=[role], session_id="s1")


def request(method: Method) -> Message:
    """A request of the method about what is `OWNER`'s, as far as the request says whose it is."""
    made = method.request()
    if method.access.owner_field:
        *parents, last = method.access.owner_field.split(".")
        holder = made
        for name in parents:
            holder = getattr(holder, name)
        setattr(holder, last, OWNER)
    return made


def allowed(method: Method, who: Who) -> bool:
    """Whether the call is to succeed. A daemon calls with its certificate and for nobody."""
    access = method.access
    if access.audience == policy_pb2.AUDIENCE_INTERNAL:
        return who is Who.DAEMON
    try:
        authorize(method, who.principal, request(method))
    except (Unauthenticated, PermissionDenied):
        return False
    if access.owned_resource:
        return may_see(OWNER, who.principal, *access.roles)
    return True


def table(contract: Contract) -> str:
    """The table in Markdown."""
    heads = ["operation", "REST", *(who.value for who in Who), "whose it is"]
    rows = [heads, ["---"] * len(heads)]
    for method in sorted(contract.methods.values(), key=lambda each: each.path):
        cells = ["allowed" if allowed(method, who) else "refused" for who in Who]
        rows.append([f"`{method.path[1:]}`", _rest(method), *cells, _owner(method)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def placed(text: str, made: str) -> str:
    """The document with the table between its marks. Raises ValueError when it has no such marks."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"there is no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def _rest(method: Method) -> str:
    return "<br>".join(f"`{verb} {path}`" for verb, path in _rules(method)) or "none"


def _rules(method: Method) -> Iterable[tuple[str, str]]:
    for rule in method.http:
        kind = rule.WhichOneof("pattern")
        if kind == "custom":
            yield rule.custom.kind, rule.custom.path
        elif kind is not None:
            yield kind.upper(), getattr(rule, kind)


def _owner(method: Method) -> str:
    if method.access.owned_resource:
        return "the service looks, and answers 404 to others"
    return f"`{method.access.owner_field}` says" if method.access.owner_field else ""
