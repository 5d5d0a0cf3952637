"""Hostile bytes on raw sockets: each is a clean refusal or a closed connection, and the gateway answers afterwards."""

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from twisted.internet.defer import DeferredList
from twisted.internet.threads import deferToThread

from tests.gateway.kites import SERVICE
from tests.gateway.serving import Answer, GatewayTestCase, Raw
from tests.gateway.test_connection import TUG, problem

HOST = b"Host: localhost\r\n"
STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
GET = b"GET /kites/v1/kites/7 HTTP/1.1\r\n" + HOST

# Requests that two readers could cut differently (RFC 9112, section 11.2), or that are no HTTP/1.1. Each is followed by
# what a smuggled request would be.
SMUGGLING: dict[str, bytes] = {
    "CL and TE": TUG + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE and CL": TUG + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "CL twice, differing": TUG + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "CL twice, equal": TUG + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "CL as a list": TUG + b"Content-Length: 2, 2\r\n\r\n{}",
    "CL with a sign": TUG + b"Content-Length: +2\r\n\r\n{}",
    "CL in hex": TUG + b"Content-Length: 0x2\r\n\r\n{}",
    "CL with an underscore": TUG + b"Content-Length: 1_0\r\n\r\n{}        ",
    "CL in other digits": TUG + "Content-Length: ٢\r\n\r\n{}".encode(),
    "CL empty": TUG + b"Content-Length: \r\n\r\n{}",
    "TE twice": TUG + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE chunked, identity": TUG + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "TE identity, CL": TUG + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
    "TE as a list": TUG + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "TE unknown": TUG + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "TE with a vertical tab": TUG + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE in HTTP/1.0": TUG.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE with a space before the colon": TUG + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "CL with a space before the colon": TUG + b"Content-Length : 2\r\n\r\n{}",
    "CL with a tab before the colon": TUG + b"Content-Length\t: 2\r\n\r\n{}",
    "CL on a folded line": TUG + b"X-A: b\r\n Content-Length: 2\r\n\r\n{}",
    "TE on a folded line": TUG + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "first header folded": b"GET /kites/v1/kites/7 HTTP/1.1\r\n X: y\r\n" + HOST + b"\r\n",
    "bare LF in a header": GET + b"X-A: b\nTransfer-Encoding: chunked\r\n\r\n",
    "bare CR in a header": GET + b"X-A: b\rTransfer-Encoding: chunked\r\n\r\n",
    "bare LF after the request line": b"GET /kites/v1/kites/7 HTTP/1.1\n" + HOST + b"\r\n",
    "NUL in a header": GET + b"X-A: b\x00c\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "no colon": GET + b"Content-Length\r\n\r\n",
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "no host": b"GET /kites/v1/kites/7 HTTP/1.1\r\n\r\n",
    "two spaces": b"GET  /kites/v1/kites/7 HTTP/1.1\r\n" + HOST + b"\r\n",
    "another version": b"GET /kites/v1/kites/7 HTTP/1.10\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /kites/v1/kites/7\r\n\r\n",
    "HTTP/2 in the clear": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "chunk size with a sign": TUG + b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
    "chunk size with a prefix": TUG + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk size with an underscore": TUG + b"Transfer-Encoding: chunked\r\n\r\n0_2\r\n{}\r\n0\r\n\r\n",
    "chunk longer than it says": TUG + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "negative chunk": TUG + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
    "endless chunk extension": TUG + b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 20_000,
    "endless chunk size": TUG + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 20_000,
}


class HostileTestCase(GatewayTestCase):
    """What a hostile client does does not reach the MOM, and does not hurt the others."""

    bounds: ClassVar[dict[str, Any]] = {"idle_timeout": 2.0, "head_timeout": 0.4, "body_timeout": 0.4}

    def setUp(self) -> None:
        super().setUp()
        self.channel.answers[SERVICE + "GetKite"] = self.channel.answers[SERVICE + "TugKite"] = b""

    async def assert_alive(self) -> None:
        """Others are served, and nobody's failure is in the log."""
        answer: Answer = await self.ask("GET", "/kites/v1/kites/7")
        self.assertEqual(answer.status, 200)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def until_closed(self, data: bytes) -> bytes:
        """What comes back until the gateway closes the connection."""
        client = await self.raw(data)
        await client.closed
        return bytes(client.received)


class SmugglingTests(HostileTestCase):
    """The table above."""

    async def test_table(self) -> None:
        """Each is refused, closes its connection, calls nothing, and nothing that comes after it is a request."""
        for name, data in SMUGGLING.items():
            received = await self.until_closed(data + b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
            self.assertEqual(len(STATUS.findall(received)), 1, (name, received))
            status, body, _ = problem(received)
            self.assertIn(status, (400, 408, 413), (name, received))
            self.assertEqual(body["status"], status)
        self.assertEqual(self.channel.calls, [])
        await self.assert_alive()

    async def test_lengths_that_no_number_holds(self) -> None:
        """A Content-Length of thousands of digits is a body that is too large."""
        for digits in (20, 5000):
            received = await self.until_closed(TUG + b"Content-Length: " + b"9" * digits + b"\r\n\r\n")
            self.assertEqual(problem(received)[0], 413)
        await self.assert_alive()

    async def test_lying_length(self) -> None:
        """A gigabyte is refused before it comes; a body that stops short is 408; a longer one is another request, badly."""
        self.assertEqual(problem(await self.until_closed(TUG + b"Content-Length: 1073741824\r\n\r\n{}"))[0], 413)
        self.assertEqual(problem(await self.until_closed(TUG + b"Content-Length: 100\r\n\r\n{}"))[0], 408)
        received = await self.until_closed(TUG + b"Content-Length: 2\r\n\r\n{}trailing\r\n\r\n")
        self.assertEqual(STATUS.findall(received), [b"200", b"400"])
        await self.assert_alive()


class SizeTests(HostileTestCase):
    """Heads and bodies that are too much."""

    bounds: ClassVar[dict[str, Any]] = {
        "max_url": 1000,
        "max_headers": 2000,
        "max_header_count": 10,
        "head_timeout": 0.4,
    }

    async def test_addresses(self) -> None:
        """An address over the limit is 414, whether or not it ends; one at the limit is looked at."""
        for end in (b"", b" HTTP/1.1\r\n" + HOST + b"\r\n"):
            self.assertEqual(problem(await self.until_closed(b"GET /" + b"a" * 5000 + end))[0], 414)
        whole = b"GET /" + b"a" * 999 + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
        self.assertEqual(problem(await self.until_closed(whole))[0], 404)

    async def test_headers(self) -> None:
        """Too long, too many, too long together: 431."""
        for headers in (
            b"X-A: " + b"a" * 5000,
            b"X-A: " + b"a" * 5000 + b"\r\n",
            b"A: b\r\n" * 20,
            b"A: " + b"b" * 500 + b"\r\n",
        ):
            data = GET + headers * (5 if len(headers) < 600 else 1) + b"\r\n"
            self.assertEqual(problem(await self.until_closed(data))[0], 431, headers[:20])
        await self.assert_alive()

    async def test_brackets(self) -> None:
        """A hundred thousand nested brackets are 400 at once, as body and inside of one."""
        for body in (b"[" * 99_000, b'{"force":' * 10_000, b'{"force":' + b"[" * 90_000, b"[" * 40_000 + b"]" * 40_000):
            received = await self.until_closed(
                TUG
                + b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            self.assertEqual(problem(received)[0], 400)
        await self.assert_alive()

    async def test_pipelining(self) -> None:
        """Requests that come while one is answered wait in bounded memory, in order, and are answered."""
        waiting = self.channel.answers[SERVICE + "GetKite"] = self.pause(0.2, b"")
        client = await self.raw(GET + b"\r\n")
        await self.until(lambda: self.channel.calls)
        client.transport.write((b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 1000 + b"\r\n\r\n") * 2000)
        held = 0
        while not waiting.called:
            (connection,) = self.site.connections
            held = max(held, sum(map(len, connection._dataBuffer)))
            await self.pause(0.01)
        # One read more than the bound may come.
        self.assertLess(held, 200_000)
        await self.until(lambda: client.received.count(b"200 OK") == 2001)


class SlowTests(HostileTestCase):
    """Slowloris: many clients that never finish."""

    MANY = 100

    async def hold(self, data: bytes, drip: bytes) -> list[bytes]:
        """Let many clients send the beginning of a request, and then a little now and then; what they got in the end."""
        clients = [await self.raw(data) for _ in range(self.MANY)]
        served = 0
        while any(not client.closed.called for client in clients):
            for client in clients:
                if not client.closed.called:
                    client.transport.write(drip)
            answer = await self.ask("GET", "/kites/v1/kites/7")
            self.assertEqual(answer.status, 200)
            served += 1
        self.assertGreater(served, 0)
        return [bytes(client.received) for client in clients]

    async def test_heads(self) -> None:
        """Heads that trickle line by line, or byte by byte before the first line ends, are 408, all of them in their time."""
        for data, drip in ((GET, b"X-A: b\r\n"), (b"GET /", b"a"), (b"", b"\r\n")):
            for received in await self.hold(data, drip):
                self.assertIn(problem(received)[0], (400, 408))
        await self.assert_alive()

    async def test_bodies(self) -> None:
        """Bodies that trickle are 408."""
        for received in await self.hold(TUG + b"Content-Length: 10000\r\n\r\n", b" "):
            self.assertEqual(problem(received)[0], 408)
        for received in await self.hold(TUG + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"):
            self.assertEqual(problem(received)[0], 408)
        await self.assert_alive()

    async def test_time_for_each(self) -> None:
        """The time is that of one request: many on a connection take as long as they like, and so does their answer."""
        self.channel.answers[SERVICE + "GetKite"] = lambda call: self.pause(0.2, b"")
        client = await self.raw()
        for number in range(1, 6):
            client.transport.write(GET + b"\r\n")
            await self.until(lambda number=number: client.received.count(b"200 OK") == number)


class DeafTests(HostileTestCase):
    """Clients that ask, and do not take the answers."""

    bounds: ClassVar[dict[str, Any]] = {"idle_timeout": 1.0}
    MANY = 600

    def setUp(self) -> None:
        super().setUp()
        # Some 100 kB.
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite", colour="k" * 100_000)

    async def deaf(self) -> Raw:
        """A client that asks many times and reads nothing."""
        client = await self.raw(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        await self.until(lambda: b"alive" in client.received)
        client.transport.pauseProducing()
        client.transport.write((GET + b"\r\n") * self.MANY)
        await self.until(lambda: self.channel.calls)
        known = 0
        while len(self.channel.calls) > known:
            known = len(self.channel.calls)
            await self.pause(0.1)
        return client

    async def test_bounded(self) -> None:
        """Requests wait until the client has taken the answers to those before, in bounded memory; the others are served,
        and when the client reads, each is answered."""
        client = await self.deaf()
        # What fits into the kernel's buffers was answered.
        asked = len(self.channel.calls)
        self.assertLess(asked, self.MANY // 10)
        (connection,) = self.site.connections
        self.assertLess(sum(map(len, connection._dataBuffer)), 200_000)
        await self.assert_alive()
        taken = client.dataReceived

        def forget(data: bytes) -> None:
            taken(data)
            del client.received[: max(len(client.received) - 100, 0)]

        client.dataReceived = forget  # type: ignore[method-assign]
        client.transport.resumeProducing()
        await self.until(lambda: len(self.channel.calls) == self.MANY + 1)

    async def test_closed(self) -> None:
        """One that goes on reading nothing is closed when it was idle too long, without a 408 in its stream of answers."""
        client = await self.deaf()
        await self.until(lambda: not self.site.connections)
        client.transport.resumeProducing()
        await client.closed
        self.assertNotIn(b" 408 ", client.received)
        await self.assert_alive()

    async def test_gone(self) -> None:
        """One that leaves without a word is forgotten, with what it asked."""
        client = await self.deaf()
        client.transport.abortConnection()
        await self.until(lambda: not self.site.connections)
        await self.assert_alive()


class ConnectionsTests(HostileTestCase):
    """Too many connections."""

    bounds: ClassVar[dict[str, Any]] = {"max_connections_per_address": 5, "idle_timeout": 30.0}

    async def test_of_one_address(self) -> None:
        """The one too many is closed without a word; when another ends there is room again."""
        clients = [await self.raw() for _ in range(5)]
        await self.until(lambda: len(self.site.connections) == 5)
        received = await deferToThread(self.plainly)
        self.assertEqual(received, b"")
        clients[0].transport.loseConnection()
        await clients[0].closed
        await self.until(lambda: len(self.site.connections) == 4)
        await self.assert_alive()

    def plainly(self) -> bytes:
        """What a client gets that connects and says hello."""
        with socket.create_connection(("127.0.0.1", self.listener.port), timeout=10) as client:
            try:
                client.sendall(b"\x16\x03\x01")
                return client.recv(100)
            except ConnectionError:
                return b""


class AllConnectionsTests(HostileTestCase):
    """The limit on all, and a proxy."""

    bounds: ClassVar[dict[str, Any]] = {"max_connections_per_address": 1, "max_connections": 5, "idle_timeout": 30.0}
    proxies: ClassVar[list[str]] = ["127.0.0.0/8"]

    async def test_proxy(self) -> None:
        """A trusted proxy has the connections of many; the limit on all holds for it too."""
        for _ in range(5):
            await self.raw()
        await self.until(lambda: len(self.site.connections) == 5)
        self.assertFalse(self.site.admits("127.0.0.1"))
        self.assertFalse(self.site.admits("192.0.2.1"))


class TransportTests(HostileTestCase):
    """Below HTTP."""

    @contextmanager
    def plain(self) -> Iterator[socket.socket]:
        """A connection without TLS."""
        with socket.create_connection(("127.0.0.1", self.listener.port), timeout=10) as client:
            yield client

    def read(self, client: socket.socket) -> bytes:
        """What comes until the end."""
        received = b""
        try:
            while piece := client.recv(65536):
                received += piece
        except OSError:
            pass
        return received

    def no_tls(self, data: bytes) -> bytes:
        """What comes for bytes that are no handshake."""
        with self.plain() as client:
            client.sendall(data)
            return self.read(client)

    def tls(self, client: socket.socket) -> ssl.SSLSocket:
        """TLS on a connection."""
        context = ssl.create_default_context(cadata=self.authority.certificate_pem.decode())
        return context.wrap_socket(client, server_hostname="localhost")

    def garbage_after(self) -> bytes:
        """What comes when garbage follows a handshake where records should be."""
        with self.plain() as client:
            wrapped = self.tls(client)
            raw = socket.socket(fileno=wrapped.detach())
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            received = self.read(raw)
            raw.close()
            return received

    def truncated(self) -> None:
        """Hang up in the middle of a record, of a handshake, and of a request, without a goodbye."""
        with self.plain() as client:
            client.sendall(b"\x16\x03\x01\x02\x00\x01")
        with self.plain() as client:
            wrapped = self.tls(client)
            wrapped.sendall(TUG + b"Content-Length: 100\r\n\r\n{")
            socket.socket(fileno=wrapped.detach()).close()
        with self.plain() as client:
            wrapped = self.tls(client)
            raw = socket.socket(fileno=wrapped.detach())
            raw.sendall(b"\x17\x03\x03\x40\x00abc")
            raw.close()

    async def test_no_tls(self) -> None:
        """Plain HTTP, noise and half a handshake get nothing that looks like an answer."""
        for data in (GET + b"\r\n", bytes(range(256)) * 100, b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000, b"\x00"):
            received = await deferToThread(self.no_tls, data)
            self.assertNotIn(b"HTTP/", received)
        await self.assert_alive()

    async def test_garbage_after_tls(self) -> None:
        """Garbage after a handshake ends the connection."""
        self.assertNotIn(b"HTTP/", await deferToThread(self.garbage_after))
        await self.assert_alive()

    async def test_truncated(self) -> None:
        """Clients that vanish leave nothing behind."""
        await DeferredList([deferToThread(self.truncated) for _ in range(3)], fireOnOneErrback=True)
        await self.until(lambda: not self.site.connections)
        await self.assert_alive()
        self.assertEqual([call.path for call in self.channel.calls], [SERVICE + "GetKite"])
