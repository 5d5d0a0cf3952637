"""Tests for `bookd.mom.lanes`: one call of a lane at a time, in the order of asking; other lanes do not wait."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.mom.lanes import Lanes

A, B = ("d", "a"), ("d", "b")


class LanesTests(SynchronousTestCase):
    """Turns."""

    def setUp(self) -> None:
        """Nobody is there."""
        self.lanes = Lanes()

    def test_first_comes_at_once(self) -> None:
        """Whoever finds a lane free has the turn; the next waits until it is passed on."""
        self.successResultOf(self.lanes.enter(A))
        second = self.lanes.enter(A)
        self.assertNoResult(second)
        self.lanes.leave(A)
        self.successResultOf(second)
        self.lanes.leave(A)
        self.assertEqual(len(self.lanes), 0)

    def test_others_do_not_wait(self) -> None:
        """A busy lane holds up no other, not even that of the same key at another destination."""
        self.successResultOf(self.lanes.enter(A))
        self.successResultOf(self.lanes.enter(B))
        self.successResultOf(self.lanes.enter(("e", "a")))

    def test_gives_up_the_place(self) -> None:
        """Who stops waiting is passed over."""
        self.successResultOf(self.lanes.enter(A))
        second, third = self.lanes.enter(A), self.lanes.enter(A)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.lanes.leave(A)
        self.successResultOf(third)

    def test_courier_leaves_a_forwarding_lane_alone(self) -> None:
        """While a call is forwarded its lane is passed over, and who leaves hears of it, once."""
        self.successResultOf(self.lanes.enter(A))
        self.assertFalse(self.lanes.pass_over(A))
        self.lanes.forward(A)
        self.assertTrue(self.lanes.pass_over(A))
        self.assertFalse(self.lanes.pass_over(B))
        waiting = self.lanes.enter(A)
        self.assertTrue(self.lanes.leave(A))
        self.successResultOf(waiting)
        self.assertFalse(self.lanes.pass_over(A))
        self.assertFalse(self.lanes.leave(A))

    def test_courier_did_not_come(self) -> None:
        """Nobody has to be told when no courier came by."""
        self.successResultOf(self.lanes.enter(A))
        self.lanes.forward(A)
        self.assertFalse(self.lanes.leave(A))

    @given(
        st.lists(
            st.tuples(st.sampled_from(["enter", "leave", "forward", "give up", "pass over"]), st.integers(0, 2)),
            max_size=80,
        )
    )
    def test_any_order(self, steps: list[tuple[str, int]]) -> None:
        """Whatever the order of coming, leaving and giving up: in each lane one at a time has the turn, in the order of
        asking, and a lane that nobody is in takes no memory."""
        lanes = Lanes()
        waiting: dict[int, list[Deferred[None]]] = {0: [], 1: [], 2: []}
        for verb, number in steps:
            lane, queue = ("d", str(number)), waiting[number]
            if verb == "enter":
                queue.append(lanes.enter(lane))
            elif verb == "leave" and queue:
                queue.pop(0)
                lanes.leave(lane)
            elif verb == "forward" and queue:
                lanes.forward(lane)
            elif verb == "pass over":
                self.assertLessEqual(lanes.pass_over(lane), bool(queue))
            elif verb == "give up" and len(queue) > 1:
                left = queue.pop()
                left.addErrback(_cancelled)
                left.cancel()
            for turns in waiting.values():
                self.assertEqual([place.called for place in turns], [n == 0 for n in range(len(turns))])
        self.assertEqual(len(lanes), sum(bool(turns) for turns in waiting.values()))


def _cancelled(failure: Any) -> None:
    failure.trap(CancelledError)
