"""Tests for `bookd.mom.rates`, with a clock that is pushed."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.mom.rates import WINDOW, Rate, Rates, Tally
from tests.mom.room import DESTINATION, NOW, OTHER, SECOND


class RatesTests(SynchronousTestCase):
    """Messages a second."""

    def setUp(self) -> None:
        """Nothing has happened yet."""
        self.clock = Clock()
        self.clock.advance(NOW / SECOND)
        self.rates = Rates(lambda: round(self.clock.seconds() * SECOND))

    def test_nothing(self) -> None:
        """A queue that nothing goes through has rates of nothing."""
        self.assertEqual(self.rates.of(DESTINATION), Rate(0.0, 0.0))

    def test_steady(self) -> None:
        """Three a second that come, one a second that goes: so it is told once a minute is over, each queue for itself."""
        for _ in range(2 * WINDOW):
            for _ in range(3):
                self.rates.kept(DESTINATION)
            self.rates.finished(DESTINATION)
            self.clock.advance(1)
        self.clock.advance(-1)
        self.assertEqual(self.rates.of(DESTINATION), Rate(3.0, 1.0))
        self.assertEqual(self.rates.of(OTHER), Rate(0.0, 0.0))

    def test_burst_passes(self) -> None:
        """A burst counts for a minute, and then no more."""
        for _ in range(600):
            self.rates.kept(DESTINATION)
        self.assertEqual(self.rates.of(DESTINATION).kept, 10.0)
        self.clock.advance(WINDOW - 1)
        self.assertEqual(self.rates.of(DESTINATION).kept, 10.0)
        self.clock.advance(1)
        self.assertEqual(self.rates.of(DESTINATION).kept, 0.0)

    def test_clock_jumps(self) -> None:
        """What was counted while the clock was an hour ahead is not told when it is right again, nor does it stay."""
        self.clock.advance(3600)
        self.rates.kept(DESTINATION)
        self.clock.advance(-3600)
        self.assertEqual(self.rates.of(DESTINATION).kept, 0.0)
        for _ in range(WINDOW):
            self.rates.kept(DESTINATION)
        self.assertEqual(self.rates.of(DESTINATION).kept, 1.0)

    @given(st.lists(st.integers(0, 40 * SECOND), max_size=40), st.integers(0, 90 * SECOND))
    def test_counts_the_window(self, gaps: list[int], later: int) -> None:
        """Whatever came whenever: exactly that of the last sixty seconds is counted, by whole seconds."""
        tally, moments, moment = Tally(), [], NOW
        for gap in gaps:
            moment += gap
            moments.append(moment)
            tally.add(moment)
        now = moment + later
        expected = sum(now // SECOND - each // SECOND < WINDOW for each in moments)
        self.assertEqual(tally.total(now), expected)
