"""Tests for `bookd.mom.settling` on a real database."""

from typing import Any

from bookd.errors import (
    Code,
    FailedPrecondition,
    NotFound,
)
from bookd.mom import forgetting, overview, settling, store
from bookd.mom.machine import Event, IllegalTransition, MessageState
from tests.mom.room import (
    CANCELLED,
    DAY,
    DEAD,
    DECLINED,
    DESTINATION,
    NOW,
    OTHER,
    SECOND,
    StoreTestCase,
    done,
    draft,
    number_id,
)


class FinishTests(StoreTestCase):
    """How a message leaves the queue."""

    def test_answers_the_next(self) -> None:
        """The lane moves on, and the message that heads it now is answered if it is ready."""
        first, second = self.keep(1), self.keep(2)
        following = self.do(settling.finish, first.seq, done(), NOW + 1)
        self.assertEqual(following, second)
        self.assertIsNone(self.do(settling.finish, second.seq, done(), NOW + 2))
        self.assertEqual(self.heads(), [])

    def test_outcomes(self) -> None:
        """Each outcome is kept with the message: response or status, code, time, and a line for people."""
        for number, outcome, state, code in (
            (1, done("r"), MessageState.SUCCEEDED, Code.OK),
            (2, DECLINED, MessageState.FAILED, Code.NOT_FOUND),
            (3, DEAD, MessageState.DEAD, Code.INTERNAL),
            (4, CANCELLED, MessageState.CANCELLED, Code.CANCELLED),
        ):
            self.do(settling.finish, self.keep(number).seq, outcome, NOW + 7)
            found = self.found(number_id(number))
            self.assertIs(found.state, state)
            self.assertEqual((found.status_code, found.finished_at, found.updated_at), (code, NOW + 7, NOW + 7))
            self.assertEqual((found.response, found.status), (outcome.response, outcome.status))
            self.assertEqual(found.last_error, outcome.error)

    def test_once(self) -> None:
        """A finished message cannot be finished again, and nothing changes when that is tried."""
        kept = self.keep(1)
        self.do(settling.finish, kept.seq, done("first"), NOW)
        before = self.found(number_id(1))
        for outcome in (done("second"), DECLINED, DEAD, CANCELLED):
            self.assertRaises(IllegalTransition, self.do, settling.finish, kept.seq, outcome, NOW, reply=draft(9))
        self.assertEqual(self.found(number_id(1)), before)
        self.assertEqual(self.do(overview.count), 1)

    def test_behind_the_head(self) -> None:
        """A message that is cancelled behind others leaves them as they are."""
        numbers = [self.keep(number).seq for number in range(3)]
        self.assertIsNone(self.do(settling.finish, numbers[1], CANCELLED, NOW))
        self.assertEqual(self.heads(), [number_id(0)])
        following = self.do(settling.finish, numbers[0], done(), NOW)
        self.assertEqual(following and following.message_id, number_id(2))

    def test_dead_letter_moves_on(self) -> None:
        """A dead letter leaves its lane to the next."""
        first = self.keep(1)
        self.keep(2)
        following = self.do(settling.finish, first.seq, DEAD, NOW)
        self.assertEqual(following and following.message_id, number_id(2))

    def test_dead_letter_blocks(self) -> None:
        """One that blocks its lane stays its head: nothing of the lane is delivered, and calls find it busy."""
        first = self.keep(1)
        self.keep(2)
        self.keep(3, "other")
        self.assertIsNone(self.do(settling.finish, first.seq, DEAD, NOW, block_lane=True))
        self.assertEqual(self.heads(), [number_id(3)])
        self.assertTrue(self.do(store.look, number_id(9), DESTINATION, "lane")[1])
        self.do(forgetting.forget, number_id(1))
        self.assertEqual(self.heads(), [number_id(2), number_id(3)])

    def test_blocked_and_alone(self) -> None:
        """A lane that a dead letter blocks is there though nothing waits in it, and goes with the letter."""
        self.do(settling.finish, self.keep(1).seq, DEAD, NOW, block_lane=True)
        self.assertTrue(self.do(store.look, number_id(9), DESTINATION, "lane")[1])
        self.keep(2)
        self.assertEqual(self.heads(), [])
        self.do(forgetting.forget, number_id(1))
        self.assertEqual(self.heads(), [number_id(2)])

    def test_dead_letter_blocks_from_behind(self) -> None:
        """One that dies behind the head of its lane, as its time is over, holds up what was kept after it and not what
        was kept before; until it goes."""
        seqs = [self.keep(number).seq for number in range(4)]
        self.assertIsNone(self.do(settling.finish, seqs[1], DEAD, NOW, block_lane=True))
        self.assertTrue(self.do(overview.blocks, seqs[1]))
        self.assertEqual(self.heads(), [number_id(0)])
        self.assertIsNone(self.do(settling.finish, seqs[0], done(), NOW))
        self.assertEqual(self.heads(), [])
        self.assertTrue(self.do(store.look, number_id(9), DESTINATION, "lane")[1])
        self.do(forgetting.forget, number_id(1))
        self.assertEqual(self.heads(), [number_id(2)])

    def test_two_that_block(self) -> None:
        """Each blocks for itself, the last message of a lane too: whichever goes, the other one stays."""
        seqs = [self.keep(number).seq for number in range(2)]
        for seq in reversed(seqs):
            self.do(settling.finish, seq, DEAD, NOW, block_lane=True)
        self.keep(2)
        self.do(forgetting.forget, number_id(0))
        self.assertEqual(self.heads(), [])
        self.do(forgetting.forget, number_id(1))
        self.assertEqual(self.heads(), [number_id(2)])

    def test_reply(self) -> None:
        """The reply is queued in the same transaction; if that fails nothing has happened."""
        kept = self.keep(1)
        with self.assertRaises(RuntimeError), self.engine.begin() as connection:
            settling.finish(connection, kept.seq, done(), NOW, reply=draft(2, "replies", destination=OTHER))
            raise RuntimeError
        self.assertIs(self.found(number_id(1)).state, MessageState.QUEUED)
        self.assertIsNone(self.do(store.find, number_id(2)))
        self.do(settling.finish, kept.seq, done(), NOW, reply=draft(2, "replies", destination=OTHER))
        self.assertEqual(self.heads(destination=OTHER), [number_id(2)])

    def test_reply_into_the_own_lane(self) -> None:
        """A reply that goes to the lane of the message stands at its end."""
        kept = self.keep(1)
        following = self.do(settling.finish, kept.seq, done(), NOW, reply=draft(2))
        self.assertEqual(following and following.message_id, number_id(2))


class PostponeTests(StoreTestCase):
    """How a message stays."""

    def test_failed_counts(self) -> None:
        """A failed attempt counts and begins a new row of refusals; the lane waits with its head."""
        kept = self.keep(1)
        self.keep(2)
        self.do(settling.postpone, kept.seq, Event.POSTPONED, NOW + 1, "UNAVAILABLE: busy", NOW)
        self.do(settling.postpone, kept.seq, Event.POSTPONED, NOW + 2, "UNAVAILABLE: busy", NOW)
        found = self.found(number_id(1))
        self.assertEqual((found.attempts, found.refusals, found.last_error), (0, 2, "UNAVAILABLE: busy"))
        self.do(settling.postpone, kept.seq, Event.FAILED, NOW + SECOND, "INTERNAL: broken", NOW + 3)
        found = self.found(number_id(1))
        self.assertEqual((found.attempts, found.refusals, found.ready_at), (1, 0, NOW + SECOND))
        self.assertEqual((found.updated_at, found.finished_at), (NOW + 3, None))
        self.assertEqual(self.heads(), [])
        self.assertEqual(self.heads(NOW + SECOND), [number_id(1)])

    def test_not_when_finished(self) -> None:
        """A message that left the queue does not come back."""
        kept = self.keep(1)
        self.do(settling.finish, kept.seq, CANCELLED, NOW)
        self.assertRaises(IllegalTransition, self.do, settling.postpone, kept.seq, Event.FAILED, NOW, "", NOW)
        self.assertIs(self.found(number_id(1)).state, MessageState.CANCELLED)


class ReviveTests(StoreTestCase):
    """Dead letters that an operator wants delivered after all."""

    def dead(self, number: int, **kwargs: Any) -> None:
        """Give a message up."""
        self.do(settling.finish, self.found(number_id(number)).seq, DEAD, NOW, **kwargs)

    def revive(self, number: int) -> None:
        """Put it back."""
        self.do(settling.revive, number_id(number), NOW + 2 * DAY, NOW + SECOND)

    def test_in_front(self) -> None:
        """It stands in front of what was kept after it, with attempts and time as if it were new."""
        for number in range(3):
            self.keep(number)
        self.do(settling.postpone, self.found(number_id(0)).seq, Event.FAILED, NOW, "INTERNAL: broken", NOW)
        self.dead(0)
        self.revive(0)
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])
        found = self.found(number_id(0))
        self.assertEqual((found.state, found.attempts, found.refusals), (MessageState.QUEUED, 0, 0))
        self.assertEqual((found.expire_at, found.status, found.finished_at), (NOW + 2 * DAY, None, None))
        self.assertEqual(found.last_error, "INTERNAL: broken")
        self.assertEqual(self.do(settling.finish, found.seq, done(), NOW + SECOND), self.found(number_id(1)))

    def test_while_the_next_is_delivered(self) -> None:
        """One that comes back while another of its lane is being delivered goes when that is done."""
        self.keep(0)
        second = self.keep(1)
        self.dead(0)
        self.revive(0)
        self.assertIsNone(self.do(settling.finish, second.seq, done(), NOW + SECOND))
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])

    def test_empty_lane(self) -> None:
        """A lane that was empty has it."""
        self.keep(0)
        self.dead(0)
        self.revive(0)
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])

    def test_unblocks(self) -> None:
        """One that blocked its lane opens it; one that stands before such a one is delivered, and nothing behind it."""
        for number in range(3):
            self.keep(number)
        self.dead(0)
        self.dead(1, block_lane=True)
        self.revive(0)
        self.assertEqual(self.heads(NOW + SECOND), [number_id(0)])
        self.assertIsNone(self.do(settling.finish, self.found(number_id(0)).seq, done(), NOW + SECOND))
        self.assertEqual(self.heads(NOW + SECOND), [])
        self.revive(1)
        self.assertEqual(self.heads(NOW + SECOND), [number_id(1)])

    def test_only_dead_letters(self) -> None:
        """Nothing else comes back."""
        self.keep(0)
        self.assertRaises(IllegalTransition, self.revive, 0)
        self.do(settling.finish, self.found(number_id(0)).seq, DECLINED, NOW)
        self.assertRaises(IllegalTransition, self.revive, 0)
        self.assertRaises(NotFound, self.revive, 1)

    def test_discard(self) -> None:
        """Only a dead letter is discarded as one."""
        self.keep(0)
        self.assertRaises(FailedPrecondition, self.do, forgetting.forget, number_id(0), MessageState.DEAD)
        self.do(settling.finish, self.found(number_id(0)).seq, done(), NOW)
        self.assertRaises(NotFound, self.do, forgetting.forget, number_id(0), MessageState.DEAD)
        self.keep(1)
        self.dead(1)
        self.assertFalse(self.do(overview.blocks, self.found(number_id(1)).seq))
        self.do(forgetting.forget, number_id(1), MessageState.DEAD)
        self.assertEqual(self.do(overview.queue, DESTINATION).dead, 0)
