"""What an order may be, and the saga as a table.

An order is placed PENDING. The saga then takes one step after the other, each a message through the MOM:

    placed ──(no address given)──> ask users for the address ──┐
       └────(address given)───────────────────────────────────┴──> reserve the stock ──> CONFIRMED | REJECTED

    PENDING | CONFIRMED ──cancel──> CANCELLED, and the stock is released

REJECTED and CANCELLED are final. An outcome that comes for an order that has moved on meanwhile changes nothing: what
was reserved for an order that was cancelled is given back by the release that the cancellation has sent.
"""

from collections.abc import Mapping, Sequence
from enum import Enum

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

    PENDING = "PENDING"
    CONFIRMED = "CONFIRMED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"


# What may follow what. Whatever is not here does not happen.
TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.PENDING: frozenset({Status.CONFIRMED, Status.REJECTED, Status.CANCELLED}),
    Status.CONFIRMED: frozenset({Status.CANCELLED}),
    Status.REJECTED: frozenset(),
    Status.CANCELLED: frozenset(),
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


def lines(request: orders_pb2.CreateOrderRequest) -> tuple[Item, ...]:
    """The lines of a new order, those of one book added up. Raises `InvalidArgument` naming each field at fault."""
    checks = Checks()
    checks.require(len(request.items) > 0, "items", "must have at least one line")
    checks.require(len(request.items) <= MAX_LINES, "items", f"must have at most {MAX_LINES} lines")
    copies: dict[str, int] = {}
    for number, item in enumerate(request.items[: MAX_LINES + 1]):
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


def moved(order: Order, status: Status, now: int, reason: str = "") -> Order:
    """The order after a transition. Raises `ValueError` for one that is not in the table."""
    if status not in TRANSITIONS[order.status]:
        raise ValueError(f"an order does not go from {order.status.value} to {status.value}")
    return evolve(order, status=status, reason=reason, updated_at=now, version=order.version + 1)


def addressed(order: Order, address: str, now: int) -> Order:
    """The pending order with the address that the users service gave; rejected when it gave none."""
    if order.status is not Status.PENDING:
        return order
    if not address.strip():
        return moved(order, Status.REJECTED, now, "there is no shipping address, neither in the order nor for the user")
    return evolve(order, shipping_address=address, updated_at=now, version=order.version + 1)


def settled(order: Order, reservation: inventory_pb2.Reservation, now: int) -> Order:
    """The order after the inventory's decision; unchanged when it is pending no more."""
    if order.status is not Status.PENDING:
        return order
    if reservation.status != inventory_pb2.RESERVATION_STATUS_RESERVED:
        return moved(order, Status.REJECTED, now, reservation.reason or "the stock was released before it was reserved")
    priced = {item.book_id: item for item in reservation.items}
    if set(priced) != {item.book_id for item in order.items}:
        return moved(order, Status.REJECTED, now, "the inventory reserved other books than were ordered")
    items = tuple(
        evolve(item, unit_price=priced[item.book_id].unit_price, title=priced[item.book_id].title)
        for item in order.items
    )
    return evolve(moved(order, Status.CONFIRMED, now), items=items, total=_total(items))


def cancelled(order: Order, now: int) -> Order:
    """The order after its cancellation; unchanged when it was cancelled before. Raises `FailedPrecondition` for a
    rejected one."""
    if order.status is Status.CANCELLED:
        return order
    if order.status is Status.REJECTED:
        raise FailedPrecondition("a rejected order cannot be cancelled", reason="ORDER_REJECTED")
    return moved(order, Status.CANCELLED, now)


def _total(items: Sequence[Item]) -> Money:
    return money.total([money.times(item.unit_price, item.quantity) for item in items if item.unit_price is not None])
