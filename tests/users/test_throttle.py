"""Who may try a password, and when."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import ResourceExhausted
from bookd.users.throttle import SECOND, Limits, Throttle, network

HERE, THERE = "192.0.2.1", "198.51.100.7"


class ThrottleTests(SynchronousTestCase):
    """The three counts."""

    def setUp(self) -> None:
        self.now = 0
        self.limits = Limits(free=3, longest_pause=8.0, account=20, address=40, account_drain=0.1)
        self.throttle = Throttle(self.limits)

    def fail_once(self, account: str = "ana", address: str = HERE) -> None:
        self.throttle.failed(self.throttle.begin(account, address, self.now), self.now)

    def pause(self, account: str = "ana", address: str = HERE) -> float:
        """How long one has to wait before the next try; 0 when it passes."""
        try:
            self.throttle.abandoned(self.throttle.begin(account, address, self.now))
        except ResourceExhausted as error:
            assert error.retry_after is not None
            return error.retry_after
        return 0.0

    def test_pauses_grow(self) -> None:
        """The pause after each failure is twice as long as the one before, up to a bound."""
        pauses = []
        for _ in range(9):
            self.fail_once()
            pauses.append(self.pause())
            self.now += round(pauses[-1] * SECOND)
        self.assertEqual(pauses, [0, 0, 1, 2, 4, 8, 8, 8, 8])

    def test_success_forgives(self) -> None:
        """The right password clears the failures of its account and address."""
        for _ in range(2):
            self.fail_once()
        self.throttle.succeeded(self.throttle.begin("ana", HERE, self.now))
        for _ in range(2):
            self.fail_once()
        self.assertEqual(self.pause(), 0)

    def test_others_are_not_meant(self) -> None:
        """Neither another account there nor the same account elsewhere waits."""
        for _ in range(3):
            self.fail_once()
        self.assertEqual((self.pause() > 0, self.pause("bob"), self.pause("ana", THERE)), (True, 0, 0))

    def test_many_at_a_time(self) -> None:
        """Tries that are under way count as failures once one has failed; before, a bounded number passes."""
        limits = self.limits
        tries = [self.throttle.begin("ana", HERE, 0) for _ in range(limits.together)]
        self.assertRaises(ResourceExhausted, self.throttle.begin, "ana", HERE, 0)
        self.throttle.failed(tries.pop(), 0)
        self.assertRaises(ResourceExhausted, self.throttle.begin, "ana", HERE, 0)
        for each in tries:
            self.throttle.succeeded(each)
        self.assertEqual(self.pause(), 0)

    def test_many_addresses(self) -> None:
        """Guesses at one account from everywhere are slowed down; where its owner was before, the owner passes."""
        self.throttle.succeeded(self.throttle.begin("ana", HERE, 0))
        for number in range(20):
            self.fail_once(address=f"203.0.113.{number}")
        self.assertEqual(self.pause(address="203.0.113.99"), 10.0)
        self.assertEqual(self.pause(address=HERE), 0)
        self.now = 10 * SECOND
        self.assertEqual(self.pause(address="203.0.113.99"), 0)

    def test_many_accounts(self) -> None:
        """Guesses from one address at all accounts are slowed down; other addresses are not."""
        for number in range(40):
            self.fail_once(f"user{number}")
        self.assertEqual((self.pause("bob"), self.pause("bob", THERE)), (1.0, 0))

    def test_forgetting(self) -> None:
        """Failures of long ago are forgotten."""
        for _ in range(3):
            self.fail_once()
        self.now = round((self.limits.memory + 1) * SECOND)
        self.fail_once()
        self.assertEqual(self.pause(), 0)

    def test_bounded(self) -> None:
        """What is remembered is bounded, whatever names and addresses come."""
        throttle = Throttle(Limits(entries=10))
        for number in range(100):
            throttle.failed(throttle.begin(f"user{number}", f"203.0.113.{number}", 0), 0)
        for memory in (throttle._pairs, throttle._accounts, throttle._addresses, throttle._known):
            self.assertLessEqual(len(memory), 10)

    def test_networks(self) -> None:
        """An IPv6 address stands for its network of 64 bits, a mapped one for the IPv4 address, and junk for nothing."""
        self.assertEqual(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::1"))
        self.assertNotEqual(network("2001:db8:1:3::1"), network("2001:db8:1:2::1"))
        self.assertEqual(network("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual(network("fe80::1%eth0"), "fe80::/64")
        self.assertEqual((network(""), network("x" * 1000), network("localhost")), ("", "", ""))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 30), st.booleans()), max_size=60))
    def test_no_wait_beyond_the_bound(self, steps: list[tuple[int, int, int, bool]]) -> None:
        """Whatever happened, nobody is told to wait longer than the longest pause, or until a bucket has room for one."""
        throttle, now = Throttle(self.limits), 0
        bound = max(self.limits.longest_pause, 1 / self.limits.account_drain, 1 / self.limits.address_drain) + 1
        for account, address, later, right in steps:
            now += later * SECOND
            try:
                attempt = throttle.begin(f"user{account}", f"192.0.2.{address}", now)
            except ResourceExhausted as error:
                assert error.retry_after is not None
                self.assertLessEqual(error.retry_after, bound)
                continue
            throttle.succeeded(attempt) if right else throttle.failed(attempt, now)
