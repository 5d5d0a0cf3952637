"""What is marked as a secret is not shown."""

from functools import cache
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.descriptors import Contract, load, shipped
from bookd.contract.redaction import REDACTED, redact
from tests.gateway.kites import contract as contract_of

SAFE = """
syntax = "proto3";
package safe.v1;
import "bookd/policy/v1/policy.proto";

service SafeService {
  rpc Put(Safe) returns (Safe) { option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC}; }
}
message Safe {
  string label = 1;
  string code = 2 [debug_redact = true];
  bytes key = 3 [debug_redact = true];
  repeated string spares = 4 [debug_redact = true];
  Safe inner = 5;
  repeated Safe many = 6;
  map<string, Safe> by_name = 7;
  Safe hidden = 8 [debug_redact = true];
  map<string, string> plain = 9;
  oneof kind { string one = 10 [debug_redact = true]; int64 other = 11 [debug_redact = true]; }
}
"""


@cache
def safe() -> Contract:
    """The contract of the safe."""
    return contract_of(SAFE)


class RedactionTests(SynchronousTestCase):
    """A message with secrets at every depth."""

    def make(self, **fields: Any) -> Any:
        """A safe."""
        return safe().methods["/safe.v1.SafeService/Put"].request(**fields)

    def test_every_depth(self) -> None:
        """No secret is left, wherever it stood; and all else is."""
        secret = {"label": "l", "code": "MARK", "key": b"MARK", "spares": ["MARK"], "one": "MARK"}
        deep = self.make(**secret, inner=self.make(**secret))
        made = self.make(**secret, inner=deep, many=[deep, deep], by_name={"a": deep}, hidden=deep, plain={"a": "b"})
        redact(made)
        self.assertNotIn(b"MARK", made.SerializeToString())
        self.assertEqual((made.label, made.code, made.key, made.one), ("l", REDACTED, b"", REDACTED))
        self.assertEqual((made.inner.inner.label, made.many[1].label, made.by_name["a"].label), ("l", "l", "l"))
        self.assertEqual((made.plain["a"], made.HasField("hidden"), len(made.spares)), ("b", False, 0))

    def test_nothing_secret(self) -> None:
        """A message without secrets stays as it is, and an absent secret is not said to be there."""
        made = self.make(label="l", inner=self.make())
        before = made.SerializeToString()
        redact(made)
        self.assertEqual(made.SerializeToString(), before)

    def test_unknown_fields(self) -> None:
        """What the contract does not know is not shown."""
        made = type(self.make()).FromString(b"\xfa\x3f\x04MARK")
        redact(made)
        self.assertEqual(made.SerializeToString(), b"")

    def test_the_bookstore(self) -> None:
        """Every field of the bookstore that is called a password or a token is marked, but for tokens of pages."""
        contract = load([shipped()])
        seen = set()
        for method in contract.methods.values():
            for message in (method.request, method.response):
                for field in message.DESCRIPTOR.fields:
                    if field.name.endswith(("password", "token")) and "page_token" not in field.name:
                        self.assertTrue(field.GetOptions().debug_redact, field.full_name)
                        seen.add(field.name)
        self.assertEqual(seen, {"password", "old_password", "new_password", "access_token", "refresh_token"})
