"""Runs units of work in one transaction, each in a savepoint of its own, and commits them together. Synchronous.

Units that may be run more than once are tried without savepoints first, as few fail and each savepoint costs as much as a
statement that does something. If one fails, all of the transaction is undone and run again, each in its savepoint.

On SQLite the transactions share a connection as long as nothing goes wrong with it, and it may be used by one thread after
the other. It waits for another process's lock only where it is told that it may.
"""

from collections.abc import Callable, Iterable
from typing import Any

from attrs import define
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bookd.storage import outbox, savepoint
from bookd.storage.engine import BUSY
from bookd.storage.inbox import Refused
from bookd.storage.outbox import Row
from bookd.storage.prepared import say

# Transactions after one in which a unit has failed that are run with savepoints at once: where one fails others may.
WARY = 8


@define(eq=False)
class Unit:
    """Work, whom to tell, and what came of it. One that is `brief` may be run where nothing may take long, and more than
    once, of which the last time counts."""

    work: Callable[[Connection], Any]
    deferred: Deferred[Any]
    brief: bool = False
    result: Any = None


class Commits:
    """The transactions of one writer, one after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.keeps = engine.dialect.name == "sqlite"
        self._connection: Connection | None = None
        self._put: list[Row] = []
        # Units that were run without savepoints; None where each has its own. And how many transactions have that to come.
        self._tried: list[Unit] | None = None
        self._wary = 0

    def begin(self, *, brief: bool) -> bool:
        """Begin a transaction without waiting for anything, for units that all are `brief` or not; False if that cannot be done
        now."""
        connection = self._connection
        if connection is None:
            return False
        try:
            connection.begin()
        except OperationalError:
            return False  # somebody else writes, or it is broken, which who may wait will see
        without = brief and not self._wary
        self._wary = max(0, self._wary - brief)
        self._begun(connection, without=without)
        try:
            if without:
                savepoint.begin(connection)
        except DBAPIError:
            self.close()
            return False
        return True

    def run(self, units: Iterable[Unit]) -> None:
        """Run units in the transaction that has begun.

        Raises what the database raises outside of the units' own work; then nothing of them has had an effect.
        """
        connection = self._connection
        assert connection is not None
        try:
            for unit in units:
                if self._tried is None or not self._tries(unit, connection, self._tried):
                    _run(unit, connection, self._put)
        except BaseException:
            self.close()
            raise

    def commit(self) -> list[Row]:
        """End the transaction; answers which messages it has put. Raises as `run` does."""
        connection = self._connection
        assert connection is not None
        try:
            connection.commit()
        except BaseException:
            self.close()
            raise
        if not self.keeps:
            self._connection = None
            connection.close()
        return self._put

    def whole(self, units: Iterable[Unit]) -> list[Row]:
        """All in one: begin, run, commit; waits for others that write. Answers and raises as these do."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._engine.connect()
            if self.keeps:
                say(connection, "PRAGMA busy_timeout = 0")
        try:
            if not self.begin(brief=False):
                self._wait(connection)
        except BaseException:
            self.close()
            raise
        self.run(units)
        return self.commit()

    def close(self) -> None:
        """Close the connection; a transaction is undone."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Nobody else gets it: it may be in the middle of what the database has refused to end, and waits for nobody.
            connection.invalidate()
            connection.close()

    def _wait(self, connection: Connection) -> None:
        if self.keeps:
            say(connection, f"PRAGMA busy_timeout = {BUSY * 1000}")
        try:
            connection.begin()
        finally:
            if self.keeps:
                say(connection, "PRAGMA busy_timeout = 0")
        self._begun(connection, without=False)

    def _begun(self, connection: Connection, *, without: bool) -> None:
        self._put, self._tried = outbox.note(connection), [] if without else None
        savepoint.try_without(connection, without)

    def _tries(self, unit: Unit, connection: Connection, tried: list[Unit]) -> bool:
        try:
            unit.result = unit.work(connection)
        except Exception:
            self._wary = WARY
            savepoint.undo(connection)
            self._begun(connection, without=False)
            for each in tried:
                _run(each, connection, self._put)
            return False
        tried.append(unit)
        return True


def _run(unit: Unit, connection: Connection, put: list[Row]) -> None:
    before = len(put)
    savepoint.begin(connection)
    try:
        unit.result = unit.work(connection)
    except Refused as refused:
        unit.result = Failure(refused.error)
        del put[before:]
        savepoint.keep(connection)
    except Exception:
        unit.result = Failure()
        del put[before:]
        savepoint.undo(connection)
    else:
        savepoint.keep(connection)
