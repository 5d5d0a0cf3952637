"""The stream of one durable subscription.

Events go out in their order, no more than the client's credit beyond the last one that it acknowledged. How far it has
come is on disk with each acknowledgement, so a later stream goes on from there: an event comes again until it is
acknowledged, and never out of order. A refusal (nack) rewinds: the event and all behind it are sent again after a pause,
which doubles while the same event is refused.
"""

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from bookd.errors import BookdError, InvalidArgument, Unavailable
from bookd.mom import journal
from bookd.mom.broker import BATCH, Broker, numbered
from bookd.mom.journal import Standing
from bookd.mom.spool import Desk
from bookd.wire.mom.v1.event_pb2 import Event

# Bounds of the pause after a refusal, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0


class Subscriber:
    """Sends a subscription's events and takes its acknowledgements. `now` answers microseconds since the epoch."""

    log = Logger()

    def __init__(self, clock: Any, broker: Broker, desk: Desk, standing: Standing, credit: int, now: Any) -> None:
        self._clock = clock
        self._broker = broker
        self._desk = desk
        self._standing = standing
        self._credit = credit
        self._now = now
        self._acknowledged = standing.cursor
        self._position = standing.cursor  # all events up to here were sent, or are not wanted
        self._sent: deque[int] = deque()  # those of them that are not acknowledged
        self._refused, self._refusals = 0, 0
        self._pause = 0.0
        self._writing: Deferred[None] | None = None
        self._waiting: Deferred[Any] | None = None
        self._ended: BookdError | None = None

    def end(self, error: BookdError) -> None:
        """End the stream with `error`."""
        self._ended = self._ended or error
        self._wake()

    def acknowledge(self, sequence: str, where: str) -> None:
        """The event and all before it are dealt with. Raises `InvalidArgument` for one that was not sent."""
        seq = self._known(sequence, where)
        while self._sent and self._sent[0] <= seq:
            self._sent.popleft()
        if seq > self._acknowledged:
            self._acknowledged = seq
            if self._writing is None:
                self._writing = Deferred.fromCoroutine(self._write())
        self._wake()

    def refuse(self, sequence: str, where: str) -> None:
        """Send the event and all behind it again. Raises `InvalidArgument` for one that was not sent."""
        seq = self._known(sequence, where)
        if seq not in self._sent:
            return  # acknowledged, or refused already
        self._refusals = self._refusals + 1 if seq == self._refused else 1
        self._refused = seq
        self._pause = min(FIRST_PAUSE * 2.0 ** min(self._refusals - 1, 16), LONGEST_PAUSE)
        while self._sent and self._sent[-1] >= seq:
            self._sent.pop()
        self._position = seq - 1
        self._wake()

    async def events(self) -> AsyncIterator[Event]:
        """The events. Raises what `end` was given; `Unavailable` when the MOM stops."""
        while True:
            self._require_open()
            if self._pause:
                pause, self._pause = self._pause, 0.0
                await deferLater(self._clock, pause)
                continue
            room = self._credit - len(self._sent)
            if room <= 0:
                await self._change(Deferred(lambda _: None))
                continue
            before = self._position
            page = await self._broker.read(before, self._standing.wanted, min(room, BATCH))
            for record in page.records:
                if self._position != before or self._pause:
                    break  # a refusal has rewound it meanwhile
                before = self._position = record.seq
                self._sent.append(record.seq)
                yield numbered(record)
                self._require_open()
            else:
                if self._position == before and not self._pause:
                    self._position = page.upto
                    if not page.records:
                        await self._change(Deferred.fromCoroutine(self._broker.news(page.upto, self._standing.wanted)))

    async def close(self) -> None:
        """Wait until the last acknowledgement is on disk."""
        if self._writing is not None:
            await self._writing

    def _known(self, sequence: str, where: str) -> int:
        if not (sequence.isascii() and sequence.isdigit() and len(sequence) <= 20):
            raise InvalidArgument.field(where, "must be the sequence of an event")
        seq = int(sequence)
        if seq > self._position:
            raise InvalidArgument.field(where, "is the sequence of an event that was not sent")
        return seq

    async def _write(self) -> None:
        """Write how far the client has come; what it acknowledges meanwhile goes into the next write."""
        written = -1
        try:
            while written < self._acknowledged:
                written = self._acknowledged
                here = self._standing
                await self._desk.write(journal.acknowledge, here.peer, here.name, written, self._now())
        except Exception:
            self.log.failure("an acknowledgement of {name} cannot be written", name=self._standing.name)
            self.end(Unavailable("the acknowledgement could not be written", reason="STORE_FAILED", retry_after=1.0))
        finally:
            self._writing = None

    async def _change(self, news: Deferred[Any]) -> None:
        """Wait for `news`, or for something that the client says."""
        self._waiting = news
        try:
            await news
        except CancelledError:
            if self._waiting is news:
                raise  # it was the stream that was cancelled
        finally:
            self._waiting = None

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def _require_open(self) -> None:
        self._broker.require_running()
        if self._ended is not None:
            raise self._ended
