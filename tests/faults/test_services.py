"""The services under every fault of their databases: each write, with its inbox row and what it puts into the outbox."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money
from sqlalchemy import Engine, text
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from bookd.bridge.relay import Relay
from bookd.inventory.servicer import InventoryServicer
from bookd.orders import saga
from bookd.orders.news import News
from bookd.orders.servicer import OrdersServicer
from bookd.storage.outbox import PUBLISH
from bookd.testing.desk import ImmediateDesk
from bookd.testing.workers import ImmediateWorkers
from bookd.users import store as users_store
from bookd.users.passwords import Passwords
from bookd.users.rules import NewUser
from bookd.users.servicer import UsersServicer, set_password
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2 import PublishRequest
from bookd.wire.orders.v1 import orders_pb2
from bookd.wire.users.v1 import users_pb2
from bookd.wire.users.v1.events_pb2 import UserDeleted
from tests.faults.room import NOW, FaultsTestCase, Story, called, result
from tests.inventory.room import UNBALANCED

INVENTORY = "/bookd.inventory.v1.InventoryService/"
ORDERS = "/bookd.orders.v1.OrdersService/"
USERS = "/bookd.users.v1.UsersService/"
FIRST, SECOND, THIRD = (str(UUID(int=number)) for number in (1, 2, 3))
ORDER = str(UUID(int=100))
PRICE = Money(currency_code="USD", units=15, nanos=990_000_000)


class Process:
    """The servicer of one process, on a fake desk."""

    def __init__(self, servicer: Any, prefix: str, desk: Any) -> None:
        self.servicer = servicer
        self.desk = desk
        self._prefix = prefix

    def call(self, name: str, request: Any, message_id: str | None) -> Any:
        """The answer of a call."""
        return called(self.servicer, self._prefix + name, request, message_id)

    def close(self) -> None:
        """The process ends; nothing is open but the database."""


def inventory(engine: Engine) -> Process:
    """The inventory."""
    desk = ImmediateDesk(engine)
    return Process(InventoryServicer(desk, lambda: NOW, lambda: "new", low=5), INVENTORY, desk)


def orders(engine: Engine) -> Process:
    """The orders, whose callers have no patience, so that nothing is sent."""
    desk: Any = ImmediateDesk(engine)
    servicer = OrdersServicer(desk, news=News(Clock()), now=lambda: NOW, new_id=lambda: ORDER, patience=0)
    return Process(servicer, ORDERS, desk)


class PlainPasswords(Passwords):
    """The same hash each time."""

    def hash(self, password: str) -> str:
        return f"$argon2id${password}"


def users(engine: Engine) -> Process:
    """The users."""
    desk: Any = ImmediateDesk(engine)
    workers: Any = ImmediateWorkers()
    unused: Any = None  # no story opens a session
    servicer = UsersServicer(
        desk,
        workers,
        unused,
        passwords=PlainPasswords(),
        keyring=unused,
        now=lambda: NOW,
        new_id=lambda: FIRST,
    )
    return Process(servicer, USERS, desk)


def balanced(engine: Engine) -> None:
    """Raise if a copy of a book is not accounted for."""
    with engine.connect() as connection:
        assert connection.execute(text(UNBALANCED)).all() == []


def book(book_id: str = "a", stock: int = 10) -> inventory_pb2.CreateBookRequest:
    """A request for a book."""
    new = inventory_pb2.Book(title=f"Title {book_id}", author="An Author", stock=stock, price=PRICE)
    return inventory_pb2.CreateBookRequest(book_id=book_id, book=new)


def reserve(order_id: str = ORDER, **lines: int) -> inventory_pb2.ReserveStockRequest:
    """A request for stock."""
    request = inventory_pb2.ReserveStockRequest(order_id=order_id)
    for book_id, quantity in lines.items():
        request.items.add(book_id=book_id, quantity=quantity)
    return request


class InventoryTests(FaultsTestCase):
    """Each write of the inventory."""

    def write(self, name: str, request: Any, *earlier: tuple[str, Any]) -> None:
        """Lead a write through every fault, after two books and what else went before."""

        def prepare(process: Process) -> None:
            before = [("CreateBook", book("a")), ("CreateBook", book("b", stock=7)), *earlier]
            for number, (what, how) in enumerate(before):
                process.call(what, how, str(UUID(int=1000 + number)))

        def act(process: Process) -> Any:
            return process.call(name, request, FIRST)

        self.every_fault(Story("bookd.inventory", inventory, act, prepare, balanced))

    def test_create(self) -> None:
        """A new book comes with its words and its event."""
        self.write("CreateBook", book("c"))

    def test_create_without_an_id(self) -> None:
        """A book that the inventory names comes once."""
        self.write("CreateBook", book(""))

    def test_update(self) -> None:
        """A changed book comes with its words and its event."""
        change = inventory_pb2.Book(book_id="a", title="Another Title")
        self.write("UpdateBook", inventory_pb2.UpdateBookRequest(book=change, update_mask=FieldMask(paths=["title"])))

    def test_delete(self) -> None:
        """A book leaves with its words, though an order holds some of it."""
        self.write("DeleteBook", inventory_pb2.DeleteBookRequest(book_id="a"), ("ReserveStock", reserve(SECOND, a=1)))

    def test_adjust(self) -> None:
        """Stock is changed once, however often the message comes; that it is low is told with it."""
        self.write("AdjustStock", inventory_pb2.AdjustStockRequest(book_id="b", quantity_change=-4))

    def test_reserve(self) -> None:
        """All lines are reserved, or none."""
        self.write("ReserveStock", reserve(a=3, b=4))

    def test_reject(self) -> None:
        """A rejection takes nothing and is remembered."""
        self.write("ReserveStock", reserve(a=3, b=8))

    def test_release(self) -> None:
        """All lines come back, or none."""
        release = inventory_pb2.ReleaseStockRequest(order_id=ORDER)
        self.write("ReleaseStock", release, ("ReserveStock", reserve(a=3, b=4)))

    def test_release_first(self) -> None:
        """A release that overtakes its reservation is remembered."""
        self.write("ReleaseStock", inventory_pb2.ReleaseStockRequest(order_id=ORDER))


def asked(address: str = "2 Oak Street") -> orders_pb2.CreateOrderRequest:
    """A request for an order of two books."""
    request = orders_pb2.CreateOrderRequest(shipping_address=address)
    request.items.add(book_id="a", quantity=1)
    request.items.add(book_id="b", quantity=2)
    return request


def place(process: Process) -> None:
    """There is an order."""
    process.call("CreateOrder", asked(), SECOND)


def reservation(status: int = inventory_pb2.RESERVATION_STATUS_RESERVED) -> inventory_pb2.Reservation:
    """The inventory's answer."""
    answer = inventory_pb2.Reservation(order_id=ORDER, status=status)  # type: ignore[arg-type]
    for item in asked().items:
        answer.items.add(book_id=item.book_id, quantity=item.quantity, unit_price=PRICE, title="T")
    return answer


def open_step(process: Process) -> str:
    """The message id of the oldest step."""
    asking = process.desk.read(
        lambda connection: connection.exec_driver_sql("SELECT message_id FROM steps ORDER BY rowid").scalars().first()
    )
    return str(result(asking))


class OrdersTests(FaultsTestCase):
    """Each write of the orders."""

    def write(self, act: Callable[[Process], Any], prepare: Callable[[Process], Any] = place) -> None:
        """Lead a write through every fault."""
        self.every_fault(Story("bookd.orders", orders, act, prepare))

    def apply(self, outcome: message_pb2.Outcome) -> None:
        """Lead ApplyOutcome through every fault."""

        def act(process: Process) -> Any:
            outcome.message_id = open_step(process)
            return process.call("ApplyOutcome", orders_pb2.ApplyOutcomeRequest(outcome=outcome), None)

        self.write(act)

    def test_create(self) -> None:
        """An order comes with its lines, its event and the message that asks for its stock."""
        self.write(lambda process: process.call("CreateOrder", asked(), FIRST), lambda _: None)

    def test_create_without_an_address(self) -> None:
        """An order comes with the message that asks for its user's address."""
        self.write(lambda process: process.call("CreateOrder", asked(""), FIRST), lambda _: None)

    def test_cancel(self) -> None:
        """A cancellation comes with its event and the message that releases the stock."""
        cancel = orders_pb2.CancelOrderRequest(order_id=ORDER)
        self.write(lambda process: process.call("CancelOrder", cancel, FIRST))

    def test_confirmed(self) -> None:
        """An outcome that comes without a message id of its own is applied once: prices, state, event."""
        self.apply(message_pb2.Outcome(response=reservation().SerializeToString()))

    def test_lost(self) -> None:
        """A reservation of which nobody knows is rejected together with the message that releases it."""
        lost = message_pb2.Outcome()
        lost.status.code = 13
        self.apply(lost)

    def test_user_deleted(self) -> None:
        """The orders of a user that is gone are cancelled all, or none."""
        event = Event(type="bookd.users.v1.UserDeleted", subject="ada")
        event.data.Pack(UserDeleted(user_id="ada"))
        request = orders_pb2.TakeUserDeletedRequest(event=event)
        self.write(lambda process: process.call("TakeUserDeleted", request, FIRST))


class Mom:
    """A channel to a MOM with an inventory, which have what they have heard as (id of the message or event, method)."""

    def __init__(self) -> None:
        self.heard: set[tuple[str, str]] = set()

    def unary_unary(self, method: str) -> Callable[..., Deferred[bytes]]:
        """A callable that answers at once."""

        def call(request: bytes, timeout: float, metadata: Any) -> Deferred[bytes]:
            if method == PUBLISH:
                self.heard |= {(event.id, method) for event in PublishRequest.FromString(request).events}
            else:
                self.heard.add((dict(metadata)["bookd-message-id"], method))
            return succeed(b"" if method == PUBLISH else reservation().SerializeToString())

        return call


class Sending(Process):
    """The orders with their relay."""

    def __init__(self, engine: Engine) -> None:
        process = orders(engine)
        super().__init__(process.servicer, ORDERS, process.desk)
        self.clock = Clock()
        self.mom = Mom()
        self.relay = Relay(self.clock, process.desk, self.mom, now=lambda: NOW, apply=saga.apply_sent)

    def send(self) -> Any:
        """Let the relay work for a while; answers the order."""
        self.relay.startService()
        self.clock.pump([1.0] * 12)
        result(self.relay.stopService())
        return self.call("GetOrder", orders_pb2.GetOrderRequest(order_id=ORDER), None)


class RelayTests(FaultsTestCase):
    """What the relay brings home."""

    def test_settled(self) -> None:
        """The answer to a step is applied in the transaction that takes the message out of the outbox; what fails is
        done again, in this process or the next, until the outbox is empty."""
        trial = self.every_fault(Story("bookd.orders", Sending, Sending.send, place, transactions=None))
        self.assertEqual(trial.after["outbox"], [])
        self.assertEqual(trial.answer.status, orders_pb2.ORDER_STATUS_CONFIRMED)


class UsersTests(FaultsTestCase):
    """Each write of the users."""

    def write(self, act: Callable[[Process], Any], *, there: bool = True, repeatable: bool = True) -> None:
        """Lead a write through every fault."""

        def prepare(process: Process) -> None:
            if there:
                new = NewUser(FIRST, "ana", "ana@example.org", "Ana", "1 Elm Street", ("customer",), "$argon2id$x")
                result(process.desk.write(users_store.add, new, NOW))
                known = result(process.desk.read(users_store.load, FIRST))
                result(process.desk.write(users_store.open_session, known, FIRST, b"1" * 32, NOW + 1, NOW))

        self.every_fault(Story("bookd.users", users, act, prepare), repeatable=repeatable)

    def test_register(self) -> None:
        """A user comes with the roles."""
        request = users_pb2.RegisterUserRequest(username="bob", email="bob@example.org", password="correct horse")
        self.write(lambda process: process.call("RegisterUser", request, SECOND), there=False)

    def test_update(self) -> None:
        """A user and the roles change together."""
        changed = users_pb2.User(user_id=FIRST, address="3 Ash Street", roles=["customer", "staff"])
        mask = FieldMask(paths=["address", "roles"])
        request = users_pb2.UpdateUserRequest(user=changed, update_mask=mask)
        self.write(lambda process: process.call("UpdateUser", request, SECOND))

    def test_delete(self) -> None:
        """A user leaves with the sessions, and that is told."""
        request = users_pb2.DeleteUserRequest(user_id=FIRST)
        self.write(lambda process: process.call("DeleteUser", request, SECOND))

    def test_change_password(self) -> None:
        """The password changes, the sessions end and that is told, or nothing."""

        def change(process: Process) -> Any:
            known = result(process.desk.read(users_store.load, FIRST))
            return result(process.desk.write(set_password, known, "$argon2id$y", NOW))

        self.write(change, repeatable=False)

    def test_refresh(self) -> None:
        """A refresh token is spent and its successor is there, or neither. It is not to be repeated."""
        self.write(
            lambda process: repr(result(process.desk.write(users_store.trade, b"1" * 32, b"2" * 32, NOW + 2, NOW))),
            repeatable=False,
        )
