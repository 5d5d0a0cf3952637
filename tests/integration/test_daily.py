"""An ordinary day: customers, staff, and requests that are wrong, through all daemons."""

import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.integration.running import PASSWORD, SuiteTestCase


class DayTests(SuiteTestCase):
    """What works."""

    async def test_customer(self) -> None:
        """Register, log in, browse, order, look, change the address, cancel."""
        book_id = await self.book(title="Cien años de soledad", author="Gabriel García Márquez", isbn="9780060883287")
        who = await self.customer()
        for query in ("garcia+marquez", "SOLEDAD", "9780060883287", "978-0-06-088328-7"):
            found = await self.done("GET", f"/v1/books?query={query}")
            self.assertEqual([each["book_id"] for each in found["books"]], [book_id], query)
        answer = await self.order(who, book_id, 2)
        order = answer.body
        self.assertEqual((answer.status, order["status"]), (201, "ORDER_STATUS_CONFIRMED"))
        self.assertEqual(order["items"][0]["unit_price"], {"currency_code": "USD", "units": "15", "nanos": 990000000})
        self.assertEqual(order["total_amount"], {"currency_code": "USD", "units": "31", "nanos": 980000000})
        self.assertEqual((order["user_id"], order["shipping_address"]), (who.user_id, "1 Main Street"))
        self.assertEqual(await self.stock(book_id), 8)
        self.assertEqual(await self.done("GET", f"/v1/orders/{order['order_id']}", who=who), order)
        listed = await self.done("GET", f"/v1/users/{who.user_id}/orders", who=who)
        self.assertEqual((listed["orders"], listed["next_page_token"], listed["total_size"]), ([order], "", 1))
        changed = await self.done("PATCH", f"/v1/users/{who.user_id}", {"address": "2 Elm Street"}, who)
        self.assertEqual(changed["address"], "2 Elm Street")
        cancelled = await self.done("POST", f"/v1/orders/{order['order_id']}:cancel", {}, who)
        self.assertEqual(cancelled["status"], "ORDER_STATUS_CANCELLED")
        self.assertEqual(await self.stock(book_id), 10)
        unaddressed = await self.order(who, book_id)
        self.assertEqual(unaddressed.body["shipping_address"], "2 Elm Street")

    async def test_rejected(self) -> None:
        """Too little stock or an unknown book: an order that is rejected, with its reason."""
        who, book_id = await self.customer(), await self.book(stock=1)
        for wanted, quantity in ((book_id, 2), ("nothing", 1)):
            answer = await self.order(who, wanted, quantity)
            self.assertEqual((answer.status, answer.body["status"]), (201, "ORDER_STATUS_REJECTED"))
            self.assertIn(wanted, answer.body["reason"])
        self.assertEqual(await self.stock(book_id), 1)

    async def test_staff(self) -> None:
        """Add, change, restock and delete a book; changes that ask for another state than there is are refused."""
        book_id = await self.book()
        read = await self.ask("GET", f"/v1/books/{book_id}")
        etag = str(read.header("ETag"))
        changed = await self.ask("PATCH", f"/v1/books/{book_id}", {"title": "New"}, self.admin, {"If-Match": etag})
        self.assertEqual((changed.status, changed.body["title"], changed.body["author"]), (200, "New", "Ada"))
        stale = await self.ask("PATCH", f"/v1/books/{book_id}", {"title": "Newer"}, self.admin, {"If-Match": etag})
        self.assertIn(stale.status, (409, 412))
        more = await self.done("POST", f"/v1/books/{book_id}:adjustStock", {"quantity_change": 5}, self.admin)
        self.assertEqual(more["stock"], 15)
        gone = await self.ask("DELETE", f"/v1/books/{book_id}", who=self.admin)
        self.assertIn(gone.status, (200, 204))
        self.assert_problem(await self.ask("GET", f"/v1/books/{book_id}"), 404)

    async def test_pages(self) -> None:
        """Pages never repeat or skip, though books come in between."""
        made = [await self.book(title=f"Paged {number}") for number in range(7)]
        seen: list[str] = []
        token = ""
        while True:
            page = await self.done("GET", f"/v1/books?query=paged&page_size=2&page_token={token}")
            seen += [each["book_id"] for each in page["books"]]
            token = page["next_page_token"]
            if not token:
                break
            await self.book(title="Other")
        self.assertEqual(sorted(seen), sorted(made))

    async def test_events(self) -> None:
        """Staff follow what happens, and resume where they were."""
        who, book_id = await self.customer(), await self.book()
        await self.order(who, book_id)
        headers = {"Authorization": f"Bearer {self.admin.token}", "Accept": "text/event-stream"}
        url = f"https://localhost:{self.ports['gateway']}/v1/events"
        received = bytearray()
        response: Any = await self.http.request("GET", url + "?after=0", headers=headers, unbuffered=True)
        response.collect(received.extend)
        while received.count(b"\n\n") < 3:
            await deferLater(reactor, 0.02)
        kinds = [part.partition(b'"type":"')[2].partition(b'"')[0].decode() for part in received.split(b"\n\n")[:3]]
        self.assertEqual(
            kinds,
            ["bookd.inventory.v1.BookChanged", "bookd.orders.v1.OrderPlaced", "bookd.orders.v1.OrderConfirmed"],
        )
        first = received.partition(b"\n")[0].removeprefix(b"id: ").decode()
        again = bytearray()
        resumed: Any = await self.http.request("GET", url, headers={**headers, "Last-Event-ID": first}, unbuffered=True)
        resumed.collect(again.extend)
        while again.count(b"\n\n") < 2:
            await deferLater(reactor, 0.02)
        self.assertIn(b"OrderPlaced", again.partition(b"\n\n")[0])
        # Streams do not hold up the end of the daemons, nor the events of a user that is gone.
        deleted = await self.ask("DELETE", f"/v1/users/{who.user_id}", who=self.admin)
        self.assertIn(deleted.status, (200, 204))
        while b"UserDeleted" not in received:
            await deferLater(reactor, 0.02)
        self.programs["gateway"].signal(signal.SIGTERM)
        self.programs["gateway"]._asked = True
        while not received.endswith(b"\n\n") or self.programs["gateway"].pid is not None:
            await deferLater(reactor, 0.02)


class WrongTests(SuiteTestCase):
    """What is wrong is told, and where, and none of it is a failure of ours."""

    async def test_wrong(self) -> None:
        """The whole list."""
        who, other, book_id = await self.customer(), await self.customer(), await self.book()
        order_id = (await self.order(who, book_id)).body["order_id"]

        def items(quantity: Any, **more: Any) -> dict[str, Any]:
            return {"items": [{"book_id": book_id, "quantity": quantity}], **more}

        registration = {"username": "new", "email": "new@example.org", "password": PASSWORD}
        taken = {"username": other.username}
        price = {"currency_code": "USD", "units": "-1"}
        cases: list[tuple[str, str, Any, Any, int, str | None]] = [
            ("POST", "/v1/orders", b"{nonsense", who, 400, None),
            ("POST", "/v1/orders", b"[]", who, 400, None),
            ("POST", "/v1/orders", b'"text"', who, 400, None),
            ("POST", "/v1/orders", items("many"), who, 400, "items[0].quantity"),
            ("POST", "/v1/orders", items(1, colour="red"), who, 400, "colour"),
            ("POST", "/v1/orders", items(-1), who, 400, "items[0].quantity"),
            ("POST", "/v1/orders", items(0), who, 400, "items[0].quantity"),
            ("POST", "/v1/orders", items(2**31 - 1), who, 400, "items[0].quantity"),
            ("POST", "/v1/orders", items(10**30), who, 400, "items[0].quantity"),
            ("POST", "/v1/orders", {"items": []}, who, 400, "items"),
            ("POST", "/v1/orders", {}, who, 400, "items"),
            ("POST", "/v1/users", {**registration, **taken}, None, 409, "username"),
            ("POST", "/v1/users", {**registration, "email": f"{other.username}@example.org"}, None, 409, "email"),
            ("POST", "/v1/users", {**registration, "email": "nowhere"}, None, 400, "email"),
            ("POST", "/v1/sessions", {"username": who.username, "password": "wrong"}, None, 401, None),
            ("POST", "/v1/orders", items(1), None, 401, None),
            ("GET", f"/v1/orders/{order_id}", None, None, 401, None),
            ("POST", "/v1/books", {"title": "x"}, who, 403, None),
            ("GET", f"/v1/users/{other.user_id}", None, who, 403, None),
            ("GET", "/v1/users", None, who, 403, None),
            ("GET", f"/v1/orders/{order_id}", None, other, 404, None),
            ("POST", f"/v1/orders/{order_id}:cancel", {}, other, 404, None),
            ("GET", "/v1/nothing", None, who, 404, None),
            ("GET", "/v1/books/nothing", None, None, 404, None),
            ("PUT", "/v1/orders", {}, who, 405, None),
            ("POST", "/v1/books", {"title": "", "author": "A"}, self.admin, 400, "title"),
            ("POST", "/v1/books", {"title": "T", "author": "A", "price": price}, self.admin, 400, "price.units"),
            ("POST", "/v1/books", {"title": "T", "author": "A", "isbn": "12"}, self.admin, 400, "isbn"),
            ("PATCH", f"/v1/books/{book_id}", {"stock": 5}, self.admin, 400, "stock"),
            ("PATCH", f"/v1/books/{book_id}", {}, self.admin, 400, "update_mask"),
            ("PATCH", f"/v1/users/{who.user_id}", {}, who, 400, "update_mask"),
            ("POST", f"/v1/books/{book_id}:adjustStock", {"quantity_change": -11}, self.admin, 400, None),
            ("GET", "/v1/books?page_size=-1", None, None, 400, "page_size"),
            ("GET", "/v1/books?page_token=forged", None, None, 400, "page_token"),
            ("GET", "/v1/books?colour=red", None, None, 400, "colour"),
        ]
        for verb, path, body, asking, status, field in cases:
            with self.subTest(verb=verb, path=path, body=body):
                self.assert_problem(await self.ask(verb, path, body, asking), status, field)
        huge = await self.try_to_ask("POST", "/v1/orders", b" " * 10_000_000, who)
        # The gateway may close the connection before a client has sent so much.
        if huge is not None:
            self.assert_problem(huge, 413)
        self.assertEqual((await self.order(who, book_id)).status, 201)
        self.assertEqual(await self.stock(book_id), 8)
