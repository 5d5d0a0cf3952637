"""The orders in the database."""

from collections.abc import Sequence
from typing import Any

from google.type.money_pb2 import Money
from sqlalchemy import Connection, Row, bindparam, func, select

from bookd.errors import Aborted
from bookd.orders.rules import Item, Order, Status, Step
from bookd.orders.schema import order_items, orders, steps
from bookd.storage.prepared import Prepared

_ADD, _ADD_ITEMS = Prepared(orders.insert().inline()), Prepared(order_items.insert().inline())
_CHANGING = (
    "shipping_address", "status", "reason", "currency_code", "total_units", "total_nanos", "version", "updated_at"
)  # fmt: skip
_LINE = ("quantity", "title", "currency_code", "price_units", "price_nanos")
_SAVE = Prepared(
    orders.update()
    .where(orders.c.order_id == bindparam("changed"), orders.c.version == bindparam("was"))
    .values({name: bindparam(name) for name in _CHANGING})
)
_SAVE_ITEM = Prepared(
    order_items.update()
    .where(order_items.c.order_id == bindparam("changed"), order_items.c.position == bindparam("place"))
    .values({name: bindparam(name) for name in _LINE})
)
_ITEM = (
    order_items.c.book_id,
    order_items.c.quantity,
    order_items.c.title,
    order_items.c.currency_code.label("price_currency_code"),
    order_items.c.price_units,
    order_items.c.price_nanos,
)
_ITEMS = (
    select(order_items.c.order_id, *_ITEM)
    .where(order_items.c.order_id.in_(bindparam("wanted", expanding=True)))
    .order_by(order_items.c.position)
)
# An order is read with its lines: a row for each of them.
_THEIR_ITEMS = order_items.c.order_id == orders.c.order_id
_LOAD = Prepared(
    select(orders, *_ITEM)
    .select_from(orders.join(order_items, _THEIR_ITEMS))
    .where(orders.c.order_id == bindparam("wanted"))
    .order_by(order_items.c.position)
)
_LOAD_ASKED = Prepared(
    select(orders, *_ITEM, steps.c.step, steps.c.done_at)
    .select_from(steps.join(orders, orders.c.order_id == steps.c.order_id).join(order_items, _THEIR_ITEMS))
    .where(steps.c.message_id == bindparam("sent"))
    .order_by(order_items.c.position)
    .with_for_update(of=(steps, orders))  # or the order were as it was before the wait for the step
)


def add(connection: Connection, order: Order) -> None:
    """Store a new order."""
    identity = {"order_id": order.order_id, "user_id": order.user_id, "created_at": order.created_at}
    _ADD.run(connection, identity | _changing(order))
    _ADD_ITEMS.run_each(
        connection,
        [
            {"order_id": order.order_id, "position": position, "book_id": item.book_id, **_line(item)}
            for position, item in enumerate(order.items)
        ],
    )


def save(connection: Connection, before: Order, after: Order) -> None:
    """Store the changes of an order. Raises `Aborted` when somebody else changed it since `before` was loaded."""
    which = {"changed": before.order_id, "was": before.version}
    if _SAVE.run(connection, which | _changing(after)) != 1:
        raise Aborted(f"order {before.order_id} was changed meanwhile", reason="ORDER_CHANGED")
    if after.items is not before.items:
        _SAVE_ITEM.run_each(
            connection,
            [
                {"changed": before.order_id, "place": position, **_line(item)}
                for position, item in enumerate(after.items)
            ],
        )


def load(connection: Connection, order_id: str) -> Order | None:
    """The order, or None."""
    rows = _LOAD.rows(connection, {"wanted": order_id})
    return _order(rows[0], tuple(map(_item, rows))) if rows else None


def load_asked(connection: Connection, message_id: str) -> tuple[Order, Step, bool] | None:
    """The order for which a message asked others for a step, the step, and whether it is done with; locks both."""
    rows = _LOAD_ASKED.rows(connection, {"sent": message_id})
    if not rows:
        return None
    return _order(rows[0], tuple(map(_item, rows))), Step(rows[0].step), rows[0].done_at is not None


def page(
    connection: Connection, user_id: str, status: Status | None, before: int | None, size: int
) -> tuple[list[Order], int | None, int]:
    """Orders of a user (or of all, for an empty id) in a state (or in any), newest first.

    Answers `size` orders at most that come after the place `before`, the place to go on from (None on the last page),
    and how many orders match in all. Places are sequence numbers, so orders placed meanwhile shift nothing.
    """
    matching = []
    if user_id:
        matching.append(orders.c.user_id == user_id)
    if status is not None:
        matching.append(orders.c.status == status.value)
    total: int = connection.execute(select(func.count()).select_from(orders).where(*matching)).scalar_one()
    onward = [orders.c.seq < before] if before is not None else []
    rows = connection.execute(
        select(orders).where(*matching, *onward).order_by(orders.c.seq.desc()).limit(size + 1)
    ).all()
    found = _with_items(connection, rows[:size])
    return [order for _, order in found], found[-1][0] if len(rows) > size else None, total


def _with_items(connection: Connection, rows: Sequence[Row[Any]]) -> list[tuple[int, Order]]:
    lines: dict[str, list[Item]] = {row.order_id: [] for row in rows}
    for line in connection.execute(_ITEMS, {"wanted": list(lines)}):
        lines[line.order_id].append(_item(line))
    return [(row.seq, _order(row, tuple(lines[row.order_id]))) for row in rows]


def _item(line: Any) -> Item:
    return Item(
        line.book_id, line.quantity, _money(line.price_currency_code, line.price_units, line.price_nanos), line.title
    )


def _order(row: Row[Any], items: tuple[Item, ...]) -> Order:
    return Order(
        order_id=row.order_id,
        user_id=row.user_id,
        items=items,
        shipping_address=row.shipping_address,
        status=Status(row.status),
        reason=row.reason,
        total=_money(row.currency_code, row.total_units, row.total_nanos),
        created_at=row.created_at,
        updated_at=row.updated_at,
        version=row.version,
    )


def _changing(order: Order) -> dict[str, Any]:
    total = order.total
    return {
        "shipping_address": order.shipping_address,
        "status": order.status.value,
        "reason": order.reason,
        "currency_code": total.currency_code if total is not None else None,
        "total_units": total.units if total is not None else None,
        "total_nanos": total.nanos if total is not None else None,
        "version": order.version,
        "updated_at": order.updated_at,
    }


def _line(item: Item) -> dict[str, Any]:
    price = item.unit_price
    return {
        "quantity": item.quantity,
        "title": item.title,
        "currency_code": price.currency_code if price is not None else None,
        "price_units": price.units if price is not None else None,
        "price_nanos": price.nanos if price is not None else None,
    }


def _money(currency_code: str | None, units: int, nanos: int) -> Money | None:
    return Money(currency_code=currency_code, units=units, nanos=nanos) if currency_code is not None else None
