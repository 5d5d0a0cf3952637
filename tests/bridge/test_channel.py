"""What a channel says when nobody answers."""

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge.channel import Channel
from bookd.bridge.methods import RawMethod
from bookd.bridge.server import Server
from bookd.errors import Code, Unavailable


class NobodyTests(TestCase):
    """A channel to a port where nobody listens, and to a server that says itself that it is unavailable."""

    async def ask(self, channel: Channel) -> Unavailable:
        """The error of a call on the channel."""
        channel.startService()
        self.addCleanup(channel.stopService)
        try:
            await channel.unary_unary("/test.v1.EchoService/Unary")(b"", timeout=5.0)
        except Unavailable as error:
            return error
        raise AssertionError("the call succeeded")

    async def test_nobody(self) -> None:
        """The error names the service and says when to come back; it names no address."""
        error = await self.ask(Channel(["127.0.0.1:1"]))
        self.assertEqual(error.message, "test.v1.EchoService does not answer")
        self.assertEqual((error.reason, error.retry_after), ("UNREACHABLE", 1.0))

    async def test_nobody_stream(self) -> None:
        """A stream fails in the same words."""
        channel = Channel(["127.0.0.1:1"])
        channel.startService()
        self.addCleanup(channel.stopService)
        with self.assertRaisesRegex(Unavailable, r"^test.v1.EchoService does not answer$"):
            await anext(channel.unary_stream("/test.v1.EchoService/Split")(b"", timeout=5.0))

    async def test_peer_says_so(self) -> None:
        """What the peer itself says is handed on as it is, with and without details."""
        for sent in (Unavailable("we are painting"), Unavailable("we are painting", reason="PAINT", retry_after=3.0)):
            answer = sent

            async def refuse(request: bytes, context: Any, answer: Unavailable = answer) -> bytes:
                raise answer

            server = Server("127.0.0.1", 0, grace=0.2)
            server.add_generic(lambda path, refuse=refuse: RawMethod(False, False, refuse), ["test.v1.EchoService"])  # type: ignore[misc]
            server.startService()
            await server.started
            self.addCleanup(server.stopService)
            error = await self.ask(Channel([f"127.0.0.1:{server.port}"]))
            self.assertEqual(error.code, Code.UNAVAILABLE)
            self.assertEqual(
                (error.message, error.reason, error.retry_after), (sent.message, sent.reason, sent.retry_after)
            )


class StoppingTests(TestCase):
    """A channel to a server that stops while a call is under way, for longer than its grace."""

    async def outlast(self, *, trunk: bool) -> Unavailable:
        """The error of a call that never ends."""
        begun: Deferred[None] = Deferred()

        async def never(request: bytes, context: Any) -> bytes:
            begun.callback(None)
            return await Deferred()

        server = Server("127.0.0.1", 0, grace=0.1)
        server.add_generic(lambda path: RawMethod(False, False, never), ["test.v1.EchoService"])
        server.startService()
        await server.started
        channel = Channel([f"127.0.0.1:{server.port}"], trunk=trunk)
        channel.startService()
        self.addCleanup(channel.stopService)
        while trunk and not channel.has_trunk:
            await deferLater(reactor, 0.01)
        call = channel.unary_unary("/test.v1.EchoService/Unary")(b"", timeout=10.0)
        await begun
        await server.stopService()
        with self.assertRaises(Unavailable) as caught:
            await call
        return caught.exception

    async def test_by_itself(self) -> None:
        """It is as if the connection had broken: nobody has cancelled the call, and whether it had an effect is unknown."""
        error = await self.outlast(trunk=False)
        self.assertEqual((error.reason, error.retry_after), ("UNREACHABLE", 1.0))

    async def test_on_a_trunk(self) -> None:
        """The same on a trunk."""
        error = await self.outlast(trunk=True)
        self.assertIsNotNone(error.retry_after)
