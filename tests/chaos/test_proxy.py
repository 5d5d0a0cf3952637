"""Links that carry, cut, silence and slow what goes between two daemons."""

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.protocols.wire import Echo
from twisted.trial.unittest import TestCase

from tests.chaos.proxy import Link, Weather


class Ear(Protocol):
    """What a client hears."""

    def __init__(self) -> None:
        self.heard = b""
        self.gone: Deferred[None] = Deferred()
        self._awaited: tuple[bytes, Deferred[None]] | None = None

    def dataReceived(self, data: bytes) -> None:
        """Keep it."""
        self.heard += data
        if self._awaited is not None and self._awaited[0] == self.heard:
            self._awaited[1].callback(None)

    def hears(self, text: bytes) -> Deferred[None]:
        """When exactly that was heard."""
        told: Deferred[None] = Deferred()
        self._awaited = (text, told)
        return told

    def connectionLost(self, reason: Any = None) -> None:
        """It is over."""
        self.gone.callback(None)


class LinkTests(TestCase):
    """A link in front of an echo."""

    timeout = 10

    async def setUp(self) -> None:  # type: ignore[override]
        """Open the echo and the link."""
        echo = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Echo))
        self.addCleanup(echo.stopListening)
        self.link = Link(reactor, "here-there", echo.getHost().port, late=0.1)
        self.port = self.link.open()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.link.close()))

    async def connected(self) -> Any:
        """A client."""
        return await TCP4ClientEndpoint(reactor, "127.0.0.1", self.port).connect(Factory.forProtocol(Ear))

    async def says(self, ear: Any, text: bytes) -> None:
        """Send, and hear it back."""
        hears = ear.hears(ear.heard + text)
        ear.transport.write(text)
        await hears

    async def test_fair(self) -> None:
        """Bytes go through, both ways, however many; the end too."""
        ear = await self.connected()
        await self.says(ear, b"hello")
        await self.says(ear, b"x" * 1_000_000)
        ear.transport.loseConnection()
        await ear.gone

    async def test_cut(self) -> None:
        """A cut breaks what is open and whatever comes, until it is fair again."""
        ear = await self.connected()
        await self.says(ear, b"hello")
        self.link.set(Weather.CUT)
        await ear.gone
        await (await self.connected()).gone
        self.link.set(Weather.FAIR)
        await self.says(await self.connected(), b"again")

    async def test_silence(self) -> None:
        """In silence nothing comes through and nobody is told; what was held back comes afterwards, in its order."""
        ear = await self.connected()
        await self.says(ear, b"1")
        self.link.set(Weather.SILENT)
        for text in (b"2", b"3"):
            ear.transport.write(text)
            await deferLater(reactor, 0.05)
        self.assertEqual(ear.heard, b"1")
        hears = ear.hears(b"123")
        self.link.set(Weather.FAIR)
        await hears

    async def test_slow(self) -> None:
        """Slow is late by as much each way, and keeps the order when it is fair again."""
        ear = await self.connected()
        self.link.set(Weather.SLOW)
        begun = reactor.seconds()
        await self.says(ear, b"late")
        self.assertGreaterEqual(reactor.seconds() - begun, 0.2)
        hears = ear.hears(b"late12")
        ear.transport.write(b"1")
        await deferLater(reactor, 0.05)
        self.link.set(Weather.FAIR)
        ear.transport.write(b"2")
        await hears

    async def test_nobody_there(self) -> None:
        """A link to nobody breaks its connections."""
        self.link.target = 1
        await (await self.connected()).gone
