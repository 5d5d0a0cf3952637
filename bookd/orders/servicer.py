"""Answers the rpcs of OrdersService.

CreateOrder and CancelOrder commit first. Then they wait for what the saga does next, as long as the relay is busy with
the order and the caller's patience lasts, and answer the order as it is by then.
"""

from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bookd.bridge.context import Context
from bookd.bridge.crossing import shield
from bookd.bridge.relay import Desk
from bookd.contract import metadata, paging
from bookd.contract.policy import may_see
from bookd.errors import InvalidArgument, PermissionDenied, Unauthenticated
from bookd.orders import rules, saga, store
from bookd.orders.messages import BY_NUMBER, to_message
from bookd.orders.news import Listener, News
from bookd.orders.rules import Order, Status
from bookd.storage import inbox, outbox
from bookd.storage.outbox import Trace
from bookd.wire.orders.v1 import orders_pb2, orders_pb2_grpc
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1.events_pb2 import UserDeleted

# Seconds of the caller's deadline that are left alone when waiting for the saga.
MARGIN = 0.3
# Attempts at a message after which no answer is expected soon.
HOPEFUL = 3


class OrdersServicer(orders_pb2_grpc.OrdersServiceServicer):
    """Orders over a desk. `patience` is how long a caller is
    made to wait for the saga, in seconds."""

    log = Logger()

    def __init__(
        self,
        desk: Desk,
        *,
        news: News,
        now: Callable[[], int],
        new_id: Callable[[], str],
        patience: float,
    ) -> None:
        self._desk = desk
        self._news = news
        self._now = now
        self._new_id = new_id
        self._patience = patience

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        """Place an order; answer it as the saga leaves it within the patience."""
        principal = _somebody(context)
        now = self._now()
        order = Order(
            order_id=self._new_id(),
            user_id=principal.subject,
            items=rules.lines(request),
            shipping_address=request.shipping_address.strip(),
            status=Status.PENDING,
            reason="",
            total=None,
            created_at=now,
            updated_at=now,
        )
        trace = _trace(context)
        with self._news.listen(order.order_id, self._patience_of(context)) as listener:
            placed = await self._write_once(context, now, lambda connection: saga.place(connection, order, trace))
            if placed.user_id != principal.subject:
                raise InvalidArgument("the message id was used by somebody else", reason="IDEMPOTENCY_KEY_REUSED")
            if placed.order_id == order.order_id:  # it is new, so that the saga has just begun
                await listener.next()
                return await self._when_it_stands(order.order_id, listener)
        return await self._after_the_saga(placed.order_id, context)

    async def CancelOrder(self, request: orders_pb2.CancelOrderRequest, context: Context) -> orders_pb2.Order:
        """Cancel an order; the answer comes when its stock is back, within the patience."""
        principal, order_id = _somebody(context), _order_id(request.order_id)
        now, trace = self._now(), _trace(context)
        cancelled = await self._write_once(
            context, now, lambda connection: saga.cancel(connection, order_id, principal, trace, now)
        )
        if not may_see(cancelled.user_id, principal, "staff", "admin"):
            raise saga.no_order(order_id)  # somebody else's message id came again
        return await self._after_the_saga(cancelled.order_id, context)

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Context) -> orders_pb2.Order:
        """One order, for its owner and for staff."""
        order = await self._desk.glance(store.load, _order_id(request.order_id))
        if order is None or not may_see(order.user_id, context.principal, "staff", "admin"):
            raise saga.no_order(request.order_id)
        return to_message(order)

    async def ListOrders(
        self, request: orders_pb2.ListOrdersRequest, context: Context
    ) -> orders_pb2.ListOrdersResponse:
        """A page of orders, newest first."""
        if not may_see(request.user_id, _somebody(context), "staff", "admin"):
            raise PermissionDenied("these are not your orders", reason="ROLE_MISSING")
        if request.status and request.status not in BY_NUMBER:
            raise InvalidArgument.field("status", f"{request.status} is not a status")
        size = paging.size(request.page_size)
        selected = f"orders user={request.user_id} status={request.status}"
        position = paging.decode(request.page_token, selected, int)
        before = int(position[0]) if position is not None else None
        status = BY_NUMBER.get(request.status)
        found, onward, total = await self._desk.read(store.page, request.user_id, status, before, size)
        return orders_pb2.ListOrdersResponse(
            orders=[to_message(order) for order in found],
            next_page_token=paging.encode([onward], selected) if onward is not None else "",
            total_size=total,
        )

    async def ApplyOutcome(self, request: orders_pb2.ApplyOutcomeRequest, context: Context) -> Empty:
        """Apply what became of a step that the MOM had kept."""
        applied: saga.Applied | None = await shield(
            self._desk.jot(saga.apply, request.outcome, _trace(context), self._now())
        )
        if applied is None:
            self.log.warn("an outcome came for {message_id}, which no saga sent", message_id=request.outcome.message_id)
        else:
            self._news.tell(applied.order_id, applied.stands)
        return Empty()

    async def TakeUserDeleted(self, request: orders_pb2.TakeUserDeletedRequest, context: Context) -> Empty:
        """Cancel what a user that is gone has waiting."""
        gone, now, trace = UserDeleted(), self._now(), _trace(context)
        if not request.event.data.Unpack(gone) or not gone.user_id:
            raise InvalidArgument.field("event.data", "must be a bookd.users.v1.UserDeleted that names the user")
        cancelled: list[str] = []

        def work(connection: Connection) -> Empty:
            cancelled.extend(saga.user_deleted(connection, gone.user_id, trace, now))
            return Empty()

        await shield(self._desk.write(inbox.once, context.call, Empty, now, work))
        for order_id in cancelled:
            self._news.tell(order_id)
        return Empty()

    def _write_once(
        self, context: Context, now: int, work: Callable[[Connection], orders_pb2.Order]
    ) -> Deferred[orders_pb2.Order]:
        """The order as `work` left it; for a message that comes again, as it left it the first time."""
        return shield(self._desk.jot(inbox.once, context.call, orders_pb2.Order, now, work))

    async def _after_the_saga(self, order_id: str, context: Context) -> orders_pb2.Order:
        with self._news.listen(order_id, self._patience_of(context)) as listener:
            return await self._when_it_stands(order_id, listener)

    async def _when_it_stands(self, order_id: str, listener: Listener) -> orders_pb2.Order:
        """The order once nothing more is to be expected soon, or as it is when the patience is over."""
        while listener.stands is None:
            order, under_way = await self._desk.glance(_stand, order_id)
            if not (under_way and await listener.next()):
                return to_message(order)
        return listener.stands

    def _patience_of(self, context: Context) -> float:
        """Seconds that a caller is made to wait for the saga."""
        remaining = context.time_remaining()
        return self._patience if remaining is None else min(self._patience, remaining - MARGIN)


def _stand(connection: Connection, order_id: str) -> tuple[Order, bool]:
    """The order, and whether an answer to one of its messages may be expected soon: not once the MOM has it."""
    order = store.load(connection, order_id)
    assert order is not None  # orders are never deleted
    return order, outbox.trying(connection, order_id, HOPEFUL)


def _somebody(context: Context) -> policy_pb2.Principal:
    if context.principal is None or not context.principal.subject:
        raise Unauthenticated("orders need somebody who asks", reason="TOKEN_MISSING")
    return context.principal


def _order_id(order_id: str) -> str:
    if not order_id:
        raise InvalidArgument.field("order_id", "must not be empty")
    return order_id


def _trace(context: Context) -> Trace:
    traceparent = context.metadata.get(metadata.TRACEPARENT, "")
    return Trace(context.request_id[:128], traceparent[:255] if isinstance(traceparent, str) else "")
