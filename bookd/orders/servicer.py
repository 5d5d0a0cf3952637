"""Answers the rpcs of OrdersService."""

from collections.abc import Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from sqlalchemy import Connection
from twisted.logger import Logger

from bookd.bridge.context import Context
from bookd.bridge.desk import Desk
from bookd.contract import paging
from bookd.contract.call import Call
from bookd.contract.policy import may_see
from bookd.errors import InvalidArgument, NotFound, Unauthenticated
from bookd.orders import rules, saga, store
from bookd.orders.messages import BY_NUMBER, to_message
from bookd.orders.news import News
from bookd.orders.rules import Order, Status
from bookd.storage import inbox
from bookd.wire.orders.v1 import orders_pb2, orders_pb2_grpc
from bookd.wire.policy.v1 import policy_pb2

# Seconds of the caller's deadline that are left alone when waiting for the saga.
MARGIN = 0.3


class OrdersServicer(orders_pb2_grpc.OrdersServiceServicer):
    """Orders over a desk. `wake` tells the relay that there is something to send; `patience` is how long a caller is
    made to wait for the saga, in seconds."""

    log = Logger()

    def __init__(
        self,
        desk: Desk,
        *,
        news: News,
        wake: Callable[[], None],
        now: Callable[[], int],
        new_id: Callable[[], str],
        patience: float,
    ) -> None:
        self._desk = desk
        self._news = news
        self._wake = wake
        self._now = now
        self._new_id = new_id
        self._patience = patience

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        """Place an order; answer it as the saga leaves it within the patience."""
        if context.principal is None:
            raise Unauthenticated("an order needs somebody who places it", reason="TOKEN_MISSING")
        now = self._now()
        order = Order(
            order_id=self._new_id(),
            user_id=context.principal.subject,
            items=rules.lines(request),
            shipping_address=request.shipping_address.strip(),
            status=Status.PENDING,
            reason="",
            total=None,
            created_at=now,
            updated_at=now,
        )
        placed = await self._desk.write(_place, context.call, order, context.principal)
        return await self._after_the_saga(placed.order_id, context)

    async def CancelOrder(self, request: orders_pb2.CancelOrderRequest, context: Context) -> orders_pb2.Order:
        """Cancel an order; the answer comes when its stock is back, within the patience."""
        cancelled = await self._desk.write(_cancel, context.call, request.order_id, context.principal, self._now())
        return await self._after_the_saga(cancelled.order_id, context)

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Context) -> orders_pb2.Order:
        """One order, for its owner and for staff."""
        order = await self._desk.read(store.load, request.order_id)
        if order is None or not may_see(order.user_id, context.principal, "staff", "admin"):
            raise NotFound(f"there is no order {request.order_id!r}", reason="ORDER_NOT_FOUND")
        return to_message(order)

    async def ListOrders(
        self, request: orders_pb2.ListOrdersRequest, context: Context
    ) -> orders_pb2.ListOrdersResponse:
        """A page of orders, newest first."""
        if request.status and request.status not in BY_NUMBER:
            raise InvalidArgument.field("status", f"{request.status} is not a status")
        status = BY_NUMBER.get(request.status)
        selected = f"orders user={request.user_id} status={request.status}"
        position = paging.decode(request.page_token, selected, int)
        before = int(position[0]) if position is not None else None
        size = paging.size(request.page_size)
        found, onward, total = await self._desk.read(store.page, request.user_id, status, before, size)
        return orders_pb2.ListOrdersResponse(
            orders=[to_message(order) for order in found],
            next_page_token=paging.encode([onward], selected) if onward is not None else "",
            total_size=total,
        )

    async def ApplyOutcome(self, request: orders_pb2.ApplyOutcomeRequest, context: Context) -> Empty:
        """Apply what became of a step that the MOM had kept."""
        order_id = await self._desk.write(saga.apply, request.outcome, self._now())
        if order_id is None:
            self.log.warn("an outcome came for {message_id}, which no saga sent", message_id=request.outcome.message_id)
        else:
            self._wake()
            self._news.tell(order_id, False)
        return Empty()

    async def _after_the_saga(self, order_id: str, context: Context) -> orders_pb2.Order:
        remaining = context.time_remaining()
        patience = self._patience if remaining is None else min(self._patience, remaining - MARGIN)
        with self._news.listen(order_id, patience) as listener:
            self._wake()
            while await self._desk.read(saga.open_steps, order_id):
                kept: Any = await listener.next()
                if kept is not False:
                    break
        order = await self._desk.read(store.load, order_id)
        assert order is not None  # orders are never deleted
        return to_message(order)


def _place(connection: Connection, call: Call, order: Order, principal: policy_pb2.Principal) -> orders_pb2.Order:
    def work(connection: Connection) -> orders_pb2.Order:
        return to_message(saga.place(connection, order, principal, order.created_at))

    return inbox.once(connection, call, orders_pb2.Order, order.created_at, work)


def _cancel(
    connection: Connection, call: Call, order_id: str, principal: policy_pb2.Principal | None, now: int
) -> orders_pb2.Order:
    def work(connection: Connection) -> orders_pb2.Order:
        return to_message(saga.cancel(connection, order_id, principal, now))

    return inbox.once(connection, call, orders_pb2.Order, now, work)
