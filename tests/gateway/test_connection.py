"""Limits on what clients send, and requests that are no HTTP: by raw sockets, since no client library sends such things."""

import json
import socket
import ssl
from typing import Any, ClassVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.gateway.kites import SERVICE
from tests.gateway.serving import GatewayTestCase, Raw

TUG = b"POST /kites/v1/kites/7:tug HTTP/1.1\r\nHost: localhost\r\n"


def problem(received: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Status, body and head of a problem as it came over the wire."""
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), head


class ConnectionTestCase(GatewayTestCase):
    async def refusal(self, data: bytes) -> tuple[int, dict[str, Any], bytes]:
        """What the gateway says to `data` before it closes the connection."""
        client = await self.raw(data)
        await client.closed
        return problem(client.received)


class BodyTests(ConnectionTestCase):
    """Bodies that are too large."""

    async def test_declared(self) -> None:
        """A Content-Length over the limit is refused before the body comes."""
        status, body, head = await self.refusal(TUG + b"X-Request-Id: r1\r\nContent-Length: 10000000\r\n\r\n")
        self.assertEqual((status, body["status"], body["code"]), (413, 413, "RESOURCE_EXHAUSTED"))
        self.assertEqual(body["request_id"], "r1")
        for line in (
            b"Connection: close",
            b"X-Request-Id: r1",
            b"Server: bookd",
            b"Content-Type: application/problem+json",
        ):
            self.assertIn(line, head)

    async def test_expect_continue(self) -> None:
        """A client that asks before it sends is told no, and never told to go on."""
        client = await self.raw(TUG + b"Expect: 100-continue\r\nContent-Length: 10000000\r\n\r\n")
        await client.closed
        self.assertEqual(problem(client.received)[0], 413)
        self.assertNotIn(b"100 Continue", client.received)

    async def test_expect_continue_with_a_small_body(self) -> None:
        """A body that fits is asked for."""
        self.channel.answers[SERVICE + "TugKite"] = b""
        client = await self.raw(TUG + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        await self.until(lambda: b"100 Continue" in client.received)
        client.transport.write(b"{}")
        await self.until(lambda: b"200 OK" in client.received)

    async def test_chunked(self) -> None:
        """A chunked body is refused as soon as it is over the limit."""
        chunk = b"%x\r\n%s\r\n" % (60_000, b" " * 60_000)
        status, _, _ = await self.refusal(TUG + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        self.assertEqual(status, 413)
        self.assertEqual(self.channel.calls, [])

    async def test_a_client_that_sends_it_all_first(self) -> None:
        """A blocking client that sends 10 MB before it reads sees the problem, not a reset."""
        for head in (b"Content-Length: 10000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n989680\r\n"):
            received = await deferToThread(self._send_blocking, TUG + head + b"x" * 10_000_000)
            self.assertEqual(problem(received)[0], 413)

    def _send_blocking(self, data: bytes) -> bytes:
        context = ssl.create_default_context(cadata=self.trust.dumpPEM().decode())
        with (
            socket.create_connection(("127.0.0.1", self.listener.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(data)
            received = b""
            while piece := client.recv(65536):
                received += piece
            return received

    async def test_the_others_go_on(self) -> None:
        """While one client is being refused, another is served."""
        client = await self.raw(TUG + b"Content-Length: 10000000\r\n\r\n" + b"x" * 1000)
        self.assertEqual((await self.ask("GET", "/healthz")).status, 200)
        await client.closed

    async def test_at_the_limit(self) -> None:
        """A body of exactly the limit is taken."""
        self.channel.answers[SERVICE + "TugKite"] = b""
        body = b"{}".ljust(self.site.bounds.max_body)
        self.assertEqual((await self.ask("POST", "/kites/v1/kites/7:tug", body)).status, 200)


class HeadTests(ConnectionTestCase):
    """Request lines and headers that are too long, or no HTTP."""

    async def test_long_address(self) -> None:
        """A request line over the limit is 414, whether or not it ever ends."""
        for end in (b"", b" HTTP/1.1\r\n\r\n"):
            status, _, _ = await self.refusal(b"GET /" + b"a" * 17_000 + end)
            self.assertEqual(status, 414)

    async def test_long_header(self) -> None:
        """A header line over the limit is 431, and so are many that are too long together."""
        line = b"X-A: " + b"a" * 4000 + b"\r\n"
        for headers in (b"X-A: " + b"a" * 17_000, line * 5):
            status, _, _ = await self.refusal(b"GET / HTTP/1.1\r\n" + headers)
            self.assertEqual(status, 431)

    async def test_no_http(self) -> None:
        """What is no HTTP is a problem too, and never runs."""
        for data in (
            b"HELLO\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            TUG + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            TUG + b"Content-Length: -1\r\n\r\n{}",
            TUG + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            TUG + b"bad header\r\nContent-Length: 2\r\n\r\n{}",
            TUG + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        ):
            status, body, _ = await self.refusal(data)
            self.assertEqual((status, body["code"]), (400, "INVALID_ARGUMENT"), data)
        self.assertEqual(self.channel.calls, [])

    async def test_unreadable(self) -> None:
        """Paths, hosts and verbs that cannot be read are 400 or 404, never 5xx."""
        for data in (
            b"GET /%FF HTTP/1.1\r\nHost: localhost\r\n",
            b"GET / HTTP/1.1\r\nHost: a..b\r\n",
            b"GET / HTTP/1.1\r\nHost: \xff\r\n",
            b"GET / HTTP/1.1\r\nHost: [::1\r\n",
            b"G\xc3\xa9T / HTTP/1.1\r\nHost: localhost\r\n",
            b"GET * HTTP/1.1\r\nHost: localhost\r\n",
            b"GET http://localhost/v1/x HTTP/1.1\r\nHost: localhost\r\n",
        ):
            status, _, _ = await self.refusal(data + b"Connection: close\r\n\r\n")
            self.assertIn(status, (400, 404), data)

    async def test_raw_utf8(self) -> None:
        """A query that was not encoded is taken as UTF-8."""
        self.channel.answers[SERVICE + "ListKites"] = b""
        request = "GET /kites/v1/kites?colour=rosé HTTP/1.1\r\nHost: localhost\r\n\r\n"
        client = await self.raw(request.encode())
        await self.until(lambda: b"\r\n\r\n" in client.received)
        self.assertIn(b"200 OK", client.received)
        sent = self.message("ListKitesRequest").FromString(self.channel.calls[0].request)
        self.assertEqual(sent.colour, "rosé")

    async def test_options_star(self) -> None:
        """OPTIONS * tells what the server speaks at all."""
        client = await self.raw(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await client.closed
        self.assertIn(b"204 No Content", client.received)
        self.assertIn(b"Server: bookd\r\n", client.received)

    async def test_pipelined(self) -> None:
        """Requests that are sent at once are answered one after the other."""
        client = await self.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        await self.until(lambda: client.received.count(b"200 OK") == 3)


class IdleTests(ConnectionTestCase):
    """Clients that take their time."""

    bounds: ClassVar[dict[str, Any]] = {"idle_timeout": 0.3, "head_timeout": 0.5, "body_timeout": 0.5}

    async def test_idle(self) -> None:
        """A connection that sends nothing is closed without a word."""
        client = await self.raw()
        await client.closed
        self.assertEqual(client.received, b"")

    async def test_half_a_request(self) -> None:
        """A request that stops half-way is 408."""
        status, _, _ = await self.refusal(TUG + b"Content-Length: 2\r\n\r\n{")
        self.assertEqual(status, 408)

    async def test_trickling(self) -> None:
        """A request that trickles in is 408 as well: every byte in time is not enough."""
        client = await self.raw(TUG)
        while not client.closed.called:
            client.transport.write(b"X-A: b\r\n")
            await self.pause(0.05)
        self.assertEqual(problem(client.received)[0], 408)

    async def test_working_is_not_idle(self) -> None:
        """A call that takes longer than the idle timeout is waited for."""
        self.channel.answers[SERVICE + "TugKite"] = lambda call: self.pause(0.6, b"")
        self.assertEqual((await self.ask("POST", "/kites/v1/kites/7:tug", {})).status, 200)


class AccessLogTests(ConnectionTestCase):
    """One line a request."""

    async def test_lines(self) -> None:
        """Answered, refused and abandoned requests are all recorded, with route, status and request id."""
        noted: list[tuple[Any, ...]] = []
        self.site.access = lambda *request: noted.append(request)
        self.channel.answers[SERVICE + "GetKite"] = b""
        await self.ask("GET", "/kites/v1/kites/7", headers={"X-Request-Id": "r1"})
        await self.refusal(TUG + b"Content-Length: 10000000\r\n\r\n")
        self.channel.answers[SERVICE + "GetKite"] = Deferred()
        client: Raw = await self.raw(b"GET /kites/v1/kites/7 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: len(self.channel.calls) == 2)
        client.transport.abortConnection()
        await self.until(lambda: len(noted) == 3)
        self.assertEqual(
            [request[:3] for request in noted],
            [("GET", "/kites/v1/kites/{kite_id}", 200), ("POST", "", 413), ("GET", "/kites/v1/kites/{kite_id}", 499)],
        )
        self.assertEqual(noted[0][4:], ("r1", "", "127.0.0.1"))
