"""Turns: the calls of one lane go one after another, while those of other lanes do not wait for them.

A call has its turn while it finds out whether it may be forwarded, and while it is being forwarded. In the latter time
nothing else of its lane may be delivered, by a courier either. Only lanes with a call under way take memory.
"""

from collections import deque

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

Lane = tuple[str, str]  # destination, ordering key


@define(eq=False)
class _Turns:
    waiting: deque[Deferred[None]] = field(factory=deque)
    forwarding: bool = False
    passed_over: bool = False


class Lanes:
    """Who has the turn in each lane, and whether that call is being forwarded."""

    def __init__(self) -> None:
        self._turns: dict[Lane, _Turns] = {}

    def is_free(self, lane: Lane) -> bool:
        """Whether no call of a lane is under way."""
        return lane not in self._turns

    def enter(self, lane: Lane) -> Deferred[None]:
        """Fires when it is the caller's turn, in the order of asking; whoever got the turn must `leave`. Cancelling the
        Deferred gives up the place."""
        turns = self._turns.get(lane)
        if turns is None:
            self._turns[lane] = _Turns()
            return succeed(None)
        waiter: Deferred[None] = Deferred(turns.waiting.remove)
        turns.waiting.append(waiter)
        return waiter

    def forward(self, lane: Lane) -> None:
        """Whoever has the turn found the lane empty and forwards its call."""
        self._turns[lane].forwarding = True

    def leave(self, lane: Lane) -> bool:
        """Pass the turn on; answers whether a courier passed over the lane meanwhile and wants to hear of it."""
        turns = self._turns[lane]
        passed_over = turns.passed_over
        turns.forwarding = turns.passed_over = False
        if turns.waiting:
            turns.waiting.popleft().callback(None)
        else:
            del self._turns[lane]
        return passed_over

    def pass_over(self, lane: Lane) -> bool:
        """Whether a courier has to leave the lane alone, because a call of it is being forwarded."""
        turns = self._turns.get(lane)
        if turns is None or not turns.forwarding:
            return False
        turns.passed_over = True
        return True

    def __len__(self) -> int:
        return len(self._turns)
