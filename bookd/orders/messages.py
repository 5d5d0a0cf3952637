"""Orders as the protocol shows them."""

from bookd.contract.times import timestamp
from bookd.orders.rules import Order, Status
from bookd.wire.orders.v1 import orders_pb2

STATUS = {
    Status.PENDING: orders_pb2.ORDER_STATUS_PENDING,
    Status.CONFIRMED: orders_pb2.ORDER_STATUS_CONFIRMED,
    Status.REJECTED: orders_pb2.ORDER_STATUS_REJECTED,
    Status.CANCELLED: orders_pb2.ORDER_STATUS_CANCELLED,
}
BY_NUMBER = {number: status for status, number in STATUS.items()}


def to_message(order: Order) -> orders_pb2.Order:
    """The order as bookd.orders.v1.Order."""
    message = orders_pb2.Order(
        order_id=order.order_id,
        user_id=order.user_id,
        shipping_address=order.shipping_address,
        status=STATUS[order.status],
        reason=order.reason or _waits_for(order),
        total_amount=order.total,
        created_at=timestamp(order.created_at),
        updated_at=timestamp(order.updated_at),
        etag=f'"{order.version}"',
    )
    for item in order.items:
        message.items.add(book_id=item.book_id, quantity=item.quantity, title=item.title, unit_price=item.unit_price)
    return message


def _waits_for(order: Order) -> str:
    if order.status is not Status.PENDING:
        return ""
    return "waits for the inventory" if order.shipping_address else "waits for the user's address"
