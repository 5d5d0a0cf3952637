"""The desk: group commit, isolation of units, refusal, and an orderly end."""

import threading
import time
from pathlib import Path

from sqlalchemy import Connection, MetaData, event, text
from sqlalchemy.exc import OperationalError
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, fail, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge import commits, desk
from bookd.bridge.desk import Desk
from bookd.errors import NotFound, Unavailable
from bookd.storage import outbox, savepoint
from bookd.storage.engine import open_engine
from bookd.storage.inbox import Refused
from bookd.testing.faults import Injected, watch


def insert(connection: Connection, number: int) -> int:
    """Write one row."""
    connection.execute(text("INSERT INTO numbers VALUES (:number)"), {"number": number})
    return number


def insert_and_fail(connection: Connection, number: int) -> None:
    """Write one row, then find that it was wrong."""
    insert(connection, number)
    raise NotFound("no")


def numbers(connection: Connection) -> list[int]:
    """All rows."""
    return [row[0] for row in connection.execute(text("SELECT number FROM numbers ORDER BY number"))]


class DeskTests(TestCase):
    """A desk on a real file."""

    async def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "numbers.sqlite"
        self.engine = open_engine(self.path)
        self.desk = Desk(reactor, self.engine)
        self.desk.startService()
        self.addCleanup(self.stop)
        await self.desk.write(
            lambda connection: connection.execute(text("CREATE TABLE numbers (number INTEGER)")).close()
        )

    def stop(self) -> Deferred[None] | None:
        return self.desk.stopService() if self.desk.running else None

    async def test_result_and_order(self) -> None:
        """Each unit's result comes to its own Deferred, and units run in the order given."""
        results = await gatherResults([self.desk.write(insert, number) for number in range(1000)])
        self.assertEqual(results, list(range(1000)))
        self.assertEqual(await self.desk.read(numbers), list(range(1000)))

    async def test_failure_stays_alone(self) -> None:
        """A unit that fails leaves nothing behind, and its neighbours in the group are committed."""
        first, second, third = (
            self.desk.write(insert, 1),
            self.desk.write(insert_and_fail, 2),
            self.desk.write(insert, 3),
        )
        await self.assertFailure(second, NotFound)
        await gatherResults([first, third])
        self.assertEqual(await self.desk.read(numbers), [1, 3])

    async def test_refusal_is_committed(self) -> None:
        """A unit that raises `Refused` is committed, and its Deferred fails with the error that was refused with."""

        def refuse(connection: Connection) -> None:
            insert(connection, 9)
            raise Refused(NotFound("no"))

        await self.assertFailure(self.desk.write(refuse), NotFound)
        self.assertEqual(await self.desk.read(numbers), [9])

    async def test_committed_before_told(self) -> None:
        """When a write's Deferred fires, another connection sees the row."""
        await self.desk.write(insert, 7)
        other = open_engine(self.path)
        self.addCleanup(other.dispose)
        with other.connect() as connection:
            self.assertEqual(numbers(connection), [7])

    async def test_units_that_wait_share_a_commit(self) -> None:
        """Units that come while a commit is under way are committed together."""
        commits: list[int] = []
        gate = threading.Event()
        event.listen(self.engine, "commit", lambda connection: commits.append(1))
        begun = threading.Event()
        first = self.desk.write(lambda connection: (begun.set(), gate.wait(10)))
        while not begun.is_set():
            await deferLater(reactor, 0.001, lambda: None)
        waiting = [self.desk.write(insert, number) for number in range(100)]
        gate.set()
        await gatherResults([first, *waiting])
        self.assertEqual(len(commits), 2)

    async def test_no_thread_to_commit(self) -> None:
        """What was jotted and cannot be given to the thread is undone, and told so; the next group is fine."""
        await self.desk.jot(insert, 1)  # so that the next ones are run here
        patched = self.patch(self.desk._writer, "run", lambda *_: fail(Unavailable("no thread")))
        refused = [self.desk.jot(insert, 2), self.desk.jot(insert, 3), self.desk.write(insert, 4)]
        for each in refused:
            error = await self.assertFailure(each, Unavailable)
            self.assertEqual(error.reason, desk.REASON)
        patched.restore()
        await gatherResults([self.desk.jot(insert, 5), self.desk.write(insert, 6)])
        self.assertEqual(await self.desk.read(numbers), [1, 5, 6])
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    async def test_refused_commit(self) -> None:
        """A commit that the database refuses fails every unit of its group with Unavailable; the next group is fine."""
        await self.desk.write(
            lambda c: c.execute(
                text("CREATE TABLE child (p INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)")
            ).close()
        )
        await self.desk.write(lambda c: c.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)")).close())
        orphan = self.desk.write(lambda c: c.execute(text("INSERT INTO child VALUES (1)")).close())
        beside = self.desk.write(insert, 5)
        first = await self.assertFailure(orphan, Unavailable)
        self.assertEqual(first.reason, "STORAGE")
        outcome = await beside.addErrback(lambda failure: failure.trap(Unavailable) and None)
        await self.desk.write(insert, 6)
        self.assertEqual(await self.desk.read(numbers), [6] if outcome is None else [5, 6])

    async def opened(self) -> None:
        """Wait until glances need no thread."""
        while True:
            glance = self.desk.glance(numbers)
            if glance.called:
                return
            await glance

    async def test_glances_come_at_once(self) -> None:
        """A glance fires before it returns, and sees what was committed by then; the first ones come from a thread."""
        self.assertEqual(await self.desk.glance(numbers), [])
        await self.opened()
        await self.desk.write(insert, 7)
        self.assertEqual(self.successResultOf(self.desk.glance(numbers)), [7])

    async def test_failing_glance_stays_alone(self) -> None:
        """A glance that fails, in itself or in the database, changes nothing, and the next one is fine."""

        def refused(connection: Connection) -> None:
            raise NotFound("no")

        for _ in range(2):
            await self.assertFailure(self.desk.glance(refused), NotFound)
            await self.assertFailure(
                self.desk.glance(lambda connection: connection.execute(text("SELECT nothing")).all()), OperationalError
            )
            await self.assertFailure(self.desk.glance(insert, 1), OperationalError)
            self.assertEqual(await self.desk.glance(numbers), [])
            await self.opened()

    async def test_glance_that_lasts(self) -> None:
        """A glance with much to read is broken off, and comes from a thread."""
        await self.opened()
        much = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT max(i) FROM n"
        threads: list[object] = []

        def count(connection: Connection) -> int:
            threads.append(threading.current_thread())
            return int(connection.execute(text(much)).scalar_one())

        glance = self.desk.glance(count)
        self.assertNoResult(glance)
        self.assertEqual(await glance, 100000)
        self.assertEqual(len(set(threads)), 2)
        self.assertEqual(self.successResultOf(self.desk.glance(numbers)), [])

    async def test_many_glances(self) -> None:
        """However often a statement is run, it is not taken for one that lasts."""
        await self.opened()
        for _ in range(3000):
            self.assertEqual(self.successResultOf(self.desk.glance(numbers)), [])

    async def jotted(self) -> None:
        """Wait until jots need no thread."""
        await self.desk.jot(lambda connection: None)

    async def test_jots_are_run_here(self) -> None:
        """Jots are run on the reactor's thread, in groups, and are on the disk when their Deferreds fire."""
        await self.jotted()
        threads: list[object] = []
        committing: list[object] = []
        event.listen(self.engine, "commit", lambda connection: committing.append(threading.current_thread()))

        def jot(connection: Connection, number: int) -> int:
            threads.append(threading.current_thread())
            return insert(connection, number)

        jots = [self.desk.jot(jot, number) for number in range(2 * desk.FEW)]
        self.assertEqual(threads, [])
        self.assertEqual(await gatherResults(jots), list(range(2 * desk.FEW)))
        self.assertEqual(set(threads), {threading.current_thread()})
        self.assertNotIn(threading.current_thread(), committing)
        self.assertLess(len(committing), desk.FEW)
        other = open_engine(self.path)
        self.addCleanup(other.dispose)
        with other.connect() as connection:
            self.assertEqual(numbers(connection), list(range(2 * desk.FEW)))

    async def test_jots_and_writes_in_order(self) -> None:
        """Units are run in the order in which they were given, wherever that is."""
        await self.jotted()
        order: list[int] = []
        verbs = [self.desk.write if number % 7 in (0, 1, 5) else self.desk.jot for number in range(100)]
        await gatherResults([verb(lambda _, n=n: order.append(n)) for n, verb in enumerate(verbs)])
        self.assertEqual(order, list(range(100)))

    async def test_jots_fail_alone(self) -> None:
        """A jot that fails leaves nothing behind, one that was refused leaves that, and their neighbours are committed."""
        await self.jotted()

        def refuse(connection: Connection) -> None:
            insert(connection, 9)
            raise Refused(NotFound("no"))

        first, second = self.desk.jot(insert, 1), self.desk.jot(insert_and_fail, 2)
        third, fourth = self.desk.jot(refuse), self.desk.jot(insert, 4)
        await self.assertFailure(second, NotFound)
        await self.assertFailure(third, NotFound)
        await gatherResults([first, fourth])
        self.assertEqual(await self.desk.read(numbers), [1, 4, 9])

    async def test_jots_are_run_again(self) -> None:
        """When one of a group fails they are all run again, each by itself, and only that has happened; for a while after that
        they are run by themselves at once."""
        await self.jotted()
        runs: list[int] = []

        def jot(connection: Connection, number: int) -> int:
            runs.append(number)
            with savepoint.part(connection):
                insert(connection, number)
                if number < 0:
                    raise NotFound("no")
            return len(runs)

        first, second, third = (self.desk.jot(jot, number) for number in (1, -2, 3))
        await self.assertFailure(second, NotFound)
        self.assertEqual((await first, await third, runs), (3, 5, [1, -2, 1, -2, 3]))
        await self.assertFailure(self.desk.jot(jot, -4), NotFound)
        self.assertEqual((runs.count(-4), await self.desk.read(numbers)), (1, [1, 3]))
        for _ in range(commits.WARY):
            await self.jotted()
        await self.assertFailure(self.desk.jot(jot, -5), NotFound)
        self.assertEqual((runs.count(-5), await self.desk.read(numbers)), (2, [1, 3]))

    async def test_any_statement_fails(self) -> None:
        """Whichever statement of a group fails, each unit that succeeds is there once, and no other is; what is told to be put
        is what was put by these."""
        outbox.define(metadata := MetaData())
        await self.desk.write(metadata.create_all)
        told: list[str] = []
        self.desk.taker = lambda put: told.extend(each.message.lane for each in put)

        def jot(connection: Connection, number: int) -> int:
            message = outbox.Message(f"{number:036}", str(number), "/s/M", b"")
            with savepoint.part(connection):
                outbox.put(connection, message, 1)
                return insert(connection, number)

        strikes, struck = 0, ""
        left = 0

        def strike(where: str) -> None:
            nonlocal left, struck
            left -= 1
            if left == -1:
                struck = where
                raise Injected(where)

        expected: list[int] = []
        missed = 0
        while missed < 2:
            await self.jotted()
            # Every point twice: with a savepoint for each, and without.
            self.desk._commits._wary = commits.WARY if strikes % 2 else 0
            left, struck = strikes // 2, ""
            group = [100 * strikes + number for number in range(3)]
            with watch(self.engine, strike):
                results = await DeferredList([self.desk.jot(jot, number) for number in group], consumeErrors=True)
            strikes += 1
            missed = 0 if struck else missed + 1
            after = struck == "after the commit"
            expected += [number for number, (good, _) in zip(group, results, strict=True) if good or after]
            self.assertEqual(await self.desk.read(numbers), expected)
        self.assertGreater(strikes, 20)
        lanes = [
            int(row.lane)
            for row in await self.desk.read(lambda c: c.execute(text("SELECT lane FROM outbox ORDER BY seq")).all())
        ]
        self.assertEqual(lanes, expected)
        self.assertLessEqual(set(map(int, told)), set(expected))

    async def test_jots_that_end_the_transaction(self) -> None:
        """When the database itself fails in the middle of a group, none of it has had an effect, and the next one is fine."""
        await self.jotted()

        def end(connection: Connection) -> None:
            connection.execute(text("ROLLBACK"))
            raise NotFound("no")

        jots = [self.desk.jot(insert, 1), self.desk.jot(end), self.desk.jot(insert, 3)]
        for each in jots[:2]:
            self.assertEqual((await self.assertFailure(each, Unavailable)).reason, "STORAGE")
        await jots[2]
        self.assertEqual(await self.desk.read(numbers), [3])

    async def test_somebody_else_writes(self) -> None:
        """While another process has the database, jots wait for it in the thread, and the reactor goes on."""
        await self.jotted()
        other = open_engine(self.path)
        self.addCleanup(other.dispose)
        threads: list[object] = []
        with other.connect() as connection:
            transaction = connection.begin()
            insert(connection, 1)
            jot = self.desk.jot(lambda c: (threads.append(threading.current_thread()), insert(c, 2)))
            await deferLater(reactor, 0.2, lambda: None)
            self.assertNoResult(jot)
            transaction.commit()
        await jot
        self.assertNotIn(threading.current_thread(), threads)
        self.assertEqual(await self.desk.read(numbers), [1, 2])

    async def test_jots_that_last(self) -> None:
        """After a group that has held up the reactor, jots go to the thread for a while."""
        await self.jotted()
        self.patch(desk, "REST", 0.2)

        def where(connection: Connection, seconds: float) -> threading.Thread:
            time.sleep(seconds)
            return threading.current_thread()

        here = threading.current_thread()
        self.assertIs(await self.desk.jot(where, 2 * desk.LONG), here)
        self.assertIsNot(await self.desk.jot(where, 0), here)
        await deferLater(reactor, 0.25, lambda: None)
        self.assertIs(await self.desk.jot(where, 0), here)

    async def test_how_long_a_group_is_run(self) -> None:
        """No further jot is begun once a group has taken its time: the reactor has its turn between."""
        await self.jotted()
        turns: list[int] = []
        done: list[int] = []
        jots = [self.desk.jot(lambda _: (time.sleep(desk.SLICE), done.append(1))) for _ in range(3)]
        jots[0].addCallback(lambda _: turns.append(len(done)))
        await gatherResults(jots)
        self.assertEqual(turns, [1])

    async def test_readers_do_not_write(self) -> None:
        """A unit given to `read` cannot change anything."""
        await self.assertFailure(self.desk.read(insert, 1), OperationalError)

    async def test_stop_commits_what_was_accepted(self) -> None:
        """stopService fires when what was accepted is on disk; then further work is refused."""
        await self.jotted()
        waiting = [(self.desk.jot if number % 3 else self.desk.write)(insert, number) for number in range(50)]
        await self.desk.stopService()
        self.assertEqual(len(await gatherResults(waiting)), 50)
        await self.assertFailure(self.desk.jot(insert, 99), Unavailable)
        await self.assertFailure(self.desk.write(insert, 99), Unavailable)
        await self.assertFailure(self.desk.read(numbers), Unavailable)
        await self.assertFailure(self.desk.glance(numbers), Unavailable)
