"""The life of a kept message: its states, what moves it from one to the next, and when it is tried again.

    keep ──> QUEUED ──answered──> SUCCEEDED
              │ ▲ ├──declined──> FAILED
     failed / │ │ ├──cancelled─> CANCELLED
    postponed └─┘ └──given up──> DEAD ──retried──> QUEUED

A message that is being delivered is QUEUED still: that a delivery is under way is known in memory only, so that a MOM
that dies in the middle of one finds the message waiting. Everything here is a function of its arguments.
"""

from collections.abc import Mapping
from enum import Enum, IntEnum
from typing import Final

from attrs import frozen

from bookd.errors import FINAL, Code
from bookd.wire.policy.v1 import policy_pb2

MICROSECONDS: Final = 1_000_000


class MessageState(IntEnum):
    """Where a message stands. The numbers are those of bookd.mom.v1.MessageState, and are what the database holds."""

    # On disk, waiting for its turn in its lane, for its destination, or for its next attempt; or being delivered now.
    QUEUED = 1
    # The destination answered OK. The response is kept until the message is purged. Final.
    SUCCEEDED = 2
    # The destination was up and said no. The error is kept until the message is purged. Final.
    FAILED = 3
    # Not tried any more by itself: it failed too often without a decision, or expired. Stays until an operator acts.
    DEAD = 4
    # Withdrawn before it was delivered. Final.
    CANCELLED = 5


class Event(Enum):
    """What happens to a message."""

    ANSWERED = "answered"  # the destination said OK
    DECLINED = "declined"  # the destination said no
    FAILED = "failed"  # the destination answered without deciding anything; counts as an attempt
    POSTPONED = "postponed"  # the destination could not take it; does not count
    GIVEN_UP = "given up"  # attempts exhausted, or expired
    CANCELLED = "cancelled"
    RETRIED = "retried"  # an operator wants it delivered after all


TRANSITIONS: Final[Mapping[tuple[MessageState, Event], MessageState]] = {
    (MessageState.QUEUED, Event.ANSWERED): MessageState.SUCCEEDED,
    (MessageState.QUEUED, Event.DECLINED): MessageState.FAILED,
    (MessageState.QUEUED, Event.FAILED): MessageState.QUEUED,
    (MessageState.QUEUED, Event.POSTPONED): MessageState.QUEUED,
    (MessageState.QUEUED, Event.GIVEN_UP): MessageState.DEAD,
    (MessageState.QUEUED, Event.CANCELLED): MessageState.CANCELLED,
    (MessageState.DEAD, Event.RETRIED): MessageState.QUEUED,
}

# Finished messages have an outcome to tell.
FINISHED: Final = frozenset(MessageState) - {MessageState.QUEUED}


class IllegalTransition(Exception):
    """The event cannot happen to a message in that state. Nothing has changed."""

    def __init__(self, state: MessageState, event: Event) -> None:
        super().__init__(f"a message that is {state.name} cannot be {event.value}")
        self.state = state
        self.event = event


def after(state: MessageState, event: Event) -> MessageState:
    """The state that `event` moves a message to. Raises `IllegalTransition`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None


class Meaning(Enum):
    """What the status code of one delivery says about the message and its destination."""

    OK = "done"
    FINAL = "the destination was up and said no"
    DOWN = "the destination was not there; not an attempt"
    POISON = "the destination was there and decided nothing; an attempt"


def meaning(code: Code) -> Meaning:
    """What `code` means for a kept message.

    A deadline that runs out while the destination answers its health checks is the message's fault; the courier asks
    the breaker first. CANCELLED is what a server says to the calls that it cuts off when it stops. RESOURCE_EXHAUSTED is POISON: it backs off like the others, and a message that is larger than its
    destination takes must not come back for ever.
    """
    if code is Code.OK:
        return Meaning.OK
    if code in FINAL:
        return Meaning.FINAL
    return Meaning.DOWN if code in (Code.UNAVAILABLE, Code.CANCELLED) else Meaning.POISON


# A forwarded call that ended so may or may not have taken effect, or may succeed later: it is worth keeping.
WORTH_KEEPING: Final = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})


@frozen
class Policy:
    """How a message is delivered. All times are in microseconds."""

    max_attempts: int
    initial_backoff: int
    max_backoff: int
    expire_after: int
    dead_letter_blocks_lane: bool = False
    # How long after it was kept a message that had become a dead letter may still be delivered.
    retry_within: int = 21 * 86_400 * MICROSECONDS

    def of(self, delivery: policy_pb2.Delivery) -> "Policy":
        """This policy, with what an rpc's `bookd.policy.v1.delivery` says in place of the defaults."""
        retry = delivery.retry
        return Policy(
            max_attempts=retry.max_attempts or self.max_attempts,
            initial_backoff=retry.initial_backoff.ToMicroseconds() or self.initial_backoff,
            max_backoff=retry.max_backoff.ToMicroseconds() or self.max_backoff,
            expire_after=delivery.expire_after.ToMicroseconds() or self.expire_after,
            dead_letter_blocks_lane=delivery.dead_letter_blocks_lane,
            retry_within=self.retry_within,
        )


def second_expiry(created_at: int, now: int, policy: Policy) -> int | None:
    """When a dead letter expires that was kept at `created_at` and is retried now; None when it is too late for that.

    It may have taken effect before it became one, and its service does not remember that for ever.
    """
    last = created_at + policy.retry_within
    return min(now + policy.expire_after, last) if now < last else None


def next_attempt(now: int, attempts: int, policy: Policy, fraction: float) -> int | None:
    """When to try again after `attempts` failed ones, at least 1; None when that was the last.

    Full jitter: anywhere between now and the bound, which doubles with each attempt up to the maximum. `fraction` in
    [0, 1) is the random part.
    """
    if attempts >= policy.max_attempts:
        return None
    return now + pause(attempts, policy, fraction)


def pause(times: int, policy: Policy, fraction: float) -> int:
    """How long to wait, in microseconds, after the same thing failed `times` times, at least once."""
    doublings = min(times - 1, 62)  # beyond that any bound is past every maximum
    return int(min(policy.initial_backoff << doublings, policy.max_backoff) * fraction)
