"""What a channel says when nobody answers."""

from typing import Any

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
