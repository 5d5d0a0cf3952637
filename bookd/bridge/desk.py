"""Runs a service's SQL: one writer that commits in groups, and a few readers.

A unit of work is a plain synchronous function that takes a connection. Where it runs and when it commits is decided here:

- `write` puts the unit into the queue of the one writer. The writer takes all that wait (up to a limit), runs each in a
  savepoint of its own, and commits them together. Only then do their Deferreds fire. While that commit waits for the
  disk the next group gathers, so a durable write costs a share of an fsync, not one.
- `jot` is `write` for units that touch a few rows by their keys and may be run more than once. On SQLite those are run on
  the reactor's thread, a few at a time, and only their commit, which waits for the disk, goes to the writer's: two threads
  that share an interpreter take it from each other at every statement, and that costs more than the statements do. Where
  something else holds the database, and for a while after a group that has taken long, they are run as `write` does. On a
  server of databases it is `write`.
- `read` runs the unit in one of the reader threads, in a transaction that sees one state of the database.
- `glance` is `read` for units that look up a few rows by their keys, which costs less than the way to a thread and back
  does. On SQLite it runs them at once, on the reactor's thread, and breaks off what takes more than about a millisecond,
  to do it as `read` does (`bookd.storage.point_reader`). On a server of databases it is `read`.

Units are run in the order in which they are given, `write` and `jot` alike. What they have put into the outbox is told to
`taker`, a relay, once it is committed.

What is promised: a Deferred of `write` or `jot` that fires with a result means that the unit is on disk. One that fails with
the unit's own exception means that nothing of the unit is, but a refusal that the inbox remembers; and it says nothing about
its neighbours. When the commit itself fails, all units of the group fail with `Unavailable`, reason STORAGE, and none has
had an effect.

What is not promised: that cancelling a Deferred stops its unit. Whether it took effect is then unknown to the caller.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.bridge.commits import Commits, Unit
from bookd.bridge.workers import Workers
from bookd.errors import Unavailable
from bookd.storage.engine import reading
from bookd.storage.outbox import Row
from bookd.storage.point_reader import Lasting, PointReader

P = ParamSpec("P")
T = TypeVar("T")

# Units that one commit holds at most: bounds how long the first of them waits for the last.
GROUP = 256
# Units that are jotted down at a time, and seconds after which no further one is begun. Smaller groups cost more commits;
# larger ones, and all that is under way moves from one daemon to the next as a whole, while the others have nothing to do.
FEW, SLICE = 64, 0.005
# A group that has held the reactor for so many seconds makes those of the next so many seconds go to the thread: the disk is
# slow, or the units are not what they were taken for.
LONG, REST = 0.02, 1.0
# Reason of the error of a unit that the database refused.
REASON = "STORAGE"


def is_storage(error: BaseException | None) -> bool:
    """Whether a unit failed because the database refused, of which the desk has told in the log."""
    return isinstance(error, Unavailable) and error.reason == REASON


class Desk(Service):
    """The desk of one database. `reactor` is where Deferreds fire; the engine is closed with the desk."""

    log = Logger()

    def __init__(self, reactor: Any, engine: Engine, readers: int = 2) -> None:
        self._reactor = reactor
        self._engine = engine
        self._reading = reading(engine)
        self._writer = Workers(1, "desk-writer")
        self._readers = Workers(readers, "desk-reader")
        self._commits = Commits(engine)
        self._waiting: deque[Unit] = deque()
        # While units wait or are under way; fires when there are none any more.
        self._quiet: Deferred[None] | None = None
        # Nothing is jotted before.
        self._rest_until = 0.0
        self.taker: Callable[[Sequence[Row]], Any] = lambda put: None
        # Made by the first glance, in a thread; where it cannot be, glances are reads.
        self._point_reader: PointReader | None = None
        self._opening: Deferred[None] | None = None

    @property
    def alone(self) -> bool:
        """Whether nobody else writes into this database while the daemon runs."""
        return self._commits.keeps

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
        if self._quiet is not None:
            await self._quiet
        await DeferredList([workers.stopService() for workers in (self._writer, self._readers)])
        self._commits.close()
        if self._point_reader is not None:
            self._point_reader.close()
        self._engine.dispose()

    def write(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run `work(connection, …)` in a savepoint of the writer's next transaction; fires after the commit."""
        return self._add(Unit(lambda connection: work(connection, *args, **kwargs), Deferred()))

    def jot(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Do what `write` does for `work(connection, …)`, which touches a few rows by their keys, perhaps more than once: then
        only the last time has happened."""
        return self._add(Unit(lambda connection: work(connection, *args, **kwargs), Deferred(), brief=True))

    def _add(self, unit: Unit) -> Deferred[Any]:
        if not self.running:
            unit.deferred.errback(Unavailable("the database is closed", reason=REASON))
            return unit.deferred
        self._waiting.append(unit)
        if self._quiet is None:
            self._quiet = Deferred()
            if unit.brief:
                # What is given in the same turn of the reactor goes into the same group.
                self._reactor.callLater(0, self._next)
            else:
                self._next()  # the thread is at it while the reactor goes on
        return unit.deferred

    def _next(self) -> None:
        if not self._waiting:
            quiet, self._quiet = self._quiet, None
            assert quiet is not None
            quiet.callback(None)
            return
        group: list[Unit] = []
        under_way = self._jotted(group) if self._waiting[0].brief else None
        if under_way is None:
            group += [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
            under_way = self._writer.run(self._commits.whole, group)
        under_way.addErrback(self._refuse, group)
        under_way.addCallback(self._go_on, group)

    def _go_on(self, put: list[Row], group: list[Unit]) -> None:
        if self._waiting and self._waiting[0].brief:
            # First the news: others have something to do while the next group is run here.
            self._tell(group, put)
            self._reactor.callLater(0, self._next)
        else:
            # First the next group, then the news: the disk is not kept waiting for what callers make of the results.
            self._next()
            self._tell(group, put)

    def _tell(self, group: list[Unit], put: list[Row]) -> None:
        for unit in group:
            unit.deferred.callback(unit.result)
        if put:
            try:
                self.taker(put)
            except Exception:
                self.log.failure("what was put into the outbox was not taken")

    def _jotted(self, group: list[Unit]) -> Deferred[list[Row]] | None:
        """Run the next few units here, and fill `group` with them; fires when they are committed. None if none was run."""
        seconds = self._reactor.seconds
        began = seconds()
        try:
            if began < self._rest_until or not self._commits.begin(brief=True):
                return None
            while self._waiting and self._waiting[0].brief and len(group) < FEW and seconds() < began + SLICE:
                group.append(self._waiting.popleft())
                self._commits.run(group[-1:])
        except Exception:
            return fail()
        if seconds() > began + LONG:
            self._rest_until = seconds() + REST
        return self._writer.run(self._commits.commit)

    def _refuse(self, failure: Failure, group: list[Unit]) -> list[Row]:
        self.log.error("the database refused to commit {count} units: {error}", count=len(group), error=failure.value)
        self._commits.close()  # where no thread came to commit, what was jotted is undone
        for unit in group:
            unit.result = Failure(Unavailable("the database refused the write", reason=REASON, retry_after=1.0))
        return []

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
