"""Runs a service's SQL: one writer that commits in groups, and a few readers.

A unit of work is a plain synchronous function that takes a connection. Where it runs and when it commits is decided here:

- `write` puts the unit into the queue of the one writer. The writer takes all that wait (up to a limit), runs each in a
  savepoint of its own, and commits them together. Only then do their Deferreds fire. While that commit waits for the
  disk the next group gathers, so a durable write costs a share of an fsync, not one.
- `read` runs the unit in one of the reader threads, in a transaction that sees one state of the database.
- `glance` is `read` for units that look up a few rows by their keys, which costs less than the way to a thread and back
  does. On SQLite it runs them at once, on the reactor's thread, and breaks off what takes more than about a millisecond,
  to do it as `read` does (`bookd.storage.point_reader`). On a server of databases it is `read`.

What is promised: a Deferred of `write` that fires with a result means that the unit is on disk. One that fails with the
unit's own exception means that nothing of the unit is, but a refusal that the inbox remembers; and it says nothing about
its neighbours. When the commit itself
fails, all units of the group fail with `Unavailable`, reason STORAGE, and none has had an effect.

What is not promised: that cancelling a Deferred stops its unit. Whether it took effect is then unknown to the caller.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from attrs import define
from sqlalchemy import Connection, Engine
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.bridge.workers import Workers
from bookd.errors import Unavailable
from bookd.storage import savepoint
from bookd.storage.engine import reading
from bookd.storage.inbox import Refused
from bookd.storage.point_reader import Lasting, PointReader

P = ParamSpec("P")
T = TypeVar("T")

# Units that one commit holds at most: bounds how long the first of them waits for the last.
GROUP = 256
# Reason of the error of a unit that the database refused.
REASON = "STORAGE"


def is_storage(error: BaseException | None) -> bool:
    """Whether a unit failed because the database refused, of which the desk has told in the log."""
    return isinstance(error, Unavailable) and error.reason == REASON


@define(eq=False)
class _Unit:
    work: Callable[[Connection], Any]
    deferred: Deferred[Any]
    result: Any = None


class Desk(Service):
    """The desk of one database. `reactor` is where Deferreds fire; the engine is closed with the desk."""

    log = Logger()

    def __init__(self, reactor: Any, engine: Engine, readers: int = 2) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._writer = Workers(reactor, 1, "desk-writer")
        self._readers = Workers(reactor, readers, "desk-reader")
        self._commits = Commits(engine)
        self._writes = _Together(lambda group: self._writer.run(self._commits.commit, group), self._refuse_write)
        # Made by the first glance, in a thread; where it cannot be, glances are reads.
        self._point_reader: PointReader | None = None
        self._opening: Deferred[None] | None = None

    def startService(self) -> None:
        """Start the threads; the database is opened by the first unit."""
        super().startService()
        for workers in (self._writer, self._readers):
            workers.startService()

    def stopService(self) -> Deferred[None]:
        """Refuse further work; fires when what was accepted is committed and the database is closed."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        await self._writes.settled()
        await DeferredList([workers.stopService() for workers in (self._writer, self._readers)])
        self._commits.close()
        if self._point_reader is not None:
            self._point_reader.close()
        self._engine.dispose()

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)` in a savepoint of the writer's next transaction; fires after the commit."""
        deferred: Deferred[T] = Deferred()
        if self.running:
            self._writes.add(_Unit(lambda connection: work(connection, *args, **kwargs), deferred))
        else:
            deferred.errback(Unavailable("the database is closed", reason=REASON))
        return deferred

    def glance(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)`, which looks up a few rows and changes nothing, perhaps twice. It sees all that was
        committed when it was asked for."""
        if self._point_reader is None or not self.running:
            self._open_point_reader()
            return self.read(work, *args, **kwargs)
        try:
            return succeed(self._point_reader.run(work, *args, **kwargs))
        except Lasting:
            return self.read(work, *args, **kwargs)
        except Exception:
            return fail()

    def read(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)` in a reader thread, in a transaction of its own that changes nothing."""

        def run() -> T:
            with self._reading.connect() as connection, connection.begin():
                return work(connection, *args, **kwargs)

        return self._readers.run(run)

    def _open_point_reader(self) -> None:
        if self._opening is not None or not self.running or self._engine.dialect.name != "sqlite":
            return

        def opened(reader: PointReader) -> None:
            self._point_reader = reader

        self._opening = self._readers.run(PointReader, self._engine).addCallback(opened)
        self._opening.addErrback(lambda failure: self.log.failure("glances run in threads", failure))

    def _refuse_write(self, failure: Failure, group: list[_Unit]) -> None:
        self.log.error("the database refused to commit {count} units: {error}", count=len(group), error=failure.value)
        for unit in group:
            unit.result = Failure(Unavailable("the database refused the write", reason=REASON, retry_after=1.0))


class _Together:
    """Units that run in groups: while one is under way the next gathers. `refuse` gives results to the units of a group
    that failed as a whole."""

    def __init__(
        self, run: Callable[[list[_Unit]], Deferred[None]], refuse: Callable[[Failure, list[_Unit]], None]
    ) -> None:
        self._run = run
        self._refuse = refuse
        self._waiting: deque[_Unit] = deque()
        self._under_way: Deferred[None] | None = None

    def add(self, unit: _Unit) -> None:
        self._waiting.append(unit)
        if self._under_way is None:
            self._next()

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        while self._under_way is not None:
            await _settled(self._under_way)

    def _next(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
        if not group:
            self._under_way = None
            return
        under_way = self._under_way = self._run(group)
        under_way.addErrback(self._refuse, group)
        # First the next group, then the news: the disk is not kept waiting for what callers make of the results.
        under_way.addCallback(lambda _: self._next())
        under_way.addCallback(lambda _: _tell(group))


def _tell(group: list[_Unit]) -> None:
    for unit in group:
        unit.deferred.callback(unit.result)


class Commits:
    """Commits groups, in the writer's thread. On SQLite they share a connection, as long as nothing goes wrong with it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._keeps = engine.dialect.name == "sqlite"
        self._connection: Connection | None = None

    def commit(self, group: list[_Unit]) -> None:
        """Run the units of the group in one transaction, each in its savepoint, and commit.

        Raises what the database raises outside of the units' own work; then nothing of the group has had an effect.
        """
        connection, self._connection = self._connection or self._engine.connect(), None
        try:
            with connection.begin():
                for unit in group:
                    _run(unit, connection)
        except BaseException:
            connection.close()
            raise
        if self._keeps:
            self._connection = connection
        else:
            connection.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


def _run(unit: _Unit, connection: Connection) -> None:
    savepoint.begin(connection)
    try:
        unit.result = unit.work(connection)
    except Refused as refused:
        unit.result = Failure(refused.error)
        savepoint.keep(connection)
    except Exception:
        unit.result = Failure()
        savepoint.undo(connection)
    else:
        savepoint.keep(connection)


def _settled(deferred: Deferred[Any]) -> Deferred[None]:
    waiter: Deferred[None] = Deferred()

    def relay(result: Any) -> Any:
        waiter.callback(None)
        return result

    deferred.addBoth(relay)
    return waiter
