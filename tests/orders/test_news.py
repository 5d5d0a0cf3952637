"""Who waits for an order hears of it, for as long as the patience lasts."""

from contextlib import ExitStack
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.orders.news import News
from bookd.wire.orders.v1 import orders_pb2

# Of listeners, in the order in which they come.
PATIENCE = (("long", 7.1), ("short", 0.3), ("between", 2.7), ("soon after", 2.75))


class NewsTests(SynchronousTestCase):
    """News told by a clock that the test moves."""

    def setUp(self) -> None:
        """Nobody listens yet."""
        self.clock = Clock()
        self.news = News(self.clock)

    def test_news(self) -> None:
        """All listeners of an order hear of it, and those of another do not; what came before `next` is not missed."""
        with self.news.listen("a", 5) as first, self.news.listen("a", 5) as second, self.news.listen("b", 5) as other:
            waits, waits_in_vain = first.next(), other.next()
            stands = orders_pb2.Order(order_id="a")
            self.news.tell("a", stands)
            self.assertEqual([self.successResultOf(each) for each in (waits, second.next())], [True, True])
            self.assertIs(first.stands, stands)
            self.assertNoResult(waits_in_vain)
            self.assertNoResult(second.next())
        self.news.tell("a")  # which nobody hears
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience(self) -> None:
        """Each listener's patience ends in its own time, whoever came first, and nobody waits for another's alarm."""
        with ExitStack() as stack:
            patience = {name: stack.enter_context(self.news.listen(name, seconds)) for name, seconds in PATIENCE}
            waiting = {name: listener.next() for name, listener in patience.items()}
            for name, seconds in sorted(PATIENCE, key=lambda each: each[1]):
                self.clock.advance(seconds - self.clock.seconds() - 0.01)
                self.assertNoResult(waiting[name])
                self.clock.advance(0.01)
                self.assertFalse(self.successResultOf(waiting[name]))
                self.assertFalse(self.successResultOf(patience[name].next()))  # and it stays over
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_patience(self) -> None:
        """Without patience it is over at once; no time has to pass."""
        for patience in (0, -1):
            with self.news.listen("a", patience) as listener:
                self.assertFalse(self.successResultOf(listener.next()))
                self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_time_goes_on(self) -> None:
        """Time passes while the news are busy, and nobody is forgotten for that, nor left behind: a reactor takes no pause that
        has passed already."""

        class Hurrying(Clock):
            def seconds(self) -> float:
                self.rightNow += 0.002
                return self.rightNow

            def callLater(self, delay: float, *args: Any, **kwargs: Any) -> Any:
                assert delay >= 0, delay
                return super().callLater(delay, *args, **kwargs)

        clock = Hurrying()
        news = News(clock)
        with news.listen("a", 1.0) as first, news.listen("b", 1.003) as second, news.listen("c", 0.001) as third:
            waiting = [listener.next() for listener in (first, second, third)]
            for _ in range(5):
                clock.advance(0.5)
            self.assertEqual([self.successResultOf(each) for each in waiting], [False] * 3)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_one_alarm(self) -> None:
        """However many listen, one delayed call is under way, and none once the last has gone."""
        with ExitStack() as stack:
            for number in range(100):
                stack.enter_context(self.news.listen(f"order {number}", 1 + number % 7))
            self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [1.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])
