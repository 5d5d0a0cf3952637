"""Tests for `bookd.orders.servicer`, with the relay behind it and a MOM that answers, keeps, hangs and dies."""

from typing import Any
from uuid import uuid4

from google.type.money_pb2 import Money
from twisted.internet.defer import CancelledError, Deferred

from bookd.bridge.relay import PACE
from bookd.contract import metadata
from bookd.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated
from bookd.orders.rules import Status
from bookd.testing.faults import overhear
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.orders.v1 import orders_pb2
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2
from bookd.wire.users.v1.events_pb2 import UserDeleted
from tests.orders.room import OTHER, PATIENCE, PRICE, USER, FakeContext, OrdersTestCase, asked

PENDING, CONFIRMED = orders_pb2.ORDER_STATUS_PENDING, orders_pb2.ORDER_STATUS_CONFIRMED
REJECTED, CANCELLED = orders_pb2.ORDER_STATUS_REJECTED, orders_pb2.ORDER_STATUS_CANCELLED


class CreateTests(OrdersTestCase):
    """CreateOrder."""

    def test_confirmed(self) -> None:
        """With everything up the answer is the confirmed order, with the inventory's prices, and the stock is taken."""
        order = self.created(asked(("b", 2), ("a", 1)))
        self.assertEqual((order.status, order.user_id, order.reason), (CONFIRMED, USER, ""))
        self.assertEqual([(item.book_id, item.quantity) for item in order.items], [("b", 2), ("a", 1)])
        self.assertEqual(order.items[0].unit_price, PRICE)
        self.assertEqual(order.items[0].title, "Book b")
        self.assertEqual(order.total_amount, Money(currency_code="USD", units=47, nanos=970_000_000))
        self.assertEqual((order.shipping_address, order.etag), ("2 Oak Street", '"2"'))
        self.assertEqual(order.created_at.ToMicroseconds(), self.now())
        self.assertEqual(self.mom.inventory.stock, {"a": 9, "b": 8})
        self.assertEqual(self.outbox(), [])

    def test_needs_no_look(self) -> None:
        """An order that is decided while its caller waits is answered as it was decided; nobody reads it again."""
        read: list[str] = []
        with overhear(self.engine, lambda text, _: read.append(text)):
            order = self.created()
        self.assertEqual(order.status, CONFIRMED)
        self.assertEqual(sum("JOIN order_items" in text for text in read), 1, read)  # by the saga, in its transaction

    def test_what_is_sent(self) -> None:
        """The reservation bears a message id that follows from the order, a reply method, and the caller's trace."""
        self.created()
        (method, carried), = self.mom.calls  # fmt: skip
        self.assertEqual(method, "/bookd.inventory.v1.InventoryService/ReserveStock")
        self.assertEqual(carried[metadata.REPLY_TO], "/bookd.orders.v1.OrdersService/ApplyOutcome")
        self.assertEqual(carried[metadata.REQUEST_ID], "request-1")
        self.assertEqual(carried[metadata.TRACEPARENT], FakeContext().metadata[metadata.TRACEPARENT])
        self.assertEqual(len(carried[metadata.MESSAGE_ID]), 36)
        self.assertNotIn(metadata.PRINCIPAL, carried)

    def test_rejected(self) -> None:
        """Too little stock, or an unknown book: the order is there, rejected with the reason, and nothing is taken."""
        for lines in ([("a", 1), ("b", 11)], [("a", 1), ("unknown", 1)]):
            order = self.created(asked(*lines))
            self.assertEqual((order.status, order.reason), (REJECTED, "sold out"))
            self.assertFalse(order.HasField("total_amount"))
        self.assertEqual(self.mom.inventory.stock, {"a": 10, "b": 10})

    def test_users_address(self) -> None:
        """Without an address the user's is asked for, with the user's own right, and the trace goes on."""
        order = self.created(asked(("a", 1), address=" "))
        self.assertEqual((order.status, order.shipping_address), (CONFIRMED, "1 Elm Street"))
        self.assertEqual(self.mom.names(), ["GetUser", "ReserveStock"])
        principal = policy_pb2.Principal.FromString(self.mom.calls[0][1][metadata.PRINCIPAL])
        self.assertEqual(principal, FakeContext().principal)
        self.assertNotIn(metadata.REPLY_TO, self.mom.calls[0][1])
        self.assertEqual(self.mom.calls[1][1][metadata.REQUEST_ID], "request-1")

    def test_no_address(self) -> None:
        """A user without an address, and one who is gone, have their orders rejected."""
        self.mom.users[USER] = users_pb2.User(user_id=USER)
        order = self.created(asked(address=""))
        self.assertEqual(order.status, REJECTED)
        self.assertIn("no shipping address", order.reason)
        order = self.created(asked(address=""), FakeContext(OTHER))
        self.assertEqual(order.status, REJECTED)
        self.assertIn("no such user", order.reason)
        self.assertEqual(self.mom.inventory.reservations, {})

    def test_nobody(self) -> None:
        """Without a principal there is no order."""
        self.failureResultOf(self.create(context=FakeContext(subject=None)), Unauthenticated)

    def test_bad_request(self) -> None:
        """A bad request is refused before anything is stored."""
        self.failureResultOf(self.create(asked(("a", 0))), InvalidArgument)
        self.assertEqual(self.mom.calls, [])

    def test_kept(self) -> None:
        """When the MOM keeps the reservation, the order is answered at once: pending, without prices. The outcome
        confirms it, however often it comes."""
        self.mom.mode[""] = "keep"
        order = self.created()
        self.assertEqual((order.status, order.reason), (PENDING, "waits for the inventory"))
        self.assertFalse(order.HasField("total_amount"))
        self.assertFalse(order.items[0].HasField("unit_price"))
        self.assertEqual(self.outbox(), [])
        outcome, = self.mom.deliver()  # fmt: skip
        for _ in range(3):
            self.apply(outcome)
            stored = self.load(order.order_id)
            self.assertEqual((stored.status.value, stored.version), ("CONFIRMED", 2))
        self.assertEqual(self.mom.inventory.stock["a"], 9)

    def test_answer_within_the_patience(self) -> None:
        """An answer that is slow, but not slower than the patience, is waited for."""
        self.mom.mode[""] = "hang"
        answer = self.create()
        self.push(1.0)
        self.assertNoResult(answer)
        self.mom.mode[""] = "up"
        self.mom.time_out()
        self.push(0.15)
        self.assertEqual(self.successResultOf(answer).status, CONFIRMED)

    def test_patience_ends(self) -> None:
        """When nothing answers, the order is answered pending when the patience ends."""
        self.mom.mode[""] = "hang"
        answer = self.create()
        self.push(PATIENCE - 0.05)
        self.assertNoResult(answer)
        self.push(0.1)
        self.assertEqual(self.successResultOf(answer).status, PENDING)

    def test_deadline_ends_patience(self) -> None:
        """A caller whose deadline comes earlier is answered before it."""
        self.mom.mode[""] = "hang"
        context = FakeContext()
        context.remaining = 0.8
        answer = self.create(context=context)
        self.push(0.55)
        self.assertEqual(self.successResultOf(answer).status, PENDING)

    def test_nobody_there(self) -> None:
        """While the MOM is down the order is pending; once it is back the order is confirmed within two seconds."""
        self.mom.mode[""] = "down"
        answer = self.create()
        self.push(PATIENCE)
        order = self.successResultOf(answer)
        self.assertEqual(order.status, PENDING)
        self.push(60)
        self.mom.mode[""] = "up"
        self.push(2)
        self.assertEqual(self.load(order.order_id).status.value, "CONFIRMED")

    def test_users_down(self) -> None:
        """While users is down an order without an address waits for it; others go on."""
        self.mom.mode["GetUser"] = "down"
        answer = self.create(asked(address=""))
        self.assertEqual(self.created().status, CONFIRMED)
        self.push(PATIENCE)
        order = self.successResultOf(answer)
        self.assertEqual((order.status, order.reason), (PENDING, "waits for the user's address"))
        self.mom.mode["GetUser"] = "up"
        self.push(2)
        self.assertEqual(self.load(order.order_id).status.value, "CONFIRMED")

    def test_answer_lost(self) -> None:
        """A reservation whose answer is lost is sent again under the same id, and counts once."""
        self.mom.mode[""] = "lost"
        answer = self.create()
        self.mom.mode[""] = "up"
        self.push(0.2)
        self.assertEqual(self.successResultOf(answer).status, CONFIRMED)
        self.assertEqual(self.mom.inventory.stock["a"], 9)
        self.assertEqual(len({carried[metadata.MESSAGE_ID] for _, carried in self.mom.calls}), 1)

    def test_refused(self) -> None:
        """A final error rejects the order with its reason; nothing was taken, so nothing is released."""
        self.mom.mode["ReserveStock"] = "refuse"
        order = self.created()
        self.assertEqual(order.status, REJECTED)
        self.assertIn("no such thing", order.reason)
        self.assertEqual(self.mom.names(), ["ReserveStock"])

    def test_dead_letter(self) -> None:
        """A reservation that became a dead letter rejects the order, and whatever it took is released."""
        self.mom.mode[""] = "keep"
        order = self.created()
        outcome, = self.mom.deliver()  # fmt: skip
        self.mom.mode[""] = "up"
        outcome = message_pb2.Outcome(message_id=outcome.message_id, method=outcome.method)
        outcome.status.code, outcome.status.message = 13, "given up"
        self.apply(outcome)
        self.assertEqual(self.load(order.order_id).status.value, "REJECTED")
        self.assertEqual(self.mom.inventory.stock["a"], 10)
        self.assertEqual(self.mom.inventory.held(), set())

    def test_caller_goes_away(self) -> None:
        """A caller that hangs up while the order is being made does not keep it from being made."""
        self.mom.mode[""] = "hang"
        answer = self.create()
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.mom.mode[""] = "up"
        self.mom.time_out()
        self.push(0.2)
        self.assertEqual(self.mom.inventory.stock["a"], 9)


class RepeatedTests(OrdersTestCase):
    """One message id, one order."""

    def test_twenty_at_once(self) -> None:
        """Twenty calls with one id, before the first is answered: one order, and all hear of it."""
        self.mom.mode[""] = "hang"
        message_id = str(uuid4())
        answers = [self.create(None, FakeContext(message_id=message_id)) for _ in range(20)]
        self.mom.mode[""] = "up"
        self.mom.time_out()
        self.push(0.2)
        orders = [self.successResultOf(answer) for answer in answers]
        self.assertEqual(len({order.order_id for order in orders}), 1)
        self.assertEqual({order.status for order in orders}, {CONFIRMED})
        self.assertEqual(self.mom.inventory.stock["a"], 9)

    def test_later(self) -> None:
        """The same call again is answered with the order as it is now."""
        self.mom.mode[""] = "keep"
        message_id = str(uuid4())
        first = self.created(None, FakeContext(message_id=message_id))
        self.assertEqual(self.created(None, FakeContext(message_id=message_id)), first)
        for outcome in self.mom.deliver():
            self.apply(outcome)
        again = self.created(None, FakeContext(message_id=message_id))
        self.assertEqual((again.order_id, again.status), (first.order_id, CONFIRMED))

    def test_another_request(self) -> None:
        """The same id with another request is refused."""
        message_id = str(uuid4())
        self.created(asked(("a", 1)), FakeContext(message_id=message_id))
        failure = self.failureResultOf(
            self.create(asked(("a", 2)), FakeContext(message_id=message_id)), InvalidArgument
        )
        self.assertEqual(failure.value.reason, "IDEMPOTENCY_KEY_REUSED")

    def test_somebody_elses(self) -> None:
        """The same id from somebody else is refused, and shows nothing of the order."""
        message_id = str(uuid4())
        order = self.created(None, FakeContext(message_id=message_id))
        self.failureResultOf(self.create(None, FakeContext(OTHER, message_id=message_id)), InvalidArgument)
        cancel_id = str(uuid4())
        self.successResultOf(self.cancel(order.order_id, FakeContext(message_id=cancel_id)))
        self.failureResultOf(self.cancel(order.order_id, FakeContext(OTHER, message_id=cancel_id)), NotFound)

    def test_no_id(self) -> None:
        """Without an id each call is an order."""
        self.assertNotEqual(self.created().order_id, self.created().order_id)


class CancelTests(OrdersTestCase):
    """CancelOrder."""

    def test_confirmed(self) -> None:
        """The stock is back when the answer is there; a second time changes nothing."""
        order = self.created(asked(("a", 3)))
        answer = self.successResultOf(self.cancel(order.order_id))
        self.assertEqual((answer.status, answer.total_amount), (CANCELLED, order.total_amount))
        self.assertEqual(self.mom.inventory.stock["a"], 10)
        self.assertEqual(self.successResultOf(self.cancel(order.order_id)), answer)
        self.assertEqual(self.mom.names(), ["ReserveStock", "ReleaseStock"])

    def test_waits_for_the_stock(self) -> None:
        """The answer waits for the release, as long as the patience lasts."""
        order = self.created()
        self.mom.mode["ReleaseStock"] = "hang"
        answer = self.cancel(order.order_id)
        self.push(PATIENCE - 0.1)
        self.assertNoResult(answer)
        self.push(0.2)
        self.assertEqual(self.successResultOf(answer).status, CANCELLED)

    def test_kept(self) -> None:
        """When the MOM keeps the release, the answer does not wait."""
        order = self.created()
        self.mom.mode[""] = "keep"
        self.assertEqual(self.successResultOf(self.cancel(order.order_id)).status, CANCELLED)

    def test_overtaking(self) -> None:
        """An order that is cancelled while its reservation is kept holds nothing in the end, and stays cancelled,
        whatever order the two outcomes come in."""
        for backwards in (False, True):
            self.mom.mode[""] = "keep"
            order = self.created()
            self.successResultOf(self.cancel(order.order_id))
            outcomes = self.mom.deliver()
            for outcome in reversed(outcomes) if backwards else outcomes:
                self.apply(outcome)
            self.assertEqual(self.load(order.order_id).status.value, "CANCELLED")
            self.assertEqual(self.mom.inventory.stock["a"], 10)

    def test_while_the_reservation_hangs(self) -> None:
        """The release is not sent before the reservation is answered; then the stock is back."""
        self.mom.mode["ReserveStock"] = "hang"
        creating = self.create()
        cancelling = self.cancel(str(next(iter(self.orders()))))
        self.push(0.5)
        self.assertEqual(self.mom.names(), ["ReserveStock"])
        self.mom.mode["ReserveStock"] = "lost"
        self.mom.time_out()
        self.push(0.2)
        self.mom.mode["ReserveStock"] = "up"
        self.push(0.3)
        self.assertEqual(self.successResultOf(cancelling).status, CANCELLED)
        self.assertEqual(self.successResultOf(creating).status, CANCELLED)
        self.assertEqual(self.mom.inventory.stock["a"], 10)

    def orders(self) -> list[str]:
        with self.engine.connect() as connection:
            return [row[0] for row in connection.exec_driver_sql("SELECT order_id FROM orders")]

    def test_while_the_address_is_asked_for(self) -> None:
        """An order that has no address yet is cancelled at once; nothing is reserved for it later."""
        self.mom.mode["GetUser"] = "down"
        creating = self.create(asked(address=""))
        self.push(PATIENCE)
        order = self.successResultOf(creating)
        self.assertEqual(self.successResultOf(self.cancel(order.order_id)).status, CANCELLED)
        self.mom.mode["GetUser"] = "up"
        self.push(3)
        self.assertEqual(set(self.mom.names()), {"GetUser"})
        self.assertEqual(self.outbox(), [])

    def test_release_given_up(self) -> None:
        """A release that became a dead letter is asked for again under a new id, until it is done."""
        order = self.created()
        self.mom.mode[""] = "keep"
        self.successResultOf(self.cancel(order.order_id))
        for _ in range(2):
            (message_id, method, _), = self.mom.kept  # fmt: skip
            self.mom.kept = []
            dead = message_pb2.Outcome(message_id=message_id, method=method)
            dead.status.code = 13
            self.apply(dead)
            self.assertEqual(self.outbox(), ["ReleaseStock"])
            self.push(31, 1)
        for outcome in self.mom.deliver():
            self.apply(outcome)
        self.assertEqual(self.mom.inventory.stock["a"], 10)
        self.push(60, 1)
        self.assertEqual(self.outbox(), [])

    def test_rejected(self) -> None:
        """A rejected order cannot be cancelled."""
        order = self.created(asked(("a", 11)))
        self.failureResultOf(self.cancel(order.order_id), FailedPrecondition)

    def test_whose(self) -> None:
        """Others are told that there is no such order; staff and admins may cancel it."""
        order = self.created()
        self.failureResultOf(self.cancel(order.order_id, FakeContext(OTHER)), NotFound)
        self.failureResultOf(self.cancel(str(uuid4())), NotFound)
        self.failureResultOf(self.cancel(""), InvalidArgument)
        self.failureResultOf(self.cancel(order.order_id, FakeContext(subject=None)), Unauthenticated)
        for role in ("staff", "admin"):
            self.assertEqual(
                self.successResultOf(self.cancel(order.order_id, FakeContext(OTHER, [role]))).status, CANCELLED
            )


class ReadTests(OrdersTestCase):
    """GetOrder and ListOrders."""

    def get(self, order_id: str, context: FakeContext) -> Deferred[orders_pb2.Order]:
        request = orders_pb2.GetOrderRequest(order_id=order_id)
        return Deferred.fromCoroutine(self.servicer.GetOrder(request, context))  # type: ignore[arg-type]

    def list(self, context: FakeContext | None = None, **fields: object) -> Deferred[orders_pb2.ListOrdersResponse]:
        request = orders_pb2.ListOrdersRequest(**fields)  # type: ignore[arg-type]
        return Deferred.fromCoroutine(self.servicer.ListOrders(request, context or FakeContext()))  # type: ignore[arg-type]

    def test_get(self) -> None:
        """An order is its owner's and the staff's to see; to others it is not there."""
        order = self.created()
        for context in (FakeContext(), FakeContext(OTHER, ["staff"]), FakeContext(OTHER, ["admin"])):
            self.assertEqual(self.successResultOf(self.get(order.order_id, context)), order)
        for context in (FakeContext(OTHER), FakeContext(subject=None)):
            self.failureResultOf(self.get(order.order_id, context), NotFound)
        self.failureResultOf(self.get("nonsense", FakeContext()), NotFound)
        self.failureResultOf(self.get("", FakeContext()), InvalidArgument)

    def test_pages(self) -> None:
        """Pages neither repeat nor skip, though orders are placed and change in between."""
        placed = [self.created(asked(("a", 1 if number < 10 else 100))).order_id for number in range(25)]
        seen: list[str] = []
        token = ""
        while True:
            page = self.successResultOf(self.list(user_id=USER, page_size=4, page_token=token))
            self.assertEqual(page.total_size, 25 + len(seen) // 4)
            seen += [order.order_id for order in page.orders]
            token = page.next_page_token
            if not token:
                break
            self.created()
        self.assertEqual(seen, placed[::-1])

    def test_filters(self) -> None:
        """By user and by status; an empty user is everybody, for staff."""
        mine, rejected = self.created(), self.created(asked(("a", 11)))
        theirs = self.created(None, FakeContext(OTHER))
        staff = FakeContext(OTHER, ["staff"])
        cases = [
            ({"user_id": USER}, [rejected, mine]),
            ({"user_id": OTHER}, [theirs]),
            ({}, [theirs, rejected, mine]),
            ({"status": CONFIRMED}, [theirs, mine]),
            ({"user_id": USER, "status": REJECTED}, [rejected]),
            ({"status": PENDING}, []),
        ]
        for fields, expected in cases:
            page = self.successResultOf(self.list(staff, **fields))
            self.assertEqual((list(page.orders), page.total_size, page.next_page_token), (expected, len(expected), ""))

    def test_whose(self) -> None:
        """Others' orders are for staff only."""
        for context in (FakeContext(), FakeContext(OTHER, ["customer"])):
            self.failureResultOf(self.list(context), PermissionDenied)
        self.failureResultOf(self.list(user_id=OTHER), PermissionDenied)
        self.failureResultOf(self.list(FakeContext(subject=None), user_id=USER), Unauthenticated)

    def test_bad(self) -> None:
        """Wrong sizes, tokens and states are refused by name."""
        self.created()
        self.created()
        token = self.successResultOf(self.list(user_id=USER, page_size=1)).next_page_token
        cases: list[tuple[dict[str, object], str]] = [
            ({"page_size": -1}, "page_size"),
            ({"page_token": "nonsense"}, "page_token"),
            ({"page_token": token, "status": CONFIRMED}, "page_token"),
            ({"status": 99}, "status"),
        ]
        for fields, field in cases:
            failure = self.failureResultOf(self.list(user_id=USER, **fields), InvalidArgument)
            self.assertEqual([violation.field for violation in failure.value.violations], [field])


class OutcomeTests(OrdersTestCase):
    """ApplyOutcome."""

    def test_unknown(self) -> None:
        """An outcome of a message that no saga sent is taken and changes nothing."""
        self.apply(message_pb2.Outcome(message_id=str(uuid4())))
        self.apply(message_pb2.Outcome(message_id="nonsense"))

    def test_unreadable(self) -> None:
        """A response that cannot be read counts as lost: rejected and released."""
        self.mom.mode[""] = "keep"
        order = self.created()
        outcome, = self.mom.deliver()  # fmt: skip
        self.mom.mode[""] = "up"
        outcome = message_pb2.Outcome(message_id=outcome.message_id, method=outcome.method, response=b"\xff\xff")
        self.apply(outcome)
        self.assertEqual(self.load(order.order_id).status.value, "REJECTED")
        self.assertEqual(self.mom.inventory.stock["a"], 10)

    def test_while_the_relay_asks(self) -> None:
        """An outcome by the reply method while the relay still asks: the relay's own answer changes nothing more."""
        self.mom.mode[""] = "lost"
        answer = self.create()
        self.apply(next(iter(self.mom.outcomes.values())))
        self.mom.mode[""] = "up"
        self.push(0.2)
        order = self.successResultOf(answer)
        self.assertEqual((order.status, order.etag), (CONFIRMED, '"2"'))


class UserDeletedTests(OrdersTestCase):
    """TakeUserDeleted."""

    def take(self, data: Any, message_id: str | None = None) -> Deferred[Any]:
        """Call TakeUserDeleted with an event that holds `data`."""
        request = orders_pb2.TakeUserDeletedRequest()
        request.event.data.Pack(data)
        context: Any = FakeContext(subject=None, message_id=message_id)
        context.of("/bookd.orders.v1.OrdersService/TakeUserDeleted", request)
        return Deferred.fromCoroutine(self.servicer.TakeUserDeleted(request, context))

    def test_cancels(self) -> None:
        """What waits is cancelled, its stock comes back, and that is told."""
        self.mom.mode["ReserveStock"] = "keep"
        order = self.created()
        self.successResultOf(self.take(UserDeleted(user_id=USER)))
        self.mom.deliver()
        self.assertEqual(self.load(order.order_id).status, Status.CANCELLED)
        self.clock.advance(PACE)
        self.assertEqual(self.mom.told(), ["OrderPlaced", "OrderCancelled"])
        self.assertEqual(self.mom.inventory.held(), set())

    def test_wrong(self) -> None:
        """An event that holds something else, or names nobody, is refused."""
        for data in (UserDeleted(), orders_pb2.Order(order_id="x")):
            failure = self.failureResultOf(self.take(data), InvalidArgument)
            self.assertEqual([violation.field for violation in failure.value.violations], ["event.data"])
