"""The gateway of a suite against clients without manners, on raw sockets; and a short slowloris.

Shapes of bytes one by one are in `tests.gateway.test_hostile`. Here it is what they do to a whole process: who else is served
meanwhile, and what memory is left in the end.
"""

import gzip
from collections.abc import Callable
from time import monotonic
from typing import Any

from twisted.internet.defer import DeferredList
from twisted.internet.threads import deferToThread

from tests.hostile.test_grpc import memory
from tests.hostile.tls import connected, read, send
from tests.integration.running import SuiteTestCase

HOST = b"Host: localhost\r\n"
POST = b"POST /v1/sessions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
MB = 1024 * 1024
# What the gateway may keep in the end: a connection that goes too far is closed, and its buffers with it.
KEPT = 60 * MB


class HttpsTestCase(SuiteTestCase):
    """Clients in threads, while others read books."""

    timeout = 300

    def connect(self, **options: Any) -> Any:
        """A connection to the gateway."""
        return connected(self.home / "pki" / "ca.pem", self.ports["gateway"], **options)

    async def during(self, attack: Callable[[], Any]) -> Any:
        """What an attack answers; reads of others are served as long as it lasts."""
        going = deferToThread(attack)
        ended = DeferredList([going], fireOnOneErrback=True, consumeErrors=True)
        while not ended.called:
            self.assertEqual((await self.ask("GET", "/v1/books?page_size=1")).status, 200)
        ((_, answer),) = await ended
        return answer


class BytesTests(HttpsTestCase):
    """One connection that sends too much."""

    async def test_attacks(self) -> None:
        """Each is refused as it should be, the others are served meanwhile, and memory comes back."""
        for _ in range(20):
            await self.ask("GET", "/v1/books?page_size=1")
        pid = self.programs["gateway"].pid or 0
        before = memory(pid)
        for attack in (
            self.gigabyte,
            self.chunks,
            self.bomb,
            self.nested,
            self.head,
            self.upgrade,
            self.deaf,
            self.resets,
        ):
            await self.during(attack)
        self.assertLess(memory(pid) - before, KEPT)
        self.assertEqual(self.programs["gateway"].pid, pid)

    def told(self, head: bytes, data: bytes = b"", times: int = 0) -> int:
        """The status that a request is answered; its body is sent as long as it is taken."""
        with self.connect() as client:
            send(client, head)
            send(client, data, times)
            received = read(client)
        self.assertEqual(received.count(b"HTTP/1.1 "), 1, received[:300])
        return int(received[9:12])

    def gigabyte(self) -> None:
        """A body that is said to have a gigabyte, and has; and one that is said to have ten bytes."""
        self.assertEqual(self.told(POST + b"Content-Length: 1073741824\r\n\r\n", bytes(MB), 1024), 413)
        head = POST + b"Connection: close\r\nContent-Length: 10\r\n\r\n"
        self.assertEqual(self.told(head, bytes(MB), 100), 400)

    def chunks(self) -> None:
        """A body of a gigabyte in chunks, of one byte and of a megabyte."""
        head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(self.told(head, b"100000\r\n" + bytes(MB) + b"\r\n", 1024), 413)
        self.assertEqual(self.told(head, b"1\r\n \r\n" * 10_000, 200), 413)

    def bomb(self) -> None:
        """A hundred megabytes of JSON in a hundred kilobytes: no coding is accepted."""
        body = gzip.compress(b" " * 100 * MB)
        for coding in (b"gzip", b"deflate", b"br", b"zstd", b"identity, gzip", b"x-gzip"):
            head = (
                POST
                + b"Connection: close\r\nContent-Encoding: "
                + coding
                + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            self.assertEqual(self.told(head, body, 1), 415, coding)

    def nested(self) -> None:
        """A hundred thousand brackets, braces, and numbers without end."""
        for body in (
            b"[" * 100_000,
            b'{"username":' * 80_000,
            b"9" * 1_000_000,
            b'"' + b"\\u" * 400_000,
            b"-" * 1_000_000,
        ):
            head = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.assertEqual(self.told(head, body, 1), 400, body[:20])

    def head(self) -> None:
        """Headers without end, in one and in many, and an address without end."""
        for start, more in ((b"GET / HTTP/1.1\r\nX-A: ", b"a" * 1000), (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 1000)):
            self.assertEqual(self.told(start, more, 10_000), 431)
        self.assertEqual(self.told(b"GET /", b"a" * 1000, 10_000), 414)

    def upgrade(self) -> None:
        """Requests to speak something else are not taken up: the answer is that of HTTP/1.1."""
        get = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, close\r\n"
        for more in (
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
            b"Upgrade: TLS/1.0\r\n",
        ):
            with self.connect() as client:
                send(client, get + more + b"\r\n")
                received = read(client, 2.0)
            self.assertTrue(received.startswith(b"HTTP/1.1 200 "), received[:100])
            self.assertNotIn(b"upgrade:", received.lower())

    def deaf(self) -> None:
        """A thousand descriptions of the interface, asked for on each of some connections, and not read."""
        for _ in range(5):
            with self.connect(receives=4096) as client:
                client.settimeout(1.0)
                send(client, (b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n") * 100, 1000)

    def resets(self) -> None:
        """Clients that ask and are gone."""
        for _ in range(100):
            with self.connect() as client:
                send(client, b"GET /v1/books?page_size=1000 HTTP/1.1\r\n" + HOST + b"\r\n" + POST)


class SlowTests(HttpsTestCase):
    """Slowloris in short; `benchmarks.hostile` has it in full."""

    MANY = 200
    SECONDS = 5.0

    async def test_slow(self) -> None:
        """While two hundred connections hold a head, and as many a body, the others are served."""
        for head, drop in (
            (b"GET / HTTP/1.1\r\n" + HOST, b"X-A: b\r\n"),
            (POST + b"Content-Length: 99999\r\n\r\n", b" "),
        ):
            await self.during(lambda head=head, drop=drop: self.hold(head, drop))

    def hold(self, head: bytes, drop: bytes) -> None:
        """Hold the connections."""
        with self.connect() as first:
            rest = [self.connect() for _ in range(self.MANY - 1)]
            clients = [first, *(each.__enter__() for each in rest)]
            until = monotonic() + self.SECONDS
            for client in clients:
                send(client, head)
            while monotonic() < until:
                for client in clients:
                    send(client, drop)
            for each in rest:
                each.__exit__(None, None, None)
