"""The OpenAPI document, against the validator, against the routes, and member by member."""

import json
import re
from typing import Any

from openapi_spec_validator import validate
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import openapi
from bookd.contract.binding import bindings
from bookd.contract.descriptors import Contract
from bookd.contract.openapi_parts import PARAMETERS
from bookd.gateway.problem import BY_CODE, BY_REASON
from bookd.gateway.routes import route_table
from bookd.inventory import rules as inventory
from bookd.orders import rules as orders
from bookd.users import rules as users
from tests.gateway import kites

GLIDERS = """
syntax = "proto3";
package gliders.v1;
import "bookd/policy/v1/policy.proto";
import "google/api/annotations.proto";
import "google/api/field_behavior.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/money.proto";

// Gliders. They have no engine.
service GliderService {
  // Finds gliders. Slowly.
  rpc Find(FindRequest) returns (Glider) {
    option (google.api.http) = {get: "/gliders/v1/{name=fields/*/gliders/*}:find" response_body: "wings"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
  rpc Fly(FlyRequest) returns (Glider) {
    option (google.api.http) = {
      patch: "/gliders/v1/gliders/{glider.number}"
      body: "glider"
      additional_bindings {custom {kind: "*" path: "/gliders/v1/any/{where=**}"}}
      additional_bindings {custom {kind: "PROPFIND" path: "/gliders/v1/any"}}
    };
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER owned_resource: true};
  }
  rpc Land(FlyRequest) returns (Glider) {
    option (google.api.http) = {post: "/gliders/v1/gliders/{where}" body: "*"};
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER};
    option (bookd.policy.v1.delivery) = {deferrable: true};
  }
}
// What a glider is of.
enum Stuff {
  // Nobody knows.
  STUFF_UNSPECIFIED = 0;
  // Wood.
  STUFF_WOOD = 1;
}
// A glider.
message Glider {
  // Its number.
  int64 number = 1;
  // Its wings.
  repeated Wing wings = 2 [(google.api.field_behavior) = REQUIRED];
  Stuff stuff = 3;
  google.protobuf.Timestamp built_at = 4 [(google.api.field_behavior) = OUTPUT_ONLY];
  google.type.Money price = 5;
  map<string, uint32> marks = 6;
  google.protobuf.Any load = 7;
  google.protobuf.Struct notes = 8;
  google.protobuf.Int64Value seats = 9;
  Glider tug = 10;
  oneof colour {
    string paint = 11;
    bytes foil = 12;
  }
  double span = 13;
  optional bool flown = 14;
  string etag = 15;
}
message Wing { uint64 area = 1; }
message FindRequest {
  // Where.
  string name = 1;
  Inner inner = 2;
  repeated Stuff stuff = 3;
  google.protobuf.Duration within = 4;
  google.protobuf.FieldMask mask = 5;
  google.protobuf.StringValue word = 6;
  map<string, string> marks = 7;
  FindRequest again = 8;
  bool slowly = 9;
  // How many.
  int32 most = 10 [(google.api.field_behavior) = REQUIRED];
}
message Inner {
  // Inside.
  string depth = 1 [(google.api.field_behavior) = REQUIRED];
}
message FlyRequest {
  string where = 1;
  Glider glider = 2 [(google.api.field_behavior) = REQUIRED];
  google.protobuf.FieldMask update_mask = 3;
}
"""
VERBS = ("get", "put", "post", "delete", "patch")


def document(contract: Contract) -> Any:
    """The document, as a client reads it."""
    made = openapi.document(contract, bindings(contract), title="t", version="1")
    return json.loads(json.dumps(made))


class DocumentTests(SynchronousTestCase):
    """The whole document."""

    def setUp(self) -> None:
        self.contract = kites.contract(kites.KITES, GLIDERS)
        self.document = document(self.contract)
        self.schemas = self.document["components"]["schemas"]

    def operation(self, verb: str, path: str) -> Any:
        """One operation; the paths of the gliders have a common beginning."""
        return self.document["paths"][path if path.startswith("/v1") else f"/gliders/v1{path}"][verb]

    def parameters(self, verb: str, path: str, where: str) -> dict[str, Any]:
        """The parameters of an operation that stand in `where`, by name."""
        found = [
            self.document["components"]["parameters"][each["$ref"].rpartition("/")[2]] if "$ref" in each else each
            for each in self.operation(verb, path)["parameters"]
        ]
        return {each["name"]: each for each in found if each["in"] == where}

    def body(self, verb: str, path: str) -> Any:
        """The schema of an operation's body."""
        return self.operation(verb, path)["requestBody"]["content"]["application/json"]["schema"]

    def test_valid(self) -> None:
        """The validator finds nothing, neither in the bookstore's own document nor with protos that it never saw."""
        validate(self.document)
        validate(document(kites.contract()))

    def test_every_route_and_nothing_else(self) -> None:
        """Each operation is answered by the router, and each binding that the router serves is an operation."""
        router = route_table(bindings(self.contract))
        served = {
            (method.path, index)
            for method in self.contract.methods.values()
            for index, _ in enumerate(method.http)
            if method.access.audience != 3
        }
        described = set()
        for path, item in self.document["paths"].items():
            for key, operation in item.items():
                found = router.match(key.removeprefix("x-").upper(), re.sub(r"\{[^}]*\}", "7", path))
                self.assertIsNotNone(found, f"{key} {path}")
                method = found[0].method
                described.add((method.path, list(method.http).index(found[0].rule)))
                self.assertIn(f"_{method.name}", operation["operationId"])
        self.assertEqual(described, served)

    def test_no_id_comes_twice(self) -> None:
        """Operations have ids of their own."""
        ids = [each["operationId"] for item in self.document["paths"].values() for each in item.values()]
        self.assertEqual(len(ids), len(set(ids)))

    def test_own_protos(self) -> None:
        """A service that the suite never heard of is described like any other."""
        kite = self.document["paths"]["/kites/v1/kites"]["post"]
        self.assertEqual(kite["security"], [{"bearer": ["maker"]}])
        self.assertEqual(sorted(set(kite["responses"]) & {"200", "201", "202"}), ["201", "202"])

    def test_problems_of_the_gateway(self) -> None:
        """Every status that the gateway makes of an error is described, but for the one that no client can see."""
        described = {int(name.rpartition("-")[2]) for name in self.document["components"]["responses"]}
        self.assertEqual({*BY_CODE.values(), *BY_REASON.values()} - {499}, described)

    def test_paths(self) -> None:
        """Patterns of several segments become literals and a parameter for each wildcard; a custom verb stays behind."""
        find = self.parameters("get", "/fields/{field}/gliders/{glider}:find", "path")
        self.assertEqual([*find], ["field", "glider"])
        self.assertEqual(find["field"]["description"], "Part of `name`. Where.")
        self.assertIn("may have slashes", self.parameters("put", "/any/{where}", "path")["where"]["description"])
        self.assertIn("x-propfind", self.document["paths"]["/gliders/v1/any"])
        self.assertEqual(sorted(self.document["paths"]["/gliders/v1/any/{where}"]), sorted(VERBS))

    def test_one_path_under_two_names(self) -> None:
        """Rules whose paths differ in the names of their variables only share a path."""
        item = self.document["paths"]["/gliders/v1/gliders/{number}"]
        self.assertEqual(sorted(item), ["patch", "post"])
        self.assertEqual([*self.parameters("post", "/gliders/{number}", "path")], ["number"])
        number = self.parameters("patch", "/gliders/{number}", "path")["number"]["schema"]
        self.assertEqual((number["type"], number["format"]), ("integer", "int64"))

    def test_query(self) -> None:
        """Scalars, well-known types and fields of plain messages can be asked for; maps and what holds itself cannot."""
        query = self.parameters("get", "/fields/{field}/gliders/{glider}:find", "query")
        names = ["inner.depth", "stuff", "within", "mask", "word", "slowly", "most"]
        self.assertEqual([*query], names)
        self.assertEqual(
            [query[name]["schema"].get("type") for name in names[1:]], ["array", *["string"] * 3, "boolean", "integer"]
        )
        self.assertEqual((query["most"]["required"], query["most"]["description"]), (True, "How many."))
        # It is required of an inner message, which need not be there.
        self.assertNotIn("required", query["inner.depth"])

    def test_what_standards_say(self) -> None:
        """Pages have no negative size, and currencies three letters, though the types would allow others."""
        size = self.parameters("get", "/v1/books", "query")["page_size"]["schema"]
        self.assertEqual((size["type"], size["minimum"], size["maximum"]), ("integer", 0, 2**31 - 1))
        money = self.schemas["google.type.Money-input"]["properties"]
        self.assertEqual((money["currency_code"]["pattern"], money["nanos"]["maximum"]), ("^[A-Z]{3}$", 999_999_999))

    def test_body_without_what_the_path_says(self) -> None:
        """What the path binds is neither in the body nor in the query."""
        self.assertEqual([*self.body("post", "/gliders/{number}")["properties"]], ["glider", "update_mask"])
        self.assertEqual(self.parameters("post", "/gliders/{number}", "query"), {})
        self.assertTrue(self.operation("post", "/gliders/{number}")["requestBody"]["required"])

    def test_patch(self) -> None:
        """A body that says what is changed requires nothing, and may clear fields with null."""
        body = self.body("patch", "/gliders/{number}")
        self.assertNotIn("required", body)
        self.assertNotIn("number", body["properties"])
        self.assertEqual(body["properties"]["wings"]["type"], ["array", "null"])
        self.assertEqual([*self.parameters("patch", "/gliders/{number}", "query")], ["where", "update_mask"])

    def test_answers(self) -> None:
        """Members that are always there are required; 64 bits are text; enums are names; a message is a reference."""
        glider = self.schemas["gliders.v1.Glider"]
        self.assertEqual(glider["required"], ["number", "wings", "stuff", "marks", "span", "etag"])
        members = glider["properties"]
        self.assertEqual((members["number"]["type"], members["number"]["description"]), ("string", "Its number."))
        self.assertEqual(members["stuff"], {"$ref": "#/components/schemas/gliders.v1.Stuff"})
        self.assertEqual(members["built_at"], {"type": "string", "format": "date-time", "readOnly": True})
        self.assertEqual(members["marks"]["additionalProperties"]["maximum"], 2**32 - 1)
        self.assertEqual(members["tug"], {"$ref": "#/components/schemas/gliders.v1.Glider"})
        self.assertEqual(members["seats"]["type"], "string")
        self.assertEqual(members["notes"], {"type": "object"})
        self.assertEqual(members["foil"]["contentEncoding"], "base64")
        self.assertIn("@type", members["load"]["properties"])

    def test_requests(self) -> None:
        """What goes in takes no unknown member, null for what is absent, and one member of a oneof."""
        glider = self.schemas["gliders.v1.Glider-input"]
        self.assertEqual((glider["additionalProperties"], glider["required"]), (False, ["wings"]))
        self.assertEqual(glider["not"], {"anyOf": [{"required": ["paint", "foil"]}]})
        self.assertEqual(glider["properties"]["number"]["type"], ["integer", "string", "null"])
        self.assertEqual(glider["properties"]["wings"]["minItems"], 1)
        self.assertEqual(self.schemas["gliders.v1.Wing-input"]["properties"]["area"]["minimum"], 0)

    def test_response_body(self) -> None:
        """A rule that answers with a field is described so."""
        answer = self.operation("get", "/fields/{field}/gliders/{glider}:find")["responses"]["200"]
        self.assertEqual(answer["content"]["application/json"]["schema"]["type"], "array")

    def test_prose(self) -> None:
        """The comments of the protos are the descriptions."""
        create = self.operation("post", "/v1/books")
        self.assertEqual(create["summary"], "Adds a book to the catalogue")
        self.assertIn("For `staff` and `admin`.", create["description"])
        self.assertIn("- `ORDER_STATUS_REJECTED`: ", self.schemas["bookd.orders.v1.OrderStatus"]["description"])
        self.assertIn("Title", self.schemas["bookd.inventory.v1.Book"]["properties"]["title"]["description"])
        undescribed = [tag["name"] for tag in self.document["tags"] if "description" not in tag]
        self.assertEqual([name for name in undescribed if name.startswith("bookd.")], [])

    def test_headers(self) -> None:
        """The headers that an operation looks at are its parameters; no other operation has them."""
        headers = {
            path: {*self.parameters(verb, path, "header")}
            for verb, path in (
                ("post", "/v1/orders"),
                ("patch", "/v1/books/{book_id}"),
                ("get", "/v1/books/{book_id}"),
                ("get", "/v1/events"),
                ("post", "/v1/sessions"),
            )
        }
        self.assertEqual(headers["/v1/orders"], {"X-Request-Id", "Idempotency-Key", "Prefer"})
        self.assertEqual(headers["/v1/books/{book_id}"], {"X-Request-Id", "If-None-Match"})
        self.assertEqual(headers["/v1/events"], {"X-Request-Id", "Last-Event-ID"})
        self.assertEqual(headers["/v1/sessions"], {"X-Request-Id", "Idempotency-Key"})
        self.assertIn("If-Match", self.parameters("patch", "/v1/books/{book_id}", "header"))

    def test_idempotency_keys(self) -> None:
        """The pattern of keys says what the gateway takes."""
        pattern = re.compile(PARAMETERS["Idempotency-Key"]["schema"]["pattern"])
        for key in ('"a b"', "a-b", '"\\""', "x" * 255):
            self.assertIsNotNone(pattern.search(key), key)
        for key in ("", '""', "a b", '"a', '"\\x"', "x" * 256, "é"):
            self.assertIsNone(pattern.search(key), key)

    def test_security(self) -> None:
        """Public operations need nothing; the others a token, and a role where no ownership opens them."""
        self.assertEqual(self.operation("get", "/v1/books")["security"], [])
        self.assertEqual(self.operation("get", "/v1/queues")["security"], [{"bearer": ["admin"]}])
        self.assertEqual(self.operation("get", "/v1/users/{user_id}")["security"], [{"bearer": []}])
        self.assertNotIn("403", self.operation("get", "/v1/books")["responses"])

    def test_deferred(self) -> None:
        """202 with its headers is there for what can be deferred, and only there."""
        kept = self.operation("patch", "/v1/books/{book_id}")["responses"]["202"]
        self.assertLessEqual({"Location", "Retry-After"}, set(kept["headers"]))
        self.assertIn("google.longrunning.Operation", kept["content"]["application/json"]["schema"]["$ref"])
        self.assertNotIn("202", self.operation("post", "/v1/sessions")["responses"])

    def test_nothing_to_say(self) -> None:
        """204 has no content; a cacheable read has 304."""
        self.assertNotIn("content", self.operation("delete", "/v1/books/{book_id}")["responses"]["204"])
        self.assertIn("304", self.operation("get", "/v1/books")["responses"])

    def test_streams(self) -> None:
        """A stream is lines of JSON, or events."""
        content = self.operation("get", "/v1/events")["responses"]["200"]["content"]
        self.assertEqual([*content], ["application/x-ndjson", "text/event-stream"])


class BoundsTests(SynchronousTestCase):
    """What the protos say that a request may hold, against what the services check."""

    def setUp(self) -> None:
        self.schemas = document(kites.contract())["components"]["schemas"]

    def property(self, message: str, name: str) -> Any:
        """The schema of a member of a request."""
        return self.schemas[f"bookd.{message}-input"]["properties"][name]

    def test_agree(self) -> None:
        """The bounds are the constants of the services' rules."""
        for message, name, key, bound in (
            ("users.v1.RegisterUserRequest", "password", "minLength", users.MIN_PASSWORD),
            ("users.v1.RegisterUserRequest", "password", "maxLength", users.MAX_PASSWORD),
            ("users.v1.RegisterUserRequest", "email", "maxLength", users.MAX_EMAIL),
            ("users.v1.RegisterUserRequest", "full_name", "maxLength", users.MAX_FULL_NAME),
            ("users.v1.RegisterUserRequest", "address", "maxLength", users.MAX_ADDRESS),
            ("inventory.v1.Book", "title", "maxLength", inventory.MAX_TEXT),
            ("inventory.v1.Book", "author", "maxLength", inventory.MAX_TEXT),
            ("orders.v1.CreateOrderRequest", "items", "maxItems", orders.MAX_LINES),
            ("orders.v1.CreateOrderRequest", "shipping_address", "maxLength", orders.MAX_ADDRESS),
            ("orders.v1.OrderItem", "quantity", "maximum", orders.MAX_QUANTITY),
        ):
            self.assertEqual(self.property(message, name)[key], bound, f"{message}.{name}")

    def test_patterns(self) -> None:
        """What a pattern allows is what the rules take; a member that need not be there may be empty."""
        pattern = re.compile(self.property("users.v1.RegisterUserRequest", "username")["pattern"])
        for name in ("ana", "a.b-c_d", "x" * 64, "ab", "x" * 65, "", "a b", "é" * 3):
            self.assertEqual(pattern.search(name) is not None, users.is_username(name), name)
        query = document(kites.contract())["paths"]["/v1/books"]["post"]["parameters"][0]
        allowed = re.compile(query["schema"]["pattern"])
        for name, right in (("", True), ("a-1", True), ("a b", False), ("x" * 65, False)):
            self.assertEqual(allowed.search(name) is not None, right, name)

    def test_answers_are_not_bound(self) -> None:
        """Only requests are: what was stored under older rules is still answered."""
        self.assertEqual([*self.schemas["bookd.inventory.v1.Book"]["properties"]["title"]], ["type", "description"])
