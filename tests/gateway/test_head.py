"""Heads that are read at once mean what they mean when they are read line by line; heads that are written stay in their lines."""

from typing import Any

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from klein import Response
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway import head
from bookd.gateway.connection import Connection
from bookd.gateway.cors import Cors
from bookd.gateway.head import Head
from bookd.gateway.site import Bounds, Site
from tests.gateway.test_hostile import SMUGGLING

GET = b"GET /a?b=%C3%A4 HTTP/1.1\r\nHost: h\r\n"
# What heads are made of: what is usual, and what is not allowed, or not here.
FIRSTS = (
    b"GET /a HTTP/1.1",
    b"HEAD /a?b HTTP/1.1",
    b"GET * HTTP/1.1",
    b"get /a HTTP/1.1",
    b"GET /a HTTP/1.0",
    b"GET /\xe4 HTTP/1.1",
)
NAMES = (
    b"Host",
    b"host",
    b"X-A",
    b"x-a",
    b"Connection",
    b"Expect",
    b"Content-Length",
    b"Cookie",
    b"X A",
    b"",
    b" X",
    b"X\xe4",
)
VALUES = (
    b"h",
    b"h:1",
    b" h ",
    b"\th\t",
    b"",
    b"a:b",
    b"\xe4",
    b"close",
    b"keep-alive",
    b"0",
    b"a\x00",
    b"a\rb",
    b"a\nb",
    b"\x0b",
)


@define
class Told:
    """A gateway that answers nothing and remembers what it was asked. Its own paths are none."""

    asked: list[Any] = field(factory=list)
    own: frozenset[bytes] = frozenset()
    app: Any = None

    def resource(self) -> Any:
        """What Twisted's site wants."""
        return None

    def serve(self, request: Any) -> Response:
        """Remember the request: all that the gateway ever asks one for."""
        raw = {name.lower(): list(values) for name, values in request.requestHeaders.getAllRawHeaders()}
        named = {name: request.every(name.decode("ascii")) for name in raw}
        self.asked.append((request.method, request.uri, request.path, request.clientproto, request.body(), raw, named))
        return Response(200, {"Content-Length": "2"}, b"{}")


class HeadTestCase(SynchronousTestCase):
    """A connection without a network."""

    def setUp(self) -> None:
        self.clock = Clock()

    def site(self, told: Told, **bounds: Any) -> Site:
        """A site in front of `told`."""
        told.app = told
        return Site(told, Bounds(**bounds), Cors(), new_id=lambda: "id", reactor=self.clock)

    def connect(self, told: Told, **bounds: Any) -> tuple[Connection, StringTransport]:
        """A connection to it."""
        connection: Any = self.site(told, **bounds).buildProtocol(IPv4Address("TCP", "192.0.2.1", 1))
        transport = StringTransport()
        connection.makeConnection(transport)
        return connection, transport

    def outcome(self, *pieces: bytes, **bounds: Any) -> tuple[list[Any], bytes, bool]:
        """What was asked, what was answered, and whether the connection is to close."""
        told = Told()
        connection, transport = self.connect(told, **bounds)
        for piece in pieces:
            if not transport.disconnecting:
                connection.dataReceived(piece)
        answered = b"\n".join(line for line in transport.value().splitlines() if not line.startswith(b"Date: "))
        return told.asked, answered, transport.disconnecting


class PlainTests(HeadTestCase):
    """What is taken, and what is not."""

    def test_taken(self) -> None:
        """A request of every day; its headers in small letters, without the white space around them."""
        found = head.plain(GET + b"X-A:  b:c\t\r\nx-a:\r\nX-B: \xe4\r\nConnection: Keep-Alive\r\n\r\n", 1000, 100)
        fields = {"host": ["h"], "x-a": ["b:c", ""], "x-b": ["\xe4"], "connection": ["Keep-Alive"]}
        self.assertEqual(found, Head(b"GET", b"/a?b=%C3%A4", fields))

    def test_bounds(self) -> None:
        """One byte or one header more than there may be is left to the long way."""
        data = GET + b"X-A: b\r\n\r\n"
        self.assertIsNotNone(head.plain(data, len(data), 2))
        self.assertIsNone(head.plain(data, len(data) - 1, 2))
        self.assertIsNone(head.plain(data, len(data), 1))

    def test_not_taken(self) -> None:
        """Bodies, what asks for more, other verbs and versions, several requests, pieces."""
        for data in (
            b"POST / HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: h\r\n\r\n",
            b"GET http://h/ HTTP/1.1\r\nHost: h\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\r\n" + GET + b"\r\n",
            GET,
            GET + b"\r\n" + GET + b"\r\n",
            GET + b"\r\n\r\n",
            GET + b"Content-Length: 0\r\n\r\n",
            GET + b"Transfer-Encoding: chunked\r\n\r\n",
            GET + b"Expect: 100-continue\r\n\r\n",
            GET + b"Connection: close\r\n\r\n",
            GET + b"Connection: keep-alive\r\nConnection: close\r\n\r\n",
            GET + b"Upgrade: h2c\r\n\r\n",
            GET + b"Cookie: a=b\r\n\r\n",
            GET + b"X" * 65 + b": long name\r\n\r\n",
        ):
            self.assertIsNone(head.plain(data, 1000, 100), data)

    def test_hostile(self) -> None:
        """Nothing that two readers could understand differently is taken."""
        for name, data in SMUGGLING.items():
            self.assertIsNone(head.plain(data, 100_000, 100), name)

    def test_names_are_bounded(self) -> None:
        """However many names clients make up, only so many are remembered."""
        for number in range(2000):
            self.assertIsNotNone(head.plain(GET + b"X-%d: a\r\n\r\n" % number, 1000, 100))
        self.assertLessEqual(head._remembered.cache_info().currsize, 1024)


class SameTests(HeadTestCase):
    """The same bytes, in one piece and in two, which always go the long way."""

    @given(
        st.sampled_from(FIRSTS),
        st.lists(
            st.tuples(st.sampled_from(NAMES), st.sampled_from((b":", b": ", b" :", b"")), st.sampled_from(VALUES)),
            max_size=5,
        ),
        st.floats(0, 1),
    )
    def test_same(self, first: bytes, headers: list[tuple[bytes, bytes, bytes]], where: float) -> None:
        """It is taken or refused alike, it says the same to the gateway, and the same is answered."""
        lines = b"".join(name + between + value + b"\r\n" for name, between, value in headers)
        for data in (first + b"\r\nHost: h\r\n" + lines + b"\r\n", first + b"\r\n" + lines + b"\r\n"):
            cut = min(max(int(len(data) * where), 1), len(data) - 1)
            self.assertEqual(self.outcome(data), self.outcome(data[:cut], data[cut:]))

    def test_limits(self) -> None:
        """Limits hold alike at their edges."""
        for bounds in ({"max_url": 20}, {"max_headers": 20}, {"max_header_count": 2}):
            for size in range(1, 60):
                for data in (
                    b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: h\r\n\r\n",
                    GET + b"X-A: " + b"a" * size + b"\r\n\r\n",
                    GET + b"A: b\r\n" * (size // 10) + b"\r\n",
                ):
                    self.assertEqual(self.outcome(data, **bounds), self.outcome(data[:9], data[9:], **bounds))

    def test_one_after_another(self) -> None:
        """Plain requests and others take turns on a connection, and each is answered."""
        others = GET + b"Content-Length: 2\r\n\r\n{}"
        asked, answered, _ = self.outcome(
            GET + b"\r\n", others, GET + b"\r\n", GET + b"\r\n" + others, b"\r\n", GET + b"\r\n"
        )
        self.assertEqual(len(asked), 6)
        self.assertEqual(answered.count(b"HTTP/1.1 200 OK"), 6)

    def test_closing(self) -> None:
        """What comes after the connection began to close is not taken, however plain."""
        told = Told()
        connection, transport = self.connect(told)
        connection.finish_up()
        connection.dataReceived(GET + b"\r\n")
        self.assertEqual((told.asked, transport.disconnecting), ([], True))


class IdleTests(HeadTestCase):
    """The one timer of a connection that idles."""

    def test_idle(self) -> None:
        """It counts from the last byte, and from the end of an answer; it is one timer, and ends with the connection."""
        told = Told()
        connection, transport = self.connect(told, idle_timeout=30.0)
        for data in (GET + b"\r\n", b"GET", b" / HTTP/1.1\r\nHost: h\r\n\r\n", GET + b"\r\n"):
            self.clock.advance(5)
            connection.dataReceived(data)
            self.assertFalse(transport.disconnecting)
        self.assertEqual(len(told.asked), 3)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for _ in range(59):
            self.clock.advance(0.5)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(0.5)
        self.assertTrue(transport.disconnecting)
        connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_shorter(self) -> None:
        """A shorter time than the one that runs is kept to; none is none."""
        connection, transport = self.connect(Told(), idle_timeout=30.0)
        self.assertEqual(connection.setTimeout(2.0), 30.0)
        self.clock.advance(1.9)
        self.assertEqual(connection.setTimeout(None), 2.0)
        self.clock.advance(100)
        self.assertFalse(transport.disconnecting)
        connection.setTimeout(1.0)
        self.clock.advance(1)
        self.assertTrue(transport.disconnecting)
        connection.connectionLost(Failure(ConnectionDone()))


class WrittenTests(SynchronousTestCase):
    """Heads of responses."""

    def test_lines(self) -> None:
        """The status and the headers, each in its line, up to the last one's end."""
        made = head.written(b"HTTP/1.1", 200, {"A": "b", "C": "ä"})
        self.assertEqual(made, "HTTP/1.1 200 OK\r\nA: b\r\nC: ä".encode())
        self.assertEqual(head.written(b"HTTP/1.0", 499, {}), b"HTTP/1.0 499 Unknown Status")

    def test_values_that_break_out(self) -> None:
        """A value with the end of a line is left to Twisted, which makes a space of it."""
        for value in ("a\r\nX: y", "a\nX: y", "a\rb"):
            self.assertIsNone(head.written(b"HTTP/1.1", 200, {"A": value}))
