"""What an attacker with an account tries over REST, on a whole suite: no 5xx, nothing that is another's, nothing that he may
not set, and whatever text he stores comes back as that text."""

import json
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from tests.integration.running import PASSWORD, Answer, Person, SuiteTestCase

# Ids that reach the services, and those that a path cannot hold.
IDS = (
    "%00", "a%00b", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..%2f", "%2F", "%5c..%5c", "%0d%0aX-Injected:%20yes",
    "%e2%80%ae", "%f0%9f%93%9a", "%ef%bf%be", "%c0%af", "%ff", "%ed%a0%80", "'%20OR%20'1'='1", "1;DROP%20TABLE%20books", "%25%30%30",
    "*", "~", "-1", "9" * 400, "a" * 3000, "{book_id}", "%7Bbook_id%7D", "$(id)", "%24%7Bjndi:ldap://x%7D", "null", "undefined",
)  # fmt: skip
TEXTS = (
    "a\r\nX-Injected: yes", "a\n\nb", "\x00", "a\x00b", "\x1b[31m", "=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1",
    "<script>alert(1)</script>", "\u202e", "\ufeff", "\ufffe", "\U0001f4da" * 50, "'; DROP TABLE books; --", "%s%n%x", "{{7*7}}",
    "../../etc/passwd", "e\u0301" * 40, "\u0130", "\u00df", "a" * 10_000,
)  # fmt: skip
# Bodies of `POST /v1/orders` that are JSON by some readings.
BODIES = (
    b'{"items": [], "items": [{"book_id": "a", "quantity": 1}]}', b'{"items": [{"quantity": NaN}]}',
    b'{"items": [{"quantity": 1e400}]}', b'{"items": [{"quantity": -0}]}',
    b'{"items": [{"book_id": "\\ud800", "quantity": 1}]}', b'{"items": [{"book_id": "\\udc00\\ud800", "quantity": 1}]}',
    b'{"items": [{"book_id": "\xed\xa0\x80", "quantity": 1}]}', b'\xef\xbb\xbf{"items": []}', b'\xff\xfe{\x00}\x00',
    b'{"items": [{"quantity": 99999999999999999999999999999999}]}', b'{"items": [' + b"{}," * 5000 + b"{}]}",
    b'{"items": [{"quantity": 1' + b"0" * 5000 + b"}]}", b'{"__proto__": {"roles": ["admin"]}}', b'{"items": [[[[[[[[[[]]]]]]]]]]}',
    b'{"": 1}', b'{"items": [{"book_id": "x", "quantity": 2147483648}]}', b"null", b"true", b'"x"', b"[]", b" ", b"{}{}", b"{},",
)  # fmt: skip


class RestTests(SuiteTestCase):
    """One suite, many tries."""

    def assert_meant(self, answer: Answer, what: object) -> None:
        """Nothing broke, and no header was put in."""
        self.assertLess(answer.status, 500, (what, answer.body))
        self.assertIsNone(answer.header("X-Injected"), what)
        if answer.status >= 400:
            self.assertEqual(answer.header("Content-Type"), "application/problem+json", what)

    async def test_ids(self) -> None:
        """Ids of all kinds are 404, or 400; none is found, none breaks anything."""
        who = await self.customer()
        for made in IDS:
            for verb, path, body in (
                ("GET", f"/v1/books/{made}", None),
                ("GET", f"/v1/orders/{made}", None),
                ("GET", f"/v1/users/{made}", None),
                ("GET", f"/v1/operations/{made}", None),
                ("POST", f"/v1/orders/{made}:cancel", {}),
            ):
                answer = await self.ask(verb, path, body, who)
                self.assert_meant(answer, (verb, path))
                self.assertIn(answer.status, (400, 403, 404), (verb, path, answer.body))
            for verb, path, body in (
                ("PATCH", f"/v1/books/{made}", {"title": "x"}),
                ("DELETE", f"/v1/books/{made}", None),
                ("POST", f"/v1/books/{made}:adjustStock", {"quantity_change": 1}),
                ("GET", f"/v1/queues/{made}", None),
                ("GET", f"/v1/deadletters/{made}", None),
                ("POST", f"/v1/deadletters/{made}:retry", {}),
            ):
                answer = await self.ask(verb, path, body, self.admin)
                self.assert_meant(answer, (verb, path))
                self.assertGreaterEqual(answer.status, 400, (verb, path, answer.body))

    async def test_texts(self) -> None:
        """Texts are stored as they are or refused by name, and searched for without harm."""
        for text in TEXTS:
            answer = await self.ask("POST", "/v1/books", {"title": text, "author": text}, self.admin)
            self.assert_meant(answer, text)
            if answer.status < 300:
                found = await self.ask("GET", f"/v1/books/{answer.body['book_id']}")
                self.assertEqual(found.body["title"].strip(), text.strip())
                self.assert_meant(found, text)
            for name in ("query", "page_token", "order_by"):
                self.assert_meant(await self.ask("GET", f"/v1/books?{name}={quote(text)[:7000]}"), (name, text))
            for body in (
                {"username": text, "email": "a@example.org", "password": PASSWORD},
                {"username": f"u{uuid4().hex[:8]}", "email": text, "password": PASSWORD},
                {"username": f"u{uuid4().hex[:8]}", "email": "a@example.org", "password": PASSWORD, "address": text},
            ):
                self.assert_meant(await self.ask("POST", "/v1/users", body), body)

    async def test_bodies(self) -> None:
        """JSON that can be read in two ways is refused."""
        who = await self.customer()
        for body in BODIES:
            answer = await self.ask("POST", "/v1/orders", body, who)
            self.assert_meant(answer, body[:60])
            self.assertGreaterEqual(answer.status, 400, (body[:60], answer.body))

    async def test_mass_assignment(self) -> None:
        """What is the suite's to set cannot be set: ids, roles, times, tags, prices, statuses, sums."""
        body: dict[str, Any] = {"username": f"m{uuid4().hex[:8]}", "email": "m@example.org", "password": PASSWORD}
        for name, value in (
            ("roles", ["admin"]), ("user_id", "x"), ("userId", "x"), ("password_hash", "x"), ("create_time", "2020-01-01T00:00:00Z"),
        ):  # fmt: skip
            answer = await self.ask("POST", "/v1/users", {**body, name: value})
            self.assert_meant(answer, name)
            if answer.status < 300:
                self.assertNotIn("admin", json.dumps(answer.body), name)
                self.assertNotEqual(answer.body.get("user_id"), "x")
                body["username"] = f"m{uuid4().hex[:8]}"
        who, other = await self.customer(), await self.customer()
        for name, value in (("roles", ["admin"]), ("user_id", other.user_id), ("etag", "x")):
            answer = await self.ask("PATCH", f"/v1/users/{who.user_id}", {name: value}, who)
            self.assert_meant(answer, name)
            self.assertGreaterEqual(answer.status, 400, (name, answer.body))
            answer = await self.ask("PATCH", f"/v1/users/{who.user_id}?update_mask=roles,{name}", {name: value}, who)
            self.assertGreaterEqual(answer.status, 400, (name, answer.body))
        book = await self.book()
        line = {"book_id": book, "quantity": 1}
        for changed in (
            {"items": [{**line, "price": {"currency_code": "USD", "units": "0"}}]}, {"items": [line], "status": "ORDER_STATUS_CONFIRMED"},
            {"items": [line], "total": {"currency_code": "USD", "units": "0"}}, {"items": [line], "order_id": "x"},
            {"items": [line], "user_id": other.user_id}, {"items": [{**line, "quantity": -1}]}, {"items": [{**line, "quantity": 0}]},
        ):  # fmt: skip
            answer = await self.ask("POST", "/v1/orders", changed, who)
            self.assert_meant(answer, changed)
            if answer.status < 300:
                self.assertIn("15", json.dumps(answer.body), changed)
                self.assertNotEqual(answer.body["order_id"], "x")
            else:
                self.assertIn(answer.status, (400, 403), changed)

    async def test_others(self) -> None:
        """Page tokens and idempotency keys of another lead to nothing of the other's."""
        one, two = await self.customer(), await self.customer()
        book = await self.book()
        key = {"Idempotency-Key": "the-same"}
        first = await self.order(one, book, headers=key)
        second = await self.order(two, book, headers=key)
        self.assertNotEqual(first.body["order_id"], second.body["order_id"])
        again = await self.order(one, book, headers=key)
        self.assertEqual(again.body["order_id"], first.body["order_id"])
        self.assertEqual((await self.order(one, book, 2, headers=key)).status, 422)
        await self.order(one, book)
        page = await self.done("GET", f"/v1/users/{one.user_id}/orders?page_size=1", who=one)
        token = quote(page["next_page_token"])
        self.assertTrue(token)
        for path, who in (
            (f"/v1/users/{two.user_id}/orders?page_token={token}", two),
            (f"/v1/users/{one.user_id}/orders?page_token={token}", two),
            (f"/v1/orders?page_token={token}", two),
            (f"/v1/books?page_token={token}", two),
            (f"/v1/users?page_token={token}", self.admin),
        ):
            answer = await self.ask("GET", path, who=who)
            self.assert_meant(answer, path)
            self.assertGreaterEqual(answer.status, 400, path)
        for path in (f"/v1/orders/{first.body['order_id']}", f"/v1/users/{one.user_id}"):
            self.assertIn((await self.ask("GET", path, who=two)).status, (403, 404))
        await self.prefer(one, book)

    async def prefer(self, who: Person, book: str) -> None:
        """Preferences that make no sense are no preferences."""
        for text in (
            "wait=999999999999", "wait=-1", "wait=1e9", "wait=NaN", "wait=1, wait=60", "respond-async, respond-async",
            "respond-async; wait=0", "," * 5000, "x=" + "y" * 8000, 'wait="1', "return=minimal", "wait=\u0661",
        ):  # fmt: skip
            sent = {"Prefer": text.encode("utf-8").decode("latin-1")}
            answer = await self.order(who, book, headers=sent)
            self.assert_meant(answer, text)
            self.assertIn(answer.status, (201, 202), (text, answer.body))
