"""How often who may ask: the buckets by themselves, and what clients see of them."""

from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway import refusals
from bookd.gateway.rates import Buckets, Quota
from tests.gateway.kites import SERVICE
from tests.gateway.serving import Answer, GatewayTestCase, bearer
from tests.gateway.test_connection import TUG


class BucketsTests(SynchronousTestCase):
    """Token buckets against a clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.buckets = Buckets(Quota("q", 2.0, 3), 10, self.clock.seconds)

    def test_burst_and_rate(self) -> None:
        """A burst is granted, then what the rate gives, and never more than the burst after a rest."""
        self.assertEqual([self.buckets.take("a").granted for _ in range(4)], [True, True, True, False])
        self.clock.advance(0.5)
        self.assertEqual([self.buckets.take("a").granted for _ in range(2)], [True, False])
        self.clock.advance(3600)
        self.assertEqual([self.buckets.take("a").granted for _ in range(4)], [True, True, True, False])

    def test_standing(self) -> None:
        """It is told what is left and when the bucket is full; of an empty one, when it has a token."""
        self.assertEqual(self.buckets.take("a").left, 2)
        self.assertEqual(self.buckets.take("a").seconds, 1.0)
        self.buckets.take("a")
        refused = self.buckets.take("a")
        self.assertEqual((refused.granted, refused.left, refused.seconds), (False, 0, 0.5))

    def test_clients_are_apart(self) -> None:
        """What one client uses up, another still has."""
        for _ in range(5):
            self.buckets.take("a")
        self.assertTrue(self.buckets.take("b").granted)

    def test_bounded(self) -> None:
        """However many clients come, the ones seen last are remembered, and no more."""
        for number in range(1000):
            self.buckets.take("steady")
            self.buckets.take(str(number))
        self.assertEqual(len(self.buckets), 10)
        self.assertFalse(self.buckets.take("steady").granted)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.floats(0, 5), max_size=60), st.floats(0.1, 100), st.integers(1, 20))
    def test_never_more(self, pauses: list[float], rate: float, burst: int) -> None:
        """In any time no client gets more than the burst and what the rate gives in that time."""
        clock = Clock()
        buckets = Buckets(Quota("q", rate, burst), 10, clock.seconds)
        granted = 0
        for pause in pauses:
            clock.advance(pause)
            granted += buckets.take("a").granted
        self.assertLessEqual(granted, burst + rate * clock.seconds() + 1e-6)

    def test_policy(self) -> None:
        """The policy is the burst in the seconds that fill a bucket, at least one."""
        self.assertEqual(Quota("a", 10.0, 100).policy, '"a";q=100;w=10')
        self.assertEqual(Quota("a", 10_000.0, 100).policy, '"a";q=100;w=1')


class ServedTests(GatewayTestCase):
    """The limits over HTTP."""

    quotas: ClassVar[dict[str, tuple[float, int]]] = {
        "address": (0.01, 12),
        "principal": (0.01, 4),
        "open": (0.01, 2),
    }
    proxies: ClassVar[list[str]] = ["127.0.0.1"]

    def setUp(self) -> None:
        super().setUp()
        for name in ("GetKite", "TugKite", "DeleteKite"):
            self.channel.answers[SERVICE + name] = b""

    async def tug(self, **headers: str) -> Answer:
        return await self.ask("POST", "/kites/v1/kites/7:tug", {}, headers)

    def assert_refused(self, answer: Answer, quota: str) -> None:
        problem = self.assert_problem(answer, 429, "RESOURCE_EXHAUSTED")
        self.assertEqual(problem["type"], "urn:bookd:problem:TOO_MANY_REQUESTS")
        self.assertGreater(int(answer.header("Retry-After") or 0), 1)
        self.assertRegex(answer.header("RateLimit") or "", f'^"{quota}";r=0;t=[0-9]+$')

    async def test_open_writes(self) -> None:
        """Writes that anybody may make are few for each address; reads from there go on."""
        for left in (1, 0):
            answer = await self.tug()
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.header("RateLimit-Policy"), '"open";q=2;w=200')
            self.assertRegex(answer.header("RateLimit") or "", f'^"open";r={left};t=[0-9]+$')
        self.assert_refused(await self.tug(), "open")
        self.assert_refused(await self.tug(**bearer("ada")), "open")
        self.assertEqual((await self.ask("GET", "/kites/v1/kites/7")).status, 200)
        self.assertEqual(len(self.channel.calls), 3)

    async def test_principals(self) -> None:
        """Each subject has its own, whatever the address."""
        for _ in range(4):
            answer = await self.ask("DELETE", "/kites/v1/kites/7", headers=bearer("ada"))
            self.assertEqual(answer.status, 204)
        self.assert_refused(await self.ask("GET", "/kites/v1/kites/7", headers=bearer("ada")), "principal")
        answer = await self.ask("GET", "/kites/v1/kites/7", headers=bearer("bob"))
        self.assertEqual((answer.status, answer.header("RateLimit-Policy")), (200, '"principal";q=4;w=400'))

    async def test_address(self) -> None:
        """Whatever is asked counts for the address, also what is refused; another address is served."""
        for _ in range(12):
            answer = await self.ask("GET", "/nothing")
            self.assertEqual((answer.status, answer.header("RateLimit-Policy")), (404, '"address";q=12;w=1200'))
        self.assert_refused(await self.ask("GET", "/kites/v1/kites/7"), "address")
        other = {"X-Forwarded-For": "192.0.2.7"}
        self.assertEqual((await self.ask("GET", "/kites/v1/kites/7", headers=other)).status, 200)
        self.assertEqual((await self.ask("GET", "/healthz")).status, 200)

    async def test_a_moment_later(self) -> None:
        """A refusal is told after a moment, so that a flood of such requests is slow; others are not, and a client that
        leaves meanwhile is forgotten."""
        for _ in range(2):
            await self.tug()
        self.patch(refusals, "FIRST", 0.5)
        began = reactor.seconds()  # type: ignore[attr-defined]
        flood = [self.raw(TUG + b"Content-Length: 2\r\n\r\n{}") for _ in range(20)]
        clients = [await each for each in flood]
        self.assertEqual((await self.ask("GET", "/healthz")).status, 200)
        for client in clients[10:]:
            client.transport.abortConnection()
        await self.until(lambda: all(b" 429 " in client.received for client in clients[:10]))
        self.assertGreater(reactor.seconds() - began, 0.25)  # type: ignore[attr-defined]
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_forwarded(self) -> None:
        """What a trusted proxy says tells clients apart; what the client said before it does not."""
        for address, status in (("192.0.2.1", 200), ("192.0.2.1", 200), ("192.0.2.1", 429), ("192.0.2.2", 200)):
            answer = await self.tug(**{"X-Forwarded-For": f"10.9.8.7, {address}"})
            self.assertEqual(answer.status, status, address)


class UntrustedTests(GatewayTestCase):
    """Without a trusted proxy."""

    quotas: ClassVar[dict[str, tuple[float, int]]] = {"open": (0.01, 1)}

    async def test_forged(self) -> None:
        """X-Forwarded-For is nobody's way around a limit."""
        self.channel.answers[SERVICE + "TugKite"] = b""
        statuses: list[Any] = []
        for number in range(3):
            sent = {"X-Forwarded-For": f"192.0.2.{number}"}
            statuses.append((await self.ask("POST", "/kites/v1/kites/7:tug", {}, sent)).status)
        self.assertEqual(statuses, [200, 429, 429])
