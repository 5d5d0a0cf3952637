"""Tests for `bookd.contract.money`."""

from decimal import Decimal

from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import money
from bookd.contract.checks import Checks
from bookd.errors import InvalidArgument


def usd(units: int, nanos: int = 0) -> Money:
    return Money(currency_code="USD", units=units, nanos=nanos)


def decimal(amount: Money) -> Decimal:
    return Decimal(amount.units) + Decimal(amount.nanos) / 10**9


AMOUNTS = st.builds(usd, st.integers(0, money.MAX_UNITS), st.integers(0, money.NANOS - 1))


class CheckTests(SynchronousTestCase):
    """What `check` lets pass and what it names."""

    def fields(self, amount: Money) -> list[str]:
        checks = Checks()
        answer = money.check(checks, "book.price", amount)
        try:
            checks.done()
        except InvalidArgument as error:
            self.assertFalse(answer)
            return [violation.field for violation in error.violations]
        self.assertTrue(answer)
        return []

    def test_prices(self) -> None:
        """Free, usual and the dearest prices pass."""
        for amount in (usd(0), usd(15, 990_000_000), usd(0, 1), usd(money.MAX_UNITS)):
            self.assertEqual(self.fields(amount), [])

    def test_faults(self) -> None:
        """Each fault is reported at its own field."""
        faults = [
            (Money(units=1), ["book.price.currency_code"]),
            (Money(currency_code="usd", units=1), ["book.price.currency_code"]),
            (Money(currency_code="USDX", units=1), ["book.price.currency_code"]),
            (Money(currency_code="USD\n", units=1), ["book.price.currency_code"]),
            (usd(-1), ["book.price.units"]),
            (usd(money.MAX_UNITS + 1), ["book.price.units"]),
            (usd(money.MAX_UNITS, 1), ["book.price"]),
            (usd(1, -1), ["book.price.nanos"]),
            (usd(0, -1), ["book.price.nanos"]),
            (usd(1, 10**9), ["book.price.nanos"]),
            (usd(-1, -1), ["book.price.units", "book.price.nanos"]),
        ]
        for amount, fields in faults:
            with self.subTest(amount=str(amount)):
                self.assertEqual(self.fields(amount), fields)


class SumTests(SynchronousTestCase):
    """What `times` and `total` add up to."""

    def test_times(self) -> None:
        """Nanos carry into units."""
        self.assertEqual(money.times(usd(15, 990_000_000), 3), usd(47, 970_000_000))

    def test_total(self) -> None:
        """Amounts of one currency add up exactly."""
        self.assertEqual(money.total([usd(0, 999_999_999), usd(0, 1), usd(2)]), usd(3))

    def test_mixed(self) -> None:
        """Mixed currencies are refused."""
        with self.assertRaises(ValueError):
            money.total([usd(1), Money(currency_code="EUR", units=1)])

    def test_nothing(self) -> None:
        """The sum of nothing has no currency, and is refused."""
        with self.assertRaises(ValueError):
            money.total([])

    def test_largest(self) -> None:
        """The largest order fits into a Money."""
        line = money.times(usd(money.MAX_UNITS), 10_000)
        self.assertEqual(money.total([line] * 100).units, 10**18)

    @given(st.lists(st.tuples(AMOUNTS, st.integers(1, 10_000)), min_size=1, max_size=100))
    def test_exact(self, lines: list[tuple[Money, int]]) -> None:
        """Sums equal those of decimal arithmetic, with well-formed nanos."""
        found = money.total(money.times(amount, quantity) for amount, quantity in lines)
        self.assertEqual(decimal(found), sum(decimal(amount) * quantity for amount, quantity in lines))
        self.assertTrue(0 <= found.nanos < money.NANOS)

    @given(st.integers(-(10**18), 10**18), st.integers(0, 9))
    def test_signs(self, nanos: int, quantity: int) -> None:
        """Units and nanos of a negative amount are both negative."""
        found = money.times(money.times(usd(0, 1), nanos), quantity)
        self.assertTrue(found.units * found.nanos >= 0)
