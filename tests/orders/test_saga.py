"""Tests for `bookd.orders.saga`: what each event writes, that half of it is never there, and what holds in the end
whatever happens in between."""

from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.status import to_status
from bookd.errors import Aborted, InvalidArgument, NotFound
from bookd.orders import saga, store, sweep
from bookd.orders.rules import Order, Status
from bookd.orders.schema import metadata
from bookd.storage.engine import open_engine
from bookd.storage.outbox import Trace
from bookd.testing.faults import overhear, watch
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2 import PublishRequest
from bookd.wire.orders.v1 import events_pb2, orders_pb2
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2
from tests.orders.room import OTHER, PRICE, USER, FakeContext, OrdersTestCase, asked, pending

OWNER = policy_pb2.Principal(subject=USER, roles=["customer"])
TRACE = Trace("request-1", "00-trace")
ORDER_ID = "0193bbbb-0000-7000-8000-000000000001"


def everything(connection: Connection) -> dict[str, list[Any]]:
    """All rows of all tables."""
    return {table.name: [tuple(row) for row in connection.execute(table.select())] for table in metadata.sorted_tables}


def open_steps(connection: Connection) -> dict[str, str]:
    """Message ids of the steps without an outcome, by step; the newest of each."""
    rows = connection.exec_driver_sql("SELECT step, message_id FROM steps WHERE done_at IS NULL ORDER BY rowid")
    return {row.step: row.message_id for row in rows}


def outcome(connection: Connection, step: str, response: Any = None, code: int = 0) -> message_pb2.Outcome:
    """The outcome of the order's open step."""
    made = message_pb2.Outcome(message_id=open_steps(connection)[step])
    if code:
        made.status.code, made.status.message = code, "broken"
    else:
        made.response = response.SerializeToString()
    return made


def reserved() -> inventory_pb2.Reservation:
    """The inventory takes `pending()`."""
    made = inventory_pb2.Reservation(status=inventory_pb2.RESERVATION_STATUS_RESERVED)
    for item in pending().items:
        made.items.add(book_id=item.book_id, quantity=item.quantity, unit_price=PRICE, title="T")
    return made


class EventTests(SynchronousTestCase):
    """What an event writes."""

    def setUp(self) -> None:
        """Open a transaction on a new database."""
        engine = open_engine(":memory:")
        metadata.create_all(engine)
        self.connection = engine.connect()
        self.connection.begin()
        self.addCleanup(engine.dispose)
        self.addCleanup(self.connection.close)

    def place(self, **changes: Any) -> None:
        saga.place(self.connection, pending(ORDER_ID, **changes), TRACE)

    def load(self) -> Order:
        order = store.load(self.connection, ORDER_ID)
        assert order is not None
        return order

    def sent(self) -> list[str]:
        return [method.rpartition("/")[2] for method in self.steps("method")]

    def steps(self, columns: str) -> list[Any]:
        """What stands in the outbox for the saga, in order."""
        selected = f"SELECT {columns} FROM outbox WHERE lane NOT LIKE 'event %' ORDER BY seq"
        rows = self.connection.exec_driver_sql(selected).all()
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]

    def told(self) -> list[Event]:
        """The events in the outbox, in order."""
        rows = self.connection.exec_driver_sql("SELECT request FROM outbox WHERE lane LIKE 'event %' ORDER BY seq")
        return [event for (request,) in rows for event in PublishRequest.FromString(request).events]

    def test_placed(self) -> None:
        """A new order is stored as it is, with one message and one open step of the same id."""
        self.place()
        self.assertEqual(self.load(), pending(ORDER_ID))
        rows = everything(self.connection)
        self.assertEqual([row[0] for row in rows["steps"]], self.steps("message_id"))
        self.assertEqual(self.sent(), ["ReserveStock"])

    def test_same_order_same_ids(self) -> None:
        """The ids of the messages follow from the order's id."""
        self.place()
        saga.cancel(self.connection, ORDER_ID, OWNER, TRACE, 2)
        ids = open_steps(self.connection)
        self.connection.rollback()
        self.connection.begin()
        self.place()
        saga.cancel(self.connection, ORDER_ID, OWNER, TRACE, 2)
        self.assertEqual(open_steps(self.connection), ids)
        self.assertNotEqual(ids["RESERVE"], ids["RELEASE"])

    def test_request(self) -> None:
        """The reservation asks for the order's items."""
        self.place()
        (request,) = self.steps("request")
        asked_for = inventory_pb2.ReserveStockRequest.FromString(request)
        self.assertEqual(asked_for.order_id, ORDER_ID)
        self.assertEqual([(item.book_id, item.quantity) for item in asked_for.items], [("a", 1), ("b", 2)])

    def test_address(self) -> None:
        """The address is stored, and the reservation follows in the same lane and trace."""
        self.place(address="")
        user = users_pb2.User(user_id=USER, address="1 Elm Street")
        saga.apply(self.connection, outcome(self.connection, "ADDRESS", user), TRACE, 2)
        self.assertEqual((self.load().shipping_address, self.load().status), ("1 Elm Street", Status.PENDING))
        self.assertEqual(self.sent(), ["GetUser", "ReserveStock"])
        self.assertEqual(set(self.steps("lane, request_id, traceparent")), {(ORDER_ID, "request-1", "00-trace")})

    def test_twice(self) -> None:
        """An outcome that comes twice is applied once, even when it says something else."""
        self.place()
        first = outcome(self.connection, "RESERVE", reserved())
        second = outcome(self.connection, "RESERVE", code=13)
        for each in (first, first, second):
            applied = saga.apply(self.connection, each, TRACE, 2)
            assert applied is not None
            self.assertEqual(applied.order_id, ORDER_ID)
        self.assertEqual((self.load().status, self.load().version), (Status.CONFIRMED, 2))
        self.assertEqual(self.sent(), ["ReserveStock"])

    def test_told(self) -> None:
        """What an order becomes is told once, in one lane, with the order as it then was."""
        self.place()
        first = outcome(self.connection, "RESERVE", reserved())
        for each in (first, first):
            saga.apply(self.connection, each, TRACE, 2)
        saga.cancel(self.connection, ORDER_ID, OWNER, TRACE, 3)
        told = self.told()
        self.assertEqual(
            [event.type for event in told],
            [f"bookd.orders.v1.Order{what}" for what in ("Placed", "Confirmed", "Cancelled")],
        )
        self.assertEqual({event.subject for event in told}, {ORDER_ID})
        self.assertEqual(len({event.id for event in told}), 3)
        confirmed = events_pb2.OrderConfirmed()
        self.assertTrue(told[1].data.Unpack(confirmed))
        self.assertEqual(confirmed.order.status, orders_pb2.ORDER_STATUS_CONFIRMED)
        self.assertEqual(confirmed.order.total_amount.currency_code, "USD")

    def test_rejected_is_told(self) -> None:
        """A rejected order is told with its reason."""
        self.place()
        rejected = inventory_pb2.Reservation(status=inventory_pb2.RESERVATION_STATUS_REJECTED, reason="sold out")
        saga.apply(self.connection, outcome(self.connection, "RESERVE", rejected), TRACE, 2)
        told = events_pb2.OrderRejected()
        self.assertTrue(self.told()[-1].data.Unpack(told))
        self.assertEqual(told.order.reason, "sold out")

    def test_another_request_under_the_id(self) -> None:
        """A reservation that is refused as another one under its id may have taken stock, which is given back."""
        self.place()
        made = message_pb2.Outcome(message_id=open_steps(self.connection)["RESERVE"])
        made.status.CopyFrom(to_status(InvalidArgument("used", reason="IDEMPOTENCY_KEY_REUSED")))
        saga.apply(self.connection, made, TRACE, 2)
        self.assertEqual(self.load().status, Status.REJECTED)
        self.assertEqual(self.sent(), ["ReserveStock", "ReleaseStock"])

    def test_user_deleted(self) -> None:
        """The pending orders of a user that is gone are cancelled and their stock is asked back; no others."""
        self.place()
        saga.apply(self.connection, outcome(self.connection, "RESERVE", reserved()), TRACE, 2)
        waiting, others = str(UUID(int=1)), str(UUID(int=2))
        saga.place(self.connection, pending(waiting), TRACE)
        saga.place(self.connection, pending(others, user_id=OTHER), TRACE)
        self.assertEqual(saga.user_deleted(self.connection, USER, TRACE, 3), [waiting])
        self.assertEqual(saga.user_deleted(self.connection, USER, TRACE, 4), [])
        states = {each: store.load(self.connection, each) for each in (ORDER_ID, waiting, others)}
        self.assertEqual(
            {each: order.status for each, order in states.items() if order is not None},
            {ORDER_ID: Status.CONFIRMED, waiting: Status.CANCELLED, others: Status.PENDING},
        )
        self.assertEqual(self.sent().count("ReleaseStock"), 1)

    def test_foreign(self) -> None:
        """An outcome that no saga waits for is nobody's."""
        self.assertIsNone(saga.apply(self.connection, message_pb2.Outcome(message_id="?"), TRACE, 2))

    def test_cancelled_before_the_address(self) -> None:
        """The address of a cancelled order asks for no stock."""
        self.place(address="")
        saga.cancel(self.connection, ORDER_ID, OWNER, TRACE, 2)
        user = users_pb2.User(user_id=USER, address="1 Elm Street")
        saga.apply(self.connection, outcome(self.connection, "ADDRESS", user), TRACE, 3)
        self.assertEqual((self.load().status, self.load().shipping_address), (Status.CANCELLED, ""))
        self.assertEqual(self.sent(), ["GetUser"])

    def test_again_later(self) -> None:
        """A release that failed is asked for again, under a new id, not at once."""
        self.place()
        saga.cancel(self.connection, ORDER_ID, OWNER, TRACE, 2)
        ids = []
        for _ in range(3):
            ids.append(open_steps(self.connection)["RELEASE"])
            saga.apply(self.connection, outcome(self.connection, "RELEASE", code=13), TRACE, 5)
        self.assertEqual(len(set(ids)), 3)
        self.assertEqual(self.steps("ready_at"), [1, 2, *[5 + saga.AGAIN_AFTER] * 3])

    def test_whose(self) -> None:
        """Who may not see an order cannot cancel it."""
        self.place()
        stranger = policy_pb2.Principal(subject=OTHER, roles=["customer"])
        for order_id, principal in ((ORDER_ID, stranger), (ORDER_ID, None), ("nothing", OWNER)):
            self.assertRaises(NotFound, saga.cancel, self.connection, order_id, principal, TRACE, 2)
        self.assertEqual(self.load().status, Status.PENDING)

    def test_changed_meanwhile(self) -> None:
        """Nobody overwrites a change that they have not seen."""
        self.place()
        before = self.load()
        saga.cancel(self.connection, ORDER_ID, OWNER, TRACE, 2)
        self.assertRaises(Aborted, store.save, self.connection, before, before)


class Crash(Exception):
    """The process dies here."""


class CrashTests(SynchronousTestCase):
    """A crash at any statement leaves all of an event, or nothing of it."""

    def crash_everywhere(self, prepare: Callable[[Connection], Any], work: Callable[[Connection], Any]) -> None:
        """Run `work` on a file, dying at its n-th statement, for every n, and at the commit; open the file again and look."""
        original = Path(self.mktemp()) / "orders.sqlite"
        engine = self.open(original)
        metadata.create_all(engine)
        with engine.begin() as connection:
            prepare(connection)
        engine.dispose()
        before = self.look(original)
        n = 0
        while True:
            path = original.with_name(f"{n}.sqlite")
            copyfile(original, path)
            engine = self.open(path)
            left = [n]

            def die(where: str, left: list[int] = left) -> None:
                if left[0] == 0 and where != "after the commit":
                    raise Crash
                left[0] -= 1

            try:
                with watch(engine, die), engine.begin() as connection:
                    work(connection)
            except Crash:
                engine.dispose()
                self.assertEqual(self.look(path), before)
                n += 1
            else:
                self.assertNotEqual(self.look(path), before)
                self.assertGreater(n, 5)
                return

    def open(self, path: Path) -> Engine:
        engine = open_engine(path)
        self.addCleanup(engine.dispose)
        return engine

    def look(self, path: Path) -> dict[str, list[Any]]:
        with self.open(path).connect() as connection:
            return everything(connection)

    def test_placing(self) -> None:
        """The order, its lines, its step and its message come together."""
        self.crash_everywhere(
            lambda connection: None, lambda connection: saga.place(connection, pending(ORDER_ID), TRACE)
        )

    def test_reservation(self) -> None:
        """The state, the prices and the end of the step come together."""
        self.crash_everywhere(
            lambda connection: saga.place(connection, pending(ORDER_ID), TRACE),
            lambda connection: saga.apply(connection, outcome(connection, "RESERVE", reserved()), TRACE, 2),
        )

    def test_lost_reservation(self) -> None:
        """The rejection and the release that it needs come together."""
        self.crash_everywhere(
            lambda connection: saga.place(connection, pending(ORDER_ID), TRACE),
            lambda connection: saga.apply(connection, outcome(connection, "RESERVE", code=13), TRACE, 2),
        )

    def test_address(self) -> None:
        """The address and the reservation that it allows come together."""
        user = users_pb2.User(address="1 Elm Street")
        self.crash_everywhere(
            lambda connection: saga.place(connection, pending(ORDER_ID, address=""), TRACE),
            lambda connection: saga.apply(connection, outcome(connection, "ADDRESS", user), TRACE, 2),
        )

    def test_cancelling(self) -> None:
        """The cancellation and the release come together."""
        self.crash_everywhere(
            lambda connection: saga.place(connection, pending(ORDER_ID), TRACE),
            lambda connection: saga.cancel(connection, ORDER_ID, OWNER, TRACE, 2),
        )


ACTIONS = st.one_of(
    st.tuples(st.just("create"), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(
        st.just("mode"),
        st.sampled_from(["", "GetUser", "ReserveStock", "ReleaseStock"]),
        st.sampled_from(["up", "keep", "down", "hang", "lost"]),
    ),
    st.tuples(st.just("deliver"), st.booleans()),
    st.tuples(st.just("dead letters"), st.booleans()),
    st.tuples(st.just("discard"), st.booleans()),
    st.tuples(st.just("sweep"), st.floats(1, 700)),
    st.tuples(st.just("forget")),
    st.tuples(st.just("repeat"), st.integers(0, 9)),
    st.tuples(st.just("time out")),
    st.tuples(st.just("push"), st.floats(0.05, 3)),
    st.tuples(st.just("restart")),
)


class Shop(OrdersTestCase):
    """A whole daemon, to be led through anything."""

    def runTest(self) -> None:
        """Not a test: `AnythingTests` makes one a story."""

    def act(self, action: tuple[Any, ...]) -> None:
        """Let something happen."""
        match action:
            case ("create", quantity, with_address):
                self.create(asked(("a", quantity), address="2 Oak Street" if with_address else "")).addErrback(ignore)
            case ("cancel", which):
                ids = self.order_ids()
                if ids:
                    self.cancel(ids[which % len(ids)]).addErrback(ignore)
            case ("mode", name, mode):
                self.mom.mode[name] = mode
            case ("deliver", backwards):
                outcomes = self.mom.deliver()
                for each in reversed(outcomes) if backwards else outcomes:
                    self.apply(each)
            case ("dead letters", delivered):
                # Given up by the MOM, after it took effect or before.
                for message_id, method, request in self.mom.kept[:1]:
                    if delivered:
                        self.mom._deliver(message_id, method, request)
                    self.mom.kept = self.mom.kept[1:]
                    dead = message_pb2.Outcome(message_id=message_id, method=method)
                    dead.status.code = 13
                    self.mom.outcomes[message_id] = dead
                    self.apply(dead)
            case ("discard", delivered):
                # By an operator, who tells nobody.
                for each in self.mom.kept[:1]:
                    if delivered:
                        self.mom._deliver(*each)
                        del self.mom.outcomes[each[0]]
                    self.mom.kept = self.mom.kept[1:]
            case ("sweep", seconds):
                self.push(seconds, seconds / 5)
                self.sweep()
            case ("forget",):
                self.successResultOf(self.desk.write(sweep.forget, self.now() + 1, 100))
            case ("repeat", which):
                known = list(self.mom.outcomes.values())
                if known:
                    self.apply(known[which % len(known)])
            case ("time out",):
                self.mom.time_out()
            case ("push", seconds):
                self.push(seconds)
            case ("restart",):
                self.successResultOf(self.relay.stopService())
                self.build(self.engine)

    def sweep(self) -> None:
        """One batch of the sweep."""
        chore: Any = sweep.sweeping(self.desk, self.now, 600)
        self.successResultOf(Deferred.fromCoroutine(chore()))

    def open(self) -> Engine:
        """A database that notes the ids of the steps that are asked for."""
        engine = super().open()
        self.named: list[str] = []

        def note(statement: str, values: Any) -> None:
            if statement.startswith("INSERT INTO steps"):
                self.named.append(values[0])

        self.enterContext(overhear(engine, note))
        return engine

    def order_ids(self) -> list[str]:
        """All orders."""
        with self.engine.connect() as connection:
            return [row[0] for row in connection.exec_driver_sql("SELECT order_id FROM orders ORDER BY seq")]

    def check(self) -> None:
        """What holds at any time: no copy is made or lost, none is reserved that is not there."""
        held = sum(item.quantity for each in self.mom.inventory.reservations.values() for item in each.items)
        self.assertEqual(self.mom.inventory.stock["a"] + held, 10)
        self.assertGreaterEqual(self.mom.inventory.stock["a"], 0)
        confirmed = {each for each in self.order_ids() if self.load(each).status is Status.CONFIRMED}
        self.assertLessEqual(confirmed, self.mom.inventory.held())
        self.assertEqual(len(self.named), len(set(self.named)), "two steps of one name")

    def finish(self) -> None:
        """Everything is up again, and time passes."""
        self.mom.mode = {"": "up"}
        self.mom.time_out()
        while self.mom.kept:
            self.act(("deliver", False))
        self.push(40, 0.5)
        # What was discarded is asked for again, and what that leads to comes by the relay.
        self.push(25_000, 5000)
        self.sweep()
        self.push(40, 0.5)


def ignore(_: Any) -> None:
    """Callers may be refused."""


class AnythingTests(SynchronousTestCase):
    """Orders, cancellations, outages, dead letters, discarded ones, repetitions, sweeps and restarts, in any order."""

    @settings(max_examples=150, deadline=None)
    @given(st.lists(ACTIONS, max_size=25))
    def test_in_the_end(self, actions: list[tuple[Any, ...]]) -> None:
        """When all is up again, no order is pending, and stock is held for the confirmed orders and for no other."""
        shop = Shop()
        shop.setUp()
        try:
            for action in actions:
                shop.act(action)
                shop.check()
            shop.finish()
            shop.check()
            statuses = {order_id: shop.load(order_id).status for order_id in shop.order_ids()}
            self.assertNotIn(Status.PENDING, statuses.values())
            confirmed = {order_id for order_id, status in statuses.items() if status is Status.CONFIRMED}
            self.assertEqual(shop.mom.inventory.held(), confirmed)
            self.assertEqual(shop.outbox(), [])
        finally:
            shop.doCleanups()


class RestartTests(OrdersTestCase):
    """The daemon on a file, stopped and started again."""

    def setUp(self) -> None:
        """Name the file."""
        self.database = Path(self.mktemp()) / "orders.sqlite"
        super().setUp()

    def test_sent_again(self) -> None:
        """What was in the outbox when the process died is sent when it starts again, under the same id."""
        self.mom.mode[""] = "hang"
        self.create(None, FakeContext()).addErrback(ignore)
        self.assertEqual(len(self.mom.calls), 1)
        self.successResultOf(self.relay.stopService())
        self.engine.dispose()

        self.mom.mode[""] = "up"
        self.engine = self.open()
        self.build(self.engine)
        self.assertEqual(len(self.mom.calls), 2)
        self.assertEqual(self.mom.calls[0], self.mom.calls[1])
        self.assertEqual([self.load(order_id).status for order_id in self.mom.inventory.held()], [Status.CONFIRMED])

    def test_kept_across_restart(self) -> None:
        """An order whose step the MOM keeps is confirmed by the reply, though the process is another one."""
        self.mom.mode[""] = "keep"
        order = self.created()
        self.successResultOf(self.relay.stopService())
        self.engine.dispose()
        self.engine = self.open()
        self.build(self.engine)
        for each in self.mom.deliver():
            self.apply(each)
        self.assertEqual(self.load(order.order_id).status, Status.CONFIRMED)
        self.assertEqual(len(self.mom.calls), 1)
