"""Delivers the kept messages of one destination.

While its breaker is closed, the courier takes the heads of the lanes that are ready and calls the destination, several
lanes at a time, one message a lane. What each answer means is decided by `machine`:

- an outcome (OK or a final error) is written, and the lane moves on;
- a destination that is not there costs nothing: the message stays first in its lane until the breaker closes. If a probe
  finds the destination well nevertheless, the message rests for a while, uncounted;
- a failure without a decision is an attempt: the lane waits for a random while, bounded by a limit that doubles, and
  after the last attempt the message is a dead letter and the lane moves on, or stays blocked where the policy says so.

That a delivery is under way is known here only. A MOM that is killed finds the message queued and delivers it again, under
the same id. Delivery starts gently when the destination comes back: one lane, and one more for each answer, or for each
delivery that takes its time. So a lane whose message hangs holds up no other.
"""

from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bookd.bridge.desk import is_storage
from bookd.contract import metadata
from bookd.contract.descriptors import Contract
from bookd.errors import BookdError, Code, DeadlineExceeded
from bookd.mom import operations
from bookd.mom.breaker import BreakerState
from bookd.mom.destination import Destination
from bookd.mom.lanes import Lanes
from bookd.mom.machine import MICROSECONDS, Event, Meaning, Policy, meaning, next_attempt, pause
from bookd.mom.records import Kept, Outcome
from bookd.mom.replies import reply
from bookd.mom.spool import Spool

# Seconds that the courier keeps still after something of its own failed, such as the disk.
RECOVERY = 1.0
# Deliveries that have their answer and wait for the disk, at most: meanwhile the destination need not be idle.
WRITING = 256
# Seconds after which a delivery counts as slow.
SLOW = 0.25
# Longest pause of a message that a healthy destination keeps refusing, in microseconds.
LONGEST_REFUSAL = 5 * MICROSECONDS


class Courier(Service):
    """The courier of one destination. `fraction` answers a random number in [0, 1); `deadline` and `grace` are in
    seconds, the latter being how long deliveries may go on that are under way when the service stops."""

    log = Logger()

    def __init__(
        self,
        clock: Any,
        destination: Destination,
        spool: Spool,
        lanes: Lanes,
        contract: Contract,
        policy: Policy,
        *,
        fraction: Callable[[], float],
        concurrency: int,
        deadline: float,
        grace: float = 1.0,
    ) -> None:
        self._clock = clock
        self._destination = destination
        self._spool = spool
        self._lanes = lanes
        self._contract = contract
        self._policy = policy
        self._fraction = fraction
        self._concurrency = concurrency
        self._deadline = deadline
        self._grace = grace
        self._window = 1
        self._calls = 0
        self._under_way: dict[str, Deferred[None]] = {}  # by lane
        self._scan: Deferred[None] | None = None
        self._again = False
        self._others_wait = False
        self._timer: IDelayedCall | None = None
        self._still_until = 0.0
        destination.breaker.when_closed(self._back)
        spool.on_arrival(destination.name, self.wake)

    def startService(self) -> None:
        """Begin with what an earlier run has left."""
        super().startService()
        self.wake()

    def stopService(self) -> Deferred[None]:
        """Start no further delivery; fires when those under way have ended or the grace is over."""
        super().stopService()
        self._no_timer()
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        calls = list(self._under_way.values())
        if calls:
            end = self._clock.callLater(self._grace, _cancel_all, calls)
            await DeferredList([_ended(call) for call in calls])
            if end.active():
                end.cancel()
        if self._scan is not None:
            await _ended(self._scan)

    def wake(self) -> None:
        """Look for something to deliver, now or as soon as the look that is under way is over."""
        if not self._may_deliver():
            return
        if self._scan is not None:
            self._again = True
            return
        rest = self._still_until - self._clock.seconds()
        if rest > 0:
            self._look_in(rest)
        elif self._room() > 0:
            # First noted, then begun: messages that are delivered at once wake the courier again.
            scan = self._scan = Deferred()
            Deferred.fromCoroutine(self._look()).addBoth(self._looked, scan)

    def _may_deliver(self) -> bool:
        is_closed = self._destination.breaker.state is BreakerState.CLOSED
        return bool(self.running) and is_closed and not self._spool.is_paused(self._destination.name)

    def _back(self) -> None:
        self._window = 1
        self.wake()

    def _room(self) -> int:
        return min(self._window - self._calls, self._window + WRITING - len(self._under_way))

    def _widen(self) -> None:
        self._window = min(self._window + 1, self._concurrency)

    def _widen_and_wake(self) -> None:
        self._widen()
        self.wake()

    def _looked(self, result: Any, scan: Deferred[None]) -> Any:
        self._scan = None
        scan.callback(None)
        if self._again:
            self._again = False
            self.wake()
        return result

    async def _look(self) -> None:
        name = self._destination.name
        room = self._room()
        try:
            found = await self._spool.ready(name, room, frozenset(self._under_way))
        except Exception:
            self.log.failure("the queue of {name} cannot be read", name=name)
            self._rest()
            return
        self._others_wait = len(found.messages) == room
        self._no_timer()
        if found.next_at is not None:
            self._look_in((found.next_at - self._spool.now()) / MICROSECONDS)
        for kept in found.messages:
            self._begin(kept)

    def _begin(self, kept: Kept) -> None:
        if (
            not self._may_deliver()
            or kept.lane in self._under_way
            or self._lanes.pass_over((kept.destination, kept.lane))
            or self._spool.is_withdrawn(kept.seq)
        ):
            return
        self._spool.in_flight.add(kept.seq)
        # First noted, then begun: a delivery may end at once.
        ended: Deferred[None] = Deferred(lambda _: work.cancel())
        self._under_way[kept.lane] = ended
        slow = self._clock.callLater(SLOW, self._widen_and_wake) if self._window < self._concurrency else None
        work = Deferred.fromCoroutine(self._deliver_safely(kept))
        work.addCallback(self._delivered, kept, ended, slow)

    def _delivered(self, following: Kept | None, kept: Kept, ended: Deferred[None], slow: IDelayedCall | None) -> None:
        if slow is not None and slow.active():
            slow.cancel()
        self._spool.in_flight.discard(kept.seq)
        del self._under_way[kept.lane]
        ended.callback(None)
        # While no other lane waits for room, the next message of this one needs no look.
        if following is not None and not self._others_wait and self._room() > 0:
            self._begin(following)
        self.wake()

    async def _deliver_safely(self, kept: Kept) -> Kept | None:
        try:
            return await self._deliver(kept)
        except CancelledError:
            pass  # the service stops; the message is queued still
        except Exception as error:
            if not is_storage(error):  # of which the desk has told
                self.log.failure("delivering {id} to {name} failed here", id=kept.message_id, name=kept.destination)
            self._rest()
        return None

    async def _deliver(self, kept: Kept) -> Kept | None:
        if kept.expire_at <= self._spool.now():
            return await self._finish(kept, expired())
        if kept.fault:
            self.log.error("a message cannot be opened, and waits: {fault}", fault=kept.fault)
            await self._spool.postpone(kept, Event.POSTPONED, self._spool.now() + LONGEST_REFUSAL, kept.fault[:1000])
            return None
        self._calls += 1
        try:
            response = await self._destination.call(kept.method, kept.request, self._deadline, carried(kept))
        except BookdError as error:
            self._calls -= 1
            return await self._failed(kept, error)
        except CancelledError:
            self._calls -= 1
            raise
        self._calls -= 1
        self._widen()
        self.wake()
        return await self._finish(kept, operations.succeeded(response))

    async def _failed(self, kept: Kept, error: BookdError) -> Kept | None:
        breaker = self._destination.breaker
        told = meaning(error.code)
        if told is Meaning.FINAL:
            self._widen()
            return await self._finish(kept, operations.ended(Event.DECLINED, error))
        if told is Meaning.DOWN:
            # Either nobody is there, or somebody who does not want this call. The next probe knows.
            if breaker.state is not BreakerState.OPEN and await breaker.verdict() is BreakerState.CLOSED:
                await self._refused(kept, error)
            return None
        if error.code is not Code.DEADLINE_EXCEEDED:
            self._widen()
        elif await breaker.settled() is BreakerState.OPEN:
            return None
        return await self._attempted(kept, error)

    async def _refused(self, kept: Kept, error: BookdError) -> None:
        bounded = evolve(self._policy_of(kept), max_backoff=LONGEST_REFUSAL)
        ready_at = self._spool.now() + pause(kept.refusals + 1, bounded, self._fraction())
        await self._spool.postpone(kept, Event.POSTPONED, ready_at, operations.in_one_line(error))

    async def _attempted(self, kept: Kept, error: BookdError) -> Kept | None:
        told = operations.in_one_line(error)
        ready_at = next_attempt(self._spool.now(), kept.attempts + 1, self._policy_of(kept), self._fraction())
        if ready_at is None:
            self.log.error("{method} {id} is dead: {told}", method=kept.method, id=kept.message_id, told=told)
            return await self._finish(kept, evolve(operations.ended(Event.GIVEN_UP, error), counts=True))
        await self._spool.postpone(kept, Event.FAILED, ready_at, told)
        return None

    async def _finish(self, kept: Kept, outcome: Outcome) -> Kept | None:
        block = outcome.event is Event.GIVEN_UP and self._policy_of(kept).dead_letter_blocks_lane
        told = reply(self._contract, self._policy, kept, outcome, self._spool.now())
        return await self._spool.finish(kept, outcome, block_lane=block, reply=told)

    def _policy_of(self, kept: Kept) -> Policy:
        method = self._contract.methods.get(kept.method)
        return self._policy if method is None else self._policy.of(method.delivery)

    def _rest(self) -> None:
        self._still_until = self._clock.seconds() + RECOVERY
        self._look_in(RECOVERY)

    def _look_in(self, seconds: float) -> None:
        self._no_timer()
        if self.running:
            self._timer = self._clock.callLater(max(seconds, 0.0), self.wake)

    def _no_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def expired() -> Outcome:
    """How a message ends whose time is over."""
    return operations.ended(Event.GIVEN_UP, DeadlineExceeded("expired before it could be delivered", reason="EXPIRED"))


def carried(kept: Kept) -> list[tuple[str, str | bytes]]:
    """The metadata that a kept message is delivered with."""
    values: list[tuple[str, str | bytes]] = [(metadata.MESSAGE_ID, kept.message_id), (metadata.REDELIVERY, "1")]
    if kept.principal:
        values.append((metadata.PRINCIPAL, kept.principal))
    return values + list(kept.metadata.items())


def _cancel_all(calls: list[Deferred[None]]) -> None:
    for call in calls:
        call.cancel()


def _ended(deferred: Deferred[Any]) -> Deferred[None]:
    waiter: Deferred[None] = Deferred()

    def relay(result: Any) -> Any:
        waiter.callback(None)
        return result

    deferred.addBoth(relay)
    return waiter
