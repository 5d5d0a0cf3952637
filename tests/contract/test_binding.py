"""An HTTP request becomes an rpc's request: which part of it fills which field, and what is refused by name."""

from functools import cache
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.binding import Binding, bindings
from bookd.contract.descriptors import ContractError
from bookd.errors import InvalidArgument, NotFound, Violation
from tests.gateway import kites

SHELVES = """
syntax = "proto3";
package shelves.v1;
import "bookd/policy/v1/policy.proto";
import "google/api/annotations.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
service ShelfService {
  rpc List(ListRequest) returns (Shelf) {
    option (google.api.http) = {get: "/s/shelves"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
  rpc Update(UpdateRequest) returns (Shelf) {
    option (google.api.http) = {patch: "/s/shelves/{shelf.shelf_id}" body: "shelf"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
}
enum Wood { WOOD_UNSPECIFIED = 0; WOOD_OAK = 1; }
message Shelf { string shelf_id = 1; int32 board_count = 2; Inner inner = 3; }
message Inner { string tag = 1; repeated string notes = 2; }
message ListRequest { int32 page_size = 1; repeated Wood woods = 2; Inner inner = 3; google.protobuf.Duration age = 4; }
message UpdateRequest { Shelf shelf = 1; google.protobuf.FieldMask update_mask = 2; }
"""


@cache
def binding(name: str) -> Binding:
    """The binding of one rpc of the proto above."""
    return next(
        each for each in bindings(kites.contract(SHELVES)) if each.method.path == f"/shelves.v1.ShelfService/{name}"
    )


class BindingTests(SynchronousTestCase):
    """Path, query and body."""

    def refused(self, name: str, query: str = "", body: bytes = b"") -> list[str]:
        """The fields that the request is refused for."""
        variables = {"shelf.shelf_id": "7"} if name == "Update" else {}
        error = self.assertRaises(InvalidArgument, binding(name).bind, variables, query, body)
        return [each.field for each in error.violations]

    def test_depth(self) -> None:
        """A body that is nested deeper than the configuration says is refused, with the limit."""
        narrow = {each.method.path: each for each in bindings(kites.contract(SHELVES), 1)}
        update = narrow["/shelves.v1.ShelfService/Update"]
        update.bind({"shelf.shelf_id": "7"}, "", b'{"board_count": 1}')
        error = self.assertRaises(InvalidArgument, update.bind, {"shelf.shelf_id": "7"}, "", b'{"inner": {"tag": "t"}}')
        self.assertIn("deeper than 1 levels", error.violations[0].description)

    def test_query(self) -> None:
        """Nested, repeated, enum and duration fields, in both spellings."""
        for query in (
            "page_size=3&inner.notes=a&inner.notes=b%26c&woods=WOOD_OAK&woods=1&age=1.5s",
            "pageSize=3&inner.notes=a&inner.notes=b%26c&woods=WOOD_OAK&woods=1&age=1.5s",
        ):
            made: Any = binding("List").bind({}, query, b"")
            self.assertEqual((made.page_size, list(made.inner.notes), list(made.woods)), (3, ["a", "b&c"], [1, 1]))
            self.assertEqual(made.age.ToMilliseconds(), 1500)

    def test_query_refused(self) -> None:
        """An unknown parameter, a wrong type, a message and a repetition are refused by name."""
        for query, field in (
            ("colour=red", "colour"), ("page_size=x", "page_size"), ("inner=x", "inner"), ("woods=WOOD_ELM", "woods"),
            ("page_size=1&pageSize=2", "pageSize"), ("inner.nothing=1", "inner.nothing"), ("age=soon", "age"),
        ):  # fmt: skip
            self.assertEqual(self.refused("List", query), [field], query)
        self.assertEqual(self.refused("List", body=b"{}"), [""])

    def test_patch_mask(self) -> None:
        """The mask is what the body mentions, unless the query gives one."""
        body = b'{"shelf_id": "7", "boardCount": 0, "inner": {"tag": null}}'
        made: Any = binding("Update").bind({"shelf.shelf_id": "7"}, "", body)
        self.assertEqual(sorted(made.update_mask.paths), ["board_count", "inner.tag"])
        made = binding("Update").bind({"shelf.shelf_id": "7"}, "update_mask=inner", body)
        self.assertEqual(list(made.update_mask.paths), ["inner"])

    def test_body_refused(self) -> None:
        """Unknown fields, wrong types and a body that contradicts the path are refused by name, all at once."""
        self.assertEqual(self.refused("Update", body=b'{"shelf_id": "8"}'), ["shelf_id"])
        self.assertEqual(
            sorted(self.refused("Update", body=b'{"board_count": "x", "nope": 1}')), ["board_count", "nope"]
        )
        self.assertEqual(self.refused("Update", "shelf.board_count=1"), ["shelf.board_count"])

    def test_rules_that_do_not_fit(self) -> None:
        """A rule that names no field of its rpc, or binds one twice, is refused with the rpc's name."""
        for old, new in (
            ('body: "shelf"', 'body: "sh"'),
            ("{shelf.shelf_id}", "{shelf.nope}"),
            ("{shelf.shelf_id}", "{shelf.inner}"),
        ):
            error = self.assertRaises(ContractError, bindings, kites.contract(SHELVES.replace(old, new)))
            self.assertIn("/shelves.v1.ShelfService/Update", str(error))

    def test_spelled(self) -> None:
        """A service names a field from the top of its request; a client hears of it as its body spells it."""
        error = NotFound(
            "shelf.inner.tag: is taken",
            reason="TAKEN",
            violations=[Violation("shelf.inner.tag", "is taken"), Violation("update_mask", "is odd")],
            info={"shelf": "7"},
            retry_after=2.0,
        )
        told = binding("Update").spelled(error)
        self.assertIsInstance(told, NotFound)
        self.assertEqual([each.field for each in told.violations], ["inner.tag", "update_mask"])
        self.assertEqual((told.message, told.reason, told.info), ("inner.tag: is taken", "TAKEN", {"shelf": "7"}))
        self.assertEqual(told.retry_after, 2.0)
        self.assertIs(binding("List").spelled(error), error)
        plain = NotFound("no shelf")
        self.assertIs(binding("Update").spelled(plain), plain)
