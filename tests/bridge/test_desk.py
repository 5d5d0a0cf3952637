"""The desk: group commit, isolation of units, refusal, and an orderly end."""

import threading
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from bookd.bridge.desk import Desk
from bookd.errors import NotFound, Unavailable
from bookd.storage.engine import open_engine
from bookd.storage.inbox import Refused


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
        from sqlalchemy import event

        event.listen(self.engine, "commit", lambda connection: commits.append(1))
        first = self.desk.write(lambda connection: gate.wait(10))
        waiting = [self.desk.write(insert, number) for number in range(100)]
        gate.set()
        await gatherResults([first, *waiting])
        self.assertEqual(len(commits), 2)

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

    async def test_readers_do_not_write(self) -> None:
        """A unit given to `read` cannot change anything."""
        await self.assertFailure(self.desk.read(insert, 1), OperationalError)

    async def test_stop_commits_what_was_accepted(self) -> None:
        """stopService fires when what was accepted is on disk; then further work is refused."""
        waiting = [self.desk.write(insert, number) for number in range(50)]
        await self.desk.stopService()
        self.assertEqual(len(await gatherResults(waiting)), 50)
        await self.assertFailure(self.desk.write(insert, 99), Unavailable)
        await self.assertFailure(self.desk.read(numbers), Unavailable)
        await self.assertFailure(self.desk.glance(numbers), Unavailable)
