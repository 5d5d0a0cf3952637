"""Services that stand on each other: started from the bottom, stopped from the top, one after the other.

`MultiService` stops all its children at once, which would close a database under the calls that still use it.
"""

from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger


class Stack(MultiService):
    """A `MultiService` whose children stop in the reverse of the order they were added in, each after the one above it
    has stopped. A child that fails to stop is logged, and those beneath it are stopped all the same."""

    log = Logger()

    def stopService(self) -> Deferred[None]:
        """Stop the children; fires when the last one has stopped."""
        self.running = 0
        return Deferred.fromCoroutine(self._stop_in_order())

    async def _stop_in_order(self) -> None:
        children: list[IService] = list(self)
        for child in reversed(children):
            try:
                await maybeDeferred(child.stopService)
            except Exception:  # the others have to stop too
                self.log.failure("{child} did not stop cleanly", child=child)


def stacked(*children: Any) -> Stack:
    """A stack of the services given, the one that the others stand on first."""
    stack = Stack()
    for child in children:
        child.setServiceParent(stack)
    return stack
