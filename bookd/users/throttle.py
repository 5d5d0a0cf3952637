"""Slows down whoever guesses passwords, without keeping out the owner for long.

Three counts of failures, each of its own:

- of an account from an address: the first few are free, then each is followed by a pause, twice as long as the one before
  up to a bound, in which nothing is compared. A log-in that succeeds clears it. An owner at another address does not
  notice.
- of an account from all addresses: a bucket that drains slowly. When it is full, only addresses from which the account
  was logged in to before may try (NIST SP 800-63B, section 3.2.2: at most 100 failures in a row).
- of an address with all accounts: a bucket that drains faster.

A name that nobody has is treated like any other, so that nothing is told about who exists. Tries that are under way are
counted as if they had failed, once one has: many at a time gain nothing. Memory is bounded; what was forgotten or lost in
a restart counts from zero.

Nothing here asks for the time: it is in microseconds, and comes along.
"""

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import ip_address, ip_network
from typing import Generic, TypeVar

from attrs import define, frozen

from bookd.errors import ResourceExhausted

SECOND = 1_000_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@frozen
class Limits:
    """How much is let pass. Pauses in seconds, drains in failures a second."""

    free: int = 10
    first_pause: float = 1.0
    longest_pause: float = 300.0
    # Tries at a time while none has failed: as many as people and programs with the right password need.
    together: int = 100
    account: int = 100
    account_drain: float = 1 / 60
    address: int = 200
    address_drain: float = 1.0
    # How long failures are remembered after the last one, and how many keys of a kind are.
    memory: float = 3600.0
    entries: int = 50_000


@define
class _Pair:
    failures: int = 0
    not_before: int = 0
    last: int = 0
    under_way: int = 0


@define
class _Bucket:
    """A bucket of failures that drains."""

    level: float = 0.0
    last: int = 0

    def at(self, now: int, drain: float) -> float:
        """How full it is."""
        return max(0.0, self.level - max(0, now - self.last) / SECOND * drain)

    def pour(self, now: int, drain: float) -> None:
        """One failure more."""
        self.level, self.last = self.at(now, drain) + 1.0, now


class _Memory(Generic[K, V]):
    """What is known of the keys that were used last."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._found: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        return self._found.get(key)

    def put(self, key: K, value: V) -> None:
        self._found[key] = value
        self._found.move_to_end(key)
        while len(self._found) > self._entries:
            self._found.popitem(last=False)

    def drop(self, key: K) -> None:
        self._found.pop(key, None)

    def __len__(self) -> int:
        return len(self._found)


@frozen
class Attempt:
    """A log-in that is under way: to which account, from where."""

    account: str
    address: str


class Throttle:
    """Counts attempts. Each that `begin` lets pass ends with one of `succeeded`, `failed` and `abandoned`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits = limits or Limits()
        self._pairs: _Memory[Attempt, _Pair] = _Memory(limits.entries)
        self._accounts: _Memory[str, _Bucket] = _Memory(limits.entries)
        self._addresses: _Memory[str, _Bucket] = _Memory(limits.entries)
        self._known: _Memory[Attempt, bool] = _Memory(limits.entries)

    def begin(self, account: str, address: str, now: int) -> Attempt:
        """Let an attempt at `account` (its folded name) pass, or raise `ResourceExhausted` that says when to come
        again."""
        attempt = Attempt(account, network(address))
        pair = self._pair(attempt, now)
        limits = self._limits
        if pair.failures and pair.under_way and pair.failures + pair.under_way >= limits.free:
            raise _too_many(limits.first_pause)
        if pair.under_way >= limits.together:
            raise _too_many(limits.first_pause)
        if now < pair.not_before:
            raise _too_many((pair.not_before - now) / SECOND)
        if self._known.get(attempt) is None:
            _check(self._accounts.get(account), limits.account, limits.account_drain, now)
        _check(self._addresses.get(attempt.address), limits.address, limits.address_drain, now)
        pair.under_way += 1
        self._pairs.put(attempt, pair)
        return attempt

    def succeeded(self, attempt: Attempt) -> None:
        """The password was right."""
        pair = self._ended(attempt)
        pair.failures, pair.not_before = 0, 0
        if not pair.under_way:
            self._pairs.drop(attempt)
        self._known.put(attempt, True)

    def failed(self, attempt: Attempt, now: int) -> None:
        """It was wrong, or there is no such user."""
        limits = self._limits
        pair = self._ended(attempt)
        pair.failures += 1
        pair.last = now
        if pair.failures >= limits.free:
            pause = limits.first_pause * 2.0 ** min(pair.failures - limits.free, 32)
            pair.not_before = now + round(min(pause, limits.longest_pause) * SECOND)
        self._pairs.put(attempt, pair)
        for buckets, key, drain in (
            (self._accounts, attempt.account, limits.account_drain),
            (self._addresses, attempt.address, limits.address_drain),
        ):
            bucket = buckets.get(key) or _Bucket()
            bucket.pour(now, drain)
            buckets.put(key, bucket)

    def abandoned(self, attempt: Attempt) -> None:
        """It came to no end: nothing was learnt, and nothing is counted."""
        pair = self._ended(attempt)
        if not pair.under_way and not pair.failures:
            self._pairs.drop(attempt)

    def _pair(self, attempt: Attempt, now: int) -> _Pair:
        pair = self._pairs.get(attempt)
        if pair is None:
            return _Pair()
        if pair.failures and now - pair.last > self._limits.memory * SECOND:
            pair.failures, pair.not_before = 0, 0
        return pair

    def _ended(self, attempt: Attempt) -> _Pair:
        pair = self._pairs.get(attempt) or _Pair(under_way=1)
        pair.under_way = max(0, pair.under_way - 1)
        return pair


def network(address: str) -> str:
    """What counts as one address: an IPv4 address, the 64 bits of an IPv6 address that its owner did not choose, or
    nothing."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ip_network((parsed, 64), strict=False))


def _check(bucket: _Bucket | None, capacity: int, drain: float, now: int) -> None:
    level = bucket.at(now, drain) if bucket is not None else 0.0
    if level >= capacity:
        raise _too_many((level - capacity + 1.0) / drain)


def _too_many(seconds: float) -> ResourceExhausted:
    return ResourceExhausted(
        "too many failed log-ins; try again later", reason="TOO_MANY_ATTEMPTS", retry_after=max(seconds, 1.0)
    )
