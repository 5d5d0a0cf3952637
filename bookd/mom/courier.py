"""Delivers what was kept for one destination: the heads of its lanes, many at a time, each lane in order.

A courier looks for work when it is woken: the destination is back, something was kept, a pause is over, a delivery has
ended. What is being delivered is known in memory only. So a MOM that dies delivers it again, under the same id, and the
service's inbox makes that harmless.
"""

from collections.abc import Callable
from random import random
from typing import Any
from uuid import UUID, uuid5

from google.rpc import status_pb2
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.bridge.desk import Desk
from bookd.bridge.status import to_status
from bookd.contract import metadata
from bookd.contract.descriptors import Contract
from bookd.errors import BookdError, Code, DeadlineExceeded
from bookd.mom import store
from bookd.mom.breaker import BreakerState
from bookd.mom.destination import Destination
from bookd.mom.lanes import Lanes
from bookd.mom.machine import Event, Meaning, Policy, meaning, next_attempt, pause
from bookd.mom.store import Draft, Kept, Outcome
from bookd.wire.mom.v1 import message_pb2

REDELIVERY = "bookd-redelivery"
_FIELD_1 = b"\x0a"  # key of a length-delimited field 1


class Courier(Service):
    """The courier of one destination. `done(kept, reply)` is called on the reactor when a message has left the queue."""

    log = Logger()

    def __init__(
        self,
        clock: Any,
        desk: Desk,
        destination: Destination,
        lanes: Lanes,
        contract: Contract,
        *,
        policy: Policy,
        now: Callable[[], int],
        concurrency: int,
        deadline: float,
        done: Callable[[Kept, Draft | None], None],
    ) -> None:
        self._clock = clock
        self._desk = desk
        self._destination = destination
        self._lanes = lanes
        self._contract = contract
        self._policy = policy
        self._now = now
        self._concurrency = concurrency
        self._deadline = deadline
        self._done = done
        self._delivering: dict[str, tuple[int, Deferred[None]]] = {}  # by lane: seq of the message, the work
        self._looking: Deferred[None] | None = None
        self._look_again = False
        self._timer: IDelayedCall | None = None
        destination.breaker.when_closed(self.wake)

    def startService(self) -> None:
        """Begin with what an earlier run has left."""
        super().startService()
        self.wake()

    def stopService(self) -> Deferred[None]:
        """Give up the deliveries under way, whose messages stay in the queue; fires when all is quiet."""
        super().stopService()
        self._set_timer(None)
        work = [delivery for _, delivery in self._delivering.values()]
        waiting = DeferredList([*work, *([self._looking] if self._looking is not None else [])], consumeErrors=True)
        for delivery in work:
            delivery.cancel()
        return waiting.addCallback(lambda _: None)

    def delivers(self, seq: int) -> bool:
        """Whether this message is being delivered now."""
        return any(seq == delivering for delivering, _ in self._delivering.values())

    def wake(self) -> None:
        """Look for work soon."""
        self._look_again = True
        if self.running and self._looking is None and self._destination.breaker.state is BreakerState.CLOSED:
            looking = self._looking = Deferred.fromCoroutine(self._look())
            if looking.called:
                self._looking = None

    async def _look(self) -> None:
        try:
            while self._look_again and self.running:
                self._look_again = False
                free = self._concurrency - len(self._delivering)
                if free > 0:
                    now = self._now()
                    ready = await self._desk.read(
                        store.ready, self._destination.name, now, free, frozenset(self._delivering)
                    )
                    self._begin(ready)
        except Exception:
            if self.running:
                self.log.failure("the queue of {name} cannot be read", name=self._destination.name)
                self._set_timer(self._now() + 1_000_000)
        finally:
            self._looking = None

    def _begin(self, ready: store.Ready) -> None:
        for kept in ready.messages:
            closed = self._destination.breaker.state is BreakerState.CLOSED
            if not (closed and self.running) or self._lanes.pass_over((kept.destination, kept.lane)):
                continue
            if kept.lane not in self._delivering:
                delivery = Deferred.fromCoroutine(self._deliver_lane(kept))
                self._delivering[kept.lane] = (kept.seq, delivery)
                delivery.addErrback(self._note_failure, kept)
                delivery.addCallback(self._ended, kept.lane)
        self._set_timer(ready.next_at)

    def _note_failure(self, failure: Failure, kept: Kept) -> None:
        if not failure.check(CancelledError):
            self.log.failure("the delivery of {id} went wrong", failure, id=kept.message_id)
            # Whatever it was (the disk, say), trying again at once would not mend it.
            self._set_timer(self._now() + 1_000_000)

    def _ended(self, _: Any, lane: str) -> None:
        self._delivering.pop(lane, None)
        self.wake()

    def _set_timer(self, ready_at: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if ready_at is not None and self.running:
            self._timer = self._clock.callLater(max(0.0, (ready_at - self._now()) / 1e6), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.wake()

    async def _deliver_lane(self, first: Kept) -> None:
        kept: Kept | None = first
        while kept is not None and self.running:
            if kept is not first:
                self._delivering[kept.lane] = (kept.seq, self._delivering[kept.lane][1])
            kept = await self._deliver(kept)

    async def _deliver(self, kept: Kept) -> Kept | None:
        """Deliver one message; answers the next of its lane when that is ready."""
        if kept.expire_at <= self._now():
            return await self.give_up(kept, DeadlineExceeded("the message expired", reason="EXPIRED"))
        try:
            response = await self._destination.call(kept.method, kept.request, self._deadline, _carried(kept))
        except BookdError as error:
            return await self._failed(kept, error)
        return await self._finish(kept, Outcome(Event.ANSWERED, Code.OK, response=response))

    async def _failed(self, kept: Kept, error: BookdError) -> Kept | None:
        now = self._now()
        policy = self._policy.of(self._contract.methods[kept.method].delivery)
        state = self._destination.breaker.state
        away = error.code is Code.CANCELLED or (
            error.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED) and state is not BreakerState.CLOSED
        )
        what = Meaning.DOWN if away else meaning(error.code)
        if what is Meaning.FINAL:
            status = to_status(error).SerializeToString()
            return await self._finish(kept, Outcome(Event.DECLINED, error.code, status=status, error=error.message))
        told = f"{error.code.name}: {error.message}"
        if what is Meaning.DOWN:
            later = now + pause(kept.refusals + 1, policy, random())  # noqa: S311 - jitter, not a secret
            await self._desk.write(store.postpone, kept.seq, Event.POSTPONED, later, told, now)
            return None
        at = next_attempt(now, kept.attempts + 1, policy, random())  # noqa: S311
        if at is None:
            return await self.give_up(kept, error)
        await self._desk.write(store.postpone, kept.seq, Event.FAILED, at, told, now)
        return None

    async def give_up(self, kept: Kept, error: BookdError) -> Kept | None:
        """Make a message a dead letter."""
        self.log.warn(
            "{id} for {name} is given up: {why}", id=kept.message_id, name=kept.destination, why=error.message
        )
        status = to_status(error).SerializeToString()
        return await self._finish(kept, Outcome(Event.GIVEN_UP, error.code, status=status, error=error.message))

    async def _finish(self, kept: Kept, outcome: Outcome) -> Kept | None:
        now = self._now()
        policy = self._policy.of(self._contract.methods[kept.method].delivery)
        blocks = outcome.event is Event.GIVEN_UP and policy.dead_letter_blocks_lane
        reply = reply_of(kept, outcome, now + policy.expire_after) if kept.reply_to else None
        following = await self._desk.write(store.finish, kept.seq, outcome, now, block_lane=blocks, reply=reply)
        self._done(kept, reply)
        return following


def reply_of(kept: Kept, outcome: Outcome, expire_at: int) -> Draft:
    """The message that brings the outcome of `kept` to the method that its sender named.

    The method's request has a bookd.mom.v1.Outcome as field 1, so its bytes follow without knowing its type.
    """
    assert kept.reply_to is not None
    told = message_pb2.Outcome(message_id=kept.message_id, method=kept.method, response=outcome.response or b"")
    told.status.CopyFrom(status_pb2.Status.FromString(outcome.status or b""))
    body = told.SerializeToString()
    length, varint = len(body), b""
    while length > 0x7F:
        varint, length = varint + bytes([length & 0x7F | 0x80]), length >> 7
    return Draft(
        message_id=str(uuid5(UUID(kept.message_id), "reply")),
        destination=kept.reply_to[1:].partition("/")[0],
        lane=kept.lane,
        method=kept.reply_to,
        request=_FIELD_1 + varint + bytes([length]) + body,
        fingerprint=bytes(32),
        principal=b"",
        subject="",
        metadata=kept.metadata,
        reply_to=None,
        expire_at=expire_at,
    )


def _carried(kept: Kept) -> list[tuple[str, str | bytes]]:
    carried: list[tuple[str, str | bytes]] = [(metadata.MESSAGE_ID, kept.message_id), (REDELIVERY, "1")]
    if kept.principal:
        carried.append((metadata.PRINCIPAL, kept.principal))
    return [*carried, *kept.metadata.items()]
