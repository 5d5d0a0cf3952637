"""Sends what is in an outbox to the MOM, until the MOM has it.

Each attempt at a message ends in one of three ways:

- answered: success, a final error, or the error with which the MOM gave the message up when it had kept it
  (`bookd.mom.v1.Outcome`). The outcome is given to `apply`, in the transaction that removes the message;
- kept: the MOM has it on disk and says so (`bookd.mom.v1.Deferred`). It is removed; its outcome will come to the reply
  method;
- neither: the MOM or the destination does not answer, or fails, and nothing was kept. It stays, and is sent again under
  the same id after a pause, which doubles up to a bound. After some attempts the MOM is asked to keep it: then its retry
  policy decides when it is given up, and operators see it.

Messages of one lane are sent one after the other; so a step that gives back is never sent before the one that took.

Events are published together: while some are on their way the next gather, and go in one call (a list of events is a
request of Publish, and so is one list behind another), whose success removes them all. What cannot be published
together is published one by one, as other messages are sent, so that each gets an answer of its own.

The desk tells the relay what was put, as soon as it is committed. While all that the outbox holds is under way, such a message
is sent as it is, and nobody looks for it. Whenever that may not be so (after a start, when a message has to wait for those
before it in its lane, for another attempt or for room, and where others may write into the database) the outbox is
looked into, until it is so again.

What is promised: a message that was put is sent until it ends in one of the first two ways, whatever fails in between,
a crash of this process included. What is not: that it is sent once. Whoever takes it goes by its message id.
"""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from random import random
from typing import Any, Protocol

from attrs import frozen
from sqlalchemy import Connection
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.logger import Logger

from bookd.bridge.desk import is_storage
from bookd.contract import metadata
from bookd.contract.status import detail, to_status
from bookd.errors import FINAL, BookdError
from bookd.storage import outbox
from bookd.storage.outbox import PUBLISH, Row
from bookd.wire.mom.v1 import message_pb2

# Messages under way at a time, beside events that are published together; of these, and of their bytes, in one call.
CONCURRENCY = 128
TOGETHER, TOGETHER_BYTES = 100, 1_000_000
# Seconds from one such call to the next, unless it was full: the first event goes at once, and those that follow it closely
# gather, as a call with one event costs nearly as much as one with many.
PACE = 0.05
# Seconds that one attempt may take.
DEADLINE = 5.0
# Upper bounds of the pause between attempts, in seconds: after the first one, and of any.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
# Attempts without an answer after which the MOM is asked to keep a message: about eight seconds.
KEEP_AFTER = 8
# Seconds until the outbox is looked into although nobody said that something was put: another instance may have died.
LOOK_AGAIN = 5.0

Apply = Callable[[Connection, outbox.Message, message_pb2.Outcome, int], Any]


class Desk(Protocol):
    """Where units of work run: `bookd.bridge.desk.Desk`, or its fake. `taker` is told what was put; `alone` is whether nobody
    else writes into the database."""

    taker: Callable[[Sequence[Row]], Any]

    @property
    def alone(self) -> bool:
        """Whether nobody else writes into this database."""

    def write(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run `work(connection, *args)`; fires once it is committed."""

    def jot(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Likewise, for work that touches a few rows."""

    def read(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run `work(connection, *args)`, which changes nothing."""

    def glance(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run `work(connection, *args)`, which looks up a few rows."""


class Channel(Protocol):
    """What carries the calls: `bookd.bridge.channel.Channel`, or its fake."""

    def unary_unary(self, method: str) -> Callable[..., Deferred[bytes]]:
        """A callable that moves bytes: `(request, timeout=, metadata=)`."""


@frozen
class _Sending:
    """What a lane is busy with."""

    message_id: str
    ended: "Deferred[None]"


class Relay(Service):
    """The relay of one outbox.

    `apply(connection, message, outcome, now)` runs in the transaction that removes an answered message. `told(lane, applied)`
    is called on the reactor once a message of the lane has left the outbox, or has to wait, with what `apply` has answered,
    if anything. What an earlier run has left is found by startService. `jitter` answers a number from 0 to 1.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        desk: Desk,
        channel: Channel,
        *,
        now: Callable[[], int],
        apply: Apply,
        told: Callable[[str, Any], None] = lambda lane, applied: None,
        jitter: Callable[[], float] = random,
    ) -> None:
        self._reactor = reactor
        self._desk = desk
        self._channel = channel
        self._now = now
        self._apply = apply
        self._told = told
        self._jitter = jitter
        self._sending: dict[str, _Sending] = {}  # by lane
        # Whether all but fresh events is under way; and whether there may be fresh events.
        self._caught_up = False
        self._fresh = True
        self._publishing: list[Row] = []
        self._lanes_published = 0
        self._publish_from = 0.0  # not before, by the reactor's clock
        self._interruptible: set[Deferred[Any]] = set()
        self._woken = False
        self._alarm: Any = None  # while it rests, with the rest
        self._resting: Deferred[None] | None = None
        self._loop: Deferred[None] | None = None
        desk.taker = self.take

    def startService(self) -> None:
        """Begin with what is in the outbox."""
        super().startService()
        self._caught_up, self._fresh = False, True
        self._loop = Deferred.fromCoroutine(self._run())

    def stopService(self) -> Deferred[None]:
        """Give up the attempts under way, which leaves their messages in the outbox; fires when all is quiet."""
        super().stopService()
        for deferred in list(self._interruptible):
            deferred.cancel()
        if self._resting is not None:
            self._alarm.cancel()
            self._resting.callback(None)
        quiet = {each.ended for each in self._sending.values()} | ({self._loop} if self._loop is not None else set())
        return DeferredList(list(quiet)).addCallback(lambda _: None)

    def take(self, put: Sequence[Row]) -> None:
        """Messages that were put, in this order, and are committed."""
        if not self.running:
            return
        for each in put:
            if each.message.method == PUBLISH:
                self._fresh = True
            elif self._caught_up and each.ready_at <= self._now() and self._has_room(each.message.lane):
                self._send_it(each)
            else:
                self._caught_up = False
        self._look_if_needed()

    def _has_room(self, lane: str) -> bool:
        return lane not in self._sending and self._room() > 0

    def _room(self) -> int:
        return CONCURRENCY - len(self._sending) + self._lanes_published

    def _look_if_needed(self) -> None:
        """Look into the outbox, once for all who want that in this turn of the reactor, and soon after a look under way."""
        if not self._caught_up:
            self._wake()
        elif self._fresh and not self._publishing:
            pause = self._publish_from - self._reactor.seconds()
            if pause <= 0:
                self._wake()
            elif self._resting is not None and self._alarm.getTime() > self._publish_from:
                self._alarm.reset(pause)

    def _wake(self) -> None:
        self._woken = True
        if self._resting is not None:
            self._alarm.reset(0)

    async def _run(self) -> None:
        while self.running:
            self._woken = False
            try:
                pause = await self._begin_what_is_due()
            except Exception:
                self.log.failure("the outbox cannot be read")
                self._caught_up = False
                pause = LONGEST_PAUSE
            if self.running and not self._woken:
                await self._rest(pause)

    async def _begin_what_is_due(self) -> float:
        room = self._room()
        if not room:
            return LOOK_AGAIN  # or as soon as one of them has ended
        early = max(0.0, self._publish_from - self._reactor.seconds())
        most = 0 if self._publishing or early else TOGETHER
        self._fresh = self._fresh and not most
        under_way = [each.message_id for each in self._sending.values()]
        events, rows, others, ready_at = await self._desk.glance(
            _look, self._now(), most, room, list(self._sending), under_way
        )
        if not self.running:
            return LOOK_AGAIN
        if events:
            self._publishing = _together(events)
            if len(self._publishing) == len(events) < TOGETHER:
                self._publish_from = self._reactor.seconds() + PACE
            else:
                self._fresh = True  # there may be more
            lanes = dict.fromkeys((row.message.lane for row in self._publishing), "")
            self._lanes_published = len(lanes)
            self._begin(lanes, self._publish())
        for row in rows:
            if row.message.lane not in self._sending:  # what was put while this was looked for may be under way by now
                self._send_it(row)
        self._caught_up = self._desk.alone and not others and not self._woken
        pause = LOOK_AGAIN if ready_at is None else min(LOOK_AGAIN, max(0.0, (ready_at - self._now()) / 1e6))
        return min(pause, early) if self._fresh and not self._publishing else pause

    async def _rest(self, seconds: float) -> None:
        self._resting = Deferred()
        self._alarm = self._reactor.callLater(seconds, self._resting.callback, None)
        await self._resting
        self._alarm = self._resting = None

    def _send_it(self, row: Row) -> None:
        self._begin({row.message.lane: row.message.message_id}, self._send(row.message, row.attempts))

    def _begin(self, lanes: dict[str, str], work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Begin something by which these lanes are busy, each with the message of this id, none for events together."""
        # Noted before it begins, as it may end before fromCoroutine returns.
        ended: Deferred[None] = Deferred()
        self._sending |= {lane: _Sending(message_id, ended) for lane, message_id in lanes.items()}

        def end(_: Any) -> None:
            for lane in lanes:
                del self._sending[lane]
            ended.callback(None)
            self._look_if_needed()

        Deferred.fromCoroutine(self._safely(work)).addBoth(end)

    async def _safely(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        try:
            await work
        except CancelledError:
            pass  # the service stops; the messages are still there
        except Exception as error:
            if not is_storage(error):  # of which the desk has told
                self.log.failure("what was sent could not be settled here")
            # The rows could not be changed, so they are ready still: their lanes are held here, lest this spins.
            with suppress(CancelledError):
                await self._unless_stopped(deferLater(self._reactor, LONGEST_PAUSE))
            self._caught_up = False

    async def _publish(self) -> None:
        rows = self._publishing
        ids = [row.message.message_id for row in rows]
        requests = b"".join(row.message.request for row in rows)
        try:
            await self._unless_stopped(self._channel.unary_unary(PUBLISH)(requests, timeout=DEADLINE, metadata=[]))
            await self._desk.jot(outbox.remove_all, ids)
        except BookdError as error:
            if is_storage(error):
                raise
            await self._postpone(ids, 0, error)
        finally:
            self._publishing, self._lanes_published = [], 0
        for lane in dict.fromkeys(row.message.lane for row in rows):
            self._tell(lane)

    async def _send(self, message: outbox.Message, attempts: int) -> None:
        outcome = message_pb2.Outcome(message_id=message.message_id, method=message.method)
        try:
            outcome.response = await self._unless_stopped(
                self._channel.unary_unary(message.method)(
                    message.request, timeout=DEADLINE, metadata=_metadata(message, attempts)
                )
            )
        except BookdError as error:
            if detail(error, message_pb2.Deferred) is not None:
                await self._desk.jot(outbox.remove, message.message_id)
                self._tell(message.lane)
                return
            if error.code not in FINAL and detail(error, message_pb2.Outcome) is None:
                await self._postpone([message.message_id], attempts, error)
                self._tell(message.lane)
                return
            outcome.status.CopyFrom(to_status(error))
        self._tell(message.lane, await self._desk.jot(self._settle, message, outcome))

    async def _postpone(self, message_ids: list[str], attempts: int, error: BookdError) -> None:
        pause = min(FIRST_PAUSE * 2.0 ** min(attempts, 16), LONGEST_PAUSE) * (1 + self._jitter()) / 2
        text = f"{error.code.name}: {error.message}"
        await self._desk.jot(outbox.postpone, message_ids, self._now() + round(pause * 1e6), text)
        self._caught_up = False

    def _settle(self, connection: Connection, message: outbox.Message, outcome: message_pb2.Outcome) -> Any:
        # A message that is gone was kept and answered meanwhile; applying its outcome again changes nothing.
        applied = self._apply(connection, message, outcome, self._now())
        outbox.remove(connection, message.message_id)
        return applied

    def _tell(self, lane: str, applied: Any = None) -> None:
        try:
            self._told(lane, applied)
        except Exception:
            self.log.failure("the news of lane {lane} was not taken", lane=lane)

    async def _unless_stopped(self, deferred: Deferred[Any]) -> Any:
        if not self.running:
            deferred.cancel()
        self._interruptible.add(deferred)
        try:
            return await deferred
        finally:
            self._interruptible.discard(deferred)


def _look(
    connection: Connection, now: int, most: int, room: int, busy: list[str], under_way: list[str]
) -> tuple[list[Row], list[Row], bool, int | None]:
    """Events that can be published together, what else can be sent now, whether there is more of that, and when some of it
    will be ready."""
    events = outbox.fresh_events(connection, most, busy) if most else []
    rows = outbox.due(connection, now, room, busy)
    others = outbox.others(connection, under_way + [row.message.message_id for row in rows])
    return events, rows, others, outbox.next_ready(connection, now) if others else None


def _together(events: list[Row]) -> list[Row]:
    """Those that one call takes."""
    size = 0
    for number, row in enumerate(events):
        size += len(row.message.request)
        if number and size > TOGETHER_BYTES:
            return events[:number]
    return events


def nothing_follows(connection: Connection, message: outbox.Message, outcome: message_pb2.Outcome, now: int) -> None:
    """`apply` for a service that only publishes: what comes of an event is nobody's business, but a refusal is a fault."""
    if outcome.status.code:
        Relay.log.error(
            "{method} {message_id} was refused: {why}",
            method=message.method,
            message_id=message.message_id,
            why=outcome.status.message,
        )


def _metadata(message: outbox.Message, attempts: int) -> list[tuple[str, str | bytes]]:
    values: list[tuple[str, str | bytes]] = [
        (metadata.MESSAGE_ID, message.message_id),
        (metadata.PRINCIPAL, message.principal),
        (metadata.REPLY_TO, message.reply_to),
        (metadata.REQUEST_ID, message.trace.request_id),
        (metadata.TRACEPARENT, message.trace.traceparent),
        (metadata.RESPOND_ASYNC, "1" if attempts >= KEEP_AFTER else ""),
    ]
    return [(key, value) for key, value in values if value]
