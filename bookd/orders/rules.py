"""What an order may be, and the saga as a table.

An order is placed PENDING. The saga asks others for one step after the other, each a message through the MOM:

    placed ──(no address given)──> ADDRESS: ask users ──┐
       └────(address given)─────────────────────────────┴──> RESERVE: ask the inventory ──> CONFIRMED | REJECTED

    PENDING | CONFIRMED ──cancel──> CANCELLED ──> RELEASE: give the stock back

REJECTED and CANCELLED are final. What is promised: stock is taken for an order that is PENDING or CONFIRMED only. So
whenever an order leaves these states and a reservation was asked for that may have taken stock, or may still take some,
a release is asked for. The inventory lets a release win over a reservation that comes after it; an answer to RESERVE
that finds its order cancelled therefore changes nothing.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from attrs import evolve, frozen
from google.type.money_pb2 import Money

from bookd.contract import money
from bookd.contract.checks import Checks
from bookd.errors import FailedPrecondition
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.orders.v1 import orders_pb2

MAX_LINES = 100
MAX_QUANTITY = 10_000
MAX_ADDRESS = 1000


class Status(Enum):
    """Where an order stands; the values are those of the database."""

    PENDING = "PENDING"  # the inventory has not decided
    CONFIRMED = "CONFIRMED"  # its stock is reserved, its prices are known
    REJECTED = "REJECTED"  # it cannot be fulfilled
    CANCELLED = "CANCELLED"  # its owner or the staff took it back


class Step(Enum):
    """What the saga asks of others; the values are those of the database."""

    ADDRESS = "ADDRESS"  # users: where does this user live?
    RESERVE = "RESERVE"  # inventory: take the stock, tell the prices
    RELEASE = "RELEASE"  # inventory: put the stock back


class Answer(Enum):
    """What became of a step."""

    DONE = "DONE"
    REFUSED = "REFUSED"  # it was decided that nothing happens
    LOST = "LOST"  # it failed without a decision; whether it took effect is not known


# (where the order stands, the step that is answered, its answer) -> (where it stands then, the step to ask for next).
# Whatever is not here cannot happen.
SAGA: Mapping[tuple[Status, Step, Answer], tuple[Status, Step | None]] = {
    (Status.PENDING, Step.ADDRESS, Answer.DONE): (Status.PENDING, Step.RESERVE),
    (Status.PENDING, Step.ADDRESS, Answer.REFUSED): (Status.REJECTED, None),
    (Status.PENDING, Step.ADDRESS, Answer.LOST): (Status.REJECTED, None),
    (Status.PENDING, Step.RESERVE, Answer.DONE): (Status.CONFIRMED, None),
    (Status.PENDING, Step.RESERVE, Answer.REFUSED): (Status.REJECTED, None),
    (Status.PENDING, Step.RESERVE, Answer.LOST): (Status.REJECTED, Step.RELEASE),
    # Cancelled meanwhile: the cancellation has asked for the release, if there was anything to release.
    (Status.CANCELLED, Step.ADDRESS, Answer.DONE): (Status.CANCELLED, None),
    (Status.CANCELLED, Step.ADDRESS, Answer.REFUSED): (Status.CANCELLED, None),
    (Status.CANCELLED, Step.ADDRESS, Answer.LOST): (Status.CANCELLED, None),
    (Status.CANCELLED, Step.RESERVE, Answer.DONE): (Status.CANCELLED, None),
    (Status.CANCELLED, Step.RESERVE, Answer.REFUSED): (Status.CANCELLED, None),
    (Status.CANCELLED, Step.RESERVE, Answer.LOST): (Status.CANCELLED, None),
    # A release is asked for until it is done.
    (Status.CANCELLED, Step.RELEASE, Answer.DONE): (Status.CANCELLED, None),
    (Status.CANCELLED, Step.RELEASE, Answer.REFUSED): (Status.CANCELLED, Step.RELEASE),
    (Status.CANCELLED, Step.RELEASE, Answer.LOST): (Status.CANCELLED, Step.RELEASE),
    (Status.REJECTED, Step.RELEASE, Answer.DONE): (Status.REJECTED, None),
    (Status.REJECTED, Step.RELEASE, Answer.REFUSED): (Status.REJECTED, Step.RELEASE),
    (Status.REJECTED, Step.RELEASE, Answer.LOST): (Status.REJECTED, Step.RELEASE),
}


@frozen
class Item:
    """One line: copies of a book, and once reserved its price and title."""

    book_id: str
    quantity: int
    unit_price: Money | None = None
    title: str = ""


@frozen
class Order:
    """An order as it is stored. Times are microseconds since the epoch, UTC; `version` counts the changes from 1."""

    order_id: str
    user_id: str
    items: tuple[Item, ...]
    shipping_address: str
    status: Status
    reason: str
    total: Money | None
    created_at: int
    updated_at: int
    version: int = 1


@frozen
class News:
    """An answer with what it brings: a reason when it is no DONE; else the address, or the items with their prices."""

    answer: Answer
    reason: str = ""
    address: str = ""
    items: tuple[Item, ...] = ()


def matters(status: Status, step: Step) -> bool:
    """Whether any answer to the step would change an order that stands so, or make the saga ask for something."""
    nothing = (status, None)
    return any(SAGA.get((status, step, answer), nothing) != nothing for answer in Answer)


def lines(request: orders_pb2.CreateOrderRequest) -> tuple[Item, ...]:
    """The lines of a new order, those of one book added up. Raises `InvalidArgument` naming each field at fault."""
    checks = Checks()
    checks.require(len(request.items) > 0, "items", "must have at least one line")
    checks.require(len(request.items) <= MAX_LINES, "items", f"must have at most {MAX_LINES} lines")
    copies: dict[str, int] = {}
    for number, item in enumerate(request.items[:MAX_LINES]):
        here = f"items[{number}]"
        checks.text(f"{here}.book_id", item.book_id, 1, 64)
        limits = f"must be from 1 to {MAX_QUANTITY}"
        if checks.require(1 <= item.quantity <= MAX_QUANTITY, f"{here}.quantity", limits):
            copies[item.book_id] = copies.get(item.book_id, 0) + item.quantity
            within = copies[item.book_id] <= MAX_QUANTITY
            checks.require(within, f"{here}.quantity", f"makes more than {MAX_QUANTITY} copies of one book")
    checks.text("shipping_address", request.shipping_address, 0, MAX_ADDRESS)
    checks.done()
    return tuple(Item(book_id, quantity) for book_id, quantity in copies.items())


def first_step(order: Order) -> Step:
    """What the saga of a new order begins with."""
    return Step.RESERVE if order.shipping_address else Step.ADDRESS


def located(address: str) -> News:
    """What the users service's answer means: an address, or none."""
    if address.strip():
        return News(Answer.DONE, address=address.strip())
    return News(Answer.REFUSED, "there is no shipping address, neither in the order nor for the user")


def decided(order: Order, reservation: inventory_pb2.Reservation) -> News:
    """What the inventory's answer to RESERVE means: its prices, or its reason. A reservation that does not fit the order
    counts as lost, so that it is released."""
    if reservation.status == inventory_pb2.RESERVATION_STATUS_REJECTED:
        return News(Answer.REFUSED, reservation.reason or "the inventory refused the order")
    if reservation.status == inventory_pb2.RESERVATION_STATUS_RELEASED:
        return News(Answer.REFUSED, "the stock was released before it was reserved")
    if reservation.status != inventory_pb2.RESERVATION_STATUS_RESERVED:
        return News(Answer.LOST, "the inventory did not decide")
    reserved = {item.book_id: item for item in reservation.items}
    if {book_id: item.quantity for book_id, item in reserved.items()} != {
        item.book_id: item.quantity for item in order.items
    }:
        return News(Answer.LOST, "the inventory reserved something else than was ordered")
    if len({item.unit_price.currency_code for item in reserved.values()}) != 1:
        return News(Answer.LOST, "the books have prices in different currencies")
    priced = [(item, reserved[item.book_id]) for item in order.items]
    items = (Item(item.book_id, item.quantity, found.unit_price, found.title) for item, found in priced)
    return News(Answer.DONE, items=tuple(items))


def answered(order: Order, step: Step, news: News, now: int) -> tuple[Order, Step | None]:
    """The order after an answer, the same object when nothing changed, and the step to ask for next. Raises `ValueError`
    for what the table does not know."""
    where = (order.status, step, news.answer)
    if where not in SAGA:
        raise ValueError(f"{step.value} cannot be answered while an order is {order.status.value}")
    status, next_step = SAGA[where]
    changes: dict[str, Any] = {}
    if status is not order.status:
        changes = {"status": status, "reason": news.reason}
        if status is Status.CONFIRMED:
            changes |= {"items": news.items, "total": _total(news.items)}
    elif step is Step.ADDRESS and next_step is Step.RESERVE:
        changes = {"shipping_address": news.address}
    return _changed(order, now, **changes) if changes else order, next_step


def cancelled(order: Order, now: int) -> tuple[Order, Step | None]:
    """The order after its cancellation, the same object when it was cancelled before, and the step to ask for next.
    Raises `FailedPrecondition` for a rejected order."""
    if order.status is Status.CANCELLED:
        return order, None
    if order.status is Status.REJECTED:
        raise FailedPrecondition("a rejected order cannot be cancelled", reason="ORDER_REJECTED")
    # Without an address nothing was reserved yet, and nothing will be.
    return _changed(order, now, status=Status.CANCELLED), Step.RELEASE if order.shipping_address else None


def _changed(order: Order, now: int, **changes: Any) -> Order:
    return evolve(order, updated_at=now, version=order.version + 1, **changes)


def _total(items: Sequence[Item]) -> Money:
    return money.total([money.times(item.unit_price, item.quantity) for item in items if item.unit_price is not None])
