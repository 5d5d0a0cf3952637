"""Tests for `bookd.mom.store` on a real database."""

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, func, select

from bookd.errors import (
    Cancelled,
    Code,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from bookd.mom import store
from bookd.mom.machine import Event, IllegalTransition, MessageState
from bookd.mom.schema import lanes, messages, queues
from bookd.storage.engine import open_engine
from tests.mom.room import DAY, DESTINATION, NOW, OTHER, SECOND, StoreTestCase, done, draft, ended, number_id, unsound

DEAD = ended(Event.GIVEN_UP, Internal("broken"))
DECLINED = ended(Event.DECLINED, NotFound("no such box"))
CANCELLED = ended(Event.CANCELLED, Cancelled("cancelled"))


class KeepTests(StoreTestCase):
    """What happens to a message that comes."""

    def test_appends(self) -> None:
        """A kept message is queued behind those before it, as it was given."""
        first, second = self.keep(1), self.keep(2)
        self.assertLess(first.seq, second.seq)
        found = self.found(number_id(2))
        self.assertEqual(found, second)
        self.assertIs(found.state, MessageState.QUEUED)
        self.assertEqual(
            {name: getattr(second, name) for name in ("request", "metadata", "lane", "subject", "expire_at")},
            {name: getattr(draft(2), name) for name in ("request", "metadata", "lane", "subject", "expire_at")},
        )
        self.assertEqual((second.attempts, second.created_at, second.ready_at), (0, NOW, NOW))

    def test_same_id(self) -> None:
        """The same id again finds the message that is kept, and writes nothing."""
        kept = self.keep(1)
        again, is_new = self.do(store.keep, draft(1), NOW + 5)
        self.assertFalse(is_new)
        self.assertEqual(again, kept)
        self.assertEqual(self.do(store.count), 1)

    def test_same_id_when_finished(self) -> None:
        """The same id of a finished message finds its outcome."""
        self.do(store.finish, self.keep(1).seq, done("receipt"), NOW)
        again, is_new = self.do(store.keep, draft(1), NOW)
        self.assertFalse(is_new)
        self.assertIs(again.state, MessageState.SUCCEEDED)
        self.assertIn(b"receipt", again.response)

    def test_same_id_other_request(self) -> None:
        """An id that is known for another request is refused."""
        self.keep(1)
        error = self.assertRaises(InvalidArgument, self.do, store.keep, draft(1, fingerprint=bytes(32)), NOW)
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")
        self.assertEqual(error.info, {"message_id": number_id(1)})

    def test_same_id_other_subject(self) -> None:
        """So is one that another subject used: it would see what is not its own."""
        self.keep(1)
        error = self.assertRaises(InvalidArgument, self.do, store.keep, draft(1, subject="eve"), NOW)
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")

    def test_look(self) -> None:
        """A call learns in one look whether its id is known and whether its lane has anything."""
        self.assertEqual(self.do(store.look, number_id(1), DESTINATION, "lane"), (None, False))
        kept = self.keep(1)
        self.assertEqual(self.do(store.look, number_id(1), DESTINATION, "lane"), (kept, True))
        self.assertEqual(self.do(store.look, number_id(2), DESTINATION, "lane"), (None, True))
        self.assertEqual(self.do(store.look, number_id(2), DESTINATION, "other"), (None, False))
        self.assertEqual(self.do(store.look, number_id(2), OTHER, "lane"), (None, False))
        self.do(store.finish, kept.seq, done(), NOW)
        self.assertFalse(self.do(store.look, number_id(2), DESTINATION, "lane")[1])

    def test_survives(self) -> None:
        """What was committed is there when the file is opened again; what was not is not."""
        path = Path(self.mktemp()) / "mom.sqlite"
        self.engine = self.open(path)
        self.keep(1)
        connection = self.engine.connect()
        transaction = connection.begin()
        store.keep(connection, draft(2), NOW)
        transaction.rollback()
        connection.close()
        self.engine.dispose()
        self.engine = open_engine(path)
        self.assertEqual(self.heads(), [number_id(1)])
        self.assertEqual(self.do(store.count), 1)


class ReadyTests(StoreTestCase):
    """Which messages may be delivered."""

    def test_heads_only(self) -> None:
        """Of each lane the first message, those ready longest first."""
        for number, lane in enumerate("aabbc"):
            self.keep(number, lane, now=NOW - number)
        self.assertEqual(self.heads(), [number_id(4), number_id(2), number_id(0)])

    def test_limit_and_excluded(self) -> None:
        """Not more than asked for, and none of the lanes that are busy."""
        for number, lane in enumerate("abcd"):
            self.keep(number, lane, now=NOW + number)
        found = self.do(store.ready, DESTINATION, NOW + 9, 2, frozenset("ac"))
        self.assertEqual([kept.lane for kept in found.messages], ["b", "d"])
        self.assertEqual([kept.lane for kept in self.do(store.ready, DESTINATION, NOW + 9, 1).messages], ["a"])

    def test_not_yet(self) -> None:
        """A message that is to wait is not there yet; it is told when the next one will be."""
        kept = self.keep(1, "a")
        self.keep(2, "b")
        self.do(store.postpone, kept.seq, Event.FAILED, NOW + SECOND, "INTERNAL: broken", NOW)
        found = self.do(store.ready, DESTINATION, NOW, 10)
        self.assertEqual([each.message_id for each in found.messages], [number_id(2)])
        self.assertEqual(found.next_at, NOW + SECOND)
        self.assertEqual(len(self.heads(NOW + SECOND)), 2)

    def test_clock_that_was_ahead(self) -> None:
        """What was kept, or postponed, while the clock was an hour ahead does not wait for that hour; what waits for its
        next attempt does."""
        minute = 60 * SECOND
        self.keep(1, "a", now=NOW + 60 * minute)
        self.do(store.postpone, self.keep(2, "b").seq, Event.FAILED, NOW + minute, "INTERNAL: broken", NOW)
        self.keep(3, "c")
        found = self.do(store.ready, DESTINATION, NOW, 9, (), minute)
        self.assertEqual([kept.lane for kept in found.messages], ["c", "a"])
        self.assertEqual(found.next_at, NOW + minute)

    def test_nothing(self) -> None:
        """An empty queue has nothing, now or later."""
        self.assertEqual(self.do(store.ready, DESTINATION, NOW, 10), store.Ready((), None))

    def test_destinations_keep_apart(self) -> None:
        """Lanes of the same key of two destinations have nothing to do with each other."""
        self.keep(1, destination=OTHER)
        self.keep(2)
        self.assertEqual(self.heads(), [number_id(2)])
        self.assertEqual(self.heads(destination=OTHER), [number_id(1)])


class PlanTests(StoreTestCase):
    """How the database finds what it is asked for: by an index, however much is stored."""

    def plans(self, work: Any, *args: Any, **kwargs: Any) -> list[str]:
        """The plans of the statements that read or change messages and lanes."""
        statements: list[tuple[str, Any]] = []

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            statements.append((statement, parameters))

        event.listen(self.engine, "before_cursor_execute", note)
        with self.engine.begin() as connection:
            work(connection, *args, **kwargs)
        event.remove(self.engine, "before_cursor_execute", note)
        found = []
        with self.engine.begin() as connection:
            for statement, parameters in statements:
                if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                    rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
                    found.append("; ".join(row[3] for row in rows))
        return found

    def test_by_index(self) -> None:
        """No verb that calls and deliveries wait for reads a whole table or sorts one."""
        kept = [self.keep(number, lane) for number, lane in enumerate("aabbcd")]
        for work, args, kwargs in (
            (store.keep, (draft(9, "a"), NOW), {}),
            (store.look, (number_id(9), DESTINATION, "a"), {}),
            (store.ready, (DESTINATION, NOW, 9), {}),
            (store.postpone, (kept[0].seq, Event.FAILED, NOW, "", NOW), {}),
            (store.finish, (kept[0].seq, done(), NOW), {}),
            (store.finish, (kept[2].seq, DEAD, NOW), {"block_lane": True}),
            (store.forget, (number_id(0),), {}),
            (store.purge, (NOW + 1, 5), {}),
            (store.expired, (NOW + DAY, 5), {}),
        ):
            for plan in self.plans(work, *args, **kwargs):
                self.assertNotIn("SCAN messages", plan, work.__name__)
                self.assertNotIn("SCAN lanes", plan, work.__name__)
                if work is not store.ready:  # it sorts the few heads that it found
                    self.assertNotIn("TEMP B-TREE", plan, work.__name__)

    def test_next_of_a_lane(self) -> None:
        """The next message of a lane is found in the index of that lane, whatever waits in others."""
        kept = self.keep(1)
        self.keep(2)
        plans = self.plans(store.finish, kept.seq, done(), NOW)
        self.assertTrue(any("messages_by_lane (destination=? AND lane=? AND state=?)" in plan for plan in plans), plans)
        self.assertFalse(any("messages_by_state" in plan for plan in plans), plans)

    def test_pages(self) -> None:
        """A page is read in the order of an index."""
        for subject, state, index in (
            ("ada", None, "messages_by_subject"),
            (None, MessageState.DEAD, "messages_by_state"),
        ):
            plan = self.plans(store.page, subject, state, 9, 5)[0]
            self.assertIn(index, plan)
            self.assertNotIn("TEMP B-TREE", plan)


class FinishTests(StoreTestCase):
    """How a message leaves the queue."""

    def test_answers_the_next(self) -> None:
        """The lane moves on, and the message that heads it now is answered if it is ready."""
        first, second = self.keep(1), self.keep(2)
        following = self.do(store.finish, first.seq, done(), NOW + 1)
        self.assertEqual(following, second)
        self.assertIsNone(self.do(store.finish, second.seq, done(), NOW + 2))
        self.assertEqual(self.heads(), [])

    def test_outcomes(self) -> None:
        """Each outcome is kept with the message: response or status, code, time, and a line for people."""
        for number, outcome, state, code in (
            (1, done("r"), MessageState.SUCCEEDED, Code.OK),
            (2, DECLINED, MessageState.FAILED, Code.NOT_FOUND),
            (3, DEAD, MessageState.DEAD, Code.INTERNAL),
            (4, CANCELLED, MessageState.CANCELLED, Code.CANCELLED),
        ):
            self.do(store.finish, self.keep(number).seq, outcome, NOW + 7)
            found = self.found(number_id(number))
            self.assertIs(found.state, state)
            self.assertEqual((found.status_code, found.finished_at, found.updated_at), (code, NOW + 7, NOW + 7))
            self.assertEqual((found.response, found.status), (outcome.response, outcome.status))
            self.assertEqual(found.last_error, outcome.error)

    def test_once(self) -> None:
        """A finished message cannot be finished again, and nothing changes when that is tried."""
        kept = self.keep(1)
        self.do(store.finish, kept.seq, done("first"), NOW)
        before = self.found(number_id(1))
        for outcome in (done("second"), DECLINED, DEAD, CANCELLED):
            self.assertRaises(IllegalTransition, self.do, store.finish, kept.seq, outcome, NOW, reply=draft(9))
        self.assertEqual(self.found(number_id(1)), before)
        self.assertEqual(self.do(store.count), 1)

    def test_behind_the_head(self) -> None:
        """A message that is cancelled behind others leaves them as they are."""
        numbers = [self.keep(number).seq for number in range(3)]
        self.assertIsNone(self.do(store.finish, numbers[1], CANCELLED, NOW))
        self.assertEqual(self.heads(), [number_id(0)])
        following = self.do(store.finish, numbers[0], done(), NOW)
        self.assertEqual(following and following.message_id, number_id(2))

    def test_dead_letter_moves_on(self) -> None:
        """A dead letter leaves its lane to the next."""
        first = self.keep(1)
        self.keep(2)
        following = self.do(store.finish, first.seq, DEAD, NOW)
        self.assertEqual(following and following.message_id, number_id(2))

    def test_dead_letter_blocks(self) -> None:
        """One that blocks its lane stays its head: nothing of the lane is delivered, and calls find it busy."""
        first = self.keep(1)
        self.keep(2)
        self.keep(3, "other")
        self.assertIsNone(self.do(store.finish, first.seq, DEAD, NOW, block_lane=True))
        self.assertEqual(self.heads(), [number_id(3)])
        self.assertTrue(self.do(store.look, number_id(9), DESTINATION, "lane")[1])
        self.do(store.forget, number_id(1))
        self.assertEqual(self.heads(), [number_id(2), number_id(3)])

    def test_blocked_and_alone(self) -> None:
        """A lane that a dead letter blocks is there though nothing waits in it, and goes with the letter."""
        self.do(store.finish, self.keep(1).seq, DEAD, NOW, block_lane=True)
        self.assertTrue(self.do(store.look, number_id(9), DESTINATION, "lane")[1])
        self.keep(2)
        self.assertEqual(self.heads(), [])
        self.do(store.forget, number_id(1))
        self.assertEqual(self.heads(), [number_id(2)])

    def test_reply(self) -> None:
        """The reply is queued in the same transaction; if that fails nothing has happened."""
        kept = self.keep(1)
        with self.assertRaises(RuntimeError), self.engine.begin() as connection:
            store.finish(connection, kept.seq, done(), NOW, reply=draft(2, "replies", destination=OTHER))
            raise RuntimeError
        self.assertIs(self.found(number_id(1)).state, MessageState.QUEUED)
        self.assertIsNone(self.do(store.find, number_id(2)))
        self.do(store.finish, kept.seq, done(), NOW, reply=draft(2, "replies", destination=OTHER))
        self.assertEqual(self.heads(destination=OTHER), [number_id(2)])

    def test_reply_into_the_own_lane(self) -> None:
        """A reply that goes to the lane of the message stands at its end."""
        kept = self.keep(1)
        following = self.do(store.finish, kept.seq, done(), NOW, reply=draft(2))
        self.assertEqual(following and following.message_id, number_id(2))


class PostponeTests(StoreTestCase):
    """How a message stays."""

    def test_failed_counts(self) -> None:
        """A failed attempt counts and begins a new row of refusals; the lane waits with its head."""
        kept = self.keep(1)
        self.keep(2)
        self.do(store.postpone, kept.seq, Event.POSTPONED, NOW + 1, "UNAVAILABLE: busy", NOW)
        self.do(store.postpone, kept.seq, Event.POSTPONED, NOW + 2, "UNAVAILABLE: busy", NOW)
        found = self.found(number_id(1))
        self.assertEqual((found.attempts, found.refusals, found.last_error), (0, 2, "UNAVAILABLE: busy"))
        self.do(store.postpone, kept.seq, Event.FAILED, NOW + SECOND, "INTERNAL: broken", NOW + 3)
        found = self.found(number_id(1))
        self.assertEqual((found.attempts, found.refusals, found.ready_at), (1, 0, NOW + SECOND))
        self.assertEqual((found.updated_at, found.finished_at), (NOW + 3, None))
        self.assertEqual(self.heads(), [])
        self.assertEqual(self.heads(NOW + SECOND), [number_id(1)])

    def test_not_when_finished(self) -> None:
        """A message that left the queue does not come back."""
        kept = self.keep(1)
        self.do(store.finish, kept.seq, CANCELLED, NOW)
        self.assertRaises(IllegalTransition, self.do, store.postpone, kept.seq, Event.FAILED, NOW, "", NOW)
        self.assertIs(self.found(number_id(1)).state, MessageState.CANCELLED)


class RemoveTests(StoreTestCase):
    """How messages are forgotten."""

    def test_forget(self) -> None:
        """A finished message goes, and its id may be used again; a queued one stays; one that is not there is told."""
        kept = self.keep(1)
        error = self.assertRaises(FailedPrecondition, self.do, store.forget, number_id(1))
        self.assertEqual(error.reason, "OPERATION_NOT_DONE")
        self.do(store.finish, kept.seq, done(), NOW)
        place = self.do(store.forget, number_id(1))
        self.assertEqual((place.seq, place.destination, place.lane), (kept.seq, DESTINATION, "lane"))
        self.assertRaises(NotFound, self.do, store.forget, number_id(1))
        self.keep(1)

    def test_purge(self) -> None:
        """What finished before a time goes, the oldest first and only so many; queued and dead messages stay."""
        for number in range(5):
            self.do(store.finish, self.keep(number, str(number)).seq, done(), NOW + number)
        self.do(store.finish, self.keep(5, "5").seq, DEAD, NOW - DAY, block_lane=True)
        self.keep(6, "6", now=NOW - DAY)
        self.assertEqual(self.do(store.purge, NOW + 4, 3), 3)
        left = [each.message_id for each in self.do(store.page, None, None, None, 9)[0]]
        self.assertEqual(left, [number_id(number) for number in (6, 5, 4, 3)])
        self.assertEqual(self.do(store.purge, NOW + 4, 3), 1)
        self.assertEqual(self.do(store.purge, NOW + 4, 3), 0)

    def test_expired(self) -> None:
        """What is queued beyond its time is found, the longest first; finished messages never are."""
        self.keep(1, expire_at=NOW + 2)
        self.keep(2, expire_at=NOW + 1)
        self.keep(3, expire_at=NOW + 3)
        self.do(store.finish, self.keep(4, expire_at=NOW).seq, done(), NOW)
        self.assertEqual([each.message_id for each in self.do(store.expired, NOW + 2, 9)], [number_id(2), number_id(1)])
        self.assertEqual([each.message_id for each in self.do(store.expired, NOW + 2, 1)], [number_id(2)])
        self.assertEqual(self.do(store.expired, NOW, 9), [])


class PageTests(StoreTestCase):
    """Lists."""

    def setUp(self) -> None:
        """Ten messages of two subjects; every third is done."""
        super().setUp()
        for number in range(10):
            kept = self.keep(number, str(number), subject="ada" if number % 2 else "bob")
            if number % 3 == 0:
                self.do(store.finish, kept.seq, done(), NOW)

    def numbers(self, *args: Any) -> list[int]:
        """Which messages a page has."""
        found, _ = self.do(store.page, *args)
        return [int(each.message_id.replace("-", ""), 16) for each in found]

    def test_newest_first(self) -> None:
        """All, page by page, none twice and none left out though others come in between."""
        first = self.do(store.page, None, None, None, 4)
        self.assertEqual(first[1], 10)
        self.keep(10, "new")
        self.assertEqual(self.numbers(None, None, first[0][-1].seq, 4), [5, 4, 3, 2])
        self.assertEqual(self.numbers(None, None, None, 3), [10, 9, 8])

    def test_filters(self) -> None:
        """Of one subject, in one state, or both; the total counts what the filter lets pass."""
        self.assertEqual(self.numbers("ada", None, None, 9), [9, 7, 5, 3, 1])
        self.assertEqual(self.numbers(None, MessageState.SUCCEEDED, None, 9), [9, 6, 3, 0])
        self.assertEqual(self.numbers("bob", MessageState.SUCCEEDED, None, 9), [6, 0])
        self.assertEqual(self.do(store.page, "bob", MessageState.SUCCEEDED, None, 1)[1], 2)
        self.assertEqual(self.do(store.page, "eve", None, None, 1), ([], 0))

    def test_queues(self) -> None:
        """What waits and what is dead, by destination, and how old the oldest is."""
        self.keep(20, "a", now=NOW - 5, destination=OTHER)
        self.keep(21, "a", destination=OTHER)
        self.do(store.finish, self.keep(22, "b", destination=OTHER).seq, DEAD, NOW)
        self.assertEqual(self.do(store.destinations), [OTHER, DESTINATION])
        size = len(draft(20).request)
        self.assertEqual(self.do(store.queue, OTHER), store.Queue(OTHER, 2, 2 * size, 1, 1, NOW - 5, None))
        self.assertEqual(self.do(store.queue, DESTINATION), store.Queue(DESTINATION, 6, 6 * 3, 6, 0, NOW, None))
        self.assertEqual(self.do(store.queue, "nobody"), store.Queue("nobody", 0, 0, 0, 0, None, None))


class BoundsTests(StoreTestCase):
    """Queues that take no more."""

    def test_messages(self) -> None:
        """Beyond so many messages a new one is refused, and nothing of it is written; one that is known is found."""
        bounds = store.Bounds(2, 1000)
        self.do(store.keep, draft(1), NOW, bounds)
        self.do(store.keep, draft(2), NOW, bounds)
        with self.assertRaises(Unavailable) as caught:
            self.do(store.keep, draft(3, "other"), NOW, bounds)
        self.assertEqual((caught.exception.reason, caught.exception.retry_after), ("QUEUE_FULL", store.FULL_RETRY))
        self.assertEqual(caught.exception.details, ())
        self.assertEqual(self.do(store.queue, DESTINATION).depth, 2)
        self.assertFalse(self.do(store.keep, draft(2), NOW, bounds)[1])
        self.do(store.keep, draft(3, destination=OTHER), NOW, bounds)
        self.do(store.finish, self.found(number_id(1)).seq, done(), NOW)
        self.do(store.keep, draft(4), NOW, bounds)

    def test_bytes(self) -> None:
        """Likewise beyond so many bytes of requests."""
        bounds = store.Bounds(100, 10)
        self.do(store.keep, draft(1, request=bytes(7)), NOW, bounds)
        self.assertRaises(Unavailable, self.do, store.keep, draft(2, request=bytes(4)), NOW, bounds)
        self.do(store.keep, draft(2, request=bytes(3)), NOW, bounds)

    def test_outcomes_are_not_bounded(self) -> None:
        """A full queue does not keep an outcome from being written: its reply is taken."""
        bounds = store.Bounds(1, 1000)
        self.do(store.keep, draft(1, destination=OTHER), NOW, bounds)
        self.do(store.finish, self.keep(2).seq, done(), NOW, reply=draft(3, destination=OTHER))
        self.assertEqual(self.do(store.queue, OTHER).depth, 2)

    def test_pause(self) -> None:
        """That a destination is paused is remembered, until it goes on."""
        self.do(store.pause, DESTINATION, NOW)
        self.do(store.pause, OTHER, NOW)
        self.assertEqual(self.do(store.paused), {DESTINATION, OTHER})
        self.do(store.pause, OTHER, None)
        self.assertEqual(self.do(store.paused), {DESTINATION})
        self.assertEqual(self.do(store.queue, DESTINATION).paused_at, NOW)


class ReviveTests(StoreTestCase):
    """Dead letters that an operator wants delivered after all."""

    def dead(self, number: int, **kwargs: Any) -> None:
        """Give a message up."""
        self.do(store.finish, self.found(number_id(number)).seq, DEAD, NOW, **kwargs)

    def revive(self, number: int) -> None:
        """Put it back."""
        self.do(store.revive, number_id(number), NOW + 2 * DAY, NOW + SECOND)

    def test_in_front(self) -> None:
        """It stands in front of what was kept after it, with attempts and time as if it were new."""
        for number in range(3):
            self.keep(number)
        self.do(store.postpone, self.found(number_id(0)).seq, Event.FAILED, NOW, "INTERNAL: broken", NOW)
        self.dead(0)
        self.revive(0)
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])
        found = self.found(number_id(0))
        self.assertEqual((found.state, found.attempts, found.refusals), (MessageState.QUEUED, 0, 0))
        self.assertEqual((found.expire_at, found.status, found.finished_at), (NOW + 2 * DAY, None, None))
        self.assertEqual(found.last_error, "INTERNAL: broken")
        self.assertEqual(self.do(store.finish, found.seq, done(), NOW + SECOND), self.found(number_id(1)))

    def test_while_the_next_is_delivered(self) -> None:
        """One that comes back while another of its lane is being delivered goes when that is done."""
        self.keep(0)
        second = self.keep(1)
        self.dead(0)
        self.revive(0)
        self.assertIsNone(self.do(store.finish, second.seq, done(), NOW + SECOND))
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])

    def test_empty_lane(self) -> None:
        """A lane that was empty has it."""
        self.keep(0)
        self.dead(0)
        self.revive(0)
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])

    def test_unblocks(self) -> None:
        """One that blocked its lane opens it; one that stands behind such a one waits."""
        for number in range(3):
            self.keep(number)
        self.dead(0)
        self.dead(1, block_lane=True)
        self.revive(0)
        self.assertEqual(self.heads(NOW + SECOND), [])
        self.revive(1)
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])

    def test_only_dead_letters(self) -> None:
        """Nothing else comes back."""
        self.keep(0)
        self.assertRaises(IllegalTransition, self.revive, 0)
        self.do(store.finish, self.found(number_id(0)).seq, DECLINED, NOW)
        self.assertRaises(IllegalTransition, self.revive, 0)
        self.assertRaises(NotFound, self.revive, 1)

    def test_discard(self) -> None:
        """Only a dead letter is discarded as one."""
        self.keep(0)
        self.assertRaises(FailedPrecondition, self.do, store.forget, number_id(0), MessageState.DEAD)
        self.do(store.finish, self.found(number_id(0)).seq, done(), NOW)
        self.assertRaises(NotFound, self.do, store.forget, number_id(0), MessageState.DEAD)
        self.keep(1)
        self.dead(1)
        self.assertFalse(self.do(store.blocks, self.found(number_id(1)).seq))
        self.do(store.forget, number_id(1), MessageState.DEAD)
        self.assertEqual(self.do(store.queue, DESTINATION).dead, 0)


class Refusal(Exception):
    """The database does not want to."""


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["keep", "done", "declined", "dead", "block", "cancel", "failed", "refused", "forget", "purge", "revive"]
        ),
        st.integers(0, 7),
        st.sampled_from("abc"),
    ),
    max_size=40,
)


class AnyHistoryTests(StoreTestCase):
    """Whatever happens in whatever order."""

    @settings(max_examples=60, deadline=None)
    @given(STEPS)
    def test_lanes_stay_sound(self, steps: list[tuple[str, int, str]]) -> None:
        """After each step every lane has its first message; whatever a step refuses it leaves as it was; and messages
        are offered in the order in which their lane took them."""
        with self.engine.connect() as connection, connection.begin() as transaction:
            for step in steps:
                before = _whole(connection)
                savepoint = connection.begin_nested()
                try:
                    _take(connection, *step)
                    savepoint.commit()
                except (IllegalTransition, NotFound, FailedPrecondition, InvalidArgument):
                    savepoint.rollback()
                    self.assertEqual(_whole(connection), before)
                self.assertEqual(unsound(connection), [])
                for kept in store.ready(connection, DESTINATION, NOW + DAY, 99).messages:
                    self.assertEqual(kept.seq, _first(connection, kept.lane))
            transaction.rollback()

    @settings(max_examples=25, deadline=None)
    @given(STEPS, st.integers(0, 6))
    def test_fails_at_any_statement(self, steps: list[tuple[str, int, str]], nth: int) -> None:
        """A step whose n-th statement fails has done nothing, for any n."""
        countdown = [-1]

        def refuse(*_: Any) -> None:
            countdown[0] -= 1
            if countdown[0] == -1:
                raise Refusal

        event.listen(self.engine, "before_cursor_execute", refuse)
        try:
            for step in steps:
                before = self.do(_whole)
                try:
                    with self.engine.begin() as connection:
                        countdown[0] = nth
                        _take(connection, *step)
                        countdown[0] = -1
                except (Refusal, IllegalTransition, NotFound, FailedPrecondition, InvalidArgument):
                    countdown[0] = -1
                    self.assertEqual(self.do(_whole), before)
                countdown[0] = -1
                self.do(lambda connection: None)
        finally:
            event.remove(self.engine, "before_cursor_execute", refuse)
            with self.engine.begin() as connection:
                connection.execute(lanes.delete())
                connection.execute(messages.delete())
                connection.execute(queues.delete())


def _take(connection: Connection, verb: str, number: int, lane: str) -> None:
    if verb == "keep":
        store.keep(connection, draft(number, lane), NOW + number)
        return
    if verb == "purge":
        store.purge(connection, NOW + number, 2)
        return
    if verb == "forget":
        store.forget(connection, number_id(number))
        return
    if verb == "revive":
        store.revive(connection, number_id(number), NOW + DAY, NOW)
        return
    kept = store.find(connection, number_id(number))
    if kept is None:
        return
    if verb in ("failed", "refused"):
        what = Event.FAILED if verb == "failed" else Event.POSTPONED
        store.postpone(connection, kept.seq, what, NOW + number, "again", NOW)
        return
    outcome = {"done": done(), "declined": DECLINED, "cancel": CANCELLED}.get(verb, DEAD)
    store.finish(
        connection,
        kept.seq,
        outcome,
        NOW,
        block_lane=verb == "block",
        reply=draft(number + 100, "r") if lane == "c" else None,
    )


def _whole(connection: Connection) -> list[Any]:
    return [
        tuple(row)
        for table in (messages, lanes, queues)
        for row in connection.execute(select(table).order_by(*table.primary_key.columns))
    ]


def _first(connection: Connection, lane: str) -> int:
    seq: int = connection.execute(
        select(func.min(messages.c.seq)).where(
            messages.c.destination == DESTINATION, messages.c.lane == lane, messages.c.state == MessageState.QUEUED
        )
    ).scalar_one()
    return seq
