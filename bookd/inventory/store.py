"""The inventory's statements. Each function does its work in the caller's transaction and raises what happened."""

from collections.abc import Sequence
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.type.money_pb2 import Money
from sqlalchemy import Connection, Select, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from bookd.contract import paging
from bookd.contract.times import timestamp
from bookd.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, OutOfRange, Violation
from bookd.inventory import facts, rules, search
from bookd.inventory.rules import Change, Draft, Line
from bookd.inventory.schema import INT32_MAX, books, reservation_items, reservations
from bookd.inventory.words import Query
from bookd.storage.prepared import Prepared, inserting
from bookd.wire.inventory.v1 import events_pb2 as events
from bookd.wire.inventory.v1 import inventory_pb2 as wire

# Bytes of books in one page: 1,000 books with long titles would not fit into one gRPC message (4 MiB).
LARGEST_PAGE = 2_000_000


def create_book(connection: Connection, draft: Draft, now: int) -> wire.Book:
    """Add the book. Raises `AlreadyExists` that names the field when its id or ISBN is taken."""
    statement = insert(books).values(
        book_id=draft.book_id,
        title=draft.title,
        author=draft.author,
        isbn=draft.isbn or None,
        stock=draft.stock,
        reserved=0,
        supplied=draft.stock,
        **_price(draft.price),
        version=1,
        created_at=now,
        updated_at=now,
    )
    try:
        with connection.begin_nested():
            row = connection.execute(statement.returning(books)).one()
    except IntegrityError:
        _refuse_taken(connection, draft.book_id, draft.isbn)
        raise
    search.add(connection, row.seq, draft.title, draft.author, draft.isbn)
    return _told(connection, events.BOOK_CHANGE_ADDED, _book(row), now)


def get_book(connection: Connection, book_id: str) -> wire.Book:
    """The book. Raises `NotFound`."""
    return _book(_row(connection, book_id))


def list_books(connection: Connection, query: Query, page_size: int, page_token: str) -> wire.ListBooksResponse:
    """One page of the books that match, all books for an empty query. Raises `InvalidArgument` for a bad token."""
    size = paging.size(page_size)
    key = " ".join(query.words)
    if query.nothing:
        paging.decode(page_token, key, int, int)
        return wire.ListBooksResponse()
    if query.words:
        statement = _search(query, paging.decode(page_token, key, int, int))
        total = select(func.count()).select_from(search.matching(query))
    else:
        statement = _everything(paging.decode(page_token, key, int))
        total = select(func.count()).select_from(books)
    rows = connection.execute(statement.limit(size + 1)).all()
    response = wire.ListBooksResponse(total_size=min(connection.execute(total).scalar_one(), INT32_MAX))
    taken = 0
    for row in rows[:size]:
        book = _book(row)
        taken += book.ByteSize()
        if taken > LARGEST_PAGE and response.books:
            break
        response.books.append(book)
    if len(response.books) < len(rows):
        last = rows[len(response.books) - 1]
        response.next_page_token = paging.encode([last.rank, last.seq] if query.words else [last.seq], key)
    return response


def update_book(connection: Connection, change: Change, now: int) -> wire.Book:
    """Change the book. Raises `NotFound`; `Aborted` when `change.etag` is not the book's; `AlreadyExists` for an ISBN."""
    row = _row(connection, change.book_id, lock=True)
    if change.etag and change.etag != rules.etag(row.seq, row.version):
        raise Aborted(f"book {change.book_id} has changed since it was read", reason="ETAG_MISMATCH")
    values: dict[str, Any] = {"version": row.version + 1, "updated_at": now}
    if change.title is not None:
        values["title"] = change.title
    if change.author is not None:
        values["author"] = change.author
    if change.isbn is not None:
        values["isbn"] = change.isbn or None
    if change.price is not None:
        values |= _price(change.price)
    statement = update(books).where(books.c.seq == row.seq).values(values).returning(books)
    try:
        with connection.begin_nested():
            changed = connection.execute(statement).one()
    except IntegrityError:
        _refuse_taken(connection, "", change.isbn or "")
        raise
    if (changed.title, changed.author, changed.isbn) != (row.title, row.author, row.isbn):
        search.remove(connection, row.seq)
        search.add(connection, row.seq, changed.title, changed.author, changed.isbn or "")
    return _told(connection, events.BOOK_CHANGE_UPDATED, _book(changed), now)


def delete_book(connection: Connection, book_id: str, now: int) -> Empty:
    """Take the book out of the catalogue. Raises `NotFound`."""
    row = connection.execute(delete(books).where(books.c.book_id == book_id).returning(books)).one_or_none()
    if row is None:
        raise _no_book(book_id)
    search.remove(connection, row.seq)
    _told(connection, events.BOOK_CHANGE_REMOVED, _book(row), now)
    return Empty()


def adjust_stock(connection: Connection, book_id: str, quantity: int, now: int, low: int) -> wire.Book:
    """Add `quantity` copies, or take them away; `low` is the stock that is told to be low. Raises `NotFound`; `FailedPrecondition` when there are not so many to
    take; `OutOfRange` when there would be more than can be counted."""
    row = connection.execute(
        update(books)
        .where(books.c.book_id == book_id, books.c.stock >= -quantity, books.c.supplied <= INT32_MAX - quantity)
        .values(
            stock=books.c.stock + quantity,
            supplied=books.c.supplied + quantity,
            version=books.c.version + 1,
            updated_at=now,
        )
        .returning(books)
    ).one_or_none()
    if row is not None:
        _low(connection, row, -quantity, low, now)
        return _told(connection, events.BOOK_CHANGE_UPDATED, _book(row), now)
    refused = _row(connection, book_id)
    if refused.stock < -quantity:
        raise FailedPrecondition(
            f"book {book_id} has {refused.stock} copies in stock, {-quantity} cannot be taken away",
            reason="OUT_OF_STOCK",
        )
    raise OutOfRange(f"book {book_id} would have more than {INT32_MAX:,} copies", reason="STOCK_TOO_LARGE")


def reserve_stock(connection: Connection, order_id: str, lines: Sequence[Line], now: int, low: int) -> wire.Reservation:
    """Take all lines from the stock, or none; `low` is the stock that is told to be low. What was decided for an order
    before is answered again."""
    rows = {row.book_id: row for row in _ordered(connection, lines)}
    on_sale = {row.book_id: rules.OnSale(row.title, row.stock, row.currency_code) for row in rows.values()}
    reason = rules.refusal(lines, on_sale)
    if not _decide(connection, order_id, "REJECTED" if reason else "RESERVED", reason, now):
        decided = _reservation(connection, order_id)
        assert decided is not None  # the decision has just met it
        return decided
    if reason:
        return wire.Reservation(order_id=order_id, status=wire.RESERVATION_STATUS_REJECTED, reason=reason)
    items = [_item(order_id, position, line, rows[line.book_id]) for position, line in enumerate(lines)]
    _HOLD.run_each(connection, items)
    _move(connection, [(item["book_seq"], item["quantity"]) for item in items], now)
    for line in lines:
        if rows[line.book_id].stock - line.quantity <= low:
            _low(connection, _row(connection, line.book_id), line.quantity, low, now)
    answer = wire.Reservation(order_id=order_id, status=wire.RESERVATION_STATUS_RESERVED)
    for line in lines:
        row = rows[line.book_id]
        answer.items.add(book_id=row.book_id, quantity=line.quantity, unit_price=_money(row), title=row.title)
    return answer


def release_stock(connection: Connection, order_id: str, now: int) -> wire.Reservation:
    """Give what the order holds back to the books that are still there. Without a reservation it makes a released one,
    so that a reservation that comes later takes nothing. One that was rejected stays so."""
    decided = _reservation(connection, order_id)
    if decided is None:
        _decide(connection, order_id, "RELEASED", "", now)
    elif decided.status == wire.RESERVATION_STATUS_RESERVED:
        held = connection.execute(
            select(reservation_items.c.book_seq, reservation_items.c.quantity)
            .where(reservation_items.c.order_id == order_id)
            .order_by(reservation_items.c.book_seq)
        ).all()
        _move(connection, [(row.book_seq, -row.quantity) for row in held], now)
        connection.execute(
            update(reservations).where(reservations.c.order_id == order_id).values(status="RELEASED", updated_at=now)
        )
    answer = _reservation(connection, order_id)
    assert answer is not None
    return answer


def _told(connection: Connection, change: events.BookChange, book: wire.Book, now: int) -> wire.Book:
    facts.book_changed(connection, change, book, now)
    return book


def _low(connection: Connection, row: Any, taken: int, threshold: int, now: int) -> None:
    """Tell if `taken` copies, which are gone from `row`, were too many."""
    facts.stock_low(
        connection,
        row.stock + taken,
        row.stock,
        threshold,
        book_id=row.book_id,
        title=row.title,
        version=f"{row.seq}.{row.version}",
        now=now,
    )


def _everything(position: list[str | int] | None) -> Select[Any]:
    statement = select(books).order_by(books.c.seq)
    return statement.where(books.c.seq > position[0]) if position else statement


def _search(query: Query, position: list[str | int] | None) -> Select[Any]:
    found = search.found(query)
    statement = select(books, found.c.rank).join(found, books.c.seq == found.c.seq).order_by(found.c.rank, found.c.seq)
    return statement.where(tuple_(found.c.rank, found.c.seq) > tuple_(*position)) if position else statement


_FIND = select(books).where(books.c.book_id == bindparam("book_id"))
_BY_ID, _BY_ID_LOCKED = Prepared(_FIND), Prepared(_FIND.with_for_update())
# In one order, so that two transactions cannot wait for each other.
_ORDERED = (
    select(books)
    .where(books.c.book_id.in_(bindparam("wanted", expanding=True)))
    .order_by(books.c.seq)
    .with_for_update()
)
_DECIDE = Prepared(
    lambda dialect: inserting(dialect, reservations).on_conflict_do_nothing(index_elements=["order_id"]).inline()
)
_HOLD = Prepared(insert(reservation_items).inline())
_MOVE = Prepared(
    update(books)
    .where(books.c.seq == bindparam("row"))
    .values(
        stock=books.c.stock - bindparam("quantity"),
        reserved=books.c.reserved + bindparam("quantity"),
        version=books.c.version + 1,
        updated_at=bindparam("now"),
    )
)
_DECIDED = Prepared(select(reservations).where(reservations.c.order_id == bindparam("of")))
_HELD = Prepared(
    select(reservation_items)
    .where(reservation_items.c.order_id == bindparam("of"))
    .order_by(reservation_items.c.position)
)


def _row(connection: Connection, book_id: str, lock: bool = False) -> Any:
    row = (_BY_ID_LOCKED if lock else _BY_ID).row(connection, {"book_id": book_id})
    if row is None:
        raise _no_book(book_id)
    return row


def _ordered(connection: Connection, lines: Sequence[Line]) -> Sequence[Any]:
    """The books of these lines that there are, none of them twice, locked."""
    if len(lines) == 1:
        row = _BY_ID_LOCKED.row(connection, {"book_id": lines[0].book_id})
        return [] if row is None else [row]
    return connection.execute(_ORDERED, {"wanted": [line.book_id for line in lines]}).all()


def _no_book(book_id: str) -> NotFound:
    return NotFound(f"no book {book_id[:64]}", reason="BOOK_NOT_FOUND")


def _refuse_taken(connection: Connection, book_id: str, isbn: str) -> None:
    for name, column, value in (("book_id", books.c.book_id, book_id), ("book.isbn", books.c.isbn, isbn)):
        taken = connection.execute(select(books.c.book_id).where(column == value)).scalar() if value else None
        if taken is not None:
            description = f"{value} is the number of book {taken}" if name == "book.isbn" else f"{value} is taken"
            raise AlreadyExists(
                f"{name}: {description}",
                reason="ISBN_TAKEN" if name == "book.isbn" else "BOOK_ID_TAKEN",
                violations=[Violation(name, description)],
                info={"book_id": taken},
            )


def _decide(connection: Connection, order_id: str, status: str, reason: str, now: int) -> bool:
    """Note a decision about an order; False, and nothing noted, if there is one."""
    decision = {"order_id": order_id, "status": status, "reason": reason, "created_at": now, "updated_at": now}
    return _DECIDE.run(connection, decision) == 1


def _move(connection: Connection, quantities: list[tuple[int, int]], now: int) -> None:
    """From the stock to what orders hold; back, where the quantity is negative. A book that is gone is passed over."""
    _MOVE.run_each(connection, [{"row": seq, "quantity": quantity, "now": now} for seq, quantity in quantities])


def _reservation(connection: Connection, order_id: str) -> wire.Reservation | None:
    row = _DECIDED.row(connection, {"of": order_id})
    if row is None:
        return None
    answer = wire.Reservation(
        order_id=order_id,
        status=f"RESERVATION_STATUS_{row.status}",
        reason=row.reason,
    )
    if row.status == "RESERVED":
        for item in _HELD.rows(connection, {"of": order_id}):
            answer.items.add(book_id=item.book_id, quantity=item.quantity, unit_price=_money(item), title=item.title)
    return answer


def _item(order_id: str, position: int, line: Line, row: Any) -> dict[str, Any]:
    return {
        "order_id": order_id,
        "position": position,
        "book_seq": row.seq,
        "book_id": row.book_id,
        "title": row.title,
        "quantity": line.quantity,
        "currency_code": row.currency_code,
        "price_units": row.price_units,
        "price_nanos": row.price_nanos,
    }


def _book(row: Any) -> wire.Book:
    return wire.Book(
        book_id=row.book_id,
        title=row.title,
        author=row.author,
        isbn=row.isbn or "",
        stock=row.stock,
        price=_money(row),
        created_at=timestamp(row.created_at),
        updated_at=timestamp(row.updated_at),
        etag=rules.etag(row.seq, row.version),
    )


def _price(price: Money) -> dict[str, Any]:
    return {"currency_code": price.currency_code, "price_units": price.units, "price_nanos": price.nanos}


def _money(row: Any) -> Money:
    return Money(currency_code=row.currency_code, units=row.price_units, nanos=row.price_nanos)
