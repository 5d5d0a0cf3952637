"""The store, together with what is known of its messages in memory only.

All writes pass here, so that whoever waits for something hears of it once it is committed: couriers of new messages,
waiters of finished ones. Memory holds what is under way (deliveries, writes, waiting clients), never what is queued.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.errors import FINAL, BookdError, Code
from bookd.mom import forgetting, ledger, overview, records, settling, store, together
from bookd.mom.gathering import Gathering
from bookd.mom.lanes import Lane
from bookd.mom.machine import Event, MessageState
from bookd.mom.rates import Rates
from bookd.mom.records import Bounds, Draft, Kept, Outcome, Place

UNBOUNDED = Bounds(2**62, 2**62)
# From so many stored messages on they are not counted: then every call looks into the store anyway.
MANY = 1000


class Desk(Protocol):
    """Where units of work run: `bookd.bridge.desk.Desk`, or its fake."""

    def write(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run `work(connection, …)`; fires once it is committed."""

    def read(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run `work(connection, …)`, which changes nothing."""

    def glance(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run `work(connection, …)`, which looks up a few rows."""


class Spool:
    """The kept messages. `now` answers microseconds since the epoch; `bounds` is what each queue takes; `paused` names
    the destinations that an earlier run has left paused; no message is postponed by more than `longest_pause`."""

    log = Logger()

    def __init__(
        self,
        desk: Desk,
        now: Callable[[], int],
        bounds: Bounds = UNBOUNDED,
        paused: Iterable[str] = (),
        longest_pause: int = store.LONGEST_PAUSE,
    ) -> None:
        self.desk = desk
        self.now = now
        self.bounds = bounds
        self.rates = Rates(now)
        self._paused = set(paused)
        self._longest_pause = longest_pause
        # Messages that are being delivered; whoever delivers one notes it here.
        self.in_flight: set[int] = set()
        # How many messages were on disk when they were last counted, None while that is not known or they are many; by how
        # many there are more now; and how many are being written. Never too low: what is being removed counts still.
        self._counted: int | None = None
        self._more = 0
        self._pending = 0
        self._keeping: defaultdict[Lane, int] = defaultdict(int)
        self._gathering: Gathering | None = None
        self._waiters: dict[str, list[Deferred[None]]] = {}
        self._is_leaving = False
        self._arrivals: dict[str, Callable[[], Any]] = {}
        self._withdrawing: set[int] = set()
        self._withdrawn: set[int] = set()
        self._scans = 0

    def on_arrival(self, destination: str, tell: Callable[[], Any]) -> None:
        """Call `tell` whenever there may be something new to deliver to `destination`."""
        self._arrivals[destination] = tell

    def arrived(self, destination: str) -> None:
        """There may be something to deliver to `destination`."""
        tell = self._arrivals.get(destination)
        if tell is not None:
            tell()

    @property
    def is_counted(self) -> bool:
        """Whether it is known how many messages are stored; until then every call looks into the store."""
        return self._counted is not None

    @property
    def is_empty(self) -> bool:
        """Whether it is known that nothing is stored, nor about to be: then no id is known, and no lane is busy."""
        return self._counted is not None and self._counted + self._more + self._pending == 0

    async def count(self) -> None:
        """Count what is stored, unless it is much."""
        # As a write: it has its place among the others, and what these changed is known when this fires.
        counted: int = await self.desk.write(overview.few, MANY)
        self._counted, self._more = (counted, 0) if counted < MANY else (None, 0)

    # Keeping.

    def keeping(self, lane: Lane) -> bool:
        """Whether a message of the lane is being written."""
        return lane in self._keeping

    def keep(self, draft: Draft) -> Deferred[Kept]:
        """Put a message at the end of its lane, or find the one that has its id; fires once that is on disk. Fails with
        `Unavailable`, reason QUEUE_FULL, when the queue takes no more. Cancelling the Deferred does not undo the keeping.
        """
        self._keeping[draft.destination, draft.lane] += 1
        self._pending += 1
        keeping: Deferred[Kept] = Deferred()
        now = self.now()
        if self._gathering is None or not self._gathering.add(draft, now, keeping):
            gathering = self._gathering = Gathering()
            gathering.add(draft, now, keeping)
            self.desk.write(self._keep_all, gathering).addBoth(self._written, gathering)
        return keeping

    def _keep_all(self, connection: Connection, gathering: Gathering) -> list[together.Answer]:
        # In the writer's thread.
        return together.keep_all(connection, gathering.close(), self.bounds)

    def _written(self, result: Any, gathering: Gathering) -> None:
        drafts = gathering.close()
        answers = [result.value] * len(drafts) if isinstance(result, Failure) else result
        fresh: Counter[str] = Counter()
        for (draft, _), answer in zip(drafts, answers, strict=True):
            lane = (draft.destination, draft.lane)
            self._keeping[lane] -= 1
            if not self._keeping[lane]:
                del self._keeping[lane]
            if isinstance(answer, tuple) and answer[1]:
                fresh[draft.destination] += 1
        self._pending -= len(drafts)
        for destination, count in fresh.items():
            self._more += count
            self.rates.kept(destination, count)
            self.arrived(destination)
        for keeping, answer in zip(gathering.keeping, answers, strict=True):
            if isinstance(answer, tuple):
                keeping.callback(answer[0])
            else:
                if keeping.called and not _told_elsewhere(answer):
                    self.log.failure("a message was not kept whose caller has gone", Failure(answer))
                keeping.errback(answer)

    def fan_out(self, most: int, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Run `work(connection, *args, now)`, which keeps at most `most` messages and answers an object that names their
        `destinations`; fires with that once it is on disk."""
        self._pending += most

        def written(result: Any) -> Any:
            destinations = [] if isinstance(result, Failure) else result.destinations
            self._pending -= most
            self._more += len(destinations)
            for destination in destinations:
                self.rates.kept(destination)
            for destination in set(destinations):
                self.arrived(destination)
            return result

        return self.desk.write(work, *args, self.now()).addBoth(written)

    async def look(self, draft: Draft) -> tuple[Kept | None, bool]:
        """The message with the draft's id, if there is one, and whether anything of its lane is queued.

        Asks the store only if it holds anything. Raises as `store.require_same` does.
        """
        if self.is_empty:
            return None, False
        known, busy = await self.desk.glance(store.look, draft.message_id, draft.destination, draft.lane)
        if known is not None:
            store.require_same(known, draft.fingerprint, draft.subject)
        return known, busy

    def find(self, message_id: str) -> Deferred[Kept | None]:
        """The message with this id."""
        return self.desk.read(store.find, message_id)

    # Delivering.

    async def ready(self, destination: str, limit: int, excluded: frozenset[str]) -> records.Ready:
        """What `store.ready` answers, without messages that are being withdrawn."""
        self._scans += 1
        try:
            found: records.Ready = await self.desk.read(
                store.ready, destination, self.now(), limit, excluded, self._longest_pause
            )
            # What this scan found may have been withdrawn after it looked.
            return records.Ready([kept for kept in found.messages if not self.is_withdrawn(kept.seq)], found.next_at)
        finally:
            self._scans -= 1
            if not self._scans:
                self._withdrawn.clear()

    def is_withdrawn(self, seq: int) -> bool:
        """Whether a message is being taken out of the queue, so that it must not be delivered."""
        return seq in self._withdrawing or seq in self._withdrawn

    async def finish(
        self, place: Place | Kept, outcome: Outcome, *, block_lane: bool = False, reply: Draft | None = None
    ) -> Kept | None:
        """Take a message out of the queue; answers the next one of its lane, as `settling.finish` does."""
        replies = int(reply is not None)
        self._pending += replies

        def written(result: Any) -> Any:
            self._pending -= replies
            # A cancelled courier does not hear of it, and it is written nevertheless.
            if not isinstance(result, Failure) or result.check(CancelledError):
                self._more += replies
            return result

        following: Kept | None = await self.desk.write(
            settling.finish, place.seq, outcome, self.now(), block_lane=block_lane, reply=reply
        ).addBoth(written)
        self.rates.finished(place.destination)
        for waiter in self._waiters.pop(place.message_id, []):
            waiter.callback(None)
        if reply is not None:
            self.rates.kept(reply.destination)
            self.arrived(reply.destination)
        return following

    async def postpone(self, kept: Kept, event: Event, ready_at: int, error: str) -> None:
        """Leave a message in the queue until `ready_at`."""
        await self.desk.write(settling.postpone, kept.seq, event, ready_at, error, self.now())

    async def withdraw(
        self, place: Place | Kept, outcome: Outcome, reply: Draft | None = None, block: bool = False
    ) -> bool:
        """Take a message out of the queue that is not being delivered; False, and nothing done, if it is.

        From the call of this method on it will not be. Raises `IllegalTransition` when it is not queued any more.
        """
        if place.seq in self.in_flight or place.seq in self._withdrawing:
            return False
        self._withdrawing.add(place.seq)
        try:
            await self.finish(place, outcome, block_lane=block, reply=reply)
        finally:
            self._withdrawing.discard(place.seq)
            if self._scans:
                self._withdrawn.add(place.seq)
            self.arrived(place.destination)
        return True

    # What operators do.

    def is_paused(self, destination: str) -> bool:
        """Whether an operator has paused a destination: calls that may be kept are, and nothing is delivered."""
        return destination in self._paused

    async def pause(self, destination: str) -> None:
        """Pause a destination; what is being delivered goes on."""
        await self.desk.write(ledger.pause, destination, self.now())
        self._paused.add(destination)

    async def resume(self, destination: str) -> None:
        """Let a destination go on."""
        await self.desk.write(ledger.pause, destination, None)
        self._paused.discard(destination)
        self.arrived(destination)

    async def revive(self, message_id: str, expire_at: int) -> None:
        """Put a dead letter back into its lane. Raises as `settling.revive` does."""
        place: Place = await self.desk.write(settling.revive, message_id, expire_at, self.now())
        self.rates.kept(place.destination)
        self.arrived(place.destination)

    async def revive_all(self, letters: Iterable[tuple[str, int]]) -> int:
        """Put dead letters back, each an id with its expiry, in one step; answers how many were dead still."""
        places: list[Place] = await self.desk.write(settling.revive_all, list(letters), self.now())
        for place in places:
            self.rates.kept(place.destination)
        for destination in {place.destination for place in places}:
            self.arrived(destination)
        return len(places)

    # Waiting and removing.

    def finished(self, message_id: str) -> Deferred[None]:
        """Fires when the message leaves the queue, or nobody is to wait any more; cancellable. Look at it afterwards, not
        before."""
        if self._is_leaving:
            return succeed(None)

        def give_up(waiter: Deferred[None]) -> None:
            waiters = self._waiters.get(message_id, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(message_id, None)

        waiter: Deferred[None] = Deferred(give_up)
        self._waiters.setdefault(message_id, []).append(waiter)
        return waiter

    def leave(self) -> None:
        """Nobody waits any more, nor will: the MOM stops."""
        self._is_leaving = True
        waiters, self._waiters = self._waiters, {}
        for each in waiters.values():
            for waiter in each:
                waiter.callback(None)

    async def forget(self, message_id: str, state: MessageState | None = None) -> None:
        """Remove a finished message. Raises as `forgetting.forget` does."""
        removed: Place = await self.desk.write(forgetting.forget, message_id, state)
        self._more -= 1
        self.arrived(removed.destination)

    async def purge(self, before: int, limit: int) -> int:
        """Remove at most `limit` messages that finished before that time; answers how many."""
        removed: int = await self.desk.write(forgetting.purge, before, limit)
        self._more -= removed
        return removed


def _told_elsewhere(error: Exception) -> bool:
    """Whether nobody needs to hear of an error whose caller has gone: the call was refused, or the database failed, of which
    the desk has told."""
    return isinstance(error, BookdError) and (error.code in FINAL or error.code is Code.UNAVAILABLE)
