"""What the tests of the orders share: a MOM with an inventory and users behind it, all in memory, and the daemon's parts
on a fake desk."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from sqlalchemy import Engine
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.relay import Relay
from bookd.contract import metadata
from bookd.contract.call import Call, fingerprint
from bookd.contract.status import from_status
from bookd.errors import BookdError, NotFound, Unavailable
from bookd.orders import saga, schema, store
from bookd.orders.news import News
from bookd.orders.rules import Item, Order, Status
from bookd.orders.servicer import OrdersServicer
from bookd.storage.engine import open_engine
from bookd.storage.outbox import PUBLISH
from bookd.testing.desk import ImmediateDesk
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2 import PublishRequest
from bookd.wire.orders.v1 import orders_pb2
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2

CREATE, CANCEL = "/bookd.orders.v1.OrdersService/CreateOrder", "/bookd.orders.v1.OrdersService/CancelOrder"
USER, OTHER = "0193aaaa-0000-7000-8000-000000000001", "0193aaaa-0000-7000-8000-000000000002"
PRICE = Money(currency_code="USD", units=15, nanos=990_000_000)
PATIENCE = 1.2


class Inventory:
    """The promises of the inventory that the saga rests on."""

    def __init__(self) -> None:
        self.stock = {"a": 10, "b": 10}
        self.reservations: dict[str, inventory_pb2.Reservation] = {}

    def ReserveStock(self, request: inventory_pb2.ReserveStockRequest) -> inventory_pb2.Reservation:
        """All lines or none; one decision an order."""
        decided = self.reservations.get(request.order_id)
        if decided is not None:
            return decided
        decided = inventory_pb2.Reservation(order_id=request.order_id)
        if all(self.stock.get(item.book_id, 0) >= item.quantity for item in request.items):
            decided.status = inventory_pb2.RESERVATION_STATUS_RESERVED
            for item in request.items:
                self.stock[item.book_id] -= item.quantity
                decided.items.add(
                    book_id=item.book_id, quantity=item.quantity, unit_price=PRICE, title=f"Book {item.book_id}"
                )
        else:
            decided.status = inventory_pb2.RESERVATION_STATUS_REJECTED
            decided.reason = "sold out"
        self.reservations[request.order_id] = decided
        return decided

    def ReleaseStock(self, request: inventory_pb2.ReleaseStockRequest) -> inventory_pb2.Reservation:
        """A release wins over a reservation that comes later."""
        decided = self.reservations.setdefault(request.order_id, inventory_pb2.Reservation(order_id=request.order_id))
        if decided.status != inventory_pb2.RESERVATION_STATUS_REJECTED:
            for item in decided.items:
                self.stock[item.book_id] += item.quantity
            del decided.items[:]
            decided.status = inventory_pb2.RESERVATION_STATUS_RELEASED
        return decided

    def held(self) -> set[str]:
        """The orders that hold stock."""
        return {order_id for order_id, reservation in self.reservations.items() if reservation.items}


class FakeMom:
    """A channel to a MOM. `mode` says what becomes of calls, by method name or for all under "":

    "up": delivered and answered. "keep": kept, and delivered by `deliver()`. "down": refused, nothing kept. "hang": no
    answer until the call is cancelled or `time_out()`. "lost": delivered, but the answer is lost. "refuse": a final
    error. Events are taken in any mode.
    """

    def __init__(self) -> None:
        self.inventory = Inventory()
        self.users = {USER: users_pb2.User(user_id=USER, address="1 Elm Street")}
        self.mode: dict[str, str] = {"": "up"}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.outcomes: dict[str, message_pb2.Outcome] = {}
        self.kept: list[tuple[str, str, bytes]] = []
        self.hanging: list[Deferred[bytes]] = []
        self.events: list[Event] = []

    def unary_unary(self, method: str) -> Callable[..., Deferred[bytes]]:
        """The raw call."""

        def call(request: bytes, timeout: float, metadata: Sequence[tuple[str, Any]]) -> Deferred[bytes]:
            return self._call(method, request, dict(metadata))

        return call

    def names(self) -> list[str]:
        """The names of the methods that were called."""
        return [method.rpartition("/")[2] for method, _ in self.calls]

    def told(self) -> list[str]:
        """The types of the events that were published, without their package."""
        return [event.type.rpartition(".")[2] for event in self.events]

    def _call(self, method: str, request: bytes, carried: dict[str, Any]) -> Deferred[bytes]:
        if method == PUBLISH:
            # Whatever becomes of other calls, the MOM itself is there.
            self.events += PublishRequest.FromString(request).events
            return succeed(b"")
        self.calls.append((method, carried))
        message_id = carried[metadata.MESSAGE_ID]
        name = method.rpartition("/")[2]
        match self.mode.get(name, self.mode[""]):
            case "up":
                return self._answer(self._deliver(message_id, method, request))
            case "lost":
                self._deliver(message_id, method, request)
                return fail(Unavailable("the connection broke"))
            case "keep":
                if message_id in self.outcomes:
                    return self._answer(self.outcomes[message_id])
                if message_id not in [kept for kept, _, _ in self.kept]:
                    self.kept.append((message_id, method, request))
                deferred = message_pb2.Deferred(operation=Operation(name=f"operations/{message_id}"))
                return fail(Unavailable("kept", details=[deferred]))
            case "hang":
                hanging: Deferred[bytes] = Deferred(self.hanging.remove)
                self.hanging.append(hanging)
                return hanging
            case "refuse":
                return fail(NotFound("no such thing"))
            case _:
                return fail(Unavailable("nobody there"))

    def _answer(self, outcome: message_pb2.Outcome) -> Deferred[bytes]:
        return fail(from_status(outcome.status)) if outcome.status.code else succeed(outcome.response)

    def _deliver(self, message_id: str, method: str, request: bytes) -> message_pb2.Outcome:
        if message_id not in self.outcomes:
            outcome = message_pb2.Outcome(message_id=message_id, method=method)
            try:
                outcome.response = self._serve(method, request).SerializeToString()
            except BookdError as error:
                outcome.status.code, outcome.status.message = error.code, error.message
            self.outcomes[message_id] = outcome
        return self.outcomes[message_id]

    def _serve(self, method: str, request: bytes) -> Message:
        if method == saga.GET_USER:
            user = self.users.get(users_pb2.GetUserRequest.FromString(request).user_id)
            if user is None:
                raise NotFound("no such user")
            return user
        if method == saga.RESERVE_STOCK:
            return self.inventory.ReserveStock(inventory_pb2.ReserveStockRequest.FromString(request))
        assert method == saga.RELEASE_STOCK
        return self.inventory.ReleaseStock(inventory_pb2.ReleaseStockRequest.FromString(request))

    def deliver(self) -> list[message_pb2.Outcome]:
        """Deliver what is kept; answers the outcomes for the reply method."""
        kept, self.kept = self.kept, []
        return [self._deliver(*each) for each in kept]

    def time_out(self) -> None:
        """End the calls that hang."""
        hanging, self.hanging = self.hanging, []
        for call in hanging:
            call.errback(Unavailable("it took too long"))


class FakeContext:
    """What servicers use of a call's context."""

    def __init__(
        self, subject: str | None = USER, roles: Sequence[str] = ("customer",), message_id: str | None = None
    ) -> None:
        self.principal = policy_pb2.Principal(subject=subject, roles=roles) if subject is not None else None
        self.message_id = message_id
        self.request_id = "request-1"
        self.metadata = {metadata.TRACEPARENT: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        self.remaining: float | None = None
        self.call = Call(message_id, "", b"")

    def time_remaining(self) -> float | None:
        """Seconds that the caller waits."""
        return self.remaining

    def of(self, method: str, request: Message) -> "FakeContext":
        """The context of one call."""
        self.call = Call(self.message_id, method, fingerprint(method, request))
        return self


def asked(*lines: tuple[str, int], address: str = "2 Oak Street") -> orders_pb2.CreateOrderRequest:
    """A request for an order."""
    request = orders_pb2.CreateOrderRequest(shipping_address=address)
    for book_id, quantity in lines or [("a", 1)]:
        request.items.add(book_id=book_id, quantity=quantity)
    return request


def pending(order_id: str | None = None, address: str = "2 Oak Street", **changes: Any) -> Order:
    """A new order."""
    values: dict[str, Any] = {
        "order_id": order_id or str(uuid4()),
        "user_id": USER,
        "items": (Item("a", 1), Item("b", 2)),
        "shipping_address": address,
        "status": Status.PENDING,
        "reason": "",
        "total": None,
        "created_at": 1,
        "updated_at": 1,
    }
    return Order(**{**values, **changes})


class PromptClock(Clock):
    """A clock on which what is brought forward to this moment is done at once: there is no turn of a reactor to wait for."""

    def callLater(self, when: float, what: Any, *args: Any, **kwargs: Any) -> IDelayedCall:
        """As every clock has it."""
        call: Any = super().callLater(when, what, *args, **kwargs)
        call.resetter = lambda _: self.advance(0)
        return call  # type: ignore[no-any-return]


class OrdersTestCase(SynchronousTestCase):
    """The daemon's parts on one database, with a clock that stands until it is pushed."""

    database: Any = ":memory:"

    def setUp(self) -> None:
        """Start the relay on a new database."""
        self.clock = PromptClock()
        self.mom = FakeMom()
        self.ids = (str(UUID(int=number)) for number in count(1))
        self.engine = self.open()
        self.build(self.engine)
        self.addCleanup(self.stop)

    def open(self) -> Engine:
        """The database, with its tables: test_schema shows that migrations make the same ones, but not so fast."""
        engine = open_engine(self.database)
        schema.metadata.create_all(engine)
        self.addCleanup(engine.dispose)
        return engine

    def build(self, engine: Engine) -> None:
        """The parts of a daemon, started."""
        self.desk = ImmediateDesk(engine)
        self.news = News(self.clock)
        self.relay = Relay(
            self.clock,
            self.desk,
            self.mom,
            now=self.now,
            apply=saga.apply_sent,
            told=self.news.tell,
            jitter=lambda: 1.0,
        )
        self.servicer = OrdersServicer(
            self.desk,
            news=self.news,
            now=self.now,
            new_id=lambda: next(self.ids),
            patience=PATIENCE,
        )
        self.relay.startService()

    def stop(self) -> None:
        """Stop the relay, once callers have lost their patience; nothing is left behind."""
        self.clock.advance(PATIENCE)
        self.successResultOf(self.relay.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def now(self) -> int:
        """Microseconds of the clock."""
        return 1_000_000 + round(self.clock.seconds() * 1e6)

    def create(
        self, request: orders_pb2.CreateOrderRequest | None = None, context: FakeContext | None = None
    ) -> Deferred[orders_pb2.Order]:
        """Call CreateOrder."""
        request = asked() if request is None else request
        context = (context or FakeContext()).of(CREATE, request)
        return Deferred.fromCoroutine(self.servicer.CreateOrder(request, context))  # type: ignore[arg-type]

    def created(self, *args: Any) -> orders_pb2.Order:
        """The answer of CreateOrder, which must be there."""
        return self.successResultOf(self.create(*args))

    def cancel(self, order_id: str, context: FakeContext | None = None) -> Deferred[orders_pb2.Order]:
        """Call CancelOrder."""
        request = orders_pb2.CancelOrderRequest(order_id=order_id)
        context = (context or FakeContext()).of(CANCEL, request)
        return Deferred.fromCoroutine(self.servicer.CancelOrder(request, context))  # type: ignore[arg-type]

    def apply(self, outcome: message_pb2.Outcome) -> None:
        """Call ApplyOutcome, which must answer."""
        request = orders_pb2.ApplyOutcomeRequest(outcome=outcome)
        context: Any = FakeContext(subject=None)
        self.successResultOf(Deferred.fromCoroutine(self.servicer.ApplyOutcome(request, context)))

    def load(self, order_id: str) -> Order:
        """The order as it is stored."""
        order = self.successResultOf(self.desk.read(store.load, order_id))
        assert order is not None
        return order

    def outbox(self) -> list[str]:
        """Names of the methods of the saga in the outbox, in order."""
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT method FROM outbox WHERE lane NOT LIKE 'event %' ORDER BY seq"
            ).all()
        return [method.rpartition("/")[2] for (method,) in rows]

    def push(self, seconds: float, step: float = 0.05) -> None:
        """Let time pass."""
        self.clock.pump([step] * round(seconds / step))
