"""What has to be done from time to time: ended operations and old events are forgotten, subscriptions whose clients do not
come back end, and messages whose time is over are given up. Once after each start, what an earlier run kept plain is sealed.

Both go in small batches, so that no call waits long behind one; the loop outlives its exceptions.
"""

from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bookd.contract.descriptors import Contract
from bookd.mom import journal, store, vault
from bookd.mom.courier import expired
from bookd.mom.machine import IllegalTransition, Policy
from bookd.mom.replies import reply
from bookd.mom.spool import Spool

# Seconds between two looks, and messages that one look handles; a look that found so many is followed by another soon.
INTERVAL, BATCH, SOON = 5.0, 200, 0.05
# Messages that are given up at a time, so that they share a commit.
TOGETHER = 20


@frozen
class Retention:
    """How long things are kept, in microseconds: operations once they are finished, events, and subscriptions since their
    clients were last heard."""

    finished: int
    events: int
    subscriptions: int


class Upkeep(Service):
    """The upkeep of one store."""

    log = Logger()

    def __init__(self, clock: Any, spool: Spool, contract: Contract, policy: Policy, retention: Retention) -> None:
        self._clock = clock
        self._spool = spool
        self._contract = contract
        self._policy = policy
        self._retention = retention
        self._timer: IDelayedCall | None = None
        self._look: Deferred[None] | None = None
        # How far the messages were looked through for plain ones; None when all were.
        self._sealed_upto: int | None = 0

    def startService(self) -> None:
        """Count what is stored, and look for the first time."""
        super().startService()
        self._begin()

    def stopService(self) -> Deferred[None] | None:
        """Fires when no look is under way any more."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()
        return self._look

    def _begin(self) -> None:
        look = Deferred.fromCoroutine(self._run())
        self._look = None if look.called else look

    async def _run(self) -> None:
        pause = INTERVAL
        try:
            if not self._spool.is_counted:
                await self._spool.count()
            if await self.once():
                pause = SOON
        except CancelledError:
            return
        except Exception:
            self.log.failure("the upkeep failed, and is tried again")
        self._look = None
        if self.running:
            self._timer = self._clock.callLater(pause, self._begin)

    async def once(self) -> bool:
        """One look; answers whether there may be more to do."""
        now = self._spool.now()
        removed = await self._spool.purge(now - self._retention.finished, BATCH)
        for ended in await self._spool.desk.write(journal.expire, now - self._retention.subscriptions):
            self.log.warn("subscription {peer}/{name} ended: its client stayed away", peer=ended.peer, name=ended.name)
        forgotten = await self._spool.desk.write(journal.purge, now - self._retention.events, BATCH)
        over = await self._spool.desk.read(store.expired, now, BATCH)
        withdrawn = 0
        for start in range(0, len(over), TOGETHER):
            places = over[start : start + TOGETHER]
            given_up = [Deferred.fromCoroutine(self._give_up(place.message_id)) for place in places]
            withdrawn += sum(await gatherResults(given_up, consumeErrors=True))
        if self._sealed_upto is not None:
            self._sealed_upto = await self._spool.desk.write(vault.seal_plain, self._sealed_upto, BATCH)
        return BATCH in (removed, forgotten, withdrawn) or self._sealed_upto is not None

    async def _give_up(self, message_id: str) -> bool:
        kept = await self._spool.find(message_id)
        if kept is None:
            return False
        outcome = expired()
        told = reply(self._contract, self._policy, kept, outcome, self._spool.now())
        method = self._contract.methods.get(kept.method)
        block = method is not None and method.delivery.dead_letter_blocks_lane
        try:
            return await self._spool.withdraw(kept, outcome, told, block)
        except IllegalTransition:
            return False
