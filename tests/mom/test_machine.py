"""Tests for `bookd.mom.machine`: the whole table, what codes mean, and when a message is tried again."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import FINAL, Code
from bookd.mom.machine import (
    FINISHED,
    TRANSITIONS,
    WORTH_KEEPING,
    Event,
    IllegalTransition,
    Meaning,
    MessageState,
    Policy,
    after,
    meaning,
    next_attempt,
    pause,
    second_expiry,
)
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.policy.v1 import policy_pb2

S, E = MessageState, Event

# Rows: states; columns: events in the order of `EVENTS`. "-": cannot happen.
EVENTS = (E.ANSWERED, E.DECLINED, E.FAILED, E.POSTPONED, E.GIVEN_UP, E.CANCELLED, E.RETRIED)
TABLE = {
    S.QUEUED: (S.SUCCEEDED, S.FAILED, S.QUEUED, S.QUEUED, S.DEAD, S.CANCELLED, None),
    S.SUCCEEDED: (None,) * 7,
    S.FAILED: (None,) * 7,
    S.DEAD: (None, None, None, None, None, None, S.QUEUED),
    S.CANCELLED: (None,) * 7,
}

policies = st.builds(
    Policy,
    max_attempts=st.integers(1, 100),
    initial_backoff=st.integers(1, 10**9),
    max_backoff=st.integers(1, 10**12),
    expire_after=st.integers(1, 10**15),
)
fractions = st.floats(0, 1, exclude_max=True)


class TableTests(SynchronousTestCase):
    """Every state and every event."""

    def test_whole_table(self) -> None:
        """Each event in each state moves the message where the table says, or cannot happen."""
        self.assertEqual(set(EVENTS), set(Event))
        self.assertEqual(set(TABLE), set(MessageState))
        for state, row in TABLE.items():
            for event, expected in zip(EVENTS, row, strict=True):
                if expected is None:
                    error = self.assertRaises(IllegalTransition, after, state, event)
                    self.assertEqual((error.state, error.event), (state, event))
                    self.assertIn(state.name, str(error))
                else:
                    self.assertIs(after(state, event), expected)
        self.assertEqual(len(TRANSITIONS), sum(each is not None for row in TABLE.values() for each in row))

    def test_finished(self) -> None:
        """A message is finished exactly when it is not queued; of those only a dead one ever moves again."""
        self.assertEqual(FINISHED, {S.SUCCEEDED, S.FAILED, S.DEAD, S.CANCELLED})
        self.assertEqual({state for state, _ in TRANSITIONS if state in FINISHED}, {S.DEAD})

    def test_numbers(self) -> None:
        """The states have the numbers and names that clients see."""
        for state in MessageState:
            self.assertEqual(message_pb2.MessageState.Name(int(state)), f"MESSAGE_STATE_{state.name}")
        self.assertEqual(len(message_pb2.MessageState.items()), len(MessageState) + 1)

    @given(st.lists(st.sampled_from(Event)))
    def test_any_history(self, events: list[Event]) -> None:
        """Whatever happens in whatever order, an outcome that the destination gave is never changed."""
        state = S.QUEUED
        for event in events:
            before = state
            try:
                state = after(state, event)
            except IllegalTransition:
                self.assertIs(state, before)
            if before in (S.SUCCEEDED, S.FAILED, S.CANCELLED):
                self.assertIs(state, before)


class MeaningTests(SynchronousTestCase):
    """What a status code says."""

    def test_every_code(self) -> None:
        """Each code means one thing; nothing that decides is tried again, nothing that is down counts as an attempt."""
        expected = {
            Code.OK: Meaning.OK,
            **dict.fromkeys(FINAL, Meaning.FINAL),
            Code.UNAVAILABLE: Meaning.DOWN,
            Code.CANCELLED: Meaning.DOWN,
            **dict.fromkeys(
                (Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.INTERNAL, Code.DATA_LOSS),
                Meaning.POISON,
            ),
        }
        self.assertEqual({code: meaning(code) for code in Code}, expected)

    def test_worth_keeping(self) -> None:
        """A forwarded call is kept only when its end decided nothing and a repetition may."""
        self.assertEqual(WORTH_KEEPING, {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
        self.assertFalse(WORTH_KEEPING & FINAL)


class RetryTests(SynchronousTestCase):
    """When it is tried again."""

    @given(st.integers(0, 10**18), st.integers(1, 10**6), policies, fractions)
    def test_bounds(self, now: int, attempts: int, policy: Policy, fraction: float) -> None:
        """The next attempt lies between now and the bound, and comes exactly while attempts are left."""
        ready_at = next_attempt(now, attempts, policy, fraction)
        if attempts >= policy.max_attempts:
            self.assertIsNone(ready_at)
        else:
            assert ready_at is not None
            self.assertTrue(
                now <= ready_at <= now + min(policy.max_backoff, policy.initial_backoff * 2 ** (attempts - 1))
            )

    @given(st.integers(1, 10**9), policies, fractions)
    def test_never_longer_than_the_maximum(self, times: int, policy: Policy, fraction: float) -> None:
        """However often it failed, the pause does not pass the maximum."""
        self.assertTrue(0 <= pause(times, policy, fraction) <= policy.max_backoff)

    @given(st.integers(1, 200), policies)
    def test_bound_grows(self, times: int, policy: Policy) -> None:
        """At the same throw of the dice a later pause is not shorter."""
        self.assertLessEqual(pause(times, policy, 0.99), pause(times + 1, policy, 0.99))

    def test_doubles(self) -> None:
        """The bound doubles up to the maximum; jitter takes any part of it."""
        policy = Policy(max_attempts=9, initial_backoff=100, max_backoff=1000, expire_after=1)
        self.assertEqual([pause(times, policy, 0.5) for times in range(1, 7)], [50, 100, 200, 400, 500, 500])
        self.assertEqual(pause(5, policy, 0.0), 0)


class PolicyTests(SynchronousTestCase):
    """The policy of an rpc over the defaults."""

    defaults = Policy(max_attempts=7, initial_backoff=11, max_backoff=13, expire_after=17)

    def test_nothing_said(self) -> None:
        """An rpc that says nothing has the defaults."""
        self.assertEqual(self.defaults.of(policy_pb2.Delivery()), self.defaults)

    def test_all_said(self) -> None:
        """What an rpc says takes the place of the defaults."""
        delivery = policy_pb2.Delivery(dead_letter_blocks_lane=True)
        delivery.retry.max_attempts = 2
        delivery.retry.initial_backoff.FromMicroseconds(3)
        delivery.retry.max_backoff.FromMicroseconds(5)
        delivery.expire_after.FromMicroseconds(6)
        self.assertEqual(self.defaults.of(delivery), Policy(2, 3, 5, 6, dead_letter_blocks_lane=True))

    def test_second_expiry(self) -> None:
        """A dead letter that is retried has its full time again, but not beyond a bound that begins with its acceptance;
        from the bound on it is not retried."""
        policy = self.defaults.of(policy_pb2.Delivery(dead_letter_blocks_lane=True))
        self.assertEqual(policy.retry_within, self.defaults.retry_within)
        last = 1000 + policy.retry_within
        for now, expire_at in ((1000, 1017), (last - 17, last), (last - 1, last), (last, None), (last + 1, None)):
            self.assertEqual(second_expiry(1000, now, policy), expire_at)

    def test_part_said(self) -> None:
        """The rest stays as it is by default."""
        delivery = policy_pb2.Delivery()
        delivery.retry.max_attempts = 1
        self.assertEqual(self.defaults.of(delivery), Policy(1, 11, 13, 17))
