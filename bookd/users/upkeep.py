"""Removes sessions that nobody can continue any more, in small batches."""

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from bookd.bridge.desk import Desk
from bookd.users import store

# Seconds between two batches, and how many sessions one removes at most.
PERIOD = 300.0
BATCH = 500


class Upkeep(Service):
    """A periodic batch; one that fails is logged, and the next comes all the same."""

    log = Logger()

    def __init__(self, clock: Any, desk: Desk, now: Callable[[], int]) -> None:
        self._desk = desk
        self._now = now
        self._loop = LoopingCall(self._batch)
        self._loop.clock = clock
        self._ended: Deferred[Any] | None = None

    def startService(self) -> None:
        """Begin, one period from now."""
        super().startService()
        self._ended = self._loop.start(PERIOD, now=False)

    def stopService(self) -> Deferred[Any] | None:
        """No further batch; fires when the one under way is done."""
        super().stopService()
        self._loop.stop()
        return self._ended

    async def _remove(self) -> None:
        try:
            await self._desk.write(store.purge, self._now(), BATCH)
        except Exception:
            self.log.failure("expired sessions were not removed")

    def _batch(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._remove())
