"""What the MOM tells of its queues and breakers."""

from typing import Any

from twisted.internet.defer import Deferred

from bookd.bridge.metrics import Metrics
from bookd.mom import ledger, settling
from bookd.mom.breaker import Breaker
from bookd.mom.gauges import Gauges
from bookd.testing.desk import ImmediateDesk
from tests.bridge.test_metrics import samples
from tests.mom.room import DEAD, DESTINATION, NOW, OTHER, StoreTestCase, draft


class GaugesTests(StoreTestCase):
    """Gauges over a real store."""

    def setUp(self) -> None:
        super().setUp()
        self.metrics = Metrics("bookd-mom")
        self.breaker = Breaker("post")
        desk: Any = ImmediateDesk(self.engine)
        self.gauges = Gauges(self.metrics, desk, [DESTINATION], [self.breaker])

    def told(self) -> dict[tuple[str, ...], float]:
        """The numbers, after a look."""
        self.successResultOf(Deferred.fromCoroutine(self.gauges.look()))
        return samples(self.metrics)

    def test_queues(self) -> None:
        """Each queue's messages, their bytes, its dead letters, and whether it is paused; nothing is 0, not absent."""
        told = self.told()
        for name in ("queued_messages", "queued_bytes", "dead_letters", "queue_paused"):
            self.assertEqual(told[f"bookd_mom_{name}", DESTINATION], 0)
        for number in range(3):
            self.keep(number, "a", destination=OTHER)
        self.do(settling.finish, self.keep(4, "b", destination=OTHER).seq, DEAD, NOW)
        self.do(ledger.pause, OTHER, NOW)
        told = self.told()
        size = len(draft(0).request)
        for name, number in (
            ("queued_messages", 3),
            ("queued_bytes", 3 * size),
            ("dead_letters", 1),
            ("queue_paused", 1),
        ):
            self.assertEqual(told[f"bookd_mom_{name}", OTHER], number, name)
        self.do(ledger.pause, OTHER, None)
        self.assertEqual(self.told()["bookd_mom_queue_paused", OTHER], 0)

    def test_breaker(self) -> None:
        """Of the three states of a breaker one is 1."""
        for change, state in (
            (lambda: None, "half_open"),
            (self.breaker.serving, "closed"),
            (self.breaker.doubt, "half_open"),
            (lambda: self.breaker.down("gone"), "open"),
        ):
            change()
            told = {key[2]: number for key, number in self.told().items() if key[0] == "bookd_mom_breaker"}
            self.assertEqual({name for name, number in told.items() if number}, {state})
            self.assertEqual(len(told), 3)
