"""Tests for `bookd.mom.upkeep`, with a clock that is pushed."""

from typing import Any

from sqlalchemy import text
from twisted.internet.task import Clock

from bookd.errors import Code, Internal
from bookd.mom import overview, records, settling, store, upkeep
from bookd.mom.machine import Event, MessageState
from bookd.mom.schema import events
from bookd.mom.spool import Spool
from bookd.mom.upkeep import BATCH, INTERVAL, SOON, Retention, Upkeep
from bookd.testing.desk import ImmediateDesk
from bookd.wire.mom.v1.message_pb2 import Outcome
from tests.mom.room import (
    CAREFULLY,
    DAY,
    DESTINATION,
    NOW,
    OTHER,
    POLICY,
    SECOND,
    TAKE,
    StoreTestCase,
    done,
    draft,
    ended,
    number_id,
    post,
)


class UpkeepTests(StoreTestCase):
    """An upkeep that keeps finished operations for a day."""

    def setUp(self) -> None:
        """Wire it; it is not started yet."""
        super().setUp()
        self.clock = Clock()
        self.clock.advance(NOW / 1e6)
        self.spool = Spool(ImmediateDesk(self.engine), lambda: round(self.clock.seconds() * 1e6))
        self.arrivals: list[str] = []
        self.spool.on_arrival(DESTINATION, lambda: self.arrivals.append(DESTINATION))
        self.upkeep = Upkeep(self.clock, self.spool, post(), POLICY, Retention(DAY, DAY, DAY))
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop; no timer is left."""
        if self.upkeep.running:
            self.upkeep.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def look(self) -> None:
        """Start, if that was not done, or let it look again."""
        if self.upkeep.running:
            self.clock.advance(INTERVAL)
        else:
            self.upkeep.startService()

    def finish(self, number: int, outcome: records.Outcome, ago: int = 0, **changes: Any) -> None:
        """Keep a message that finished a while ago."""
        kept = self.keep(number, str(number), **changes)
        self.do(settling.finish, kept.seq, outcome, NOW - ago)

    def test_counts(self) -> None:
        """It counts first what is stored, so that calls need not ask an empty store."""
        self.look()
        self.assertTrue(self.spool.is_counted)

    def test_purges(self) -> None:
        """Operations that finished a day ago are forgotten; dead letters, and what waits, never."""
        dead = ended(Event.GIVEN_UP, Internal("broken"))
        self.finish(1, done(), DAY + 1)
        self.finish(2, done(), DAY - SECOND)
        self.finish(3, dead, 9 * DAY)
        self.keep(4, "4", now=NOW - 9 * DAY)
        self.look()
        self.assertEqual(
            [self.do(store.find, number_id(number)) is None for number in (1, 2, 3, 4)], [True, False, False, False]
        )
        self.clock.advance(2)
        self.look()
        self.assertIsNone(self.do(store.find, number_id(2)))

    def test_many(self) -> None:
        """Many go in batches, one soon after another."""
        with self.engine.begin() as connection:
            for number in range(BATCH + 1):
                kept, _ = store.keep(connection, draft(number, str(number)), NOW - DAY)
                settling.finish(connection, kept.seq, done(), NOW - 2 * DAY)
        self.look()
        self.assertEqual(self.do(overview.count), 1)
        self.clock.advance(SOON)
        self.assertEqual(self.do(overview.count), 0)

    def test_many_expire(self) -> None:
        """Many that expire at once all do, in batches."""
        with self.engine.begin() as connection:
            for number in range(BATCH + 1):
                store.keep(connection, draft(number, str(number % 7), expire_at=NOW), NOW - DAY)
        self.look()
        self.assertEqual(self.do(overview.queue, DESTINATION).depth, 1)
        self.clock.advance(SOON)
        self.assertEqual(self.do(overview.queue, DESTINATION).depth, 0)
        self.assertEqual(self.do(overview.queue, DESTINATION).dead, BATCH + 1)

    def test_expires(self) -> None:
        """What was not delivered in time is a dead letter, its sender is told, and its lane moves on."""
        self.keep(1, expire_at=NOW + SECOND, reply_to=TAKE)
        self.keep(2, expire_at=NOW + DAY)
        self.look()
        self.assertIs(self.found(number_id(1)).state, MessageState.QUEUED)
        self.look()
        found = self.found(number_id(1))
        self.assertEqual(
            (found.state, found.status_code, found.attempts), (MessageState.DEAD, Code.DEADLINE_EXCEEDED, 0)
        )
        self.assertEqual(self.heads(NOW + DAY), [number_id(2)])
        self.assertIn(DESTINATION, self.arrivals)
        (reply,) = self.do(store.ready, OTHER, NOW + DAY, 9).messages
        outcome = post().methods[TAKE].request.FromString(reply.request).outcome
        self.assertEqual(Outcome.FromString(outcome.SerializeToString()).status.code, Code.DEADLINE_EXCEEDED)

    def test_expires_and_blocks(self) -> None:
        """Where the policy says so it blocks its lane."""
        self.keep(1, method=CAREFULLY, expire_at=NOW)
        self.keep(2)
        self.look()
        self.assertIs(self.found(number_id(1)).state, MessageState.DEAD)
        self.assertEqual(self.heads(NOW + DAY), [])

    def test_expires_behind_the_head_and_blocks(self) -> None:
        """Where it was not the head of its lane yet, it holds up what was kept after it as well, and nothing else."""
        first = self.keep(1)
        self.keep(2, method=CAREFULLY, expire_at=NOW)
        self.keep(3)
        self.look()
        self.assertIs(self.found(number_id(2)).state, MessageState.DEAD)
        self.assertEqual(self.heads(NOW + DAY), [number_id(1)])
        self.do(settling.finish, first.seq, done(), NOW)
        self.assertEqual(self.heads(NOW + DAY), [])

    def test_not_what_is_delivered(self) -> None:
        """A message that is being delivered is not given up at that moment."""
        kept = self.keep(1, expire_at=NOW)
        self.spool.in_flight.add(kept.seq)
        self.look()
        self.assertIs(self.found(number_id(1)).state, MessageState.QUEUED)
        self.spool.in_flight.clear()
        self.look()
        self.assertIs(self.found(number_id(1)).state, MessageState.DEAD)

    def test_method_is_gone(self) -> None:
        """One whose method is in no descriptor set any more expires too."""
        self.keep(1, method="/gone.Service/Send", expire_at=NOW)
        self.look()
        self.assertIs(self.found(number_id(1)).state, MessageState.DEAD)

    def test_events(self) -> None:
        """Events are forgotten after their time, but for the newest."""
        with self.engine.begin() as connection:
            for number in range(3):
                values = {"source": "s", "type": "t", "subject": "u", "event": b"", "published_at": NOW - 2 * DAY}
                connection.execute(events.insert().values(event_id=str(number), **values))
        self.look()
        with self.engine.begin() as connection:
            self.assertEqual(connection.execute(text("SELECT event_id FROM events")).scalars().all(), ["2"])

    def test_outlives_its_errors(self) -> None:
        """A look that fails is logged, and the next one follows."""
        with self.engine.begin() as connection:
            connection.execute(text("ALTER TABLE messages RENAME TO gone"))
        self.look()
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        with self.engine.begin() as connection:
            connection.execute(text("ALTER TABLE gone RENAME TO messages"))
        self.finish(1, done(), 2 * DAY)
        self.look()
        self.assertIsNone(self.do(store.find, number_id(1)))

    def test_intervals(self) -> None:
        """A look that found little is followed by the next after the interval, not before."""
        self.look()
        self.keep(1, expire_at=NOW)
        self.clock.advance(INTERVAL - 0.01)
        self.assertIs(self.found(number_id(1)).state, MessageState.QUEUED)
        self.clock.advance(0.01)
        self.assertIs(self.found(number_id(1)).state, MessageState.DEAD)
        self.assertGreater(upkeep.INTERVAL, upkeep.SOON)
