"""Server-streaming rpcs over HTTP."""

import json
from collections.abc import AsyncIterator
from time import time
from typing import Any

from twisted.internet.defer import Deferred

from bookd.errors import Cancelled, NotFound
from bookd.gateway import streams, tokens
from tests.gateway.kites import SERVICE
from tests.gateway.serving import Call, GatewayTestCase, bearer

WATCH = SERVICE + "WatchWind"
PATH = "/kites/v1/wind"


class StreamTests(GatewayTestCase):
    """What a streaming rpc looks like over HTTP."""

    def blow(self, knots: int, failure: Exception | None = None) -> None:
        """Let the rpc yield so many gusts, and fail then if it shall."""

        async def gusts(call: Call) -> AsyncIterator[Any]:
            for number in range(knots):
                yield self.message("Gust", knots=number)
            if failure is not None:
                raise failure

        self.channel.answers[WATCH] = gusts

    async def test_ndjson(self) -> None:
        """One JSON text a line."""
        self.blow(3)
        answer = await self.ask("GET", PATH + "?count=3")
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "application/x-ndjson"))
        self.assertEqual([json.loads(line)["knots"] for line in answer.body.splitlines()], [0, 1, 2])
        self.assertEqual(self.message("WatchWindRequest").FromString(self.channel.calls[0].request).count, 3)

    async def test_events(self) -> None:
        """Server-sent events when the client asks for them."""
        self.blow(2)
        answer = await self.ask("GET", PATH, headers={"Accept": "text/event-stream"})
        self.assertEqual(answer.header("Content-Type"), "text/event-stream")
        events = answer.body.decode().split("\n\n")
        self.assertEqual([json.loads(event.removeprefix("data: "))["knots"] for event in events[:-1]], [0, 1])

    async def test_resuming(self) -> None:
        """Events have the id that the policy names; Last-Event-ID goes into the field for it, before the query."""

        async def gusts(call: Call) -> AsyncIterator[Any]:
            for note in ("7", "", "a\nb", "8"):
                yield self.message("Gust", note=note)

        self.channel.answers[WATCH] = gusts
        sent = {"Accept": "text/event-stream", "Last-Event-ID": "6"}
        events = (await self.ask("GET", PATH + "?after=3", headers=sent)).body.decode().split("\n\n")
        self.assertEqual([event.partition("data: ")[0] for event in events[:-1]], ["id: 7\n", "", "", "id: 8\n"])
        self.assertEqual(self.message("WatchWindRequest").FromString(self.channel.calls[0].request).after, "6")
        await self.ask("GET", PATH + "?after=3")
        self.assertEqual(self.message("WatchWindRequest").FromString(self.channel.calls[1].request).after, "3")

    async def test_heartbeat(self) -> None:
        """A silent stream of events sends comments."""
        self.patch(streams, "HEARTBEAT", 0.01)
        silence: Deferred[None] = Deferred()

        async def gusts(call: Call) -> AsyncIterator[Any]:
            await silence
            yield self.message("Gust", note="at last")

        self.channel.answers[WATCH] = gusts
        client = await self.raw(b"GET /kites/v1/wind HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        await self.until(lambda: client.received.count(b":\n\n") >= 2)
        silence.callback(None)
        await self.until(lambda: client.received.endswith(b"0\r\n\r\n"))
        self.assertIn(b"id: at last\n", client.received)

    async def test_draining(self) -> None:
        """A stream that would never end is ended when the daemon stops; its client sees a complete response."""
        self.channel.answers[WATCH] = self.endless
        client = await self.raw(b"GET /kites/v1/wind HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: b"knots" in client.received)
        self.streams.stopService()
        await self.until(lambda: client.received.endswith(b"0\r\n\r\n"))
        self.assertIn(WATCH, self.channel.cancelled)
        self.assertNotIn(b"error", client.received)

    async def endless(self, call: Call) -> AsyncIterator[Any]:
        """One gust, and then a calm that ends when the call is cancelled."""
        yield self.message("Gust")
        calm: Deferred[None] = Deferred()
        self.channel.on_cancel = lambda: calm.errback(Cancelled("the call was cancelled"))
        await calm

    async def test_head(self) -> None:
        """HEAD tells the type without a call."""
        answer = await self.ask("HEAD", PATH)
        self.assertEqual((answer.status, answer.header("Content-Type")), (200, "application/x-ndjson"))
        self.assertEqual(self.channel.calls, [])

    async def test_nothing(self) -> None:
        """A stream that yields nothing is an empty success."""
        self.blow(0)
        answer = await self.ask("GET", PATH)
        self.assertEqual((answer.status, answer.body), (200, b""))

    async def test_head_of_a_silent_stream(self) -> None:
        """A client hears soon that its stream stands, though nothing has come yet."""
        first: Deferred[None] = Deferred()

        async def gusts(call: Call) -> AsyncIterator[Any]:
            await first
            yield self.message("Gust")

        self.channel.answers[WATCH] = gusts
        client = await self.raw(b"GET /kites/v1/wind HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: b"\r\n\r\n" in client.received)
        self.assertIn(b"200 OK", client.received)
        first.callback(None)
        await self.until(lambda: client.received.endswith(b"0\r\n\r\n"))

    async def test_failure_before_the_first(self) -> None:
        """A failure before the first message is a plain problem."""
        self.blow(0, NotFound("no wind"))
        self.assert_problem(await self.ask("GET", PATH), 404, "NOT_FOUND")

    async def test_failure_in_the_middle(self) -> None:
        """A failure after it is the last line, or an event named error; what broke inside is not told."""
        self.blow(1, RuntimeError("secret"))
        answer = await self.ask("GET", PATH)
        last = json.loads(answer.body.splitlines()[-1])["error"]
        self.assertEqual((last["status"], last["code"], len(answer.body.splitlines())), (500, "INTERNAL", 2))
        self.assertNotIn(b"secret", answer.body)
        events = (await self.ask("GET", PATH, headers={"Accept": "text/event-stream"})).body.decode().split("\n\n")
        self.assertTrue(events[1].startswith("event: error\ndata: {"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    async def test_deadline(self) -> None:
        """A stream lasts as long as its client, unless the client names a deadline."""
        self.blow(0)
        await self.ask("GET", PATH)
        await self.ask("GET", PATH, headers={"Request-Timeout": "300"})
        self.assertEqual([call.timeout for call in self.channel.calls], [None, 300.0])

    async def test_expired(self) -> None:
        """A stream ends soon after the token of its client: with a last line or event that says so, and the call ends."""
        self.patch(streams, "RECHECK", 0.05)
        self.patch(tokens, "LEEWAY", 0.0)
        for kind in (streams.NDJSON, streams.EVENTS):
            self.channel.cancelled.clear()
            self.channel.answers[WATCH] = self.endless
            sent = {"Accept": kind, **bearer("ada", exp=int(time()) + 1)}
            answer = await self.ask("GET", PATH, headers=sent)
            self.assertEqual((answer.status, answer.header("Vary")), (200, "Accept"))
            last = answer.body.strip().splitlines()[-1].decode().removeprefix("data: ")
            told = json.loads(last)
            problem = told if kind == streams.EVENTS else told["error"]
            self.assertEqual((problem["status"], problem["type"]), (401, "urn:bookd:problem:TOKEN_EXPIRED"))
            self.assertEqual(self.channel.cancelled, [WATCH])

    async def test_expired_before_the_first(self) -> None:
        """While nothing was sent it is a plain problem."""
        self.patch(streams, "RECHECK", 0.05)
        self.patch(streams, "_HEAD_AFTER", 10.0)

        async def gusts(call: Call) -> AsyncIterator[Any]:
            calm: Deferred[None] = Deferred()
            self.channel.on_cancel = lambda: calm.errback(Cancelled("the call was cancelled"))
            await calm
            yield self.message("Gust")

        self.channel.answers[WATCH] = gusts
        self.patch(self.tokens, "_revoked", lambda subject, session, issued: len(self.channel.calls) > 0)
        answer = await self.ask("GET", PATH, headers=bearer("ada"))
        self.assert_problem(answer, 401, "UNAUTHENTICATED")

    async def test_expired_in_front_of_a_closed_valve(self) -> None:
        """A client that does not read is not waited for."""
        self.patch(streams, "RECHECK", 0.05)

        async def gusts(call: Call) -> AsyncIterator[Any]:
            while True:
                yield self.message("Gust", note="x" * 100_000)

        self.channel.answers[WATCH] = gusts
        full: list[bool] = []
        self.patch(self.tokens, "_revoked", lambda subject, session, issued: bool(full))
        client = await self.raw()
        authorization = bearer("ada")["Authorization"].encode()
        request = b"GET /kites/v1/wind HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + authorization + b"\r\n\r\n"
        client.transport.write(request)
        await self.until(lambda: client.received)
        client.transport.pauseProducing()
        await self.pause(0.2)
        full.append(True)
        await self.until(lambda: WATCH in self.channel.cancelled)
        client.transport.resumeProducing()
        await self.until(lambda: b"TOKEN_REVOKED" in client.received)

    async def test_without_a_token(self) -> None:
        """Who needs no token has no end."""
        self.patch(streams, "RECHECK", 0.02)
        self.channel.answers[WATCH] = self.endless
        client = await self.raw(b"GET /kites/v1/wind HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: b"knots" in client.received)
        await self.pause(0.1)
        self.assertEqual(self.channel.cancelled, [])

    async def test_too_many(self) -> None:
        """One user has so many streams at most, and another one is not concerned; a stream that has ended makes room."""
        self.streams._most = 2

        async def breeze(call: Call) -> AsyncIterator[Any]:
            while True:
                yield self.message("Gust", knots=1)
                await self.pause(0.02)

        self.channel.answers[WATCH] = breeze

        async def watch(sent: dict[str, str]) -> Any:
            lines = ["GET /kites/v1/wind HTTP/1.1", "Host: localhost", *(f"{name}: {sent[name]}" for name in sent)]
            client = await self.raw("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
            await self.until(lambda: b"knots" in client.received)
            return client

        first, _ = [await watch(bearer("ada")) for _ in range(2)]
        refused = await self.ask("GET", PATH, headers=bearer("ada"))
        told = self.assert_problem(refused, 429, "RESOURCE_EXHAUSTED")
        self.assertEqual((told["type"], refused.header("Retry-After")), ("urn:bookd:problem:TOO_MANY_STREAMS", "1"))
        await watch(bearer("bob"))
        await watch({})
        first.transport.abortConnection()
        await self.until(lambda: len(self.streams._open) == 3)
        await watch(bearer("ada"))

    async def test_hang_up(self) -> None:
        """The call ends when the client leaves."""

        async def gusts(call: Call) -> AsyncIterator[Any]:
            yield self.message("Gust")
            await Deferred()

        self.channel.answers[WATCH] = gusts
        client = await self.raw(b"GET /kites/v1/wind HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: b"knots" in client.received)
        client.transport.abortConnection()
        await self.until(lambda: WATCH in self.channel.cancelled)

    async def test_back_pressure(self) -> None:
        """While the client does not read, nothing more is taken from the call."""
        taken = 0

        async def gusts(call: Call) -> AsyncIterator[Any]:
            nonlocal taken
            for taken in range(1, 301):  # noqa: B007 - counted for the test
                yield self.message("Gust", note="x" * 100_000)

        self.channel.answers[WATCH] = gusts
        client = await self.raw()
        client.transport.write(b"GET /kites/v1/wind HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: client.received)
        client.transport.pauseProducing()
        before = -1
        while before != taken:
            before = taken
            await self.pause(0.2)
        self.assertLess(taken, 250)
        client.transport.resumeProducing()
        await self.until(lambda: client.received.endswith(b"0\r\n\r\n"))
        self.assertEqual(taken, 300)
