"""The saga of an order: what each event writes, in one transaction.

What follows what stands in the table of `bookd.orders.rules`. Here each step becomes a message to another service. It is
put into the outbox together with the change that asks for it, and noted in `steps`; its outcome is applied once, whether
the relay brings it or, later, the MOM by ApplyOutcome. All messages of an order go in one lane, so a release is never
sent before the reservation.

A step is open until its outcome is applied. Its message then is in the outbox, and the relay sends it; or it is not, and
the MOM has it on disk and will bring the outcome. So after a restart nothing has to be looked for. Should the MOM have
lost it nevertheless, because an operator discarded it or an older backup was restored, `bookd.orders.sweep` puts the
message into the outbox again.
"""

from attrs import frozen
from google.protobuf.message import DecodeError
from sqlalchemy import Connection, bindparam, func, select

from bookd.contract.names import following
from bookd.contract.policy import may_see
from bookd.contract.status import from_status
from bookd.errors import FINAL, NotFound
from bookd.orders import rules, store
from bookd.orders.messages import to_message
from bookd.orders.rules import Answer, News, Order, Status, Step
from bookd.orders.schema import steps
from bookd.storage import outbox
from bookd.storage.announce import announce
from bookd.storage.outbox import Trace
from bookd.storage.prepared import Prepared
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.orders.v1 import events_pb2, orders_pb2
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2

APPLY_OUTCOME = "/bookd.orders.v1.OrdersService/ApplyOutcome"
GET_USER = "/bookd.users.v1.UsersService/GetUser"
RESERVE_STOCK = "/bookd.inventory.v1.InventoryService/ReserveStock"
RELEASE_STOCK = "/bookd.inventory.v1.InventoryService/ReleaseStock"

SERVICE = "bookd.orders.v1.OrdersService"
_TOLD = {
    Status.PENDING: events_pb2.OrderPlaced,
    Status.CONFIRMED: events_pb2.OrderConfirmed,
    Status.REJECTED: events_pb2.OrderRejected,
    Status.CANCELLED: events_pb2.OrderCancelled,
}

# Pending orders of one user that are cancelled when the user is gone. Nobody has so many.
MOST_PENDING = 100_000
_CLOSE = Prepared(steps.update().where(steps.c.message_id == bindparam("sent")).values(done_at=bindparam("at")))
_ASKED = Prepared(
    select(func.count())
    .select_from(steps)
    .where(steps.c.order_id == bindparam("of"), steps.c.step == bindparam("which"))
)
_ASK = Prepared(steps.insert().inline())

# Microseconds until a step that failed is asked for again. The MOM has tried for long by then.
AGAIN_AFTER = 30_000_000


@frozen
class Applied:
    """What the outcome of a step was applied to: the order's id, and the order as it stands, if that was decided now and
    nothing more is asked for it."""

    order_id: str
    stands: orders_pb2.Order | None = None


def place(connection: Connection, order: Order, trace: Trace) -> orders_pb2.Order:
    """Store a new order and ask for its first step."""
    store.add(connection, order)
    placed = _tell(connection, order, trace)
    _ask(connection, order, rules.first_step(order), trace, order.created_at, first=True)
    return placed


def cancel(
    connection: Connection, order_id: str, principal: policy_pb2.Principal | None, trace: Trace, now: int
) -> orders_pb2.Order:
    """Cancel an order and ask for its stock to be released. Raises `NotFound` for an order that is not there or that
    the principal may not see, `FailedPrecondition` for a rejected one."""
    before = store.load(connection, order_id)
    if before is None or not may_see(before.user_id, principal, "staff", "admin"):
        raise no_order(order_id)
    return _cancel(connection, before, trace, now)


def user_deleted(connection: Connection, user_id: str, trace: Trace, now: int) -> list[str]:
    """Cancel the orders of a user that are pending; answers their ids. Those that are confirmed are the staff's business."""
    pending, _, _ = store.page(connection, user_id, Status.PENDING, None, MOST_PENDING)
    return [_cancel(connection, order, trace, now).order_id for order in pending]


def _cancel(connection: Connection, before: Order, trace: Trace, now: int) -> orders_pb2.Order:
    after, step = rules.cancelled(before, now)
    if after is not before:
        store.save(connection, before, after)
        cancelled = _tell(connection, after, trace)
    else:
        cancelled = to_message(after)
    if step is not None:
        _ask(connection, after, step, trace, now)
    return cancelled


def apply(connection: Connection, outcome: message_pb2.Outcome, trace: Trace, now: int) -> Applied | None:
    """Apply the outcome of a step; answers None for a message that no saga sent. Applying it again changes nothing."""
    asked = store.load_asked(connection, outcome.message_id)
    if asked is None:
        return None
    before, step, done = asked
    if done:
        return Applied(before.order_id)
    news = _news(before, step, outcome)
    after, next_step = rules.answered(before, step, news, now)
    _CLOSE.run(connection, {"sent": outcome.message_id, "at": now})
    if after is not before:
        store.save(connection, before, after)
    told = _tell(connection, after, trace) if after.status is not before.status else None
    if next_step is not None:
        _ask(connection, after, next_step, trace, now, pause=AGAIN_AFTER if next_step is step else 0)
        return Applied(before.order_id)
    # An answer that found its order cancelled is followed by that of the release.
    return Applied(before.order_id, told)


def apply_sent(
    connection: Connection, sent: outbox.Message, outcome: message_pb2.Outcome, now: int
) -> orders_pb2.Order | None:
    """Apply the outcome of a message that the relay has sent; the next one belongs to the same trace. Answers what stands."""
    applied = apply(connection, outcome, sent.trace, now)
    return None if applied is None else applied.stands


def no_order(order_id: str) -> NotFound:
    """What is said of an order that is not there, or not for this caller."""
    return NotFound(f"no order {order_id[:64]}", reason="ORDER_NOT_FOUND")


def _tell(connection: Connection, order: Order, trace: Trace) -> orders_pb2.Order:
    """Publish what an order has become, and answer it."""
    message = to_message(order)
    told = _TOLD[order.status](order=message)
    announce(connection, SERVICE, told, order.order_id, str(order.version), order.updated_at, trace)
    return message


def _news(order: Order, step: Step, outcome: message_pb2.Outcome) -> News:
    if outcome.status.code:
        refused = outcome.status.code in FINAL
        # Somebody asked for something else under this id: what that took is to be given back.
        if refused and from_status(outcome.status).reason == "IDEMPOTENCY_KEY_REUSED":
            refused = False
        decision = Answer.REFUSED if refused else Answer.LOST
        subject = (
            "the shipping address is not known" if step is Step.ADDRESS else "the inventory did not take the order"
        )
        return News(decision, f"{subject}: {outcome.status.message}")
    try:
        match step:
            case Step.ADDRESS:
                return rules.located(users_pb2.User.FromString(outcome.response).address)
            case Step.RESERVE:
                return rules.decided(order, inventory_pb2.Reservation.FromString(outcome.response))
            case Step.RELEASE:
                return News(Answer.DONE)
    except DecodeError as error:
        return News(Answer.LOST, f"the answer cannot be read: {error}")


def message(order: Order, step: Step, message_id: str, trace: Trace) -> outbox.Message:
    """The message that asks for a step. It is the same whenever it is made, but for the trace."""
    method, request, reply_to = _call(order, step)
    # Users looks at who asks: the address is read with the right of the user whose order it is, and no other.
    asks = policy_pb2.Principal(subject=order.user_id, roles=["customer"]) if step is Step.ADDRESS else None
    principal = asks.SerializeToString() if asks is not None else b""
    return outbox.Message(message_id, order.order_id, method, request, principal, reply_to, trace)


def _ask(
    connection: Connection, order: Order, step: Step, trace: Trace, now: int, *, pause: int = 0, first: bool = False
) -> None:
    asked = 0 if first else _ASKED.value(connection, {"of": order.order_id, "which": step.value})
    # The first message of a step is named after it; so it cannot be sent twice under two names.
    name = f"{step.value}/{asked}" if asked else step.value
    message_id = following(order.order_id, name)
    asking = {"message_id": message_id, "order_id": order.order_id, "step": step.value, "sweep_from": now + pause}
    _ASK.run(connection, asking)
    outbox.put(connection, message(order, step, message_id, trace), now, now + pause)


def _call(order: Order, step: Step) -> tuple[str, bytes, str]:
    """Method path, serialized request and reply method of a step."""
    match step:
        case Step.ADDRESS:
            # A read is never kept by the MOM: the relay asks until users answers, and no reply can come later.
            return GET_USER, users_pb2.GetUserRequest(user_id=order.user_id).SerializeToString(), ""
        case Step.RESERVE:
            reserve = inventory_pb2.ReserveStockRequest(order_id=order.order_id)
            for item in order.items:
                reserve.items.add(book_id=item.book_id, quantity=item.quantity)
            return RESERVE_STOCK, reserve.SerializeToString(), APPLY_OUTCOME
        case Step.RELEASE:
            release = inventory_pb2.ReleaseStockRequest(order_id=order.order_id)
            return RELEASE_STOCK, release.SerializeToString(), APPLY_OUTCOME
