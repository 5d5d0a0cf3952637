"""What stands in the databases of a suite that is stopped: the effects that the checker holds against the history."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import field, frozen

SERVICES = ("inventory", "orders", "users")
# States of a message, as bookd.mom.machine numbers them.
QUEUED, SUCCEEDED, DEAD = 1, 2, 4


@frozen
class Order:
    """A row of orders; `items` are the copies of each book."""

    seq: int
    order_id: str
    user_id: str
    address: str
    status: str
    version: int
    items: Mapping[str, int]


@frozen
class Reservation:
    """A row of reservations; `items` are the copies by the seq of each book."""

    order_id: str
    status: str
    items: Mapping[int, int]


@frozen
class Book:
    """A row of books."""

    seq: int
    book_id: str
    title: str
    stock: int
    reserved: int
    supplied: int
    version: int


@frozen
class User:
    """A row of users."""

    user_id: str
    username: str
    full_name: str
    address: str
    version: int


@frozen
class Event:
    """An event of the MOM's journal."""

    seq: int
    kind: str
    subject: str


@frozen
class Effects:
    """Everything that is in effect. `applied` are the message ids in the services' inboxes, `messages` the states of
    what the MOM has kept, `waiting` what should be empty in a suite that is quiet."""

    orders: Sequence[Order] = ()
    reservations: Mapping[str, Reservation] = field(factory=dict)
    books: Sequence[Book] = ()
    users: Sequence[User] = ()
    events: Sequence[Event] = ()
    applied: frozenset[str] = frozenset()
    messages: Mapping[str, int] = field(factory=dict)
    waiting: Mapping[str, int] = field(factory=dict)


def read(folder: Path) -> Effects:
    """The effects in the databases of `folder`: one {daemon}/{daemon}.sqlite each."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    with closing(_open(folder, "orders")) as orders:
        found["orders"] = _rows(orders, "SELECT * FROM orders ORDER BY seq")
        found["order_items"] = _rows(orders, "SELECT * FROM order_items")
        steps = _count(orders, "SELECT count(*) FROM steps WHERE done_at IS NULL")
    with closing(_open(folder, "inventory")) as inventory:
        found["books"] = _rows(inventory, "SELECT * FROM books ORDER BY seq")
        found["reservations"] = _rows(inventory, "SELECT * FROM reservations")
        found["reservation_items"] = _rows(inventory, "SELECT * FROM reservation_items")
    with closing(_open(folder, "users")) as users:
        found["users"] = _rows(users, "SELECT * FROM users ORDER BY seq")
    with closing(_open(folder, "mom")) as mom:
        messages = {row["message_id"]: row["state"] for row in _rows(mom, "SELECT message_id, state FROM messages")}
        events = [
            Event(row["seq"], row["type"].rpartition(".")[2], row["subject"])
            for row in _rows(mom, "SELECT seq, type, subject FROM events ORDER BY seq")
        ]
    applied: set[str] = set()
    waiting = {"steps of orders": steps, "messages of the MOM": sum(state == QUEUED for state in messages.values())}
    for service in SERVICES:
        with closing(_open(folder, service)) as database:
            # A row with a status remembers a refusal.
            applied |= {
                row["message_id"] for row in _rows(database, "SELECT * FROM inbox") if row.get("status") is None
            }
            waiting[f"messages in the outbox of {service}"] = _count(database, "SELECT count(*) FROM outbox")
    return Effects(
        orders=list(_orders(found)),
        reservations={each.order_id: each for each in _reservations(found)},
        books=[
            Book(*(row[key] for key in ("seq", "book_id", "title", "stock", "reserved", "supplied", "version")))
            for row in found["books"]
        ],
        users=[
            User(*(row[key] for key in ("user_id", "username", "full_name", "address", "version")))
            for row in found["users"]
        ],
        events=events,
        applied=frozenset(applied),
        messages=messages,
        waiting=waiting,
    )


def administrator(home: Path) -> Mapping[str, str]:
    """Name and password of the first administrator."""
    credentials: Mapping[str, str] = json.loads((home / "secrets" / "admin.json").read_text())
    return credentials


def unsettled(folder: Path) -> Mapping[str, int]:
    """What a suite still has to do, by what it is: nothing when it is quiet. It may be running."""
    found: dict[str, int] = {}
    with closing(_open(folder, "mom")) as mom:
        found["messages of the MOM"] = _count(mom, "SELECT count(*) FROM messages WHERE state = 1")
    for service in SERVICES:
        with closing(_open(folder, service)) as database:
            found[f"messages in the outbox of {service}"] = _count(database, "SELECT count(*) FROM outbox")
    with closing(_open(folder, "orders")) as orders:
        found["pending orders"] = _count(orders, "SELECT count(*) FROM orders WHERE status = 'PENDING'")
        found["steps of orders"] = _count(orders, "SELECT count(*) FROM steps WHERE done_at IS NULL")
    return {what: count for what, count in found.items() if count}


@frozen
class Placed:
    """How many orders were placed, the `seq` of the last one, and when the first and the last one were, in seconds
    since the epoch."""

    count: int
    seq: int
    times: tuple[float, float]


def placed(folder: Path, after: int = 0) -> Placed:
    """The orders with a `seq` above `after`. The suite may be running."""
    statement = "SELECT count(*), max(seq), min(created_at), max(created_at) FROM orders WHERE seq > ?"
    with closing(_open(folder, "orders")) as orders:
        count, seq, first, last = orders.execute(statement, (after,)).fetchone()
    return Placed(count, seq or after, ((first or 0) / 1e6, (last or 0) / 1e6))


def sound(folder: Path) -> Sequence[str]:
    """What SQLite has to say against the files."""
    said = []
    for name in ("mom", *SERVICES):
        with closing(_open(folder, name)) as database:
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                said.append(f"{name}: {verdict}")
    return said


def _open(folder: Path, name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / name / f"{name}.sqlite", timeout=5, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    connection.row_factory = sqlite3.Row
    return connection


def _rows(connection: sqlite3.Connection, statement: str) -> list[Mapping[str, Any]]:
    return [dict(row) for row in connection.execute(statement)]


def _count(connection: sqlite3.Connection, statement: str) -> int:
    return int(connection.execute(statement).fetchone()[0])


def _orders(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Order]:
    items: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in found["order_items"]:
        items[row["order_id"]][row["book_id"]] = row["quantity"]
    for row in found["orders"]:
        yield Order(
            row["seq"],
            row["order_id"],
            row["user_id"],
            row["shipping_address"],
            row["status"],
            row["version"],
            items[row["order_id"]],
        )


def _reservations(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Reservation]:
    items: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for row in found["reservation_items"]:
        items[row["order_id"]][row["book_seq"]] = row["quantity"]
    for row in found["reservations"]:
        yield Reservation(row["order_id"], row["status"], items[row["order_id"]])
