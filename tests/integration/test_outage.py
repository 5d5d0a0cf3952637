"""What clients see while a daemon is stopped, killed or frozen, and what has become of it once it is back."""

from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.integration.running import SuiteTestCase

WAYS = ("stop", "kill", "freeze")


class InventoryTests(SuiteTestCase):
    """The inventory is away."""

    async def test_away(self) -> None:
        """Orders are taken and wait, changes are kept, reads are refused at once, users do not notice; afterwards what was
        kept has happened, once."""
        who, book_id = await self.customer(), await self.book()
        for number, how in enumerate(WAYS):
            await self.take("inventory", how)
            placed = await self.order(who, book_id)
            self.assertEqual((placed.status, placed.body["status"]), (201, "ORDER_STATUS_PENDING"), how)
            self.assertLess(placed.seconds, 2.0, how)
            changed = await self.ask("PATCH", f"/v1/books/{book_id}", {"title": f"Title {number}"}, self.admin)
            self.assertEqual(changed.status, 202, how)
            location = changed.header("Location")
            self.assertEqual(location, f"/v1/{changed.body['name']}")
            read = await self.ask("GET", f"/v1/books/{book_id}")
            self.assert_problem(read, 503)
            self.assertIsNotNone(read.header("Retry-After"))
            self.assertLess(read.seconds, 2.0, how)
            user = await self.ask("GET", f"/v1/users/{who.user_id}", who=who)
            self.assertEqual(user.status, 200)
            self.assertLess(user.seconds, 1.0, how)
            self.give_back("inventory")
            await self.until(partial(self.order_is, who, placed.body["order_id"], "CONFIRMED"))
            await self.until(partial(self.operation_done, self.admin, location))
            operation = await self.done("GET", location, who=self.admin)
            self.assertEqual(operation["response"]["title"], f"Title {number}")
            self.assertEqual((await self.done("GET", f"/v1/books/{book_id}"))["title"], f"Title {number}")
            self.assertEqual(await self.stock(book_id), 9 - number)

    async def test_soon_back(self) -> None:
        """What waits is delivered within two seconds of the service's return."""
        who, book_id = await self.customer(), await self.book()
        await self.take("inventory", "freeze")
        placed = await self.order(who, book_id)
        self.give_back("inventory")
        took = await self.until(partial(self.order_is, who, placed.body["order_id"], "CONFIRMED"))
        self.assertLess(took, 2.0)

    async def test_cancelled_meanwhile(self) -> None:
        """An order that is cancelled while the inventory is away takes no stock in the end."""
        who, book_id = await self.customer(), await self.book()
        await self.take("inventory", "stop")
        placed = await self.order(who, book_id, 3)
        order_id = placed.body["order_id"]
        cancelled = await self.ask("POST", f"/v1/orders/{order_id}:cancel", {}, who)
        self.assertEqual((cancelled.status, cancelled.body["status"]), (200, "ORDER_STATUS_CANCELLED"))
        self.give_back("inventory")
        await self.ready()

        async def all_can_be_had() -> bool:
            # The reservation comes before its release, and holds three of them for a moment.
            another = (await self.order(who, book_id, 10)).body["order_id"]

            async def is_decided() -> bool:
                return await self.order_is(who, another, "CONFIRMED") or await self.order_is(who, another, "REJECTED")

            await self.until(is_decided)
            return await self.order_is(who, another, "CONFIRMED")

        await self.until(all_can_be_had)
        self.assertTrue(await self.order_is(who, order_id, "CANCELLED"))
        self.assertEqual(await self.stock(book_id), 0)


class OrdersTests(SuiteTestCase):
    """Orders is away."""

    async def test_away(self) -> None:
        """An order is accepted, and exists exactly once afterwards, however often it was sent."""
        who, book_id = await self.customer(), await self.book()
        for number, how in enumerate(WAYS):
            await self.take("orders", how)
            keyed = {"Idempotency-Key": f'"order-{number}"'}
            accepted = await self.order(who, book_id, headers=keyed)
            self.assertEqual(accepted.status, 202, how)
            self.assertLess(accepted.seconds, 2.0, how)
            again = await self.order(who, book_id, headers=keyed)
            self.assertEqual((again.status, again.body["name"]), (202, accepted.body["name"]))
            self.give_back("orders")
            await self.until(partial(self.operation_done, who, accepted.header("Location")))
            response = (await self.done("GET", str(accepted.header("Location")), who=who))["response"]
            await self.until(partial(self.order_is, who, response["order_id"], "CONFIRMED"))
            page = await self.done("GET", f"/v1/users/{who.user_id}/orders", who=who)
            self.assertEqual(page["total_size"], number + 1, how)
            late = await self.order(who, book_id, headers=keyed)
            self.assertEqual((late.status, late.body["order_id"]), (201, response["order_id"]))
        self.assertEqual(await self.stock(book_id), 10 - len(WAYS))

    async def test_same_key_at_once(self) -> None:
        """The same key twenty times at once is one order, with orders up and with orders down; another request under it
        is refused."""
        who, book_id = await self.customer(), await self.book(stock=100)
        for number, up in enumerate((True, False)):
            if not up:
                await self.take("orders", "stop")
            keyed = {"Idempotency-Key": f'"key-{number}"'}
            answers: list[Any] = await gatherResults(
                [Deferred.fromCoroutine(self.order(who, book_id, headers=keyed)) for _ in range(20)]
            )
            named = {each.body.get("order_id") or each.body["name"] for each in answers}
            self.assertEqual(len(named), 1)
            self.assertEqual({each.status for each in answers}, {201 if up else 202})
            if not up:
                self.give_back("orders")
                await self.until(partial(self.operation_done, who, answers[0].header("Location")))
            other = await self.order(who, book_id, 2, keyed)
            self.assert_problem(other, 422)
            page = await self.done("GET", f"/v1/users/{who.user_id}/orders", who=who)
            self.assertEqual(page["total_size"], number + 1)

    async def test_respond_async(self) -> None:
        """A client that would rather not wait gets the operation at once, and may wait for it later."""
        who, book_id = await self.customer(), await self.book()
        accepted = await self.order(who, book_id, headers={"Prefer": "respond-async"})
        self.assertEqual((accepted.status, accepted.header("Preference-Applied")), (202, "respond-async"))
        waited = await self.done("GET", f"/v1/{accepted.body['name']}:wait", who=who)
        self.assertTrue(waited["done"])


class MomTests(SuiteTestCase):
    """The MOM, and what it holds."""

    async def test_restarted_while_it_holds_messages(self) -> None:
        """What the MOM acknowledged it has after a restart, an orderly one or not."""
        who, book_id = await self.customer(), await self.book()
        for number, how in enumerate(("stop", "kill")):
            await self.take("orders", "stop")
            accepted = await self.order(who, book_id)
            self.assertEqual(accepted.status, 202)
            await self.take("mom", how)
            self.assert_problem(await self.ask("GET", f"/v1/books/{book_id}"), 503)
            refused = await self.order(who, book_id)
            self.assert_problem(refused, 503)
            self.give_back("mom")
            self.give_back("orders")
            await self.until(partial(self.operation_done, who, accepted.header("Location")))
            page = await self.done("GET", f"/v1/users/{who.user_id}/orders", who=who)
            self.assertEqual(page["total_size"], number + 1)

    async def test_many_messages(self) -> None:
        """A hundred changes of one book, kept over a restart of the MOM, happen in their order."""
        book_id = await self.book()
        await self.take("inventory", "kill")
        for number in range(100):
            changed = await self.ask("PATCH", f"/v1/books/{book_id}", {"title": f"Title {number}"}, self.admin)
            self.assertEqual(changed.status, 202)
        await self.take("mom", "kill")
        self.give_back("mom")
        self.give_back("inventory")

        async def last() -> bool:
            answer = await self.try_to_ask("GET", f"/v1/books/{book_id}")
            return answer is not None and answer.status == 200 and answer.body["title"] == "Title 99"

        await self.until(last)
        listed = await self.done("GET", "/v1/operations?page_size=1000", who=self.admin)
        titles = [each["response"]["title"] for each in listed["operations"] if each.get("done")]
        self.assertEqual(titles, [f"Title {number}" for number in reversed(range(100))])


class OtherTests(SuiteTestCase):
    """Users and the gateway."""

    async def test_users_away(self) -> None:
        """Who has a token goes on while users is away; logging in does not, and is not kept."""
        who, book_id = await self.customer(), await self.book()
        await self.take("users", "kill")
        ordered = await self.ask(
            "POST",
            "/v1/orders",
            {"items": [{"book_id": book_id, "quantity": 1}], "shipping_address": "2 Side Street"},
            who,
        )
        self.assertEqual((ordered.status, ordered.body["status"]), (201, "ORDER_STATUS_CONFIRMED"))
        self.assert_problem(await self.ask("POST", "/v1/sessions", {"username": who.username, "password": "x"}), 503)
        changed = await self.ask("PATCH", f"/v1/users/{who.user_id}", {"address": "3 New Street"}, who)
        self.assertEqual(changed.status, 202)
        self.give_back("users")
        await self.until(partial(self.operation_done, who, changed.header("Location")))
        self.assertEqual((await self.done("GET", f"/v1/users/{who.user_id}", who=who))["address"], "3 New Street")

    async def test_gateway_killed(self) -> None:
        """A gateway that died knows all tokens when it is back: it keeps nothing."""
        who, book_id = await self.customer(), await self.book()
        await self.take("gateway", "kill")
        self.give_back("gateway")
        await self.ready()
        self.assertEqual((await self.order(who, book_id)).status, 201)

    async def test_draining(self) -> None:
        """A daemon that is told to stop lets the calls end that are under way: none of a stream of orders is lost or
        done twice while each daemon is restarted in turn."""
        who, book_id = await self.customer(), await self.book(stock=1000)
        running, answers = True, list[Any]()

        async def shop(shopper: int) -> None:
            number = 0
            while running:
                number += 1
                keyed = {"Idempotency-Key": f'"{shopper}-{number}"'}
                answer = await self.try_to_ask(
                    "POST", "/v1/orders", {"items": [{"book_id": book_id, "quantity": 1}]}, who, keyed
                )
                while answer is None or answer.status >= 300:  # the gateway or the MOM is away: the same again
                    await deferLater(reactor, 0.05)
                    answer = await self.try_to_ask(
                        "POST", "/v1/orders", {"items": [{"book_id": book_id, "quantity": 1}]}, who, keyed
                    )
                answers.append(answer)

        shoppers = gatherResults([Deferred.fromCoroutine(shop(number)) for number in range(4)])
        for name in ("inventory", "orders", "mom", "gateway"):
            await deferLater(reactor, 0.3)
            await self.take(name, "stop")
            self.give_back(name)
        await self.ready()
        running = False
        await shoppers
        for answer in answers:
            if answer.status == 202:
                await self.until(partial(self.operation_done, who, answer.header("Location")))

        async def all_confirmed() -> bool:
            listed = await self.done("GET", f"/v1/users/{who.user_id}/orders?page_size=1000", who=who)
            states = [each["status"] for each in listed["orders"]]
            return states == ["ORDER_STATUS_CONFIRMED"] * len(answers)

        await self.until(all_confirmed)
        self.assertEqual(await self.stock(book_id), 1000 - len(answers))
