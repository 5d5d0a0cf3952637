"""What the MOM tells of its queues and of the services behind it, in numbers.

Queues are looked up when somebody asks, in the rows that are counted anyway: it costs the same whether ten messages wait
or a million.
"""

from collections.abc import Iterable

from bookd.bridge.metrics import Metrics
from bookd.mom import overview
from bookd.mom.breaker import Breaker, BreakerState
from bookd.mom.overview import Depth
from bookd.mom.spool import Desk

EMPTY = Depth(0, 0, 0, False)


class Gauges:
    """The gauges; `destinations` are told of also while nothing was kept for them yet."""

    def __init__(self, metrics: Metrics, desk: Desk, destinations: Iterable[str], breakers: Iterable[Breaker]) -> None:
        self._desk = desk
        self._destinations = list(destinations)
        of_a_queue = ("destination",)
        self._messages = metrics.gauge("bookd_mom_queued_messages", "Messages that wait to be delivered.", of_a_queue)
        self._bytes = metrics.gauge("bookd_mom_queued_bytes", "Bytes of their requests.", of_a_queue)
        self._dead = metrics.gauge("bookd_mom_dead_letters", "Messages that were given up.", of_a_queue)
        self._paused = metrics.gauge("bookd_mom_queue_paused", "1: an operator has paused the queue.", of_a_queue)
        states = metrics.gauge("bookd_mom_breaker", "1: the breaker of the peer is in this state.", ("peer", "state"))
        for breaker in breakers:
            for state in BreakerState:
                states.labels(breaker.name, state.name.lower()).set_function(
                    lambda breaker=breaker, state=state: float(breaker.state is state)  # type: ignore[misc]
                )
        metrics.before("queues", self.look)

    async def look(self) -> None:
        """Look the queues up."""
        found: dict[str, Depth] = await self._desk.read(overview.depths)
        for destination in {*self._destinations, *found}:
            depth = found.get(destination, EMPTY)
            self._messages.labels(destination).set(depth.messages)
            self._bytes.labels(destination).set(depth.bytes)
            self._dead.labels(destination).set(depth.dead)
            self._paused.labels(destination).set(depth.paused)
