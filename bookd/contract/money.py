"""Amounts of money, exactly: google.type.Money counted as integers of 10^-9 of a unit, never as floats.

Prices are never negative here, so amounts are not either.
"""

from collections.abc import Iterable
from re import compile as pattern

from google.type.money_pb2 import Money

from bookd.contract.checks import Checks

# Nanos in one unit (google/type/money.proto).
NANOS = 10**9
# The dearest price taken. A hundred lines of ten thousand copies at this price still fit into the units (int64).
MAX_UNITS = 10**12

_CURRENCY = pattern(r"[A-Z]{3}")


def check(checks: Checks, field: str, money: Money) -> bool:
    """Require a price at `field`: a currency code shaped as in ISO 4217, an amount of 0 to `MAX_UNITS`, consistent signs."""
    return all(
        [
            checks.require(
                _CURRENCY.fullmatch(money.currency_code) is not None,
                f"{field}.currency_code",
                "must be three upper-case letters (ISO 4217)",
            ),
            checks.require(0 <= money.units <= MAX_UNITS, f"{field}.units", f"must be from 0 to {MAX_UNITS}")
            and checks.require(
                not (money.units == MAX_UNITS and money.nanos > 0), field, f"must be {MAX_UNITS} units at most"
            ),
            checks.require(abs(money.nanos) < NANOS, f"{field}.nanos", "must be from 0 to 999999999")
            and checks.require(money.nanos >= 0, f"{field}.nanos", "must not be negative"),
        ]
    )


def times(money: Money, quantity: int) -> Money:
    """`quantity` times the amount."""
    return _money(money.currency_code, _nanos(money) * quantity)


def total(amounts: Iterable[Money]) -> Money:
    """The sum of the amounts. Raises `ValueError` for mixed currencies, and for no amount at all: it has no currency."""
    listed = list(amounts)
    currencies = {amount.currency_code for amount in listed}
    if len(currencies) != 1:
        raise ValueError(f"cannot add up amounts of {len(currencies)} currencies")
    return _money(currencies.pop(), sum(_nanos(amount) for amount in listed))


def _nanos(money: Money) -> int:
    return int(money.units) * NANOS + int(money.nanos)


def _money(currency: str, nanos: int) -> Money:
    # Truncates toward zero, so that units and nanos have the same sign, as the proto demands.
    sign = -1 if nanos < 0 else 1
    units, rest = divmod(abs(nanos), NANOS)
    return Money(currency_code=currency, units=sign * units, nanos=sign * rest)
