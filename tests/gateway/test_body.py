"""Requests with a body whose head is read at once: they mean what they mean when they are read line by line."""

from itertools import pairwise
from typing import Any, ClassVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from bookd.gateway import head
from bookd.gateway.head import Head
from tests.gateway.kites import SERVICE
from tests.gateway.serving import GatewayTestCase
from tests.gateway.test_connection import TUG
from tests.gateway.test_head import HeadTestCase, Told
from tests.gateway.test_hostile import SMUGGLING

POST = b"POST /a HTTP/1.1\r\nHost: h\r\n"
WHOLE = POST + b"Content-Length: 2\r\n\r\n{}"
FIRSTS = (
    b"POST /a HTTP/1.1",
    b"PUT /a?b HTTP/1.1",
    b"PATCH /a HTTP/1.1",
    b"DELETE /a HTTP/1.1",
    b"GET /a HTTP/1.1",
    b"POST /a HTTP/1.0",
    b"post /a HTTP/1.1",
)
LENGTHS = (b"0", b"1", b"2", b"5", b"02", b"+2", b"2, 2", b"", b"-1", b"2 ", b"0x2", b"99", b"9" * 19, b"\xb2")
OTHERS = (
    b"",
    b"X-A: b\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Content-Length: 2\r\n",
    b"Transfer-Encoding: chunked\r\n",
)
BODIES = (b"", b"{", b"{}", b"\r\n\r\n", b"{}\r\n\r\n", b"{}" + WHOLE, b"{}GET / HTTP/1.1\r\nHost: h\r\n\r\n")


class PlainTests(HeadTestCase):
    """What is taken, and what is not."""

    def test_taken(self) -> None:
        """A body whose length is said, whatever is in it; how much of it is missing is told."""
        for verb in (b"POST", b"PUT", b"PATCH", b"DELETE"):
            for body in (b"", b"{", b"\r\n\r\n\x00"):
                data = verb + b" /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n" + body
                found = head.plain(data, 1000, 100, 5)
                fields = {"host": ["h"], "content-length": ["5"]}
                self.assertEqual(found, Head(verb, b"/a", fields, body, 5 - len(body)))
                self.assertEqual(found is not None and found.length, 5)
        self.assertEqual(
            head.plain(POST + b"Content-Length: 0\r\n\r\n", 1000, 100, 5),
            Head(b"POST", b"/a", {"host": ["h"], "content-length": ["0"]}),
        )

    def test_bounds(self) -> None:
        """The body does not count with the head; one byte or one header more than there may be is left to the long way."""
        end = len(WHOLE) - 2
        self.assertIsNotNone(head.plain(WHOLE, end, 2, 2))
        self.assertIsNone(head.plain(WHOLE, end - 1, 2, 2))
        self.assertIsNone(head.plain(WHOLE, end, 1, 2))
        self.assertIsNone(head.plain(WHOLE, end, 2, 1))
        self.assertIsNone(head.plain(WHOLE, end, 2))

    def test_not_taken(self) -> None:
        """Lengths that need thought, or none; more than the body; what asks for more."""
        for data in (
            POST + b"\r\n",
            POST + b"Content-Length: 02\r\n\r\n{}",
            POST + b"Content-Length: 1\r\n\r\n{}",
            POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
            POST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n{}",
            POST + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}",
            POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            WHOLE.replace(b"POST", b"GET"),
            WHOLE.replace(b"POST", b"BREW"),
            WHOLE.replace(b"1.1", b"1.0"),
            WHOLE + WHOLE,
            WHOLE + b"\r\n",
        ):
            self.assertIsNone(head.plain(data, 1000, 100, 1000), data)

    def test_hostile(self) -> None:
        """Nothing that two readers could understand differently is taken, when bodies are."""
        for name, data in SMUGGLING.items():
            self.assertIsNone(head.plain(data, 100_000, 100, 100_000), name)


class SameTests(HeadTestCase):
    """The same bytes, in any pieces, and cut in the middle of the verb, so that they go the long way."""

    @given(
        st.sampled_from(FIRSTS),
        st.sampled_from(LENGTHS),
        st.sampled_from(OTHERS),
        st.sampled_from(BODIES),
        st.lists(st.integers(0, 400), max_size=4),
    )
    def test_same(self, first: bytes, length: bytes, other: bytes, body: bytes, cuts: list[int]) -> None:
        """It is taken or refused alike, it says the same to the gateway, and the same is answered."""
        data = first + b"\r\nHost: h\r\nContent-Length: " + length + b"\r\n" + other + b"\r\n" + body
        places = [0, *sorted(cuts), len(data)]
        pieces = [data[a:b] for a, b in pairwise(places) if data[a:b]]
        self.assertEqual(self.outcome(*pieces), self.outcome(data[:3], data[3:]))

    def test_every_cut(self) -> None:
        """Two requests one after the other, cut anywhere."""
        data = WHOLE + POST + b"Content-Length: 20\r\n\r\n\r\n\r\n" + WHOLE[:16]
        expected = self.outcome(data[:3], data[3:])
        self.assertEqual([asked[4] for asked in expected[0]], [b"{}", b"\r\n\r\n" + WHOLE[:16]])
        for cut in range(1, len(data)):
            self.assertEqual(self.outcome(data[:cut], data[cut:]), expected)
        self.assertEqual(self.outcome(*(data[at : at + 1] for at in range(len(data)))), expected)

    def test_limits(self) -> None:
        """Limits hold alike at their edges."""
        for bounds in ({"max_url": 60}, {"max_headers": 60}, {"max_header_count": 3}, {"max_body": 30}):
            for size in range(60):
                for data in (
                    POST + b"Content-Length: %d\r\n\r\n" % size + b"b" * size,
                    POST + b"Content-Length: %d\r\n\r\n" % size,
                    POST + b"Content-Length: 2\r\nX-A: " + b"a" * size + b"\r\n\r\n{}",
                    POST + b"Content-Length: 2\r\n" + b"A: b\r\n" * (size // 10) + b"\r\n{}",
                ):
                    self.assertEqual(self.outcome(data, **bounds), self.outcome(data[:3], data[3:], **bounds))

    def test_huge(self) -> None:
        """A large body comes in many pieces, and is the same in the end."""
        body = bytes(range(256)) * 1024
        data = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
        asked, answered, _ = self.outcome(*(data[at : at + 10_000] for at in range(0, len(data), 10_000)))
        self.assertEqual([each[4] for each in asked], [body])
        self.assertTrue(answered.startswith(b"HTTP/1.1 200 OK"))

    def test_pipelined(self) -> None:
        """Requests that are sent at once are answered one after the other, whatever of the last one is there."""
        for data in (WHOLE * 3, WHOLE * 2 + POST, WHOLE * 2 + WHOLE[:-1]):
            asked, answered, _ = self.outcome(data)
            self.assertEqual(len(asked), answered.count(b"200 OK"))
            self.assertEqual(len(asked), data.count(b"{}"))


class PiecesTests(HeadTestCase):
    """Bodies of which something is missing."""

    def partial(self, **bounds: Any) -> tuple[Told, Any, Any]:
        """A connection on which half a body has come."""
        told = Told()
        connection, transport = self.connect(told, **bounds)
        connection.dataReceived(WHOLE[:-1])
        return told, connection, transport

    def test_slow(self) -> None:
        """It has its time, counted from the head; then it is 408, and what comes later is dropped."""
        told, connection, transport = self.partial(body_timeout=5.0, idle_timeout=60.0)
        self.clock.advance(4.9)
        self.assertEqual(transport.value(), b"")
        self.clock.advance(0.1)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 408 "))
        connection.dataReceived(b"}")
        self.assertEqual(told.asked, [])

    def test_trickling(self) -> None:
        """A byte now and then does not make the time longer."""
        told = Told()
        connection, transport = self.connect(told, body_timeout=5.0, idle_timeout=60.0)
        connection.dataReceived(POST + b"Content-Length: 100\r\n\r\n")
        for _ in range(5):
            connection.dataReceived(b" ")
            self.clock.advance(1)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 408 "))
        self.assertEqual(told.asked, [])

    def test_idle(self) -> None:
        """Nothing more comes: 408 after the idle time, if that is the shorter one."""
        _, _, transport = self.partial(body_timeout=60.0, idle_timeout=5.0)
        self.clock.advance(5.0)
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 408 "))

    def test_in_time(self) -> None:
        """Once it is whole, nothing of its time is left, and the next request has all of its own."""
        told, connection, transport = self.partial(body_timeout=5.0, idle_timeout=60.0)
        self.clock.advance(4)
        connection.dataReceived(b"}" + WHOLE[:-1])
        self.clock.advance(4)
        self.assertEqual((len(told.asked), transport.value().count(b"HTTP/1.1")), (1, 1))
        connection.dataReceived(b"}")
        self.clock.advance(4)
        self.assertEqual((len(told.asked), transport.value().count(b"200 OK")), (2, 2))

    def test_leaving(self) -> None:
        """A client that hangs up in the middle has asked for nothing, and leaves nothing behind."""
        told, connection, _ = self.partial()
        connection.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((told.asked, self.clock.getDelayedCalls()), ([], []))

    def test_closing(self) -> None:
        """A request whose body is under way when the gateway ends is answered, and then the connection closes."""
        told, connection, transport = self.partial()
        connection.finish_up()
        self.assertFalse(transport.disconnecting)
        connection.dataReceived(b"}")
        self.assertIn(b"\r\nConnection: close\r\n", transport.value())
        self.assertTrue(transport.disconnecting)
        self.assertEqual(len(told.asked), 1)


class ServedTests(GatewayTestCase):
    """The same through a whole gateway."""

    bounds: ClassVar[dict[str, Any]] = {"body_timeout": 0.3}

    async def test_pieces(self) -> None:
        """Head and body in segments of their own, as most clients send them, and the next request after them."""
        self.channel.answers[SERVICE + "TugKite"] = b""
        client = await self.raw()
        for number in range(1, 3):
            client.transport.write(TUG + b"Content-Length: 12\r\n\r\n")
            await self.pause(0.05)
            client.transport.write(b'{"force":')
            await self.pause(0.05)
            client.transport.write(b"%d }" % number)
            await self.until(lambda wanted=number: client.received.count(b"200 OK") == wanted)
        sent = [self.message("TugKiteRequest").FromString(call.request).force for call in self.channel.calls]
        self.assertEqual(sent, [1, 2])

    async def test_too_large(self) -> None:
        """One byte more than there may be is refused before it comes."""
        client = await self.raw(TUG + b"Content-Length: 100001\r\n\r\n")
        await client.closed
        self.assertTrue(client.received.startswith(b"HTTP/1.1 413 "))

    async def test_another_kind(self) -> None:
        """Bodies of other types, and what is no JSON, are refused as ever, and the connection goes on."""
        client = await self.raw(TUG + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}")
        await self.until(lambda: b"415 " in client.received)
        client.transport.write(TUG + b"Content-Length: 1\r\n\r\n{")
        await self.until(lambda: b"400 " in client.received)
        self.assertIn(b"NOT_JSON", client.received)
        self.assertEqual(self.channel.calls, [])

    async def test_slow(self) -> None:
        """A body that does not come is 408."""
        client = await self.raw(TUG + b"Content-Length: 2\r\n\r\n")
        await client.closed
        self.assertTrue(client.received.startswith(b"HTTP/1.1 408 "))

    async def test_leaving(self) -> None:
        """A write whose client hangs up goes on to its end."""
        answer: Deferred[bytes] = Deferred(lambda _: self.fail("the write was given up"))
        self.channel.answers[SERVICE + "TugKite"] = answer
        client = await self.raw(TUG + b"Content-Length: 2\r\n\r\n{}")
        await self.until(lambda: self.channel.calls)
        client.transport.abortConnection()
        await client.closed
        await self.until(lambda: not self.site.connections)
        answer.callback(b"")
        self.assertEqual(self.channel.cancelled, [])
