"""Whether a destination answers, as far as the MOM knows.

    HALF_OPEN ──serving──> CLOSED ──a call was UNAVAILABLE──> HALF_OPEN
        │                   │ ▲
        └──────down──────┐  │ └──serving── OPEN
                         ▼  ▼
                         OPEN <──down

CLOSED: calls are forwarded. OPEN: deferrable calls are kept and others fail, at once. HALF_OPEN: there is doubt (the MOM has
just started, or a call found nobody), a probe is under way, and calls wait for its verdict, which takes a moment. Only
probes give verdicts: a service that answers UNAVAILABLE to one call, but is healthy, closes no door to the others.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from bookd.errors import Unavailable

T = TypeVar("T")


class BreakerState(IntEnum):
    """The numbers are those of bookd.mom.v1.BreakerState."""

    CLOSED = 1
    OPEN = 2
    HALF_OPEN = 3


class Breaker:
    """The breaker of one destination. `name` is for the log and for the errors of the calls that it ends."""

    log = Logger()

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = BreakerState.HALF_OPEN
        # Answers of any kind that came from the destination so far.
        self.answers = 0
        self._verdicts: list[Deferred[BreakerState]] = []
        self._in_flight: set[Callable[[], None]] = set()
        self._on_doubt: list[Callable[[], Any]] = []
        self._on_closed: list[Callable[[], Any]] = []

    def when_doubted(self, ask: Callable[[], Any]) -> None:
        """Call `ask` whenever a verdict is wanted soon."""
        self._on_doubt.append(ask)

    def when_closed(self, tell: Callable[[], Any]) -> None:
        """Call `tell` whenever the destination is back."""
        self._on_closed.append(tell)

    def heard(self) -> None:
        """The destination answered something."""
        self.answers += 1

    def doubt(self) -> None:
        """A call found nobody there."""
        if self.state is BreakerState.CLOSED:
            self.state = BreakerState.HALF_OPEN
            for ask in self._on_doubt:
                ask()

    def serving(self) -> None:
        """A probe found the destination well."""
        before, self.state = self.state, BreakerState.CLOSED
        if before is BreakerState.OPEN:
            self.log.info("{name} is back", name=self.name)
        self._give_verdict()
        if before is not BreakerState.CLOSED:
            for tell in self._on_closed:
                tell()

    def down(self, why: str) -> None:
        """A probe found the destination gone, draining or hanging: the calls that wait for it are ended."""
        before, self.state = self.state, BreakerState.OPEN
        if before is not BreakerState.OPEN:
            self.log.warn("{name} does not answer: {why}", name=self.name, why=why)
        for abandon in list(self._in_flight):
            abandon()
        self._give_verdict()

    def verdict(self) -> Deferred[BreakerState]:
        """Fires with the state that the next verdict brings; cancellable."""
        waiter: Deferred[BreakerState] = Deferred(self._verdicts.remove)
        self._verdicts.append(waiter)
        return waiter

    def settled(self) -> Deferred[BreakerState]:
        """Fires with CLOSED or OPEN: at once, or with the next verdict while there is doubt."""
        return self.verdict() if self.state is BreakerState.HALF_OPEN else succeed(self.state)

    def refusal(self) -> Unavailable:
        """What a call is told that nobody is there for."""
        return Unavailable(f"{self.name} does not answer", reason="DESTINATION_DOWN", retry_after=1.0)

    def guard(self, call: Deferred[T]) -> Deferred[T]:
        """The result of `call`, or `Unavailable` as soon as the breaker opens; then `call` is cancelled."""
        outer: Deferred[T] = Deferred(lambda _: call.cancel())

        def abandon() -> None:
            self._in_flight.discard(abandon)
            outer.errback(self.refusal())
            call.cancel()

        def relay(result: Any) -> None:
            self._in_flight.discard(abandon)
            if not outer.called:
                outer.callback(result)

        self._in_flight.add(abandon)
        call.addBoth(relay)
        return outer

    def ends(self, cancel: Callable[[], None]) -> Callable[[], None]:
        """Call `cancel` once when the breaker opens, unless the callable that is answered was called before."""

        def abandon() -> None:
            self._in_flight.discard(abandon)
            cancel()

        self._in_flight.add(abandon)
        return lambda: self._in_flight.discard(abandon)

    def _give_verdict(self) -> None:
        waiters, self._verdicts = self._verdicts, []
        for waiter in waiters:
            waiter.callback(self.state)
