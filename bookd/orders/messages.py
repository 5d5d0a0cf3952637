"""Orders as the protocol shows them."""

from google.protobuf.timestamp_pb2 import Timestamp

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
        created_at=timestamp(order.created_at),
        updated_at=timestamp(order.updated_at),
        etag=f'"{order.version}"',
    )
    for item in order.items:
        line = message.items.add(book_id=item.book_id, quantity=item.quantity, title=item.title)
        if item.unit_price is not None:
            line.unit_price.CopyFrom(item.unit_price)
    if order.total is not None:
        message.total_amount.CopyFrom(order.total)
    return message


def _waits_for(order: Order) -> str:
    if order.status is not Status.PENDING:
        return ""
    return "waits for the inventory" if order.shipping_address else "waits for the user's address"


def timestamp(microseconds: int) -> Timestamp:
    """Microseconds since the epoch as google.protobuf.Timestamp."""
    made = Timestamp()
    made.FromMicroseconds(microseconds)
    return made
