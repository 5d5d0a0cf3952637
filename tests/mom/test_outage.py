"""A service that is away for a day, before the MOM's own watch, breaker and courier; the clock is pushed."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from grpc_health.v1.health_pb2 import HealthCheckResponse
from sqlalchemy import select
from twisted.internet.defer import Deferred, fail, succeed

from bookd.errors import Unavailable
from bookd.mom import overview
from bookd.mom.breaker import BreakerState
from bookd.mom.machine import MessageState
from bookd.mom.schema import messages
from bookd.mom.watch import PATH, Watch
from tests.mom import test_courier
from tests.mom.room import DAY, DESTINATION, NOW, number_id, receipt
from tests.mom.test_courier import Channel, CourierTestCase

INTERVAL, TIMEOUT = 0.5, 1.0
HOUR, STEP = 3600, 30
LANES = 5


class Service(Channel):
    """A service that may be away: then calls and probes fail."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.answer = self.take

    def take(self, number: int) -> Deferred[bytes]:
        """Answer a delivery."""
        return fail(Unavailable("nobody there")) if self.away else succeed(receipt())

    def unary_unary(self, path: str, *_: Any) -> Callable[..., Deferred[Any]]:
        """Probes are answered too."""
        if path != PATH:
            return super().unary_unary(path)

        def check(request: Any, timeout: float | None = None) -> Deferred[Any]:
            if self.away:
                return fail(Unavailable("nobody there"))
            return succeed(HealthCheckResponse(status=HealthCheckResponse.SERVING))

        return check


class DayTests(CourierTestCase):
    """A day."""

    def setUp(self) -> None:
        """The service is there at first."""
        self.service = Service()
        self.patch(test_courier, "Channel", lambda: self.service)
        super().setUp()
        self.clock.pump([0.1] * 20)  # type: ignore[arg-type]

    def begin(self) -> None:
        """A new MOM, with a watch, at the time that it is."""
        passed = self.clock.seconds() - NOW / 1e6 if hasattr(self, "clock") else 0.0
        super().begin()
        self.clock.advance(passed)
        self.watch = Watch(self.clock, self.service, self.breaker, INTERVAL, TIMEOUT)
        self.watch.startService()

    def end(self) -> None:
        """Stop all."""
        if self.watch.running:
            self.watch.stopService()
        super().end()

    def states(self) -> dict[MessageState, int]:
        """How many messages stand where."""
        with self.engine.connect() as connection:
            found = {state: overview.count(connection, state=state) for state in MessageState}
        return {state: number for state, number in found.items() if number}

    def pass_hour(self, number: int) -> None:
        """An hour in which messages come into each lane."""
        for lane in range(LANES):
            self.take(number * LANES + lane, f"lane {lane}", expire_at=self.now() + 7 * DAY)
        for _ in range(HOUR // STEP):
            self.clock.advance(STEP)

    def test_day(self) -> None:
        """No attempt is counted, no letter dies and none is delivered; the MOM is started anew twice meanwhile. When the
        service is back all is delivered within a second, each once, each lane in order."""
        self.assertIs(self.breaker.state, BreakerState.CLOSED)
        self.service.away = True
        for hour in range(24):
            self.pass_hour(hour)
            if hour in (7, 15):
                self.end()
                self.begin()
            self.assertEqual(self.states(), {MessageState.QUEUED: (hour + 1) * LANES})
        with self.engine.connect() as connection:
            self.assertEqual(set(connection.execute(select(messages.c.attempts)).scalars()), {0})
            self.assertEqual(overview.queue(connection, DESTINATION).dead, 0)
        self.service.calls.clear()
        self.service.away = False
        self.clock.pump([0.05] * 20)
        self.assertEqual(self.states(), {MessageState.SUCCEEDED: 24 * LANES})
        lanes = defaultdict(list)
        for number in self.service.numbers():
            lanes[number % LANES].append(number)
        self.assertEqual(dict(lanes), {lane: list(range(lane, 24 * LANES, LANES)) for lane in range(LANES)})

    def test_short_of_breath(self) -> None:
        """A service that comes and goes every few minutes all day long makes no dead letter, doubles nothing, and keeps the
        order."""
        for hour in range(24):
            self.service.away = hour % 2 == 0
            self.pass_hour(hour)
        self.service.away = False
        self.clock.pump([0.05] * 40)
        self.assertEqual(self.states(), {MessageState.SUCCEEDED: 24 * LANES})
        seen = [number for number in self.service.numbers() if self.found(number_id(number)).attempts]
        self.assertEqual(seen, [])
