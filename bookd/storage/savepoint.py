"""Savepoints: a part of a transaction that can be undone by itself.

They are said in plain SQL, which SQLite and PostgreSQL share. SQLAlchemy's own (`Connection.begin_nested`) does the same at
three times the price, and each write of a daemon stands in two of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection


def begin(connection: Connection) -> None:
    """Begin a part. Parts may stand within parts; the last one that was begun is the one that ends first."""
    connection.exec_driver_sql("SAVEPOINT part")


def keep(connection: Connection) -> None:
    """End the part; what it wrote stays with the transaction."""
    connection.exec_driver_sql("RELEASE SAVEPOINT part")


def undo(connection: Connection) -> None:
    """End the part, and leave nothing of it. Raises when an error has ended the whole transaction (a full disk)."""
    connection.exec_driver_sql("ROLLBACK TO SAVEPOINT part")
    connection.exec_driver_sql("RELEASE SAVEPOINT part")


@contextmanager
def part(connection: Connection) -> Iterator[None]:
    """A part that is undone when an exception leaves it."""
    begin(connection)
    try:
        yield
    except BaseException:
        undo(connection)
        raise
    keep(connection)
