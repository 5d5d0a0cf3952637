"""Tells those who wait for an operation that it is done."""

from typing import Any

from twisted.internet.defer import Deferred


class Waiters:
    """Who waits for which message."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._waiting: dict[str, set[Deferred[None]]] = {}

    def wait(self, message_id: str, seconds: float) -> Deferred[None]:
        """Fires when the message is done, or after `seconds`; cancellable."""
        waiter: Deferred[None] = Deferred()
        timer = self._clock.callLater(max(0.0, seconds), waiter.callback, None)
        self._waiting.setdefault(message_id, set()).add(waiter)

        def leave(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            waiting = self._waiting.get(message_id, set())
            waiting.discard(waiter)
            if not waiting:
                self._waiting.pop(message_id, None)
            return result

        return waiter.addBoth(leave)

    def tell(self, message_id: str) -> None:
        """The message is done."""
        for waiter in list(self._waiting.get(message_id, ())):
            waiter.callback(None)
