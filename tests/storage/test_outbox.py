"""Tests for `bookd.storage.outbox`."""

from typing import Any
from uuid import UUID

from sqlalchemy import MetaData, inspect
from sqlalchemy.exc import IntegrityError
from twisted.trial.unittest import SynchronousTestCase

from bookd.storage import outbox
from bookd.storage.engine import open_engine
from bookd.storage.outbox import Message, Trace
from bookd.testing.faults import overhear


def message(number: int, lane: str = "", **fields: object) -> Message:
    """A message; a lane of its own unless one is named."""
    values: dict[str, object] = {
        "message_id": str(UUID(int=number)),
        "lane": lane or f"lane-{number}",
        "method": "/s/M",
        "request": b"r",
    }
    return Message(**{**values, **fields})  # type: ignore[arg-type]


class OutboxTests(SynchronousTestCase):
    """The outbox of a service that has nothing else."""

    def setUp(self) -> None:
        """Open a transaction on a new database."""
        metadata = MetaData()
        self.table = outbox.define(metadata)
        engine = self.engine = open_engine(":memory:")
        metadata.create_all(engine)
        self.connection = engine.connect()
        self.connection.begin()
        self.addCleanup(engine.dispose)
        self.addCleanup(self.connection.close)

    def due(self, now: int = 100, limit: int = 10) -> list[int]:
        return [UUID(row.message.message_id).int for row in outbox.due(self.connection, now, limit)]

    def put(self, *messages: Message, now: int = 1, not_before: int | None = None) -> None:
        for each in messages:
            outbox.put(self.connection, each, now, not_before)

    def test_as_it_was_put(self) -> None:
        """A message comes back with all that it was put with."""
        whole = message(1, principal=b"p", reply_to="/s/Reply", trace=Trace("request", "00-parent"))
        self.put(whole, message(2))
        rows = outbox.due(self.connection, 1, 10)
        self.assertEqual([(row.message, row.attempts) for row in rows], [(whole, 0), (message(2), 0)])

    def test_clock_that_was_ahead(self) -> None:
        """What was put or postponed while the clock was an hour ahead does not wait for that hour, and holds up nobody."""
        hour = 3_600_000_000
        self.put(message(1), message(2, "a"), now=hour)
        self.put(message(3, "a"), message(4), now=1)
        outbox.postpone(self.connection, [message(1).message_id], hour + 2_000_000, "no")
        self.assertEqual(self.due(), [4, 2, 1])
        self.assertEqual(self.due(limit=2), [4, 2])

    def test_lanes(self) -> None:
        """Only the first of a lane is due; the next one once that is removed."""
        self.put(message(1, "a"), message(2, "a"), message(3, "b"), message(4, "a"))
        self.assertEqual(self.due(), [1, 3])
        self.assertTrue(outbox.remove(self.connection, message(1).message_id))
        self.assertEqual(sorted(self.due()), [2, 3])
        self.assertFalse(outbox.remove(self.connection, message(1).message_id))

    def test_postponed(self) -> None:
        """A postponed message holds up its lane, and no other, until its time has come."""
        self.put(message(1, "a"), message(2, "a"), message(3, "b"))
        outbox.postpone(self.connection, [message(1).message_id], 50, "x" * 5000)
        self.assertEqual(self.due(49), [3])
        self.assertEqual(self.due(50), [3, 1])
        (row,) = [row for row in outbox.due(self.connection, 50, 10) if row.message == message(1, "a")]
        self.assertEqual(row.attempts, 1)
        error = self.connection.execute(self.table.select().where(self.table.c.attempts == 1)).one().last_error
        self.assertEqual(len(error), outbox.LONGEST_ERROR)

    def test_not_before(self) -> None:
        """A message may be put for later."""
        self.put(message(1), not_before=50)
        self.assertEqual((self.due(49), self.due(50)), ([], [1]))

    def test_limit(self) -> None:
        """Those that waited longest come first, not more than asked for."""
        self.put(message(1), now=3)
        self.put(message(2), message(3), now=2)
        self.assertEqual(self.due(limit=2), [2, 3])

    def test_next_ready(self) -> None:
        """The time of the next message that is not ready yet; what is ready or blocked now does not count."""
        self.assertIsNone(outbox.next_ready(self.connection, 0))
        self.put(message(1), message(2), message(3, "lane-2"))
        self.assertIsNone(outbox.next_ready(self.connection, 1))
        outbox.postpone(self.connection, [message(1).message_id], 50, "")
        outbox.postpone(self.connection, [message(2).message_id], 40, "")
        self.assertEqual(outbox.next_ready(self.connection, 1), 40)
        self.assertEqual(outbox.next_ready(self.connection, 40), 50)

    def test_trying(self) -> None:
        """A lane is being tried while it holds a message whose first one has not failed too often."""
        self.assertFalse(outbox.trying(self.connection, "a", 2))
        self.put(message(1, "a"), message(2, "a"))
        self.assertTrue(outbox.trying(self.connection, "a", 2))
        for _ in range(2):
            self.assertTrue(outbox.trying(self.connection, "a", 2))
            outbox.postpone(self.connection, [message(1).message_id], 50, "")
        self.assertFalse(outbox.trying(self.connection, "a", 2))
        outbox.remove(self.connection, message(1).message_id)
        self.assertTrue(outbox.trying(self.connection, "a", 2))

    def fresh(self, limit: int = 10, busy: tuple[str, ...] = ()) -> list[int]:
        return [UUID(row.message.message_id).int for row in outbox.fresh_events(self.connection, limit, busy)]

    def test_fresh_events(self) -> None:
        """Events that were not tried come in their order, several of a lane too, whatever the clock says; they are not among
        what is due, until one has failed: then it is, and holds up its lane."""
        self.put(*(message(number, lane, method=outbox.PUBLISH) for number, lane in enumerate("aab", 1)), message(4))
        self.put(message(5, "c", method=outbox.PUBLISH), now=10**12)
        self.assertEqual((self.fresh(), self.fresh(2), self.fresh(busy=("a",))), ([1, 2, 3, 5], [1, 2], [3, 5]))
        self.assertEqual((self.due(), outbox.next_ready(self.connection, 1)), ([4], None))
        outbox.postpone(self.connection, [message(1).message_id], 50, "no")
        self.assertEqual((self.fresh(), self.due(49), self.due(50)), ([3, 5], [4], [4, 1]))
        self.assertEqual(outbox.next_ready(self.connection, 1), 50)
        outbox.remove_all(self.connection, [message(1).message_id, message(3).message_id])
        self.assertEqual(self.fresh(), [2, 5])

    def test_found_among_many(self) -> None:
        """What is due is found without walking past events that wait, and these without walking past it."""
        for ask, index in (
            (lambda: outbox.due(self.connection, 1, 9), "outbox_by_time"),
            (lambda: outbox.next_ready(self.connection, 1), "outbox_by_time"),
            (lambda: outbox.fresh_events(self.connection, 9), "outbox_fresh_events"),
        ):
            asked: list[tuple[str, Any]] = []
            with overhear(self.engine, lambda text, values, asked=asked: asked.append((text, values))):
                ask()
            for text, values in asked:
                plan = [row[3] for row in self.connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text, values)]
                self.assertTrue(any(index in step for step in plan), plan)
                self.assertFalse(any("TEMP B-TREE" in step for step in plan), plan)

    def test_put_twice(self) -> None:
        """Putting the id of a message that is still there changes nothing."""
        self.put(message(1), message(1, "another"))
        self.assertEqual(outbox.due(self.connection, 1, 10)[0].message, message(1))

    def test_order_is_never_used_again(self) -> None:
        """A message that is put after the last one was removed still comes after it."""
        self.put(message(1))
        first = self.connection.execute(self.table.select()).one().seq
        outbox.remove(self.connection, message(1).message_id)
        self.put(message(2))
        self.assertGreater(self.connection.execute(self.table.select()).one().seq, first)

    def test_schema(self) -> None:
        """The database refuses what is no message, and says what each column holds."""
        for bad in ({"message_id": "short"}, {"lane": ""}, {"method": None}):
            values = {
                "message_id": str(UUID(int=1)), "lane": "a", "method": "/s/M", "request": b"", "principal": b"",
                "reply_to": "", "request_id": "", "traceparent": "", "attempts": 0, "ready_at": 1, "last_error": "",
                "created_at": 1, **bad,
            }  # fmt: skip
            with self.assertRaises(IntegrityError), self.connection.begin_nested():
                self.connection.execute(self.table.insert().values(values))
        self.assertTrue(all(column.comment for column in self.table.columns))
        self.assertEqual(len(inspect(self.connection).get_indexes("outbox")), 3)
