"""Looks up a few rows at once, where whoever asks stands: for an event loop that must not wait.

To find a row by its key costs SQLite less than to wake a thread that finds it. What such a look-up must not do is last.
So the connection that is kept here for it waits for no lock, and breaks off what takes more instructions of SQLite's
machine than go into about a millisecond. `Lasting` is raised then, and the caller does the same in a thread. Nothing but
the disk itself can hold it up, where a page is not in memory.

SQLite only. A transaction sees all that was committed before it began, as on any other connection.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from bookd.storage.engine import by_hand
from bookd.storage.prepared import Prepared

T = TypeVar("T")

# Instructions of SQLite's machine (https://www.sqlite.org/opcode.html) between two looks at how much it has become; a row
# by its key takes about thirty. SQLite counts them for each statement, and goes on where the last run has ended, so that a
# look says little by itself: only what is looked at for the fourth time has lasted.
STEPS, LOOKS = 10_000, 3
_BEGIN, _END = Prepared(text("BEGIN")), Prepared(text("ROLLBACK"))


class Lasting(Exception):
    """This is no matter of a moment: another process locks the database, or there is too much to read."""


class PointReader:
    """A connection that only reads. Opening it may last; it is used by one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._connection: Connection = by_hand(engine).connect()
        driver: Any = self._connection.connection.driver_connection
        # Of its own from now on: the pool gets no connection back that is in such a hurry.
        self._connection.detach()
        driver.execute("PRAGMA busy_timeout = 0").close()
        self._looks = 0
        driver.set_progress_handler(self._lasts, STEPS)
        self._connection.begin()

    def run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What `work(connection, …)` answers. Raises `Lasting`; what was read by then is forgotten."""
        connection = self._connection
        self._looks = 0
        try:
            _BEGIN.run(connection)
            try:
                return work(connection, *args, **kwargs)
            finally:
                _END.run(connection)
        except OperationalError as error:
            raise Lasting(str(error.orig)) from error

    def _lasts(self) -> bool:
        self._looks += 1
        return self._looks > LOOKS

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
