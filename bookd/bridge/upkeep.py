"""What a service has to do from time to time, as a list of chores: forget what nobody can ask for any more, look after what
was left behind.

Each chore goes in small batches through the desk, so that no call waits long behind one. A look gives every chore one
batch; when one of them may have more to do, the next look follows soon. A chore that fails is logged and does not keep
the others from their turn, nor itself from its next one.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy import Connection
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bookd.bridge.relay import Desk

# Seconds between two looks; after a look that left work behind; and rows that one batch handles at most.
INTERVAL, SOON, BATCH = 60.0, 0.1, 200

# One batch of a chore; answers whether there may be more to do.
Chore = Callable[[], Awaitable[bool]]
# `remove(connection, before, limit)` removes at most `limit` of what is older than `before`, in microseconds since the
# epoch, and answers how many.
Remove = Callable[[Connection, int, int], int]


class Upkeep(Service):
    """The chores of one daemon, by the names under which their failures are logged. `clock` keeps the time."""

    log = Logger()

    def __init__(self, clock: Any, chores: Mapping[str, Chore]) -> None:
        self._clock = clock
        self._chores = chores
        self._timer: IDelayedCall | None = None
        self._look: Deferred[None] | None = None

    def startService(self) -> None:
        """Look for the first time: what is due may have waited as long as the daemon was down."""
        super().startService()
        self._begin()

    def stopService(self) -> Deferred[None] | None:
        """No further batch; fires when the one under way is done."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        return self._look

    def _begin(self) -> None:
        look = Deferred.fromCoroutine(self._run())
        self._look = None if look.called else look

    async def _run(self) -> None:
        more = False
        for name, chore in self._chores.items():
            if not self.running:
                break
            try:
                more = await chore() or more
            except Exception:
                self.log.failure("the upkeep failed at {chore}, and is tried again", chore=name)
        self._look = None
        if self.running:
            self._timer = self._clock.callLater(SOON if more else INTERVAL, self._begin)


def removing(desk: Desk, remove: Remove, now: Callable[[], int], older: float = 0.0) -> Chore:
    """The chore of removing what is older than so many seconds."""

    async def batch() -> bool:
        removed: int = await desk.write(remove, now() - round(older * 1e6), BATCH)
        return removed >= BATCH

    return batch
