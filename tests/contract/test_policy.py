"""Who may call what, which ordering key a call has, and that no rpc goes without a rule."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.call import fingerprint
from bookd.contract.descriptors import Contract, ContractError, load, shipped
from bookd.contract.policy import authorize, may_see, ordering_key, value_at
from bookd.errors import PermissionDenied, Unauthenticated
from bookd.wire.orders.v1 import orders_pb2
from bookd.wire.policy.v1 import policy_pb2
from tests.gateway import kites

GUARDED = """
syntax = "proto3";
package guarded.v1;
import "bookd/policy/v1/policy.proto";
service GuardedService {
  rpc Anyone(Request) returns (Request) { option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC}; }
  rpc Daemons(Request) returns (Request) { option (bookd.policy.v1.access) = {audience: AUDIENCE_INTERNAL}; }
  rpc AnyUser(Request) returns (Request) { option (bookd.policy.v1.access) = {audience: AUDIENCE_USER}; }
  rpc Staff(Request) returns (Request) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER roles: ["staff", "admin"]};
  }
  rpc Owner(Request) returns (Request) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER owner_field: "inner.owner"};
    option (bookd.policy.v1.delivery) = {deferrable: true ordering_fields: ["inner.owner", "other"]};
  }
  rpc OwnerOrStaff(Request) returns (Request) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER roles: ["staff"] owner_field: "inner.owner"};
    option (bookd.policy.v1.delivery) = {deferrable: true ordering_subject: true};
  }
  rpc Loaded(Request) returns (Request) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER roles: ["staff"] owned_resource: true};
  }
}
message Request { Inner inner = 1; string other = 2; map<string, string> labels = 3; }
message Inner { string owner = 1; }
"""


@cache
def guarded() -> Contract:
    """The contract of the proto above."""
    return kites.contract(GUARDED)


def principal(subject: str, *roles: str) -> policy_pb2.Principal:
    """A principal."""
    return policy_pb2.Principal(subject=subject, roles=roles)


class AuthorizeTests(SynchronousTestCase):
    """`authorize` against each kind of rule."""

    def ask(self, name: str, who: policy_pb2.Principal | None, owner: str = "") -> str:
        """What becomes of the call: "yes", "who?" or "no"."""
        method = guarded().methods[f"/guarded.v1.GuardedService/{name}"]
        request: Any = method.request()
        if owner:
            request.inner.owner = owner
        try:
            authorize(method, who, request)
        except Unauthenticated:
            return "who?"
        except PermissionDenied:
            return "no"
        return "yes"

    def test_table(self) -> None:
        """Each rule lets pass whom it names, asks strangers who they are, and refuses the others."""
        nobody, empty, ann, staff, admin = (
            None, principal(""), principal("ann", "customer"), principal("sam", "staff"), principal("root", "admin"),
        )  # fmt: skip
        for name, answers in {
            "Anyone": "yes yes yes yes yes",
            "Daemons": "yes yes yes yes yes",
            "AnyUser": "who? who? yes yes yes",
            "Staff": "who? who? no yes yes",
            "Owner": "who? who? yes no no",
            "OwnerOrStaff": "who? who? yes yes no",
            "Loaded": "who? who? yes yes yes",
        }.items():
            found = [self.ask(name, who, "ann") for who in (nobody, empty, ann, staff, admin)]
            self.assertEqual(" ".join(found), answers, name)

    def test_no_owner_given(self) -> None:
        """A request that names no owner belongs to nobody, not to the caller without a subject either."""
        self.assertEqual(self.ask("Owner", principal("ann")), "no")
        self.assertEqual(self.ask("Owner", principal("")), "who?")
        self.assertEqual(self.ask("Owner", principal("", "staff")), "who?")

    def test_roles_without_subject(self) -> None:
        """Roles alone are no principal."""
        self.assertEqual(self.ask("Staff", principal("", "admin")), "who?")

    def test_may_see(self) -> None:
        """The owner and the roles named see a loaded resource; nobody else does."""
        self.assertTrue(may_see("ann", principal("ann")))
        self.assertTrue(may_see("ann", principal("sam", "staff"), "staff"))
        self.assertFalse(may_see("ann", principal("sam", "staff")))
        self.assertFalse(may_see("ann", None, "staff"))


class KeyTests(SynchronousTestCase):
    """Ordering keys."""

    def test_fields(self) -> None:
        """The first field that has a value gives the key; none has one: no key."""
        method = guarded().methods["/guarded.v1.GuardedService/Owner"]
        request: Any = method.request()
        self.assertEqual(ordering_key(method, None, request), "")
        request.other = "o"
        self.assertEqual(ordering_key(method, None, request), "o")
        request.inner.owner = "ann"
        self.assertEqual(ordering_key(method, principal("sam"), request), "ann")
        self.assertEqual(value_at(request, "inner.owner"), "ann")

    def test_subject(self) -> None:
        """The caller is the key where the policy says so."""
        method = guarded().methods["/guarded.v1.GuardedService/OwnerOrStaff"]
        self.assertEqual(ordering_key(method, principal("sam"), method.request()), "sam")
        self.assertEqual(ordering_key(method, None, method.request()), "")


class LoadTests(SynchronousTestCase):
    """What a descriptor set must say."""

    def test_every_rpc_has_a_rule(self) -> None:
        """An rpc without an access rule, or with one that names no audience, is refused by its name."""
        for hole in ("", "option (bookd.policy.v1.access) = {roles: ['staff']};"):
            opening = "service GuardedService {"
            proto = GUARDED.replace(opening, f"{opening} rpc Hole(Inner) returns (Inner) {{ {hole} }}")
            error = self.assertRaises(ContractError, kites.contract, proto)
            self.assertIn("guarded.v1.GuardedService.Hole", str(error))

    def test_shipped(self) -> None:
        """Every rpc of the bookstore has a rule, and what names a password or gives a token is never kept."""
        contract = load([shipped()])
        for method in contract.methods.values():
            self.assertNotEqual(method.access.audience, policy_pb2.AUDIENCE_UNSPECIFIED, method.path)
            secret = {"password", "refresh_token", "access_token", "new_password", "current_password"}
            fields = {field.name for kind in (method.request, method.response) for field in kind.DESCRIPTOR.fields}
            self.assertFalse(method.delivery.deferrable and fields & secret, method.path)
            self.assertTrue(method.comment, method.path)
            if method.access.owner_field:
                value_at(method.request(), method.access.owner_field)
            ordering_key(method, principal("ann"), method.request())

    def test_twice(self) -> None:
        """A set that is given twice is taken once; services without a policy are left out."""
        contract = load([shipped(), shipped()])
        self.assertEqual(contract.methods.keys(), load([shipped()]).methods.keys())
        self.assertTrue(all(name.startswith("bookd.") for name in contract.services()))

    def test_garbage(self) -> None:
        """What is no descriptor set is refused by its number; a file whose import is missing by its name."""
        self.assertIn("descriptor set 1", str(self.assertRaises(ContractError, load, [shipped(), b"\xff\xff"])))
        lonely = descriptor_pb2.FileDescriptorSet()
        lonely.file.add(name="lonely.proto", syntax="proto3", dependency=["missing.proto"])
        service = lonely.file[0].service.add(name="LonelyService")
        rpc = service.method.add(name="Do", input_type=".missing.In", output_type=".missing.Out")
        extensions: Any = rpc.options.Extensions  # protoc's stubs give extensions no type
        extensions[policy_pb2.access].audience = policy_pb2.AUDIENCE_PUBLIC
        error = self.assertRaises(ContractError, load, [lonely.SerializeToString()])
        self.assertIn("lonely", str(error))


class FingerprintTests(SynchronousTestCase):
    """Whether two calls with one id ask for the same."""

    def test_method_counts(self) -> None:
        """The same bytes for another method are another call; the method ends where the request begins."""
        request = orders_pb2.GetOrderRequest(order_id="x")
        self.assertNotEqual(fingerprint("/a/B", request), fingerprint("/a/C", request))
        self.assertEqual(len(fingerprint("/a/B", request)), 32)
        self.assertEqual(fingerprint("/a/B", request), fingerprint("/a/B", orders_pb2.GetOrderRequest(order_id="x")))

    @given(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=6), st.randoms())
    def test_maps(self, labels: dict[str, str], order: Any) -> None:
        """The order in which a map was filled does not count."""
        kind: Any = guarded().methods["/guarded.v1.GuardedService/Anyone"].request
        keys = list(labels)
        order.shuffle(keys)
        first, second = kind(labels=labels), kind()
        for key in keys:
            second.labels[key] = labels[key]
        self.assertEqual(fingerprint("/a/B", first), fingerprint("/a/B", second))
