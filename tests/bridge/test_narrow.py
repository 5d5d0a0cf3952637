"""Streams that are not read: what lies in the reader's process, and how the sender hears that nobody wants the rest."""

from collections.abc import AsyncIterator
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.methods import RawMethod
from bookd.bridge.narrow import WINDOW, NarrowChannel
from bookd.bridge.server import Server

SIZE = 10_000
PATH = "/test.v1.EchoService/Stream"


class UnreadTests(TestCase):
    """A server that sends without end."""

    timeout = 30

    async def setUp(self) -> None:
        self.sent = 0
        self.ended: list[str] = []
        self.server = Server("127.0.0.1", 0, count=lambda seconds, code, *_: self.ended.append(code))
        self.server.add_generic(lambda path: RawMethod(False, True, self.pour), ["test.v1.EchoService"])
        self.server.startService()
        self.addCleanup(self.server.stopService)
        await self.server.started

    async def pour(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Send."""
        while True:
            self.sent += 1
            yield bytes(SIZE)

    async def unread(self, kind: type[Channel]) -> Any:
        """A stream of which one message was read, when the sender is held back."""
        channel = kind([f"127.0.0.1:{self.server.port}"])
        channel.startService()
        self.addCleanup(channel.stopService)
        # Traffic that lets gRPC measure the line, and widen its windows.
        stream = channel.unary_stream(PATH)(b"")
        for _ in range(500):
            await anext(stream)
        stream.cancel()
        self.sent, before = 0, -1
        stream = channel.unary_stream(PATH)(b"")
        await anext(stream)
        while before != self.sent:
            before = self.sent
            await deferLater(reactor, 0.3)
        return stream

    async def test_narrow(self) -> None:
        """No more than the window is sent ahead, give or take what is under way."""
        stream = await self.unread(NarrowChannel)
        self.assertLess(self.sent * SIZE, 4 * WINDOW)
        stream.cancel()

    async def test_cut_off(self) -> None:
        """A sender that is writing when its call ends is no failure: nothing is logged, and CANCELLED is counted."""
        stream = await self.unread(Channel)
        self.assertGreater(self.sent * SIZE, 4 * WINDOW)
        stream.cancel()
        while self.ended.count("CANCELLED") < 2:
            await deferLater(reactor, 0.01)
        self.assertEqual(set(self.ended), {"CANCELLED"})
