"""Unary calls on a shared stream: the same as calls by themselves in everything but their cost."""

import asyncio
from typing import Any

import grpc
import grpc.aio
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge import exchange, trunk
from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.crossing import from_asyncio
from bookd.bridge.methods import RawMethod
from bookd.bridge.server import Server
from bookd.bridge.trunk import CARRY
from bookd.contract import metadata
from bookd.errors import (
    BookdError,
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from bookd.wire.bridge.v1.trunk_pb2 import Frame
from bookd.wire.policy.v1.policy_pb2 import Principal

PATH = "/test.Trunk/Do"
INTENT = "0190a0b0-0000-7000-8000-000000000001"


class TrunkTestCase(TestCase):
    """A server with one method that does what the request says, and a channel to it."""

    timeout = 20

    async def setUp(self) -> None:
        self.hanging: list[Deferred[bytes]] = []
        self.cancelled: list[bytes] = []
        self.contexts: list[Context] = []
        self.remaining: list[float | None] = []
        await self.serve()
        self.channel = Channel([f"127.0.0.1:{self.server.port}"], grace=0.3)
        self.channel.startService()
        self.addCleanup(self.stop)
        await self.until(lambda: self.channel.has_trunk)

    async def serve(self, port: int = 0) -> None:
        self.server = Server("127.0.0.1", port, grace=0.3, max_message=200_000)
        self.server.add_generic(lambda path: RawMethod(False, False, self.do) if path == PATH else None, ["test.Trunk"])
        self.server.startService()
        await self.server.started

    async def stop(self) -> None:
        for service in (self.channel, self.server):
            if service.running:
                await service.stopService()

    async def until(self, condition: Any) -> None:
        while not condition():
            await deferLater(reactor, 0.005)

    def do(self, request: bytes, context: Context) -> Any:
        """The method."""
        self.contexts.append(context)
        self.remaining.append(context.time_remaining())
        word, _, number = request.partition(b" ")
        match word:
            case b"fail":
                raise NotFound("no such thing", reason="GONE", info={"thing": "17"}, retry_after=2.5)
            case b"break":
                raise ZeroDivisionError("a secret of the implementation")
            case b"hang":
                hanging: Deferred[bytes] = Deferred(lambda _: self.cancelled.append(request))
                self.hanging.append(hanging)
                return hanging
            case b"large":
                return b"x" * int(number)
        return self.answer(request)

    async def answer(self, request: bytes) -> bytes:
        await deferLater(reactor, 0)
        return b"<" + request + b">"

    def call(self, request: bytes, timeout: float | None = 5, carried: Any = None) -> Deferred[bytes]:
        """Call the method."""
        call: Deferred[bytes] = self.channel.unary_unary(PATH)(request, timeout=timeout, metadata=carried)
        return call

    async def refused(self, kind: type[BookdError], request: bytes, **options: Any) -> Any:
        """The error of a call."""
        return await self.assertFailure(self.call(request, **options), kind)


class CallTests(TrunkTestCase):
    """One call and another."""

    async def test_answers(self) -> None:
        """Each call gets its own answer, however many there are."""
        answers = await gatherResults([self.call(b"%d" % number) for number in range(3000)])
        self.assertEqual(answers, [b"<%d>" % number for number in range(3000)])

    async def test_context(self) -> None:
        """Metadata, principal, message id and deadline reach the method."""
        principal = Principal(subject="u", roles=["staff"])
        carried = [(metadata.PRINCIPAL, principal.SerializeToString()), (metadata.MESSAGE_ID, INTENT), ("a-key", "v")]
        await self.call(b"a", timeout=3, carried=carried)
        await self.call(b"b", timeout=None)
        first, second = self.contexts
        self.assertEqual((first.principal, first.message_id, first.metadata["a-key"]), (principal, INTENT, "v"))
        self.assertEqual((second.principal, second.message_id), (None, None))
        assert self.remaining[0] is not None
        self.assertTrue(2 < self.remaining[0] <= 3)
        self.assertIsNone(self.remaining[1])

    async def test_failures(self) -> None:
        """Errors come as their class with all they have; what broke inside is logged and not told."""
        error = await self.refused(NotFound, b"fail")
        self.assertEqual((error.message, error.reason, error.info), ("no such thing", "GONE", {"thing": "17"}))
        self.assertEqual(error.retry_after, 2.5)
        error = await self.refused(Internal, b"break")
        self.assertNotIn("secret", error.message)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        await self.refused(InvalidArgument, b"x", carried=[(metadata.MESSAGE_ID, "no uuid")])
        await self.assertFailure(self.channel.unary_unary("/test.Trunk/Other")(b""), Unimplemented)

    async def test_deadline(self) -> None:
        """A call that is late fails, is cancelled at the other end, and its late answer is nobody's."""
        await self.refused(DeadlineExceeded, b"hang", timeout=0.05)
        await self.until(lambda: self.cancelled == [b"hang"])
        await self.refused(DeadlineExceeded, b"x", timeout=0)
        self.assertEqual(await self.call(b"a"), b"<a>")

    async def test_cancel(self) -> None:
        """Cancelling a call cancels it at the other end."""
        call = self.call(b"hang")
        await self.until(lambda: self.hanging)
        call.cancel()
        await self.assertFailure(call, CancelledError)
        await self.until(lambda: self.cancelled == [b"hang"])

    async def test_cancelled_by_the_method(self) -> None:
        """A method that gives up, though its client has not, is UNAVAILABLE: whether it had an effect is unknown."""
        call = self.call(b"hang")
        await self.until(lambda: self.hanging)
        self.hanging[0].errback(CancelledError())
        await self.assertFailure(call, Unavailable)

    async def test_large(self) -> None:
        """Large requests go by themselves, large answers come whole; one that is too large harms itself only."""
        beside = self.call(b"hang")
        request = b"x" * (trunk.LARGEST + 1)
        self.assertEqual(await self.call(request), b"<" + request + b">")
        self.assertEqual(len(await self.call(b"large 200000")), 200_000)
        await self.refused(ResourceExhausted, b"large 200001")
        await self.refused(ResourceExhausted, b"x" * 300_000)
        self.hanging[0].callback(b"still there")
        self.assertEqual(await beside, b"still there")

    async def test_many_large_answers(self) -> None:
        """Answers that do not fit into one frame come in several."""
        answers = await gatherResults([self.call(b"large 150000") for _ in range(20)])
        self.assertEqual([len(answer) for answer in answers], [150_000] * 20)

    async def test_many_under_way(self) -> None:
        """Beyond the most calls that a server takes, the rest waits; none is lost."""
        self.patch(exchange, "MOST", 10)
        calls = [self.call(b"hang %d" % number) for number in range(100)]
        await self.until(lambda: self.hanging)
        await deferLater(reactor, 0.1)
        for number in range(100):
            await self.until(lambda number=number: len(self.hanging) > number)
            self.hanging[number].callback(b"done")
        self.assertEqual(await gatherResults(calls), [b"done"] * 100)


class EndTests(TrunkTestCase):
    """How a trunk ends, and begins again."""

    async def test_server_drains(self) -> None:
        """A server that stops lets the calls under way end, and takes no others."""
        call = self.call(b"hang")
        await self.until(lambda: self.hanging)
        stopping = self.server.stopService()
        await self.until(lambda: not self.channel.has_trunk)
        await self.refused(Unavailable, b"x")
        self.hanging[0].callback(b"in time")
        self.assertEqual(await call, b"in time")
        await stopping

    async def test_grace_ends(self) -> None:
        """A call that does not end in the grace period is cancelled, and its client told."""
        call = self.call(b"hang", timeout=None)
        await self.until(lambda: self.hanging)
        await self.server.stopService()
        error = await self.assertFailure(call, BookdError)
        self.assertIsInstance(error, (Unavailable, Cancelled))
        self.assertEqual(self.cancelled, [b"hang"])

    async def test_comes_back(self) -> None:
        """When the server is back the trunk is, and meanwhile calls fail as calls do."""
        port = self.server.port
        await self.server.stopService()
        await self.refused(Unavailable, b"x")
        await self.serve(port)
        await self.until(lambda: self.channel.has_trunk)
        self.assertEqual(await self.call(b"a"), b"<a>")

    async def test_client_stops(self) -> None:
        """A channel that stops waits for its calls, as long as its grace lasts, and then they fail."""
        first, second = self.call(b"hang 1", timeout=None), self.call(b"hang 2", timeout=None)
        await self.until(lambda: len(self.hanging) == 2)
        stopping = self.channel.stopService()
        self.hanging[0].callback(b"in time")
        self.assertEqual(await first, b"in time")
        await self.assertFailure(second, Unavailable)
        await stopping
        await self.until(lambda: self.cancelled == [b"hang 2"])

    async def test_client_leaves(self) -> None:
        """What a client that is gone had under way is cancelled."""

        began = asyncio.Event()

        async def plain() -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
                carry = channel.stream_stream(CARRY, Frame.SerializeToString, Frame.FromString)()
                frame = Frame()
                frame.calls.add(id=1, path=PATH, request=b"hang")
                await carry.write(frame)
                await began.wait()
                carry.cancel()

        leaving = from_asyncio(plain())
        await self.until(lambda: self.hanging)
        began.set()
        await leaving
        await self.until(lambda: self.cancelled == [b"hang"])

    async def test_behind(self) -> None:
        """While too much waits for a peer that takes nothing, calls go by themselves."""
        writer: Any = self.channel._trunk._writer
        writer.behind += trunk.BEHIND + 1
        self.assertFalse(self.channel.has_trunk)
        self.assertEqual(await self.call(b"a"), b"<a>")
        self.assertEqual(writer.behind, trunk.BEHIND + 1)
        writer.behind = 0
        self.assertTrue(self.channel.has_trunk)

    async def test_no_trunk_offered(self) -> None:
        """With a peer that has no trunk, calls go by themselves."""

        async def begin() -> tuple[grpc.aio.Server, int]:
            async def echo(request: bytes, context: Any) -> bytes:
                return b"plain " + request

            server = grpc.aio.server()
            handlers = {"Do": grpc.unary_unary_rpc_method_handler(echo)}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Trunk", handlers),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            return server, port

        server, port = await from_asyncio(begin())
        channel = Channel([f"127.0.0.1:{port}"])
        channel.startService()
        for _ in range(3):
            self.assertEqual(await channel.unary_unary(PATH)(b"a", timeout=5), b"plain a")
            await deferLater(reactor, 0.02)
        self.assertFalse(channel.has_trunk)
        await channel.stopService()
        await from_asyncio(server.stop(0))

    async def test_hostile_client(self) -> None:
        """Garbage and unknown numbers end or confuse their own stream only."""

        async def plain() -> list[Any]:
            heard: list[Any] = []
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
                garbage = channel.stream_stream(CARRY)()
                await garbage.write(b"\xff\xff\xff")
                try:
                    while (frame := await garbage.read()) is not grpc.aio.EOF:
                        heard.append(frame)
                    heard.append(await garbage.code())
                except grpc.aio.AioRpcError as error:
                    heard.append(error.code())
                carry = channel.stream_stream(CARRY, Frame.SerializeToString, Frame.FromString)()
                frame = Frame(cancelled=[7, 7, 2**63])
                frame.answers.add(id=3, response=b"?")
                frame.calls.add(id=1, path=PATH, request=b"a", timeout_ms=2**32 - 1)
                frame.calls.add(id=2, path="\x00", request=b"a")
                await carry.write(frame)
                answers: list[Any] = []
                while len(answers) < 2:
                    answers += (await carry.read()).answers
                heard.append(sorted((answer.id, answer.response) for answer in answers))
                carry.cancel()
            return heard

        heard = await from_asyncio(plain())
        self.assertEqual(heard[-1], [(1, b"<a>"), (2, b"")])
        self.assertIsInstance(heard[-2], grpc.StatusCode)
        self.assertEqual(await self.call(b"a"), b"<a>")
