"""A message takes effect once, however often it comes."""

from collections.abc import Callable
from typing import Any

from google.protobuf.wrappers_pb2 import Int64Value
from sqlalchemy import Column, Connection, Integer, MetaData, Table, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.commits import WARY, Commits, Unit
from bookd.contract.call import Call
from bookd.errors import BookdError, InvalidArgument, NotFound, Unavailable
from bookd.storage import inbox
from bookd.storage.engine import open_engine

ID = "0190a0b0-0000-7000-8000-000000000001"
PRINT, OTHER = b"f" * 32, b"g" * 32


class InboxTests(SynchronousTestCase):
    """An inbox beside a table that counts how often work was done."""

    def setUp(self) -> None:
        """Make both tables."""
        self.engine = open_engine(":memory:")
        self.addCleanup(self.engine.dispose)
        metadata = MetaData()
        self.inbox = inbox.define(metadata)
        self.done = Table("done", metadata, Column("n", Integer, primary_key=True))
        metadata.create_all(self.engine)

    def work(self, connection: Connection) -> Int64Value:
        """Leave a trace, and answer its number."""
        number = connection.execute(insert(self.done).returning(self.done.c.n)).scalar_one()
        return Int64Value(value=number)

    def once(self, message_id: str | None = ID, fingerprint: bytes = PRINT, now: int = 5) -> int:
        """Apply a message in a transaction of its own; what it answered."""
        with self.engine.begin() as connection:
            call = Call(message_id, "/s/M", fingerprint)
            return inbox.once(connection, call, Int64Value, now, self.work).value

    def count(self, table: Table) -> int:
        """Rows of a table."""
        with self.engine.begin() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar_one())

    def test_repeat(self) -> None:
        """A message that comes again is answered as before, and nothing is done."""
        self.assertEqual([self.once(), self.once(now=9), self.once()], [1, 1, 1])
        self.assertEqual(self.count(self.done), 1)

    def test_other_message(self) -> None:
        """Another id is another intent, even with the same request."""
        self.assertEqual([self.once(), self.once(ID[:-1] + "2")], [1, 2])

    def test_other_request(self) -> None:
        """The id of another request is refused and leaves the record as it was."""
        self.once()
        error = self.assertRaises(InvalidArgument, self.once, fingerprint=OTHER)
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")
        self.assertEqual((self.once(), self.count(self.done)), (1, 1))

    def test_no_id(self) -> None:
        """A call without an id counts each time and is not recorded."""
        self.assertEqual([self.once(None), self.once(None)], [1, 2])
        self.assertEqual(self.count(self.inbox), 0)

    def fail(self, error: BookdError) -> Callable[[Connection], Int64Value]:
        """Work that leaves a trace, and fails then."""

        def work(connection: Connection) -> Int64Value:
            self.work(connection)
            raise error

        return work

    def test_failure_leaves_no_trace(self) -> None:
        """Work that fails without deciding takes the claim of its id back with it: the message may be tried again."""
        with self.assertRaises(Unavailable), self.engine.begin() as connection:
            inbox.once(connection, Call(ID, "/s/M", PRINT), Int64Value, 5, self.fail(Unavailable("later")))
        self.assertEqual((self.count(self.inbox), self.count(self.done)), (0, 0))
        self.assertEqual(self.once(), 1)

    def test_refusal_is_remembered(self) -> None:
        """Work that is refused leaves nothing but the refusal, which the message is answered with from then on, though it
        might succeed by now."""
        error = NotFound("no such thing", reason="GONE", info={"thing": "17"})
        with self.engine.connect() as connection, connection.begin() as transaction:
            refused = self.assertRaises(
                inbox.Refused,
                inbox.once,
                connection,
                Call(ID, "/s/M", PRINT),
                Int64Value,
                5,
                self.fail(error),
            )
            transaction.commit()
        self.assertIs(refused.error, error)
        self.assertEqual((self.count(self.inbox), self.count(self.done)), (1, 0))
        again = self.assertRaises(NotFound, self.once)
        self.assertEqual((again.message, again.reason, again.info), ("no such thing", "GONE", {"thing": "17"}))
        self.assertEqual(
            self.assertRaises(InvalidArgument, self.once, fingerprint=OTHER).reason, "IDEMPOTENCY_KEY_REUSED"
        )
        self.assertEqual(self.count(self.done), 0)

    def test_refusal_without_an_id(self) -> None:
        """A call without an id is refused as it is, each time anew."""
        with self.assertRaises(NotFound), self.engine.begin() as connection:
            inbox.once(connection, Call(None, "/s/M", PRINT), Int64Value, 5, self.fail(NotFound("no")))
        self.assertEqual((self.count(self.inbox), self.count(self.done)), (0, 0))

    def test_failure_in_a_savepoint(self) -> None:
        """The same where only a savepoint is rolled back, beside another message that stays."""
        with self.engine.begin() as connection:
            inbox.once(connection, Call(ID, "/s/M", PRINT), Int64Value, 5, self.work)
            savepoint = connection.begin_nested()
            inbox.once(connection, Call(ID[:-1] + "2", "/s/M", PRINT), Int64Value, 5, self.work)
            savepoint.rollback()
        self.assertEqual((self.count(self.inbox), self.count(self.done)), (1, 1))

    def jotted(self, *calls: tuple[str, Callable[[Connection], Int64Value]]) -> list[Any]:
        """Apply messages in one transaction, as a desk does those that it may try together: the answers, or the names of the
        errors."""

        def unit(name: str, work: Callable[[Connection], Int64Value]) -> Unit:
            call = Call(name, "/s/M", PRINT)
            return Unit(lambda connection: inbox.once(connection, call, Int64Value, 5, work), Deferred(), brief=True)

        units = [unit(name, work) for name, work in calls]
        self.assertTrue(self.commits.begin(brief=True))
        self.commits.run(units)
        self.commits.commit()
        results = [each.result for each in units]
        return [type(each.value).__name__ if isinstance(each, Failure) else each.value for each in results]

    def test_tried(self) -> None:
        """Where messages are tried together, the work of each is done before its id is known to be new. One that comes again,
        in the same transaction or in a later one, is answered as before, and its work is undone; so is what is refused."""
        self.commits = Commits(self.engine)
        self.addCleanup(self.commits.close)
        self.commits.whole([])
        second, third = (ID[:-1] + digit for digit in "23")
        self.assertEqual(self.jotted((ID, self.work)), [1])
        self.assertEqual(self.jotted((second, self.work), (ID, self.work), (second, self.work)), [2, 1, 2])
        refused = self.fail(NotFound("no such thing"))
        for _ in range(WARY + 1):  # now with savepoints from the start, and at last without
            self.assertEqual(self.jotted((ID, self.work), (third, refused)), [1, "NotFound"])
        self.assertEqual((self.count(self.inbox), self.count(self.done)), (3, 2))

    def test_empty_response(self) -> None:
        """A response without fields is a response."""
        with self.engine.begin() as connection:
            call = Call(ID, "/s/M", PRINT)
            answers = [inbox.once(connection, call, Int64Value, 5, lambda _: Int64Value()) for _ in range(2)]
        self.assertEqual(answers, [Int64Value(), Int64Value()])

    def test_purge(self) -> None:
        """Old messages are forgotten, younger ones are not."""
        self.once(now=5)
        self.once(ID[:-1] + "2", now=6)
        with self.engine.begin() as connection:
            self.assertEqual(inbox.purge(connection, 6, 10), 1)
        self.assertEqual(self.once(ID[:-1] + "2"), 2)
        self.assertEqual(self.once(), 3)

    def test_purge_in_batches(self) -> None:
        """No more than the limit is forgotten at a time, the oldest first."""
        for number, applied_at in enumerate((9, 5, 7, 6, 8)):
            self.once(f"{ID[:-1]}{number}", now=applied_at)
        left = []
        for _ in range(3):
            with self.engine.begin() as connection:
                forgotten = inbox.purge(connection, 9, 2)
                left.append((forgotten, sorted(connection.execute(select(self.inbox.c.applied_at)).scalars())))
        self.assertEqual(left, [(2, [7, 8, 9]), (2, [9]), (0, [9])])

    def test_both_dialects(self) -> None:
        """The claim is one statement that SQLite and PostgreSQL both have."""
        for module in (sqlite, postgresql):
            statement = module.insert(self.inbox).values(message_id=ID).on_conflict_do_nothing()
            self.assertIn("ON CONFLICT DO NOTHING", str(statement.compile(dialect=module.dialect())))
