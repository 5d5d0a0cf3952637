"""Clients of the world who do as good clients do, remember what they were told, and check that it came true."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from attrs import define, evolve, field
from google.type.money_pb2 import Money
from sqlalchemy import Engine
from twisted.python.failure import Failure

from bookd.contract.status import detail
from bookd.errors import FINAL, BookdError
from bookd.inventory import store as inventory_store
from bookd.inventory.rules import Draft
from bookd.mom.machine import MessageState
from bookd.mom.schema import events, messages
from bookd.orders.schema import order_items, orders
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.orders.v1 import orders_pb2
from tests.faults.world import START, World, person

STOCK = 10
BOOKS = ("a", "b")
USERS = ("ada", "bob")
CREATE, CANCEL = "/bookd.orders.v1.OrdersService/CreateOrder", "/bookd.orders.v1.OrdersService/CancelOrder"
ADJUST = "/bookd.inventory.v1.InventoryService/AdjustStock"


@define(eq=False)
class Wish:
    """One thing that a client wants, under one message id."""

    number: int
    user: str
    path: str
    request: Any
    # Whether the MOM or the service has said that it has it.
    accepted: bool = False
    # What came of it: the response, or the final error.
    answer: Any = None
    error: BookdError | None = None
    # Calls that are under way.
    asking: int = 0
    # How many had been accepted when it was asked for first, and when it was accepted.
    asked_after: int = 0
    accepted_at: int = 0

    @property
    def message_id(self) -> str:
        """The id."""
        return str(UUID(int=10**6 + self.number))

    def accepted_before(self, other: "Wish") -> bool:
        """Whether it was accepted before the other was asked for."""
        return 0 < self.accepted_at <= other.asked_after

    def copy(self) -> "Wish":
        """The wish with what is known of it now."""
        return evolve(self, asking=0)

    def forgotten(self) -> "Wish":
        """The wish as if nobody had ever answered."""
        return Wish(self.number, self.user, self.path, self.request, asked_after=self.asked_after)

    @property
    def done(self) -> bool:
        """Whether the client knows what came of it."""
        return self.answer is not None or self.error is not None


@define(eq=False)
class Shoppers:
    """All clients. What they were told is in `wishes`."""

    world: World
    wishes: list[Wish] = field(factory=list)
    accepted: int = 0

    def supply(self) -> None:
        """Put the books on the shelves."""
        price = Money(currency_code="USD", units=15)
        with self.world.engines["inventory"].begin() as connection:
            for book_id in BOOKS:
                inventory_store.create_book(connection, Draft(book_id, "T", "A", "", STOCK, price), START)

    # Wishing.

    def order(self, user: str, **lines: int) -> None:
        """Want an order."""
        request = orders_pb2.CreateOrderRequest(shipping_address="2 Oak Street")
        for book_id, quantity in lines.items():
            request.items.add(book_id=book_id, quantity=quantity)
        self._wish(user, CREATE, request)

    def cancel(self, which: int) -> None:
        """Want one of the orders that are known cancelled."""
        known = [wish for wish in self.wishes if wish.path == CREATE and wish.answer is not None]
        if known:
            wish = known[which % len(known)]
            self._wish(wish.user, CANCEL, orders_pb2.CancelOrderRequest(order_id=wish.answer.order_id))

    def adjust(self, book_id: str, change: int) -> None:
        """Want more or less of a book."""
        self._wish("staff", ADJUST, inventory_pb2.AdjustStockRequest(book_id=book_id, quantity_change=change))

    def again(self, which: int) -> None:
        """Ask again, answered or not."""
        if self.wishes:
            self._ask(self.wishes[which % len(self.wishes)])

    def _wish(self, user: str, path: str, request: Any) -> None:
        wish = Wish(len(self.wishes), user, path, request, asked_after=self.accepted)
        self.wishes.append(wish)
        self._ask(wish)

    def _ask(self, wish: Wish) -> None:
        wish.asking += 1
        call = self.world.clients.unary_unary(wish.path)
        asking = call(wish.request.SerializeToString(), timeout=10.0, metadata=person(wish.user, wish.message_id))
        asking.addBoth(lambda result: self._told(wish, result))

    def _told(self, wish: Wish, result: Any) -> None:
        wish.asking -= 1
        if not isinstance(result, Failure):
            kind = inventory_pb2.Book if wish.path == ADJUST else orders_pb2.Order
            answer = kind.FromString(result)
            assert wish.error is None, (wish, answer)
            if wish.answer is not None and wish.path != ADJUST:
                assert wish.answer.order_id == answer.order_id, (wish, answer)
            wish.answer = answer
            self._accept(wish)
            return
        error = result.value
        assert isinstance(error, BookdError), error
        if detail(error, message_pb2.Deferred) is not None:
            self._accept(wish)
        elif error.code in FINAL:
            assert wish.answer is None, (wish, error)
            assert error.reason != "IDEMPOTENCY_KEY_REUSED", (wish, error)
            wish.error = error

    def _accept(self, wish: Wish) -> None:
        if not wish.accepted:
            wish.accepted = True
            self.accepted += 1
            wish.accepted_at = self.accepted

    # The end.

    def heal(self) -> None:
        """Everything is up again; every client asks until it knows."""
        self.world.fates.clear()
        for name in ("inventory", "orders", "mom"):
            self.world.start(name)
            self.world.running[name].dies = ""
        self.world.push(15)
        for _ in range(20):
            unknown = [wish for wish in self.wishes if not wish.done]
            if not unknown and self.quiet():
                break
            for wish in unknown:
                if not wish.asking:
                    self._ask(wish)
            self.world.push(5)

    def quiet(self) -> bool:
        """Whether nothing is under way."""
        return not any(self.waiting().values())

    def waiting(self) -> dict[str, int]:
        """What is under way, and where."""
        engines = self.world.engines
        return {
            "orders' outbox": len(rows(engines["orders"], "SELECT 1 FROM outbox")),
            "inventory's outbox": len(rows(engines["inventory"], "SELECT 1 FROM outbox")),
            "queue": len(rows(engines["mom"], f"SELECT 1 FROM messages WHERE state = {int(MessageState.QUEUED)}")),
        }

    # What must have come true.

    def check(self) -> None:
        """Everything that was promised, once all is quiet."""
        faults = [fault for find in CHECKS for fault in find(self)]
        assert not faults, faults


def rows(engine: Engine, statement: Any) -> list[Any]:
    """What a database answers."""
    with engine.connect() as connection:
        if isinstance(statement, str):
            return list(connection.exec_driver_sql(statement).all())
        return list(connection.execute(statement).all())


def stuck(shoppers: Shoppers) -> list[str]:
    """Everybody knows what came of every wish, and nothing is under way."""
    found = [f"nobody knows what came of {wish}" for wish in shoppers.wishes if not wish.done]
    found += [f"{number} in {place}" for place, number in shoppers.waiting().items() if number]
    engines = shoppers.world.engines
    found += [
        f"order {row.order_id} is pending"
        for row in rows(engines["orders"], orders.select())
        if row.status == "PENDING"
    ]
    found += [f"{row} is open" for row in rows(engines["orders"], "SELECT * FROM steps WHERE done_at IS NULL")]
    found += [
        f"{row.message_id} is dead" for row in rows(engines["mom"], messages.select()) if row.state == MessageState.DEAD
    ]
    return found


def books(shoppers: Shoppers) -> list[str]:
    """Stock and reservations add up to what was supplied; reserved is what confirmed orders have."""
    engines = shoppers.world.engines
    held = dict.fromkeys(BOOKS, 0)
    for row in rows(
        engines["orders"],
        order_items.select()
        .join(orders, orders.c.order_id == order_items.c.order_id)
        .where(orders.c.status == "CONFIRMED"),
    ):
        held[row.book_id] += row.quantity
    supplied = dict.fromkeys(BOOKS, STOCK)
    for wish in shoppers.wishes:
        if wish.path == ADJUST and wish.answer is not None:
            supplied[wish.request.book_id] += wish.request.quantity_change
    found = []
    for row in rows(engines["inventory"], "SELECT book_id, stock, reserved, supplied FROM books"):
        expected = (supplied[row.book_id] - held[row.book_id], held[row.book_id], supplied[row.book_id])
        if (row.stock, row.reserved, row.supplied) != expected:
            found.append(f"{row} in place of {expected}")
    return found


def once(shoppers: Shoppers) -> list[str]:
    """Each order that was wanted is there once, as its owner was told; nobody else's is."""
    there = {row.order_id: row for row in rows(shoppers.world.engines["orders"], orders.select())}
    wanted = [wish for wish in shoppers.wishes if wish.path == CREATE and wish.answer is not None]
    ids = [wish.answer.order_id for wish in wanted]
    found = [f"{order_id} is twice" for order_id in ids if ids.count(order_id) > 1]
    found += [f"{order_id} is lost" for order_id in ids if order_id not in there]
    found += [f"{order_id} was never wanted" for order_id in there if order_id not in ids]
    for wish in shoppers.wishes:
        if wish.path == CANCEL and wish.answer is not None and there[wish.request.order_id].status != "CANCELLED":
            found.append(f"{wish.request.order_id} was cancelled, and is {there[wish.request.order_id].status}")
    return found


def in_order(shoppers: Shoppers) -> list[str]:
    """Orders of one user that were accepted one after the other are placed in that order."""
    places = {row.order_id: row.seq for row in rows(shoppers.world.engines["orders"], orders.select())}
    found = []
    for user in USERS:
        mine = [
            w for w in shoppers.wishes if w.user == user and w.path == CREATE and w.answer is not None and w.accepted
        ]
        for number, later in enumerate(mine):
            place = places[later.answer.order_id]
            # Only what was accepted before the next was asked for has a place in front of it.
            found += [
                f"{later} overtook {earlier}"
                for earlier in mine[:number]
                if earlier.accepted_before(later) and places[earlier.answer.order_id] > place
            ]
    return found


def news(shoppers: Shoppers) -> list[str]:
    """What became of each order was told, once, in order."""
    told: dict[str, list[str]] = {}
    for row in rows(shoppers.world.engines["mom"], events.select().order_by(events.c.seq)):
        if row.type.startswith("bookd.orders."):
            told.setdefault(row.subject, []).append(row.event_id)
    found = []
    for row in rows(shoppers.world.engines["orders"], orders.select()):
        versions = [int(each.rpartition("/")[2]) for each in told.get(row.order_id, [])]
        if versions != sorted(set(versions)) or not versions or versions[0] != 1:
            found.append(f"of {row.order_id} was told {told.get(row.order_id)}")
        elif told[row.order_id][-1].lower().find(row.status.lower()) < 0:
            found.append(f"{row.order_id} is {row.status}, but {told[row.order_id][-1]} was told last")
    return found


CHECKS: tuple[Callable[[Shoppers], list[str]], ...] = (stuck, books, once, in_order, news)
