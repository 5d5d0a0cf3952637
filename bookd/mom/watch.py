"""Asks a destination for its health, again and again, and tells its breaker.

A destination that is stopped is noticed by the first probe that nobody answers, one that hangs (SIGSTOP, a blocked loop)
by the first probe that runs out of time while no call was answered either. Both take at most interval + timeout.
"""

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
                self._next = self._clock.callLater(self._interval, self.hurry)

    async def _ask(self) -> None:
        answers = self._breaker.answers
        call = self._check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
        # The channel keeps the deadline too; this one holds even if it does not.
        call.addTimeout(self._timeout, self._clock, lambda result, _: result)
        try:
            response = await call
        except BookdError as error:
            if error.code in _ALIVE:
                self._breaker.serving()
            elif error.code is Code.DEADLINE_EXCEEDED:
                self._silent(answers)
            else:
                self._breaker.down(f"{error.code.name}: {error.message}")
        except CancelledError:
            if not self.running:
                raise
            self._silent(answers)
        else:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                self._breaker.serving()
            else:
                self._breaker.down("it says that it is not serving")

    def _silent(self, answers: int) -> None:
        # A destination that is busy answers calls, though its health check stands in a queue.
        if self._breaker.answers != answers and self._breaker.state is not BreakerState.OPEN:
            self._breaker.serving()
        else:
            self._breaker.down(f"no answer within {self._timeout:g} s")

    def _no_next(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
