"""Tells callers that wait for an order's saga that something happened, for as long as they have patience."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred, succeed


class Listener:
    """Hears the news of one order. None is what it hears when the patience is over."""

    def __init__(self) -> None:
        self._heard: deque[bool] = deque()
        self._over = False
        self._waiting: Deferred[bool | None] | None = None

    def next(self) -> Deferred[bool | None]:
        """The next piece of news: True when no answer can be expected soon, else False; None when time is up."""
        if self._heard:
            return succeed(self._heard.popleft())
        if self._over:
            return succeed(None)
        self._waiting = Deferred()
        return self._waiting

    def hear(self, kept: bool) -> None:
        """Something happened."""
        if self._waiting is None:
            self._heard.append(kept)
        else:
            waiting, self._waiting = self._waiting, None
            waiting.callback(kept)

    def time_is_up(self) -> None:
        """The patience is over."""
        self._over = True
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)


class News:
    """The listeners of all orders."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._listeners: dict[str, list[Listener]] = {}

    @contextmanager
    def listen(self, order_id: str, patience: float) -> Iterator[Listener]:
        """A listener to the news of an order, for `patience` seconds; gone when the block ends."""
        listener = Listener()
        self._listeners.setdefault(order_id, []).append(listener)
        timer = self._reactor.callLater(max(0.0, patience), listener.time_is_up)
        try:
            yield listener
        finally:
            if timer.active():
                timer.cancel()
            listeners = self._listeners[order_id]
            listeners.remove(listener)
            if not listeners:
                del self._listeners[order_id]

    def tell(self, order_id: str, kept: bool) -> None:
        """Something happened to an order's saga; `kept`: it will be a while until more does."""
        for listener in list(self._listeners.get(order_id, ())):
            listener.hear(kept)
