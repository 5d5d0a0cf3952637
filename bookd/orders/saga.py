"""The saga of an order: what each event writes, in one transaction.

Each step is a message to another service. It is put into the outbox together with the change that asks for it, and
noted in `steps`; its outcome is applied once, whether the relay brings it or, later, the MOM by ApplyOutcome. A step's
message id follows from the order's id, so a step cannot be taken twice.

An order that is PENDING has an open step. That step's message is in the outbox, or the MOM has it and will deliver the
outcome: after a restart nothing else needs to be looked for.
"""

from enum import Enum
from uuid import UUID, uuid5

from sqlalchemy import Connection, func, select

from bookd.contract.policy import may_see
from bookd.errors import NotFound
from bookd.orders import rules, store
from bookd.orders.rules import Order, Status
from bookd.orders.schema import steps
from bookd.storage import outbox
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2

APPLY_OUTCOME = "/bookd.orders.v1.OrdersService/ApplyOutcome"
GET_USER = "/bookd.users.v1.UsersService/GetUser"
RESERVE_STOCK = "/bookd.inventory.v1.InventoryService/ReserveStock"
RELEASE_STOCK = "/bookd.inventory.v1.InventoryService/ReleaseStock"


class Step(Enum):
    """What the saga asks of others."""

    ADDRESS = "ADDRESS"
    RESERVE = "RESERVE"
    RELEASE = "RELEASE"


def place(connection: Connection, order: Order, principal: policy_pb2.Principal, now: int) -> Order:
    """Store a new order and ask for its first step."""
    store.add(connection, order)
    if order.shipping_address.strip():
        _ask_to_reserve(connection, order, now)
    else:
        request = users_pb2.GetUserRequest(user_id=order.user_id).SerializeToString()
        # A read is never kept by the MOM: the relay asks until users answers, and no reply can come later.
        message = _message(order, Step.ADDRESS, GET_USER, request, principal=principal.SerializeToString(), reply_to="")
        _ask(connection, order, Step.ADDRESS, message, now)
    return order


def cancel(connection: Connection, order_id: str, principal: policy_pb2.Principal | None, now: int) -> Order:
    """Cancel an order and ask for its stock to be released. Raises `NotFound` for an order that is not there or that
    the principal may not see, `FailedPrecondition` for a rejected one."""
    order = store.load(connection, order_id)
    if order is None or not may_see(order.user_id, principal, "staff", "admin"):
        raise NotFound(f"there is no order {order_id!r}", reason="ORDER_NOT_FOUND")
    after = rules.cancelled(order, now)
    if after is not order:
        store.save(connection, after)
        _ask_to_release(connection, after, now)
    return after


def apply(connection: Connection, outcome: message_pb2.Outcome, now: int) -> str | None:
    """Apply the outcome of a step; answers the order's id, or None for a message that no saga sent. Applying it again
    changes nothing."""
    row = connection.execute(select(steps).where(steps.c.message_id == outcome.message_id).with_for_update()).first()
    if row is None:
        return None
    order_id: str = row.order_id
    if row.done_at is not None:
        return order_id
    connection.execute(steps.update().where(steps.c.message_id == outcome.message_id).values(done_at=now))
    order = store.load(connection, order_id)
    assert order is not None  # the foreign key of steps
    match Step(row.step):
        case Step.ADDRESS:
            _apply_address(connection, order, outcome, now)
        case Step.RESERVE:
            _apply_reservation(connection, order, outcome, now)
        case Step.RELEASE:
            pass
    return order_id


def open_steps(connection: Connection, order_id: str) -> int:
    """How many steps of an order have no outcome yet."""
    waiting = select(func.count()).select_from(steps).where(steps.c.order_id == order_id, steps.c.done_at.is_(None))
    count: int = connection.execute(waiting).scalar_one()
    return count


def _apply_address(connection: Connection, order: Order, outcome: message_pb2.Outcome, now: int) -> None:
    if outcome.status.code:
        if order.status is Status.PENDING:
            reason = f"the shipping address is not known: {outcome.status.message}"
            store.save(connection, rules.moved(order, Status.REJECTED, now, reason))
        return
    after = rules.addressed(order, users_pb2.User.FromString(outcome.response).address, now)
    if after is not order:
        store.save(connection, after)
    if after.status is Status.PENDING:
        _ask_to_reserve(connection, after, now)


def _apply_reservation(connection: Connection, order: Order, outcome: message_pb2.Outcome, now: int) -> None:
    if outcome.status.code:
        # Whether stock was taken is not known: a release that finds nothing does no harm.
        if order.status is Status.PENDING:
            reason = f"the stock could not be reserved: {outcome.status.message}"
            store.save(connection, rules.moved(order, Status.REJECTED, now, reason))
            _ask_to_release(connection, order, now)
        return
    reservation = inventory_pb2.Reservation.FromString(outcome.response)
    after = rules.settled(order, reservation, now)
    if after is order:
        return
    store.save(connection, after)
    if after.status is Status.REJECTED and reservation.status == inventory_pb2.RESERVATION_STATUS_RESERVED:
        _ask_to_release(connection, order, now)


def _ask_to_reserve(connection: Connection, order: Order, now: int) -> None:
    request = inventory_pb2.ReserveStockRequest(order_id=order.order_id)
    for item in order.items:
        request.items.add(book_id=item.book_id, quantity=item.quantity)
    message = _message(order, Step.RESERVE, RESERVE_STOCK, request.SerializeToString())
    _ask(connection, order, Step.RESERVE, message, now)


def _ask_to_release(connection: Connection, order: Order, now: int) -> None:
    request = inventory_pb2.ReleaseStockRequest(order_id=order.order_id).SerializeToString()
    _ask(connection, order, Step.RELEASE, _message(order, Step.RELEASE, RELEASE_STOCK, request), now)


def _message(
    order: Order, step: Step, method: str, request: bytes, *, principal: bytes = b"", reply_to: str = APPLY_OUTCOME
) -> outbox.Message:
    message_id = str(uuid5(UUID(order.order_id), step.value))
    return outbox.Message(message_id, order.order_id, method, request, principal, reply_to)


def _ask(connection: Connection, order: Order, step: Step, message: outbox.Message, now: int) -> None:
    connection.execute(steps.insert().values(message_id=message.message_id, order_id=order.order_id, step=step.value))
    outbox.put(connection, message, now)
