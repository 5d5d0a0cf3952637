"""Savepoints: a part of a transaction that can be undone by itself.

They are said in plain SQL, which SQLite and PostgreSQL share, by prepared statements. SQLAlchemy's own
(`Connection.begin_nested`) does the same at many times the price, and each write of a daemon stands in two of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from bookd.storage.prepared import Prepared

_WITHOUT = "bookd_without_savepoints"
_BEGIN = Prepared(text("SAVEPOINT part"))
_KEEP = Prepared(text("RELEASE SAVEPOINT part"))
_UNDO = Prepared(text("ROLLBACK TO SAVEPOINT part"))


def begin(connection: Connection) -> None:
    """Begin a part. Parts may stand within parts; the last one that was begun is the one that ends first."""
    _BEGIN.run(connection)


def keep(connection: Connection) -> None:
    """End the part; what it wrote stays with the transaction."""
    _KEEP.run(connection)


def undo(connection: Connection) -> None:
    """End the part, and leave nothing of it. Raises when an error has ended the whole transaction (a full disk)."""
    _UNDO.run(connection)
    _KEEP.run(connection)


def try_without(connection: Connection, without: bool) -> None:
    """From now on a `part` is none: whoever says so undoes all that was written since, when an exception has left one."""
    connection.info[_WITHOUT] = without


def is_tried(connection: Connection) -> bool:
    """Whether any exception undoes all that is done now, to have it done again with savepoints."""
    return bool(connection.info.get(_WITHOUT))


@contextmanager
def part(connection: Connection) -> Iterator[None]:
    """A part that is undone when an exception leaves it."""
    if is_tried(connection):
        yield
        return
    begin(connection)
    try:
        yield
    except BaseException:
        undo(connection)
        raise
    keep(connection)
