"""Numbers: what is counted, what it costs, and what stands in the text."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from bookd import pki
from bookd.bridge import metrics
from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.methods import RawMethod
from bookd.bridge.metrics import BUCKETS, Metrics
from bookd.bridge.server import Server
from bookd.errors import NotFound


def samples(told: Metrics) -> dict[tuple[str, ...], float]:
    """What is told, by the name and the values of the labels, in the order of the labels' names."""
    families = text_string_to_metric_families(generate_latest(told.registry).decode())
    return {
        (each.name, *(value for _, value in sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
    }


class MetricsTests(SynchronousTestCase):
    """The numbers of one daemon."""

    def setUp(self) -> None:
        self.metrics = Metrics("bookd-orders")

    def test_requests(self) -> None:
        """Requests are counted by what they were and what they ended with; how long they took, by what they were."""
        count = self.metrics.requests("grpc", ("method",))
        for seconds, code, method in (
            (0.002, "OK", "a"),
            (0.2, "OK", "a"),
            (0.002, "NOT_FOUND", "a"),
            (0.1, "OK", "b"),
        ):
            count(seconds, code, method)
        told = samples(self.metrics)
        for method, code, number in (("a", "OK", 2), ("a", "NOT_FOUND", 1), ("b", "OK", 1)):
            self.assertEqual(told["bookd_grpc_requests_total", code, method], number)
        self.assertEqual(told["bookd_grpc_request_seconds_count", "a"], 3)
        self.assertAlmostEqual(told["bookd_grpc_request_seconds_sum", "a"], 0.204)
        self.assertEqual(told["bookd_grpc_request_seconds_bucket", "0.001", "a"], 0)
        self.assertEqual(told["bookd_grpc_request_seconds_bucket", "0.0025", "a"], 2)
        self.assertEqual(told["bookd_grpc_request_seconds_bucket", "+Inf", "a"], 3)

    def test_bounded(self) -> None:
        """However many names there are, there are no more series than there is room for."""
        self.patch(metrics, "MOST_SERIES", 10)
        count = self.metrics.requests("http", ("verb", "route"))
        for number in range(1000):
            count(0.1, "200", "GET", f"/{number}")
        told = samples(self.metrics)
        self.assertEqual(len([key for key in told if key[0] == "bookd_http_requests_total"]), 11)
        self.assertEqual(told["bookd_http_requests_total", "other", "other", "other"], 990)

    def test_process(self) -> None:
        """The process tells its processor time, its memory and its open files."""
        told = samples(self.metrics)
        self.assertEqual(told["bookd_daemon", "bookd-orders"], 1)
        if os.path.exists("/proc/self/stat"):
            for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
                self.assertGreater(told[(name,)], 0)

    def test_certificates(self) -> None:
        """The end of each certificate is told, also once it was renewed; that of one that cannot be read is 0."""
        home = Path(self.mktemp())
        home.mkdir()
        self.metrics.certificates(home, ["orders.pem", "ca.pem"])
        now = datetime.now(UTC)
        authority = pki.make_authority(now)
        (home / "ca.pem").write_bytes(authority.certificate_pem)
        name = "bookd_certificate_ends_timestamp_seconds"
        self.assertEqual(samples(self.metrics)[name, "orders.pem"], 0)
        for content, end in (
            (pki.issue(authority, "orders", [], now).certificate_pem, now + pki.LEAF_LIFETIME),
            (pki.issue(authority, "orders", [], now + timedelta(days=9)).certificate_pem, now + timedelta(days=834)),
            (b"junk", datetime.fromtimestamp(0, UTC)),
        ):
            (home / "orders.pem").write_bytes(content)
            self.assertApproximates(samples(self.metrics)[name, "orders.pem"], end.timestamp(), 2)
        end = now + pki.AUTHORITY_LIFETIME
        self.assertApproximates(samples(self.metrics)[name, "ca.pem"], end.timestamp(), 2)

    def test_looks(self) -> None:
        """Looks run one after the other; one that fails, or takes too long, is counted and keeps no other from its turn."""
        clock, gauge = Clock(), self.metrics.gauge("bookd_depth", "How deep.")
        hanging: Deferred[None] = Deferred()

        async def hangs() -> None:
            await hanging

        async def fails() -> None:
            raise OSError("gone")

        async def works() -> None:
            gauge.set(7)

        for look in (hangs, fails, works):
            self.metrics.before(look.__name__, look)
        looked = Deferred.fromCoroutine(self.metrics.look(clock, 2.0))
        self.assertNoResult(looked)
        clock.advance(2.0)
        self.successResultOf(looked)
        told = samples(self.metrics)
        self.assertEqual(told[("bookd_depth",)], 7)
        self.assertEqual([told["bookd_looks_failed_total", name] for name in ("hangs", "fails")], [1, 1])
        self.assertNotIn(("bookd_looks_failed_total", "works"), told)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_cost(self) -> None:
        """To count a request takes less than 10 microseconds, at the slowest bucket, in the best of some runs."""
        count = self.metrics.requests("grpc", ("method",))
        best = 1.0
        for _ in range(10):
            began = perf_counter()
            for _ in range(1000):
                count(BUCKETS[-1], "OK", "/bookd.orders.v1.OrdersService/GetOrder")
            best = min(best, (perf_counter() - began) / 1000)
        self.assertLess(best, 10e-6)


class ServerTests(TestCase):
    """A server that counts."""

    timeout = 30

    async def setUp(self) -> None:
        self.metrics = Metrics("bookd-orders")
        self.server = Server("127.0.0.1", 0, count=self.metrics.requests("grpc", ("method",)))
        self.server.add_generic(self.lookup)
        self.server.startService()
        self.addCleanup(self.server.stopService)
        await self.server.started
        self.hanging: list[Deferred[bytes]] = []

    def lookup(self, path: str) -> RawMethod | None:
        """Methods that answer, refuse, break, hang and stream."""
        named: dict[str, Any] = {"Answer": self.answer, "Refuse": self.refuse, "Break": self.broken, "Hang": self.hang}
        name = path.rpartition("/")[2]
        if name == "Stream":
            return RawMethod(False, True, self.stream)
        return RawMethod(False, False, named[name]) if name in named else None

    async def answer(self, request: bytes, context: Context) -> bytes:
        """Answer."""
        return request

    async def refuse(self, request: bytes, context: Context) -> bytes:
        """Say no."""
        raise NotFound("no")

    async def broken(self, request: bytes, context: Context) -> bytes:
        """Fail."""
        raise RuntimeError("bad")

    async def hang(self, request: bytes, context: Context) -> bytes:
        """Answer never."""
        self.hanging.append(Deferred())
        return await self.hanging[-1]

    async def stream(self, request: bytes, context: Context) -> Any:
        """Answer twice."""
        yield b"1"
        yield b"2"

    async def until(self, condition: Any) -> None:
        """Turn the reactor until the condition holds."""
        while not condition():
            await deferLater(reactor, 0.005)

    async def test_codes(self) -> None:
        """Every call is counted once, by its method and its code, whether it came on a trunk or by itself; names that are not
        served are counted together."""
        for trunk in (True, False):
            self.metrics = Metrics("bookd-orders")
            self.server._count = self.metrics.requests("grpc", ("method",))
            channel = Channel([f"127.0.0.1:{self.server.port}"], trunk=trunk, grace=0.1)
            channel.startService()
            if trunk:
                await self.until(lambda channel=channel: channel.has_trunk)
            for name in ("Answer", "Answer", "Refuse", "Break"):
                try:
                    await channel.unary_unary(f"/x.Y/{name}")(b"", timeout=5)
                except Exception as error:
                    self.assertIn(name, ("Refuse", "Break"), error)
            for name in ("Nobody", "Nothing"):
                await self.assertFailure(channel.unary_unary(f"/x.Y/{name}")(b"", timeout=5), Exception)
            self.assertEqual([each async for each in channel.unary_stream("/x.Y/Stream")(b"")], [b"1", b"2"])
            hanging = channel.unary_unary("/x.Y/Hang")(b"", timeout=5)
            await self.until(lambda: self.hanging)
            hanging.cancel()
            hanging.addErrback(lambda _: None)
            key = ("bookd_grpc_requests_total", "CANCELLED", "/x.Y/Hang")
            await self.until(lambda key=key: key in samples(self.metrics))
            self.hanging.clear()
            counted = {
                key[1:]: number
                for key, number in samples(self.metrics).items()
                if key[0] == "bookd_grpc_requests_total"
            }
            expected = {
                ("OK", "/x.Y/Answer"): 2,
                ("NOT_FOUND", "/x.Y/Refuse"): 1,
                ("INTERNAL", "/x.Y/Break"): 1,
                ("OK", "/x.Y/Stream"): 1,
                ("CANCELLED", "/x.Y/Hang"): 1,
                **({("UNIMPLEMENTED", "other"): 2} if trunk else {}),
            }
            self.assertEqual(counted, expected)
            await channel.stopService()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
