"""Makes databases with many books and orders: `python -m benchmarks.maker HOME/data --books 1000000 --orders 1000000`.

The rows go through the daemons' own schemas, and the words of books through the inventory's own search index, a few thousand
a transaction; what they hold is what a shop holds that has sold so many books within ten days. Each order has one line, is
confirmed, its stock is reserved, and its messages are remembered in both inboxes. Books beyond those of the catalogue are
called like others, with a word of their own behind.
"""

import argparse
import random
import time
from collections.abc import Iterator
from decimal import Decimal
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlalchemy import Connection, Engine, Table, insert

from bookd.command import catalogue
from bookd.inventory import schema as inventory
from bookd.inventory import search
from bookd.inventory.words import fold
from bookd.orders import saga
from bookd.orders import schema as orders
from bookd.orders.messages import to_message
from bookd.orders.rules import Item, Order, Status
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade

# Books or orders that are written in one transaction.
BATCH = 5000
# Copies of each book that can be ordered: no load sells them out.
STOCK = 1_000_000
# Customers that the orders are of, and days within which they were placed.
CUSTOMERS = 10_000
DAYS = 10
PRICE = Decimal("9.99")
_NANOS = 990_000_000
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


def book_id(number: int) -> str:
    """The id of a book that was made."""
    return str(uuid5(NAMESPACE_URL, f"https://bookd/bench/{number}"))


def titles(source: Path | None) -> list[tuple[str, str]]:
    """Titles and authors of a catalogue, of the shipped sample without one."""
    with as_file(files("bookd.command") / "sample.csv") as sample:
        read = catalogue.read(source or sample, catalogue.Defaults(price=PRICE))
        return [(row.title, row.author) for row in read if isinstance(row, catalogue.Row)]


def named(number: int, real: list[tuple[str, str]]) -> tuple[str, str]:
    """Title and author of a book: of the catalogue as long as it goes, then mixed, with a word that few others have."""
    title, author = real[number % len(real)][0], real[(number + number // len(real) * 7) % len(real)][1]
    return (title, author) if number < len(real) else (f"{title} {word(number)}", author)


def word(number: int) -> str:
    """A word that stands for a number."""
    made = ""
    while number:
        number, syllable = divmod(number, len(_SYLLABLES))
        made += _SYLLABLES[syllable]
    return made


def queries(books: int, real: list[tuple[str, str]], count: int) -> list[str]:
    """What people look for: a word of a title with the author's last name, two words of a title, the beginning of one."""
    chosen = random.Random(count)
    found: list[str] = []
    while len(found) < count:
        title, author = (fold(each) for each in named(chosen.randrange(books), real))
        long = [each for each in title if len(each) > 3]
        if not long or not author:
            continue
        query = [f"{chosen.choice(long)} {author[-1]}", " ".join(long[-2:]), f"{author[-1]} {chosen.choice(long)[:4]}"]
        found.append(query[len(found) % 3])
    return found


def make_books(engine: Engine, books: int, orders_there: int, real: list[tuple[str, str]]) -> None:
    """Write the books, each with the copies that the orders hold."""
    now = time.time_ns() // 1000
    for batch in _batches(books):
        rows = []
        for number in batch:
            title, author = named(number, real)
            held = orders_there // books + (number < orders_there % books)
            row = {"seq": number + 1, "book_id": book_id(number), "title": title, "author": author, "isbn": None}
            row |= {"stock": STOCK, "reserved": held, "supplied": STOCK + held, "currency_code": "USD"}
            row |= {"price_units": 9, "price_nanos": _NANOS, "version": 1 + held, "created_at": now, "updated_at": now}
            rows.append(row)
        with engine.begin() as connection:
            connection.execute(insert(inventory.books), rows)
            for row in rows:
                search.add(connection, row["seq"], row["title"], row["author"], "")


def make_orders(stock: Engine, engine: Engine, books: int, count: int, real: list[tuple[str, str]]) -> None:
    """Write the orders, and what the inventory holds for them."""
    chosen = random.Random(count)
    span = DAYS * 86_400_000_000
    began = time.time_ns() // 1000 - span - 60_000_000
    inbox = {name: each.metadata.tables["inbox"] for name, each in (("orders", orders), ("inventory", inventory))}
    for batch in _batches(count):
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
        for number in batch:
            _order(rows, number, began + span * number // count, books, real, chosen)
        with engine.begin() as connection:
            for name in ("orders", "order_items", "steps"):
                _insert(connection, orders.metadata.tables[name], rows[name])
            _insert(connection, inbox["orders"], rows["placed"])
        with stock.begin() as connection:
            for name in ("reservations", "reservation_items"):
                _insert(connection, inventory.metadata.tables[name], rows[name])
            _insert(connection, inbox["inventory"], rows["reserved"])


_TABLES = ("orders", "order_items", "steps", "placed", "reservations", "reservation_items", "reserved")


def _order(
    rows: dict[str, list[dict[str, Any]]],
    number: int,
    at: int,
    books: int,
    real: list[tuple[str, str]],
    chosen: random.Random,
) -> None:
    order_id = str(UUID(int=(at // 1000) << 80 | 7 << 76 | 2 << 62 | chosen.getrandbits(62)))
    step_id = str(uuid5(UUID(order_id), "RESERVE"))
    user_id = str(UUID(int=number % CUSTOMERS + 1))
    book, title = number % books, named(number % books, real)[0]
    address = f"made-{number}, 1 Bench Street, 12345 Testville"
    item = {"order_id": order_id, "position": 0, "book_id": book_id(book), "title": title, "quantity": 1}
    item |= {"currency_code": "USD", "price_units": 9, "price_nanos": _NANOS}
    rows["orders"].append(
        {"order_id": order_id, "user_id": user_id, "shipping_address": address, "status": "CONFIRMED", "reason": ""}
        | {"currency_code": "USD", "total_units": 9, "total_nanos": _NANOS, "version": 2}
        | {"created_at": at, "updated_at": at}
    )
    rows["order_items"].append(item)
    step = {"message_id": step_id, "order_id": order_id, "step": "RESERVE", "sweep_from": at, "done_at": at}
    rows["steps"].append(step)
    placed = Order(order_id, user_id, (Item(book_id(book), 1),), address, Status.PENDING, "", None, at, at)
    answered = to_message(placed).SerializeToString()
    common = {"fingerprint": chosen.randbytes(32), "response": answered, "status": None, "applied_at": at}
    sent = str(UUID(int=chosen.getrandbits(128)))
    rows["placed"].append({"message_id": sent, "method": f"/{saga.SERVICE}/CreateOrder", **common})
    rows["reserved"].append({"message_id": step_id, "method": saga.RESERVE_STOCK, **common})
    kept = {"order_id": order_id, "status": "RESERVED", "reason": "", "created_at": at, "updated_at": at}
    rows["reservations"].append(kept)
    rows["reservation_items"].append({**item, "book_seq": book + 1})


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    connection.execute(insert(table), rows)


def _batches(count: int) -> Iterator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))


def make(folder: Path, books: int, orders_there: int, real: list[tuple[str, str]]) -> None:
    """Make inventory.sqlite and orders.sqlite in `folder`."""
    engines = {}
    for name in ("inventory", "orders"):
        engines[name] = open_engine(folder / f"{name}.sqlite")
        upgrade(engines[name], f"bookd.{name}")
    make_books(engines["inventory"], books, orders_there, real)
    make_orders(engines["inventory"], engines["orders"], books, orders_there, real)
    for engine in engines.values():
        engine.dispose()


def main() -> None:
    """Make the databases of a home that was not started yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to put inventory.sqlite and orders.sqlite: HOME/data")
    parser.add_argument("--books", type=int, default=10_000)
    parser.add_argument("--orders", type=int, default=0)
    parser.add_argument("--catalogue", type=Path, help="CSV file of books to name them after; else the shipped sample")
    arguments = parser.parse_args()
    make(arguments.folder, arguments.books, arguments.orders, titles(arguments.catalogue))


if __name__ == "__main__":
    main()
