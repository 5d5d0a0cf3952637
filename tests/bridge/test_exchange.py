"""Trunks of clients that break the protocol, or take more than their share."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge import exchange
from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.crossing import from_asyncio
from bookd.bridge.methods import RawMethod
from bookd.bridge.reactor import loop
from bookd.bridge.server import Server
from bookd.bridge.trunk import BEHIND, CARRY, FULL, Writer
from bookd.errors import Code
from bookd.wire.bridge.v1.trunk_pb2 import Answer, Frame

PATH = "/test.Exchange/Do"


def calls(*requests: bytes, first: int = 1) -> Frame:
    """A frame of calls, numbered from `first` on."""
    frame = Frame()
    for number, request in enumerate(requests, first):
        frame.calls.add(id=number, path=PATH, request=request)
    return frame


class ExchangeTestCase(TestCase):
    """A server whose method hangs, or answers so many bytes; and a client of grpc.aio that holds the other end."""

    timeout = 30

    async def setUp(self) -> None:
        self.hanging: list[Deferred[bytes]] = []
        self.cancelled: list[bytes] = []
        self.begun = 0
        self.server = Server("127.0.0.1", 0, grace=0.3)
        self.server.add_generic(lambda path: RawMethod(False, False, self.do) if path == PATH else None)
        self.server.startService()
        self.addCleanup(self.server.stopService)
        await self.server.started

    def do(self, request: bytes, context: Context) -> Any:
        """The method."""
        self.begun += 1
        if request == b"hang":
            self.hanging.append(Deferred(lambda _: self.cancelled.append(request)))
            return self.hanging[-1]
        return bytes(int(request or b"0"))

    async def with_trunk(self, use: Callable[[Any], Awaitable[Any]]) -> Any:
        """What `use` makes of the client's end of a trunk that is open."""

        async def run() -> Any:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}") as channel:
                carry = channel.stream_stream(CARRY)()
                await carry.read()
                try:
                    return await use(carry)
                finally:
                    carry.cancel()

        return await from_asyncio(run())

    async def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            await deferLater(reactor, 0.005)

    async def assert_serves(self) -> None:
        """Others are served."""
        channel = Channel([f"127.0.0.1:{self.server.port}"], grace=0.3)
        channel.startService()
        self.assertEqual(await channel.unary_unary(PATH)(b"3", timeout=10), bytes(3))
        await channel.stopService()


class BrokenTests(ExchangeTestCase):
    """What ends a trunk."""

    async def code(self, *frames: bytes) -> grpc.StatusCode:
        """What a trunk ends with on which these frames are sent."""

        async def use(carry: Any) -> grpc.StatusCode:
            try:
                for each in frames:
                    await carry.write(each)
                while await carry.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError:
                pass
            code: grpc.StatusCode = await carry.code()
            return code

        found: grpc.StatusCode = await self.with_trunk(use)
        return found

    async def test_broken(self) -> None:
        """Bytes that are no frame, a frame that is too large, or has too many calls or cancellations: the trunk ends with
        INVALID_ARGUMENT, and no call is begun."""
        for packed in (
            b"\xff\xff",
            Frame.SerializeToString(calls(b"0"))[:-1],
            Frame.SerializeToString(calls(bytes(exchange.LONGEST))),
            b"\x0a\x00" * (exchange.MANY + 1),
            b"\x0a\x00" * 2_000_000,
            Frame(cancelled=range(exchange.MANY + 1)).SerializeToString(),
        ):
            self.assertIs(await self.code(packed), grpc.StatusCode.INVALID_ARGUMENT, packed[:10])
        self.assertEqual(self.begun, 0)
        await self.assert_serves()

    async def test_twice(self) -> None:
        """An id that is that of a call under way ends the trunk, and what was under way on it is cancelled."""
        for frames in ([calls(b"hang"), calls(b"hang")], [Frame(calls=[*calls(b"hang").calls, *calls(b"0").calls])]):
            self.hanging.clear()
            code = await self.code(*(frame.SerializeToString() for frame in frames))
            self.assertIs(code, grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(len(self.hanging), 1)
        await self.until(lambda: self.cancelled == [b"hang", b"hang"])
        await self.assert_serves()


class ShareTests(ExchangeTestCase):
    """What a client gets of the others' time and memory."""

    async def answers(self, carry: Any, number: int) -> list[Answer]:
        """So many answers."""
        found: list[Answer] = []
        while len(found) < number:
            found += Frame.FromString(await carry.read()).answers
        return found

    async def test_metadata(self) -> None:
        """A call with more metadata than gRPC takes is refused; its neighbours are not."""

        async def use(carry: Any) -> list[Answer]:
            frame = calls(b"1", b"1", b"1")
            frame.calls[1].metadata.add(key="x-a", value=bytes(exchange.METADATA))
            await carry.write(frame.SerializeToString())
            return await self.answers(carry, 3)

        found = {answer.id: answer.status.code for answer in await self.with_trunk(use)}
        self.assertEqual(found, {1: 0, 2: Code.RESOURCE_EXHAUSTED.value, 3: 0})

    async def test_full_frame(self) -> None:
        """While a frame of as many calls as there may be is begun, others have their turns."""

        async def use(carry: Any) -> list[Answer]:
            await carry.write(calls(*[b""] * exchange.MANY).SerializeToString())
            turns.append(0)
            return await self.answers(carry, exchange.MANY)

        turns: list[int] = []

        def turn() -> None:
            if self.begun < exchange.MANY:
                reactor.callLater(0, turn)  # type: ignore[attr-defined]
            if turns and self.begun:
                turns.append(self.begun)

        turn()
        self.assertEqual(len(await self.with_trunk(use)), exchange.MANY)
        self.assertGreater(len(set(turns)), 10)

    async def test_deaf(self) -> None:
        """Of a client that takes no answers no further calls are begun; when it does, none of them is missing."""
        size, number = 500_000, 100

        async def use(carry: Any) -> tuple[int, int]:
            for each in range(number):
                await carry.write(calls(b"%d" % size, first=each).SerializeToString())
                await asyncio.sleep(0.01)
            before = self.begun
            return before, len(await self.answers(carry, number))

        begun, answered = await self.with_trunk(use)
        self.assertLess(begun, number)
        self.assertLess((begun - 1) * size, BEHIND + 10_000_000)  # gRPC's own buffers
        self.assertEqual((answered, self.begun), (number, number))

    async def test_most(self) -> None:
        """With as many calls under way as there may be, the next ones wait for one to end, and are begun then."""
        self.patch(exchange, "MOST", 100)

        async def use(carry: Any) -> tuple[int, int]:
            for each in range(10):
                await carry.write(calls(*[b"hang"] * 50, first=each * 50).SerializeToString())
            await carry.write(calls(b"0", first=1000).SerializeToString())
            most = 0

            async def let_go() -> None:
                nonlocal most
                while True:
                    most = max(most, len(self.hanging))
                    for each in list(self.hanging) if most >= 100 else ():
                        self.hanging.remove(each)
                        each.callback(b"")
                    await asyncio.sleep(0.01)

            letting_go = asyncio.ensure_future(let_go())
            found = await self.answers(carry, 501)
            letting_go.cancel()
            return most, len(found)

        self.assertEqual(await self.with_trunk(use), (100, 501))


class WriterTests(TestCase):
    """Frames that wait to be written."""

    timeout = 10

    async def test_frames(self) -> None:
        """What comes while one is written goes into the next, until that is full; all is counted until it is written."""
        written: list[Frame] = []
        going: list[Deferred[None]] = []

        async def write(frame: Frame) -> None:
            written.append(frame)
            going.append(Deferred())
            await going[-1].asFuture(loop())

        writer = Writer(write)
        first = writer.frame(10)
        self.assertIs(writer.frame(10), first)
        while not going:
            await deferLater(reactor, 0)
        second = writer.frame(FULL)
        self.assertIsNot(second, first)
        third = writer.frame(1)
        self.assertIsNot(third, second)
        self.assertEqual(writer.behind, FULL + 3 * 64)
        for number in range(3):
            while len(going) == number:
                await deferLater(reactor, 0)
            going[number].callback(None)
        await from_asyncio(writer.idle())
        self.assertEqual(written, [first, second, third])
        self.assertEqual(writer.behind, 0)

    async def test_catch_up(self) -> None:
        """Who waits until less waits is woken by a frame that was written, by an end of the stream, and by a close."""
        for how in ("written", "broken", "closed"):
            going: Deferred[None] = Deferred()

            async def write(frame: Frame, going: Deferred[None] = going) -> None:
                await going.asFuture(loop())

            writer = Writer(write)
            writer.frame(BEHIND + 1)
            waiting = from_asyncio(writer.catch_up())
            await deferLater(reactor, 0.01)
            self.assertFalse(waiting.called)
            if how == "written":
                going.callback(None)
            elif how == "broken":
                going.errback(OSError("broken"))
            else:
                writer.close()
            await waiting
