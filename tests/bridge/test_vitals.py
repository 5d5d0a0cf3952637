"""The port of /metrics, /healthz and /readyz: what it answers, to whom, and what it bears."""

import socket
from collections.abc import Callable
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from bookd.bridge import vitals
from bookd.bridge.metrics import Metrics
from bookd.bridge.server import ListenError
from bookd.bridge.vitals import Vitals


class Raw(Protocol):
    """A client that keeps what comes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)


class VitalsTests(TestCase):
    """A port that is open."""

    timeout = 30

    def setUp(self) -> None:
        self.metrics = Metrics("bookd-orders")
        self.is_ready: Any = True
        self.vitals = Vitals(reactor, 0, self.metrics, self.ready)
        self.vitals.startService()
        self.addCleanup(self.stop)
        self.client = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))

    def stop(self) -> Any:
        """Stop, unless the test did."""
        return self.vitals.stopService() if self.vitals.running else None

    async def ready(self) -> bool:
        """What the test says."""
        if isinstance(self.is_ready, Exception):
            raise self.is_ready
        return await self.is_ready if isinstance(self.is_ready, Deferred) else bool(self.is_ready)

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
        """Status, headers and body."""
        url = f"http://127.0.0.1:{self.vitals.port}{path}"
        response = await self.client.request(method, url, headers=dict(headers))
        return response.code, response.headers, await response.content()

    async def raw(self, data: bytes) -> Raw:
        """A connection on which this was sent."""
        client: Raw = await connectProtocol(HostnameEndpoint(reactor, "127.0.0.1", self.vitals.port), Raw())
        client.transport.write(data)
        self.addCleanup(self.leave, client)
        return client

    def leave(self, client: Raw) -> Deferred[None]:
        client.transport.abortConnection()
        return client.closed

    async def until(self, condition: Callable[[], Any]) -> None:
        """Turn the reactor until the condition holds."""
        while not condition():
            await deferLater(reactor, 0.005)

    async def test_pages(self) -> None:
        """The process lives; it is ready, or it is not; nothing else is there. Nothing of it is to be kept."""
        self.assertEqual((await self.ask("/healthz"))[::2], (200, b'{"status": "alive"}'))
        self.assertEqual((await self.ask("/readyz"))[::2], (200, b'{"status": "ready"}'))
        for self.is_ready in (False, RuntimeError("no database")):
            status, headers, body = await self.ask("/readyz")
            self.assertEqual((status, body), (503, b'{"status": "not ready"}'))
            self.assertEqual(headers.getRawHeaders("Retry-After"), ["1"])
        for path in ("/", "/metrics/x", "/healthz/", "/nothing", "/../etc/passwd", "/%00"):
            status, headers, _ = await self.ask(path)
            self.assertEqual(status, 404, path)
        self.assertEqual(headers.getRawHeaders("Server"), ["bookd"])
        self.assertEqual(headers.getRawHeaders("Cache-Control"), ["no-store"])

    async def test_hanging_readiness(self) -> None:
        """Who does not know in time whether it is ready is not."""
        self.patch(vitals, "PATIENCE", 0.05)
        self.is_ready = Deferred()
        self.assertEqual((await self.ask("/readyz"))[0], 503)

    async def test_metrics(self) -> None:
        """The numbers are told in the form that is asked for, after a look."""
        gauge = self.metrics.gauge("bookd_depth", "How deep.")
        looks: list[int] = []

        async def look() -> None:
            looks.append(1)
            await deferLater(reactor, 0.01)
            gauge.set(len(looks))

        self.metrics.before("depth", look)
        status, headers, body = await self.ask("/metrics")
        self.assertEqual(status, 200)
        self.assertRegex(headers.getRawHeaders("Content-Type")[0], "^text/plain; version=")
        self.assertIn(b"\nbookd_depth 1.0\n", body)
        _, headers, body = await self.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        self.assertRegex(headers.getRawHeaders("Content-Type")[0], "^application/openmetrics-text; version=1.0.0")
        families = {family.name: family for family in text_string_to_metric_families(body.decode())}
        self.assertEqual(families["bookd_depth"].samples[0].value, 2)
        both = [Deferred.fromCoroutine(self.ask("/metrics")) for _ in range(5)]
        for each in both:
            self.assertIn(b"bookd_depth", (await each)[2])
        self.assertLess(len(looks), 7)

    async def test_head_and_others(self) -> None:
        """HEAD has no body; what is no reading is refused."""
        self.assertEqual((await self.ask("/metrics", "HEAD"))[::2], (200, b""))
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "X"):
            self.assertIn((await self.ask("/metrics", method))[0], (405, 501), method)

    async def test_other_hosts(self) -> None:
        """A request that names another host is refused: a page whose name was bent to here must not read along."""
        for host in (
            b"attacker.example",
            b"attacker.example:80",
            b"192.0.2.1",
            b"localhost.attacker.example",
            b"127.1.x",
        ):
            client = await self.raw(b"GET /metrics HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
            await client.closed
            self.assertTrue(client.received.startswith(b"HTTP/1.1 421 "), client.received)
            self.assertNotIn(b"bookd_daemon", client.received)
        for host in (b"localhost", b"localhost:9180", b"127.0.0.1:1", b"[::1]:9180", b"LOCALHOST"):
            client = await self.raw(b"GET /healthz HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
            await client.closed
            self.assertTrue(client.received.startswith(b"HTTP/1.1 200 "), client.received)

    async def test_large_bodies(self) -> None:
        """Of a body nothing is kept, however long it claims to be, and the connection does not last."""
        self.patch(vitals, "LIFE", 0.3)
        for length in (b"Content-Length: 1000000000000", b"Transfer-Encoding: chunked"):
            client = await self.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n")
            for _ in range(20):
                client.transport.write(
                    b"x" * 100_000 if b"Length" in length else b"186a0\r\n" + b"x" * 100_000 + b"\r\n"
                )
            await client.closed
            self.assertNotIn(b"bookd_daemon", client.received)

    async def test_junk(self) -> None:
        """What is no HTTP, or too large a head, is refused, and others are served all the same."""
        self.patch(vitals, "LIFE", 0.5)
        for data in (
            b"\0\xff" * 100 + b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /metrics\r\n\r\n",
            b"GET /metrics HTTP/9\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
            b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
        ):
            client = await self.raw(data)
            await client.closed
            self.assertNotIn(b"bookd_daemon", client.received)
        self.assertEqual((await self.ask("/healthz"))[0], 200)

    async def test_many(self) -> None:
        """One connection too many is closed at once; slow ones do not last, and then there is room again."""
        self.patch(vitals, "LIFE", 0.3)
        slow = [await self.raw(b"GET /metrics HTTP/1.1\r\nX") for _ in range(vitals.MOST)]
        await self.until(lambda: len(self.vitals._site.open) == vitals.MOST)
        late = await self.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await late.closed
        self.assertEqual(late.received, b"")
        for client in slow:
            await client.closed
        self.assertEqual((await self.ask("/healthz"))[0], 200)

    async def test_stop(self) -> None:
        """Stopping ends what is under way, and leaves no connection."""
        hanging: Deferred[None] = Deferred()

        async def look() -> None:
            await hanging

        self.metrics.before("hanging", look)
        client = await self.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle = await self.raw(b"")
        await self.until(lambda: self.vitals._looking is not None)
        await self.vitals.stopService()
        await client.closed
        await idle.closed

    def test_loopback_only(self) -> None:
        """Nobody can ask from outside."""
        self.assertEqual(self.vitals._listening.getHost().host, "127.0.0.1")

    def test_taken(self) -> None:
        """A port that is taken is told by its number."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            error = self.assertRaises(ListenError, Vitals(reactor, port, self.metrics).startService)
        self.assertIn(f"127.0.0.1:{port}", str(error))

    async def test_none(self) -> None:
        """Without a port nothing listens."""
        none = Vitals(reactor, None, self.metrics)
        none.startService()
        await none.stopService()
