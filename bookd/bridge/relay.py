"""Sends what is in an outbox to the MOM, until the MOM has it.

A message ends in one of three ways, each recorded in one transaction that also removes it from the outbox:

- answered: the outcome, success or final error, is given to `apply`;
- kept: the MOM has it on disk and says so (`bookd.mom.v1.Deferred`); its outcome will come to the reply method;
- neither (the MOM or the destination does not answer, and nothing was kept): it stays, and is sent again under the same
  id after a pause, which doubles up to a bound.

Messages of one lane are sent one after the other; so a step that gives back is never sent before the one that took.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bookd.bridge.channel import Channel
from bookd.bridge.desk import Desk
from bookd.bridge.status import detail, to_status
from bookd.contract import metadata
from bookd.errors import FINAL, BookdError
from bookd.storage import outbox
from bookd.wire.mom.v1 import message_pb2

# Messages under way at a time.
CONCURRENCY = 64
# Seconds that one attempt may take.
DEADLINE = 5.0
# Seconds between attempts: at first, and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0


class Relay(Service):
    """The relay of one outbox.

    `apply(connection, outcome, now)` runs in the transaction that removes an answered message. `told(lane, kept)` is
    called on the reactor afterwards: `kept` is true when no answer can be expected soon. `wake()` after each commit that
    put something; what an earlier run has left is found by startService.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        desk: Desk,
        channel: Channel,
        *,
        now: Callable[[], int],
        apply: Callable[[Connection, message_pb2.Outcome, int], Any],
        told: Callable[[str, bool], None],
    ) -> None:
        self._reactor = reactor
        self._desk = desk
        self._channel = channel
        self._now = now
        self._apply = apply
        self._told = told
        self._sending: dict[str, Deferred[None]] = {}  # by lane
        self._looking: Deferred[None] | None = None
        self._look_again = False
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """Begin with what is in the outbox."""
        super().startService()
        self.wake()

    def stopService(self) -> Deferred[None]:
        """Give up the attempts under way, which leaves their messages in the outbox; fires when all is quiet."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        under_way = [*self._sending.values(), *([self._looking] if self._looking is not None else [])]
        for sending in list(self._sending.values()):
            sending.cancel()
        return DeferredList(under_way).addCallback(lambda _: None)

    def wake(self) -> None:
        """Look into the outbox soon."""
        self._look_again = True
        if self.running and self._looking is None:
            self._looking = Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        try:
            while self._look_again and self.running:
                self._look_again = False
                now = self._now()
                rows = await self._desk.read(outbox.due, now, CONCURRENCY + len(self._sending))
                for row in rows:
                    if row.message.lane not in self._sending and len(self._sending) < CONCURRENCY and self.running:
                        self._begin(row)
                self._set_timer(await self._desk.read(outbox.next_ready, now))
        except Exception:
            if self.running:
                self.log.failure("the outbox cannot be read")
                self._set_timer(self._now() + 1_000_000)
        finally:
            self._looking = None

    def _set_timer(self, ready_at: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if ready_at is not None and self.running:
            self._timer = self._reactor.callLater(max(0.0, (ready_at - self._now()) / 1e6), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.wake()

    def _begin(self, row: outbox.Row) -> None:
        lane = row.message.lane
        sending = self._sending[lane] = Deferred.fromCoroutine(self._send(row))
        sending.addErrback(self._note_failure, lane)
        sending.addCallback(lambda _: self._end(lane, sending))
        if sending.called:
            self._end(lane, sending)

    def _note_failure(self, failure: Any, lane: str) -> None:
        if not failure.check(CancelledError):
            self.log.failure("a message of lane {lane} was not sent", failure, lane=lane)

    def _end(self, lane: str, sending: Deferred[None]) -> None:
        if self._sending.get(lane) is sending:
            del self._sending[lane]
            self.wake()

    async def _send(self, row: outbox.Row) -> None:
        message = row.message
        outcome = message_pb2.Outcome(message_id=message.message_id, method=message.method)
        try:
            outcome.response = await self._channel.unary_unary(message.method)(
                message.request, timeout=DEADLINE, metadata=_metadata(message)
            )
        except BookdError as error:
            if detail(error, message_pb2.Deferred) is not None:
                await self._desk.write(outbox.remove, message.message_id)
                self._told(message.lane, True)
                return
            if error.code not in FINAL:
                pause = min(FIRST_PAUSE * 2.0 ** min(row.attempts, 16), LONGEST_PAUSE)
                ready_at = self._now() + round(pause * 1e6)
                await self._desk.write(outbox.postpone, message.message_id, ready_at, str(error))
                self._told(message.lane, True)
                return
            outcome.status.CopyFrom(to_status(error))
        await self._desk.write(self._settle, outcome, self._now())
        self._told(message.lane, False)

    def _settle(self, connection: Connection, outcome: message_pb2.Outcome, now: int) -> None:
        self._apply(connection, outcome, now)
        outbox.remove(connection, outcome.message_id)


def _metadata(message: outbox.Message) -> list[tuple[str, str | bytes]]:
    carried: list[tuple[str, str | bytes]] = [(metadata.MESSAGE_ID, message.message_id)]
    if message.principal:
        carried.append((metadata.PRINCIPAL, message.principal))
    if message.reply_to:
        carried.append((metadata.REPLY_TO, message.reply_to))
    return carried
