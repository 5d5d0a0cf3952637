"""Tells callers that wait for an order's saga that something happened, for as long as they have patience.

News says "look again": who waits reads the order from the database. So nothing is missed by who begins to listen before
reading, and news of another instance or of an earlier run is no different. Where the order is at hand as it stands, and
nothing more is asked for it, the news brings it along, and nobody needs to look.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred, succeed

from bookd.wire.orders.v1 import orders_pb2

# Seconds within which patience that ends is over together.
_TOGETHER = 0.001


class Listener:
    """Hears that there is news of one order; `stands` is how that stands for now, if the last news has brought it. Its
    patience is over at the time `until`."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.stands: orders_pb2.Order | None = None
        self._news = False
        self._over = False
        self._waiting: Deferred[bool] | None = None

    def next(self) -> Deferred[bool]:
        """Fires with True once there was news since the last time; with False when the patience is over."""
        if self._news or self._over:
            heard, self._news = self._news, False
            return succeed(heard)
        self._waiting = Deferred()
        return self._waiting

    def hear(self, stands: orders_pb2.Order | None = None) -> None:
        """There is news."""
        self.stands = stands
        self._news = True
        self._fire()

    def give_up(self) -> None:
        """The patience is over."""
        self._over = True
        self._fire()

    def _fire(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            heard, self._news = self._news, False
            waiting.callback(heard)


class News:
    """The listeners of all orders. `reactor` keeps the time, with one alarm for all of them."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._listeners: dict[str, list[Listener]] = {}
        self._alarm: Any = None

    @contextmanager
    def listen(self, order_id: str, patience: float) -> Iterator[Listener]:
        """A listener to the news of an order, for `patience` seconds; gone when the block ends."""
        listener = Listener(self._reactor.seconds() + patience)
        self._listeners.setdefault(order_id, []).append(listener)
        try:
            if patience > 0:
                self._wake_for(listener)
            else:
                listener.give_up()
            yield listener
        finally:
            listeners = self._listeners[order_id]
            listeners.remove(listener)
            if not listeners:
                del self._listeners[order_id]
            if not self._listeners and self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    def tell(self, order_id: str, stands: orders_pb2.Order | None = None) -> None:
        """Something happened to an order's saga; `stands` is the order, if nothing more is asked for it now."""
        for listener in list(self._listeners.get(order_id, ())):
            listener.hear(stands)

    def _wake_for(self, listener: Listener) -> None:
        pause = max(0.0, listener.until - self._reactor.seconds())
        if self._alarm is None:
            self._alarm = self._reactor.callLater(pause, self._give_up)
        elif listener.until < self._alarm.getTime():
            self._alarm.reset(pause)

    def _give_up(self) -> None:
        self._alarm = None
        soon = self._reactor.seconds() + _TOGETHER
        all_of_them = [each for listeners in self._listeners.values() for each in listeners]
        patient = [each for each in all_of_them if each.until > soon]
        if patient:
            self._wake_for(min(patient, key=lambda each: each.until))
        for each in all_of_them:
            if each.until <= soon:
                each.give_up()
