"""Bad input to the bookstore's own routes: each is a problem that names the fault, none is a 5xx, none reaches the MOM."""

import json
import re
from typing import Any

from bookd.contract.descriptors import Contract
from tests.gateway import kites
from tests.gateway.serving import GatewayTestCase, bearer

CUSTOMER = ("ada", ("customer",))
STAFF = ("eve", ("staff",))
ORDER = {"items": [{"book_id": "1", "quantity": 1}]}
JSON = {"Content-Type": "application/json"}

# What is asked: who, verb, path, body (bytes as they are, anything else as JSON), headers. What comes: status, code, and
# a field that the violations must name, or None.
CASES: list[tuple[Any, str, str, Any, dict[str, str], int, str, str | None]] = [
    # Bodies that are no JSON, or no object.
    (CUSTOMER, "POST", "/v1/orders", b"{", JSON, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", b"not json", JSON, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", b"\xff\xfe", JSON, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", b'{"items": NaN}', JSON, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", b"[" * 50_000, JSON, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", b"1" * 50_000, JSON, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", [], {}, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", "order", {}, 400, "INVALID_ARGUMENT", None),
    (CUSTOMER, "POST", "/v1/orders", 7, {}, 400, "INVALID_ARGUMENT", None),
    # Members that are not there, or of the wrong type.
    (CUSTOMER, "POST", "/v1/orders", {"colour": 1}, {}, 400, "INVALID_ARGUMENT", "colour"),
    (CUSTOMER, "POST", "/v1/orders", {"items": "x"}, {}, 400, "INVALID_ARGUMENT", "items"),
    (
        CUSTOMER,
        "POST",
        "/v1/orders",
        {"items": [{"quantity": "many"}]},
        {},
        400,
        "INVALID_ARGUMENT",
        "items[0].quantity",
    ),
    (CUSTOMER, "POST", "/v1/orders", {"items": [{"quantity": 1.5}]}, {}, 400, "INVALID_ARGUMENT", "items[0].quantity"),
    (
        CUSTOMER,
        "POST",
        "/v1/orders",
        {"items": [{"quantity": 10**10}]},
        {},
        400,
        "INVALID_ARGUMENT",
        "items[0].quantity",
    ),
    (CUSTOMER, "POST", "/v1/orders", {"items": [{"book_id": 7}]}, {}, 400, "INVALID_ARGUMENT", "items[0].book_id"),
    # The query.
    (None, "GET", "/v1/books?colour=red", None, {}, 400, "INVALID_ARGUMENT", "colour"),
    (None, "GET", "/v1/books?page_size=many", None, {}, 400, "INVALID_ARGUMENT", "page_size"),
    (None, "GET", "/v1/books?page_size=1&page_size=2", None, {}, 400, "INVALID_ARGUMENT", "page_size"),
    (None, "GET", "/v1/books?query=%FF", None, {}, 400, "INVALID_ARGUMENT", None),
    (None, "GET", "/v1/books?" + "query=a&" * 1000, None, {}, 400, "INVALID_ARGUMENT", None),
    # Where no body belongs, and where another type came.
    (None, "GET", "/v1/books", b"{}", JSON, 400, "INVALID_ARGUMENT", None),
    (
        CUSTOMER,
        "POST",
        "/v1/orders",
        b"items=1",
        {"Content-Type": "application/x-www-form-urlencoded"},
        415,
        "INVALID_ARGUMENT",
        None,
    ),
    (CUSTOMER, "POST", "/v1/orders", b"{}", {**JSON, "Content-Encoding": "gzip"}, 415, "INVALID_ARGUMENT", None),
    (
        CUSTOMER,
        "POST",
        "/v1/orders",
        b"{}",
        {"Content-Type": "multipart/form-data; boundary=x"},
        415,
        "INVALID_ARGUMENT",
        None,
    ),
    # Who.
    (None, "POST", "/v1/orders", ORDER, {}, 401, "UNAUTHENTICATED", None),
    (None, "GET", "/v1/orders/1", None, {}, 401, "UNAUTHENTICATED", None),
    (None, "GET", "/v1/books", None, {"Authorization": "Bearer x.y.z"}, 401, "UNAUTHENTICATED", None),
    (None, "GET", "/v1/books", None, {"Authorization": "Basic YTpi"}, 401, "UNAUTHENTICATED", None),
    (CUSTOMER, "POST", "/v1/books", {"title": "x"}, {}, 403, "PERMISSION_DENIED", None),
    (CUSTOMER, "DELETE", "/v1/books/1", None, {}, 403, "PERMISSION_DENIED", None),
    (CUSTOMER, "POST", "/v1/books/1:adjustStock", {"quantity_change": 1}, {}, 403, "PERMISSION_DENIED", None),
    (CUSTOMER, "GET", "/v1/users", None, {}, 403, "PERMISSION_DENIED", None),
    (CUSTOMER, "GET", "/v1/users/bob", None, {}, 403, "PERMISSION_DENIED", None),
    (CUSTOMER, "PATCH", "/v1/users/bob", {"email": "a@b.c"}, {}, 403, "PERMISSION_DENIED", None),
    (CUSTOMER, "GET", "/v1/users/bob/orders", None, {}, 403, "PERMISSION_DENIED", None),
    # A body must not say another id than the path.
    (STAFF, "PATCH", "/v1/books/1", {"book_id": "2", "title": "x"}, {}, 400, "INVALID_ARGUMENT", "book_id"),
    (CUSTOMER, "PATCH", "/v1/users/bob", {"user_id": "ada"}, {}, 400, "INVALID_ARGUMENT", "user_id"),
    # Where.
    (None, "GET", "/v1/nothing", None, {}, 404, "NOT_FOUND", None),
    (None, "GET", "/v2/books", None, {}, 404, "NOT_FOUND", None),
    (None, "POST", "/bookd.inventory.v1.InventoryService/ReserveStock", {}, {}, 404, "NOT_FOUND", None),
    (None, "PUT", "/v1/books", {}, {}, 405, "UNIMPLEMENTED", None),
    (None, "DELETE", "/v1/orders", None, {}, 405, "UNIMPLEMENTED", None),
    (None, "BREW", "/v1/books", None, {}, 405, "UNIMPLEMENTED", None),
    # Headers.
    (CUSTOMER, "POST", "/v1/orders", ORDER, {"Idempotency-Key": '"open'}, 400, "INVALID_ARGUMENT", "Idempotency-Key"),
    (CUSTOMER, "POST", "/v1/orders", ORDER, {"Request-Timeout": "soon"}, 400, "INVALID_ARGUMENT", "Request-Timeout"),
    (CUSTOMER, "POST", "/v1/orders", ORDER, {"Grpc-Timeout": "1"}, 400, "INVALID_ARGUMENT", "Grpc-Timeout"),
    # Size.
    (CUSTOMER, "POST", "/v1/orders", b" " * 200_000, JSON, 413, "RESOURCE_EXHAUSTED", None),
]


class BadInputTests(GatewayTestCase):
    """The table above."""

    def contract(self) -> Contract:
        return kites.contract()

    async def test_table(self) -> None:
        """Each case is refused as the table says, completely, and before the MOM hears of it."""
        for who, verb, path, body, headers, status, code, field in CASES:
            sent = {**(bearer(*who) if who else {}), **headers}
            answer = await self.ask(verb, path, body, sent)
            case = f"{verb} {path[:60]} {str(body)[:60]} {headers}: {answer.status} {answer.body[:300]!r}"
            self.assertEqual((answer.status, answer.json["code"]), (status, code), case)
            self.assert_problem(answer, status, code)
            if field is not None:
                self.assertIn(field, [violation["field"] for violation in answer.json["violations"]], case)
            self.assertEqual(self.channel.calls, [], case)

    async def test_all_violations_at_once(self) -> None:
        """One answer names everything that is wrong."""
        body = {"items": [{"quantity": "x"}, {"book_id": 1}], "colour": 1}
        answer = await self.ask("POST", "/v1/orders", body, bearer(*CUSTOMER))
        fields = [
            violation["field"] for violation in self.assert_problem(answer, 400, "INVALID_ARGUMENT")["violations"]
        ]
        self.assertEqual(sorted(fields), ["colour", "items[0].quantity", "items[1].book_id"])

    async def test_every_route_is_closed_to_strangers(self) -> None:
        """Without a token no route of the bookstore but the public ones reaches the MOM."""
        for method in self.spoken.methods.values():
            if method.access.audience == 2:  # AUDIENCE_USER
                for rule in method.http:
                    verb = rule.WhichOneof("pattern")
                    # {name} stands for a segment, {name=a/*/b} for what is behind its "=".
                    path = (
                        re.sub(r"\{[^=}]*=?([^}]*)\}", r"\1*", getattr(rule, verb)).replace("**", "*").replace("*", "1")
                    )
                    answer = await self.ask(verb.upper(), path, b"{}" if rule.body else None, JSON)
                    self.assertEqual(answer.status, 401, f"{verb} {path}")
        self.assertEqual(self.channel.calls, [])

    async def test_problem_is_json(self) -> None:
        """Whatever a client puts into a request, the problem stays JSON."""
        path = "/v1/books?%22%3C%0A%00=1"
        answer = await self.ask("GET", path)
        self.assertEqual(json.loads(answer.body)["status"], 400)
