"""Asks a destination for its health, again and again, and tells its breaker.

A destination that is stopped is noticed by the first probe that nobody answers. One that hangs (SIGSTOP, a blocked loop)
is noticed once it has answered nothing, neither a probe nor a call, for `timeout` while a probe was under way: at most
interval + timeout after its last answer. One that is busy answers calls, though its health check stands in a queue; it
goes on being served. One that is down is asked more often, so that it is found soon after it is back.
"""

from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health_pb2
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bookd.errors import BookdError, Code
from bookd.mom.breaker import Breaker, BreakerState

PATH = "/grpc.health.v1.Health/Check"
# Somebody is there, but keeps no health service: fine for a service that is not ours.
_ALIVE = frozenset({Code.UNIMPLEMENTED, Code.NOT_FOUND})
# Longest pause between two probes of a destination that is down, in seconds.
RETURN = 0.2
# How often in the course of its timeout a probe looks whether something else was answered.
LOOKS = 5
_NEARLY = 0.999  # sums of fifths are not exact


class Watch(Service):
    """The watch over one destination. `channel` is a `bookd.bridge.channel.Channel`; times are in seconds."""

    log = Logger()

    def __init__(self, clock: Any, channel: Any, breaker: Breaker, interval: float, timeout: float) -> None:
        self._clock = clock
        self._check = channel.unary_unary(
            PATH, health_pb2.HealthCheckRequest.SerializeToString, health_pb2.HealthCheckResponse.FromString
        )
        self._breaker = breaker
        self._interval = interval
        self._timeout = timeout
        self._probe: Deferred[None] | None = None
        self._next: IDelayedCall | None = None
        breaker.when_doubted(self.hurry)

    def startService(self) -> None:
        """Probe now, and then again an interval after each answer."""
        super().startService()
        self.hurry()

    def stopService(self) -> Deferred[None] | None:
        """Fires when no probe is under way any more."""
        super().stopService()
        self._no_next()
        probe = self._probe
        if probe is not None:
            probe.cancel()
        return probe

    def hurry(self) -> None:
        """Probe now, unless a probe is under way."""
        if self.running and self._probe is None:
            self._no_next()
            # First noted, then begun: a probe that ends at once must find itself noted.
            self._probe = Deferred.fromCoroutine(self._run())
            if self._next is not None or not self.running:
                self._probe = None

    async def _run(self) -> None:
        try:
            await self._ask()
        except CancelledError:
            return
        except Exception:
            self.log.failure("a probe of {name} failed in a way of its own", name=self._breaker.name)
        finally:
            self._probe = None
            if self.running:
                is_open = self._breaker.state is BreakerState.OPEN
                self._next = self._clock.callLater(
                    min(self._interval, RETURN) if is_open else self._interval, self.hurry
                )

    async def _ask(self) -> None:
        call = self._check(health_pb2.HealthCheckRequest(), timeout=None)
        silence = _Silence(self._clock, self._breaker, self._timeout, call.cancel)
        try:
            response = await call
        except BookdError as error:
            if error.code in _ALIVE:
                self._breaker.serving()
            else:
                self._breaker.down(f"{error.code.name}: {error.message}")
        except CancelledError:
            if not silence.lasted:
                raise
            self._breaker.down(f"no answer within {self._timeout:g} s")
        else:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                self._breaker.serving()
            else:
                self._breaker.down("it says that it is not serving")
        finally:
            silence.stop()

    def _no_next(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None


class _Silence:
    """Measures, while a probe is under way, how long a destination has answered nothing, and calls `end` when that is
    too long. Answers that come although it counts as down belong to calls of before, and prove nothing."""

    def __init__(self, clock: Any, breaker: Breaker, timeout: float, end: Callable[[], None]) -> None:
        self.lasted = False
        self._clock = clock
        self._breaker = breaker
        self._timeout = timeout
        self._end = end
        self._answers = breaker.answers
        self._began = self._since = clock.seconds()
        self._timer = clock.callLater(timeout / LOOKS, self._look)

    def stop(self) -> None:
        """Measure no longer."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        now = self._clock.seconds()
        if self._breaker.answers != self._answers and self._breaker.state is not BreakerState.OPEN:
            self._answers, self._since = self._breaker.answers, now
        if now - self._since >= self._timeout * _NEARLY:
            self.lasted = True
            self._end()
            return
        self._timer = self._clock.callLater(self._timeout / LOOKS, self._look)
        if self._since > self._began and now - self._began >= self._timeout * _NEARLY:
            self._breaker.serving()
