"""The bridge against a plain grpc.aio peer on the other end, and against itself: all four shapes, both ways."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.crossing import from_asyncio
from bookd.bridge.methods import RawMethod
from bookd.bridge.server import ListenError, Server
from bookd.errors import DeadlineExceeded, Internal, NotFound, Unavailable, Unimplemented
from bookd.testing.ports import free_port

PATHS = {
    "/test.Echo/Unary": (False, False),
    "/test.Echo/Split": (False, True),
    "/test.Echo/Join": (True, False),
    "/test.Echo/Each": (True, True),
}


async def several(*messages: bytes) -> AsyncIterator[bytes]:
    """The messages, with a turn of the reactor before each, as a Twisted client would send them."""
    for message in messages:
        await deferLater(reactor, 0)
        yield message


async def collected(responses: AsyncIterator[bytes]) -> list[bytes]:
    """All responses of a stream."""
    return [response async for response in responses]


class Echo:
    """The four shapes as servicer methods of our colour, and what became of the calls."""

    def __init__(self) -> None:
        self.cancelled: Deferred[str] = Deferred()
        self.began: Deferred[None] = Deferred()
        self.contexts: list[tuple[Context, float | None]] = []

    def lookup(self, path: str) -> RawMethod | None:
        """The raw methods that a server serves for this."""
        behaviours = {"Unary": self.unary, "Split": self.split, "Join": self.join, "Each": self.each}
        if path not in PATHS:
            return None
        return RawMethod(*PATHS[path], behaviours[path.rpartition("/")[2]])

    async def unary(self, request: bytes, context: Context) -> bytes:
        """Answer the request, or do what it says."""
        self.contexts.append((context, context.time_remaining()))
        match request:
            case b"fail":
                raise NotFound("no such thing", reason="GONE", info={"thing": "17"})
            case b"break":
                raise ZeroDivisionError("a secret of the implementation")
            case b"hang":
                self.began.callback(None)
                try:
                    await Deferred()
                except CancelledError:
                    self.cancelled.callback("cancelled")
                    raise
        await deferLater(reactor, 0)
        return b"<" + request + b">"

    async def split(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Answer each byte; after "!" wait for ever."""
        try:
            for byte in request:
                await deferLater(reactor, 0)
                if byte == ord("!"):
                    self.began.callback(None)
                    await Deferred()
                if byte == ord("?"):
                    raise NotFound("half-way")
                yield bytes([byte])
        finally:
            if not self.cancelled.called:
                self.cancelled.callback("closed")

    def join(self, requests: AsyncIterator[bytes], context: Context) -> Deferred[bytes]:
        """Answer all requests in one, as a plain method that returns a Deferred."""

        async def joined() -> bytes:
            return b"+".join([request async for request in requests])

        return Deferred.fromCoroutine(joined())

    async def each(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer each request before the next is read."""
        async for request in requests:
            yield b"<" + request + b">"


class ServerTests(TestCase):
    """Our server, called by a plain grpc.aio client."""

    async def setUp(self) -> None:
        self.echo = Echo()
        self.server = Server("127.0.0.1", 0, grace=0.2)
        self.server.add_generic(self.echo.lookup, ["test.Echo"])
        self.server.startService()
        await self.server.started
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.addCleanup(self.stop)

    async def stop(self) -> None:
        await from_asyncio(self.channel.close())
        if self.server.running:
            await self.server.stopService()

    def plain(self, work: Any) -> Deferred[Any]:
        """Run what a plain client does, in asyncio's colour."""
        return from_asyncio(work)

    async def test_unary(self) -> None:
        """A unary call gets its answer."""

        async def client() -> bytes:
            return await self.channel.unary_unary("/test.Echo/Unary")(b"a")

        self.assertEqual(await self.plain(client()), b"<a>")

    async def test_server_stream(self) -> None:
        """A server stream arrives whole and in order."""

        async def client() -> list[bytes]:
            return [m async for m in self.channel.unary_stream("/test.Echo/Split")(b"abc")]

        self.assertEqual(await self.plain(client()), [b"a", b"b", b"c"])

    async def test_client_stream(self) -> None:
        """A client stream is read to its end."""

        async def client() -> bytes:
            async def requests() -> AsyncIterator[bytes]:
                for message in (b"x", b"y"):
                    yield message

            return await self.channel.stream_unary("/test.Echo/Join")(requests())

        self.assertEqual(await self.plain(client()), b"x+y")

    async def test_both_streams_take_turns(self) -> None:
        """Each response of a bidirectional stream comes before the next request is written."""

        async def client() -> list[bytes]:
            call = self.channel.stream_stream("/test.Echo/Each")()
            heard = []
            for message in (b"1", b"2"):
                await call.write(message)
                heard.append(await call.read())
            await call.done_writing()
            heard.append(await call.read())
            return heard

        self.assertEqual(await self.plain(client()), [b"<1>", b"<2>", grpc.aio.EOF])

    async def test_metadata_and_deadline_reach_the_servicer(self) -> None:
        """The servicer sees the first value of each key and how much time is left."""

        async def client() -> bytes:
            metadata = (("bookd-request-id", "r-1"), ("bookd-request-id", "r-2"))
            return await self.channel.unary_unary("/test.Echo/Unary")(b"a", timeout=30, metadata=metadata)

        await self.plain(client())
        ((context, remaining),) = self.echo.contexts
        self.assertEqual(context.request_id, "r-1")
        self.assertTrue(remaining is not None and 25 < remaining < 31)

    async def test_error_becomes_rich_status(self) -> None:
        """An error of ours arrives with its code, message and details."""

        async def client() -> grpc.aio.AioRpcError:
            try:
                await self.channel.unary_unary("/test.Echo/Unary")(b"fail")
            except grpc.aio.AioRpcError as error:
                return error
            raise AssertionError("no error")

        error = await self.plain(client())
        self.assertEqual((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, "no such thing"))
        self.assertIn("grpc-status-details-bin", dict(error.trailing_metadata()))

    async def test_foreign_exception_is_internal(self) -> None:
        """An exception that is none of ours is logged, and tells the client an id only."""

        async def client() -> grpc.aio.AioRpcError:
            try:
                await self.channel.unary_unary("/test.Echo/Unary")(b"break")
            except grpc.aio.AioRpcError as error:
                return error
            raise AssertionError("no error")

        error = await self.plain(client())
        self.assertEqual(error.code(), grpc.StatusCode.INTERNAL)
        self.assertNotIn("secret", error.details())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_client_cancels(self) -> None:
        """A call that its client cancels is cancelled at the Deferred that the servicer awaits."""

        async def client() -> Any:
            return self.channel.unary_unary("/test.Echo/Unary")(b"hang")

        call = await self.plain(client())
        await self.echo.began
        call.cancel()
        self.assertEqual(await self.echo.cancelled, "cancelled")

    async def test_deadline_cancels(self) -> None:
        """A call whose deadline passes is cancelled likewise."""

        async def client() -> None:
            with self.assertRaises(grpc.aio.AioRpcError) as caught:
                await self.channel.unary_unary("/test.Echo/Unary")(b"hang", timeout=0.1)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

        await self.plain(client())
        self.assertEqual(await self.echo.cancelled, "cancelled")

    async def test_stream_closed_when_client_leaves(self) -> None:
        """A server stream whose client leaves is closed, so that its `finally` runs."""

        async def client() -> Any:
            call = self.channel.unary_stream("/test.Echo/Split")(b"a!")
            await call.read()
            return call

        call = await self.plain(client())
        await self.echo.began
        call.cancel()
        self.assertEqual(await self.echo.cancelled, "closed")

    async def test_health_and_draining(self) -> None:
        """Health says SERVING, for the whole and for the service, and a stopping server lets a call end within the grace."""

        async def check() -> list[bytes]:
            ask = self.channel.unary_unary("/grpc.health.v1.Health/Check")
            return [await ask(b""), await ask(b"\n\x09test.Echo")]

        self.assertEqual(await self.plain(check()), [b"\x08\x01", b"\x08\x01"])

    async def test_unknown_method(self) -> None:
        """A method that nobody serves is UNIMPLEMENTED."""

        async def client() -> None:
            with self.assertRaises(grpc.aio.AioRpcError) as caught:
                await self.channel.unary_unary("/test.Echo/Nothing")(b"")
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

        await self.plain(client())

    async def test_busy_port(self) -> None:
        """A second server on the port refuses to start and names the address."""
        second = Server("127.0.0.1", self.server.port)
        error = self.assertRaises(ListenError, second.startService)
        self.assertIn(f"127.0.0.1:{self.server.port}", str(error))


class ChannelTests(TestCase):
    """Our channel, calling a plain grpc.aio server."""

    async def setUp(self) -> None:
        self.began, self.cancelled = asyncio.Event(), asyncio.Event()
        self.server = await from_asyncio(self.serve())
        self.channel = Channel([f"127.0.0.1:{self.port}"])
        self.channel.startService()
        self.addCleanup(self.stop)

    async def serve(self) -> grpc.aio.Server:
        tests = self

        class Plain(grpc.GenericRpcHandler):
            def service(self, details: Any) -> Any:
                return {
                    "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(tests.unary),
                    "/test.Echo/Split": grpc.unary_stream_rpc_method_handler(tests.split),
                    "/test.Echo/Join": grpc.stream_unary_rpc_method_handler(tests.join),
                    "/test.Echo/Each": grpc.stream_stream_rpc_method_handler(tests.each),
                }.get(details.method)

        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Plain(),))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server

    async def stop(self) -> None:
        await self.channel.stopService()
        await from_asyncio(self.server.stop(0))

    async def unary(self, request: bytes, context: Any) -> bytes:
        if request == b"fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        if request == b"hang":
            self.began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return b"<" + request + b">"

    async def split(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for byte in request:
            if byte == ord("?"):
                await context.abort(grpc.StatusCode.INTERNAL, "half-way")
            if byte == ord("!"):
                await self.unary(b"hang", context)
            yield bytes([byte])

    async def join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"+".join([request async for request in requests])

    async def each(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield b"<" + request + b">"

    async def test_unary(self) -> None:
        """A unary call is a Deferred that fires with the response."""
        answer = self.channel.unary_unary("/test.Echo/Unary")(b"a", timeout=10, metadata=[("k", "v")])
        self.assertIsInstance(answer, Deferred)
        self.assertEqual(await answer, b"<a>")

    async def test_streams(self) -> None:
        """The three streaming shapes work with async iterators that await Deferreds."""
        self.assertEqual(await collected(self.channel.unary_stream("/test.Echo/Split")(b"ab")), [b"a", b"b"])
        self.assertEqual(await self.channel.stream_unary("/test.Echo/Join")(several(b"x", b"y")), b"x+y")
        each = self.channel.stream_stream("/test.Echo/Each")(several(b"1", b"2"))
        self.assertEqual(await collected(each), [b"<1>", b"<2>"])

    async def test_status_becomes_error(self) -> None:
        """A status arrives as the error of its code, from a unary call and in the midst of a stream."""
        error = await self.assertFailure(self.channel.unary_unary("/test.Echo/Unary")(b"fail"), NotFound)
        self.assertEqual(error.message, "not here")
        responses = self.channel.unary_stream("/test.Echo/Split")(b"a?")
        self.assertEqual(await anext(responses), b"a")
        with self.assertRaises(Internal):
            await anext(responses)

    async def test_no_such_method(self) -> None:
        """A method that the peer does not have is Unimplemented."""
        await self.assertFailure(self.channel.unary_unary("/test.Echo/Nothing")(b""), Unimplemented)

    async def test_deadline(self) -> None:
        """A call that outlives its timeout fails with DeadlineExceeded."""
        await self.assertFailure(self.channel.unary_unary("/test.Echo/Unary")(b"hang", timeout=0.1), DeadlineExceeded)

    async def test_cancel(self) -> None:
        """Cancelling the Deferred cancels the call at the peer."""
        call = self.channel.unary_unary("/test.Echo/Unary")(b"hang")
        await from_asyncio(asyncio.wait_for(self.began.wait(), 5))
        call.cancel()
        await self.assertFailure(call, CancelledError)
        await from_asyncio(asyncio.wait_for(self.cancelled.wait(), 5))

    async def test_cancel_stream(self) -> None:
        """Cancelling a stream cancels the call at the peer."""
        responses = self.channel.unary_stream("/test.Echo/Split")(b"a!")
        self.assertEqual(await anext(responses), b"a")
        responses.cancel()
        await from_asyncio(asyncio.wait_for(self.cancelled.wait(), 5))

    async def test_closed(self) -> None:
        """A channel that does not run fails each call with Unavailable."""
        idle = Channel([f"127.0.0.1:{self.port}"])
        await self.assertFailure(idle.unary_unary("/test.Echo/Unary")(b"a"), Unavailable)
        with self.assertRaises(Unavailable):
            idle.unary_stream("/test.Echo/Split")(b"a")

    async def test_nobody_listens(self) -> None:
        """A peer that does not listen makes the call Unavailable."""
        free = Server("127.0.0.1", 0)
        free.startService()
        await free.started
        await free.stopService()
        nobody = Channel([f"127.0.0.1:{free.port}"])
        nobody.startService()
        self.addCleanup(nobody.stopService)
        await self.assertFailure(nobody.unary_unary("/test.Echo/Unary")(b"a", timeout=5), Unavailable)


class BothTests(TestCase):
    """Our channel, calling our server."""

    async def setUp(self) -> None:
        self.echo = Echo()
        self.server = Server("127.0.0.1", free_port(), grace=5)
        self.server.add_generic(self.echo.lookup, ["test.Echo"])
        self.server.startService()
        self.channel = Channel([f"127.0.0.1:{self.server.port}"])
        self.channel.startService()
        self.addCleanup(self.channel.stopService)
        self.addCleanup(lambda: self.server.stopService() if self.server.running else succeed(None))

    async def test_error_round_trip(self) -> None:
        """An error keeps its class, reason and info from end to end."""
        error = await self.assertFailure(self.channel.unary_unary("/test.Echo/Unary")(b"fail"), NotFound)
        self.assertEqual((error.message, error.reason, error.info), ("no such thing", "GONE", {"thing": "17"}))

    async def test_stopping_lets_calls_finish(self) -> None:
        """A call under way when the server is stopped is answered within the grace period."""
        responses = self.channel.unary_stream("/test.Echo/Split")(b"a" * 20)
        self.assertEqual(await anext(responses), b"a")
        stopped = self.server.stopService()
        self.assertEqual(len(await collected(responses)), 19)
        await stopped

    async def test_reconnects(self) -> None:
        """A channel finds a server that was stopped and started again, on the same port, by itself."""
        port = self.server.port
        await self.server.stopService()
        unary = self.channel.unary_unary("/test.Echo/Unary")
        await self.assertFailure(unary(b"a", timeout=5), Unavailable)
        self.server = Server("127.0.0.1", port)
        self.server.add_generic(self.echo.lookup)
        self.server.startService()
        for _ in range(100):
            try:
                self.assertEqual(await unary(b"a", timeout=5), b"<a>")
                break
            except Unavailable:
                await deferLater(reactor, 0.05)
        else:
            self.fail("the channel did not come back")

    async def test_thousand_calls_at_once(self) -> None:
        """A thousand calls under way at once are all answered, each with its own answer."""
        unary = self.channel.unary_unary("/test.Echo/Unary")
        calls = [unary(str(number).encode()) for number in range(1000)]
        for number, call in enumerate(calls):
            self.assertEqual(await call, f"<{number}>".encode())
