"""The accounts of copies and prices: books, the reservations that hold them, the orders that have reserved."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from google.type.money_pb2 import Money
from sqlalchemy import Select, func, select

from bookd.command.look import Finding, Look, batches
from bookd.contract import money
from bookd.inventory.schema import books, reservation_items, reservations
from bookd.orders.schema import order_items, orders, steps

# The inventory by itself.


def copies(look: Look) -> Iterator[Finding]:
    """Of each book: stock + reserved = supplied."""
    for row in look.rows("inventory", select(books.c.book_id, books.c.stock, books.c.reserved, books.c.supplied)):
        if row.stock + row.reserved != row.supplied or row.stock < 0 or row.reserved < 0:
            text = f"stock {row.stock} + reserved {row.reserved} is not supplied {row.supplied}"
            yield Finding("copies", f"book {row.book_id}", text, tuple(row[1:]))


def held(look: Look) -> Iterator[Finding]:
    """Of each book: what is reserved is what reservations hold."""
    held_by = (
        select(reservation_items.c.book_seq, func.sum(reservation_items.c.quantity).label("quantity"))
        .join(reservations, reservations.c.order_id == reservation_items.c.order_id)
        .where(reservations.c.status == "RESERVED")
        .group_by(reservation_items.c.book_seq)
        .subquery()
    )
    quantity = func.coalesce(held_by.c.quantity, 0)
    unequal = (
        select(books.c.book_id, books.c.reserved, quantity.label("held"))
        .outerjoin(held_by, held_by.c.book_seq == books.c.seq)
        .where(books.c.reserved != quantity)
    )
    for row in look.rows("inventory", unequal):
        text = f"{row.reserved} are reserved, but reservations hold {row.held}"
        yield Finding("held", f"book {row.book_id}", text, (row.reserved, row.held))


# Orders against reservations.

Line = tuple[str, int, str | None, int | None, int | None]


def _lines(look: Look, name: str, statement: Select[Any]) -> dict[str, tuple[Line, ...]]:
    return {
        order_id: tuple(sorted((tuple(row[1:]) for row in rows), key=repr))  # type: ignore[misc]
        for order_id, rows in groupby(look.rows(name, statement), key=lambda row: row.order_id)
    }


def _priced(of: Any, key: Any) -> Select[Any]:
    columns = (of.c.book_id, of.c.quantity, of.c.currency_code, of.c.price_units, of.c.price_nanos)
    return select(key, *columns).select_from(key.table.outerjoin(of, of.c.order_id == key)).order_by(key)


def reserved(look: Look) -> Iterator[Finding]:
    """Each confirmed order has its reservation, with the same books, quantities and prices; and no other order has one,
    unless somebody is about to decide or to give it back."""
    ordered = _lines(look, "orders", _priced(order_items, orders.c.order_id).where(orders.c.status == "CONFIRMED"))
    taken = _lines(
        look,
        "inventory",
        _priced(reservation_items, reservations.c.order_id).where(reservations.c.status == "RESERVED"),
    )
    for order_id in ordered.keys() - taken.keys():
        yield Finding("reserved", f"order {order_id}", "is confirmed, but has no reservation", ordered[order_id])
    for order_id in ordered.keys() & taken.keys():
        if ordered[order_id] != taken[order_id]:
            text = f"has {_said(ordered[order_id])}, but its reservation has {_said(taken[order_id])}"
            yield Finding("reserved", f"order {order_id}", text, (ordered[order_id], taken[order_id]))
    yield from _held_for_nobody(look, taken.keys() - ordered.keys())


def _said(lines: tuple[Line, ...]) -> str:
    return ", ".join(
        f"{quantity} of {book_id} at {units}.{nanos or 0:09d} {currency}"
        for book_id, quantity, currency, units, nanos in lines
    )


def _held_for_nobody(look: Look, order_ids: Iterable[str]) -> Iterator[Finding]:
    for batch in batches(sorted(order_ids)):
        known = {
            row.order_id: row
            for row in look.rows(
                "orders",
                select(orders.c.order_id, orders.c.status, orders.c.version).where(orders.c.order_id.in_(batch)),
            )
        }
        open_release = select(steps.c.order_id).where(
            steps.c.order_id.in_(batch), steps.c.step == "RELEASE", steps.c.done_at.is_(None)
        )
        releasing = {row.order_id for row in look.rows("orders", open_release)}
        for order_id in batch:
            if order_id not in known:
                yield Finding("reserved", f"order {order_id}", "holds stock, but there is no such order")
            elif known[order_id].status not in ("PENDING", "CONFIRMED") and order_id not in releasing:
                text = f"is {known[order_id].status}, holds stock, and nobody gives it back"
                yield Finding("reserved", f"order {order_id}", text, (known[order_id].version,))


def totals(look: Look) -> Iterator[Finding]:
    """The total of each confirmed order is the sum of its lines."""
    statement = (
        select(
            orders.c.order_id,
            orders.c.currency_code.label("currency"),
            orders.c.total_units,
            orders.c.total_nanos,
            order_items,
        )
        .join(order_items, order_items.c.order_id == orders.c.order_id)
        .where(orders.c.status == "CONFIRMED")
        .order_by(orders.c.order_id, order_items.c.position)
    )
    for order_id, found in groupby(look.rows("orders", statement), key=lambda row: row[0]):
        rows = list(found)
        total = Money(currency_code=rows[0].currency or "", units=rows[0].total_units, nanos=rows[0].total_nanos)
        try:
            prices = [
                money.times(
                    Money(
                        currency_code=row.currency_code or "", units=row.price_units or 0, nanos=row.price_nanos or 0
                    ),
                    row.quantity,
                )
                for row in rows
            ]
            fits = money.total(prices) == total
        except ValueError:
            fits = False
        if not fits:
            text = f"its total of {total.units}.{total.nanos:09d} {total.currency_code} is not the sum of its lines"
            yield Finding("totals", f"order {order_id}", text, (total.units, total.nanos))
