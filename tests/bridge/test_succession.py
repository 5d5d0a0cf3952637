"""A certificate of a client that is renewed while it calls."""

import gc
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from bookd import pki
from bookd.bridge import succession, tls
from bookd.bridge.channel import Channel, Responses
from bookd.bridge.context import Context
from bookd.bridge.methods import RawMethod
from bookd.bridge.server import Server
from bookd.config import Identity
from bookd.errors import Cancelled, DeadlineExceeded, Unavailable


class Seeing(Server):
    """A server that remembers the certificate by which each call came, or each trunk."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: list[int] = []

    def peer(self, path: str, grpc_context: Any) -> str:
        """Note who asks."""
        (shown,) = grpc_context.auth_context()["x509_pem_cert"]
        self.seen.append(x509.load_pem_x509_certificate(shown).serial_number)
        return super().peer(path, grpc_context)


class SuccessionTests(TestCase):
    """A channel whose certificate is in files."""

    timeout = 30
    # How a call ends that took too long or that nobody wanted any more.
    endings = (DeadlineExceeded, Cancelled, CancelledError)

    async def setUp(self) -> None:
        self.patch(succession, "GLANCE", 0.02)
        self.home = Path(self.mktemp())
        self.home.mkdir()
        self.now = datetime.now(UTC)
        self.authority = pki.make_authority(self.now)
        (self.home / "ca.pem").write_bytes(self.authority.certificate_pem)
        self.renew("inventory")
        self.first = self.renew("mom")
        self.waiting: list[Deferred[bytes]] = []
        self.by: dict[bytes, Deferred[bytes]] = {}
        self.server = Seeing("127.0.0.1", 0, self.files("inventory", tls.server_credentials), peers=["mom"])
        self.server.add_generic(self.lookup)
        self.server.startService()
        self.addCleanup(self.server.stopService)
        await self.server.started

    def files(self, name: str, kind: Callable[[Identity, Path], Any] = tls.Files) -> Any:
        """The files of a daemon, as a channel or a server wants them."""
        return kind(Identity(certificate=f"{name}.pem", private_key=f"{name}.key", ca="ca.pem"), self.home)

    def renew(self, name: str, authority: pki.Issued | None = None, parts: tuple[str, ...] = ("key", "pem")) -> int:
        """Put a new certificate into the place of the old one, as `bookd certs renew` does; its serial number."""
        issued = pki.issue(authority or self.authority, name, ["127.0.0.1"], self.now)
        for part, content in (("key", issued.key_pem), ("pem", issued.certificate_pem)):
            if part in parts:
                (self.home / ".new").write_bytes(content)
                os.replace(self.home / ".new", self.home / f"{name}.{part}")
        return x509.load_pem_x509_certificate(issued.certificate_pem).serial_number

    def lookup(self, path: str) -> RawMethod:
        """Methods: one answers at once, one when the test says so, one is a stream that ends then."""
        return {
            "/test.Calls/Now": RawMethod(False, False, lambda request, _: request),
            "/test.Calls/Later": RawMethod(False, False, self.later),
            "/test.Calls/Stream": RawMethod(False, True, self.stream),
        }[path]

    async def later(self, request: bytes, context: Context) -> bytes:
        """Answer when the test says so."""
        mine: Deferred[bytes] = Deferred()
        self.waiting.append(mine)
        self.by[request] = mine
        return await mine

    async def stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Answer each time the test says so, until it says nothing."""
        while True:
            self.waiting.append(Deferred())
            said = await self.waiting[-1]
            if not said:
                return
            yield said

    def channel(self, *, trunk: bool = True, grace: float = 2.0) -> Channel:
        """A channel that runs."""
        made = Channel([f"127.0.0.1:{self.server.port}"], self.files("mom"), name="inventory", trunk=trunk, grace=grace)
        made.startService()
        self.addCleanup(lambda: made.stopService() if made.running else None)
        return made

    async def until(self, condition: Callable[[], Any]) -> None:
        """Turn the reactor until the condition holds."""
        while not condition():
            await deferLater(reactor, 0.005)

    async def ask(self, channel: Channel) -> None:
        """A call that is answered at once."""
        self.assertEqual(await channel.unary_unary("/test.Calls/Now")(b"now", timeout=5), b"now")

    async def shown(self, channel: Channel, serial: int) -> None:
        """Ask until the server sees the certificate with this number: every call is answered."""
        while self.server.seen[-1:] != [serial]:
            await self.ask(channel)
            await deferLater(reactor, 0.005)

    async def test_renewed(self) -> None:
        """A renewed certificate is shown soon, and each call before, meanwhile and after is answered, with a trunk and
        without one."""
        for trunk in (True, False):
            channel = self.channel(trunk=trunk)
            await self.ask(channel)
            for _ in range(3):
                renewed = self.renew("mom")
                await self.shown(channel, renewed)
            if trunk:
                await self.until(lambda channel=channel: channel.has_trunk)
            await self.ask(channel)
            await channel.stopService()

    def connections(self) -> int:
        """How many connections the server has."""
        listed = [Path(f"/proc/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6")]
        rows = [line.split() for lines in listed for line in lines]
        return sum(row[1].endswith(f":{self.server.port:04X}") and row[3] == "01" for row in rows)

    async def read(self, responses: Responses) -> None:
        """Read to the end."""
        async for _ in responses:
            pass

    async def test_one_connection(self) -> None:
        """However often it is renewed, and whatever became of the calls, one connection is left, and garbage need not be
        collected for that."""
        if not Path("/proc/net/tcp6").exists():
            raise SkipTest("the connections are not listed here")
        gc.disable()
        self.addCleanup(gc.enable)
        for trunk in (True, False):
            channel = self.channel(trunk=trunk)
            await self.ask(channel)
            for _ in range(3):
                failing = [channel.unary_unary("/test.Calls/Later")(b"x" * 100_000, timeout=0.1) for _ in range(2)]
                failing.append(
                    Deferred.fromCoroutine(self.read(channel.unary_stream("/test.Calls/Stream")(b"", timeout=0.1)))
                )
                left = channel.unary_stream("/test.Calls/Stream")(b"")
                failing.append(Deferred.fromCoroutine(self.read(left)))
                await self.shown(channel, self.renew("mom"))
                left.cancel()
                del left
                while failing:
                    ended = await failing.pop().addErrback(lambda failure: failure.check(*self.endings))
                    self.assertIn(ended, self.endings)
            await self.until(lambda: self.connections() == 1)
            await channel.stopService()
            await self.until(lambda: self.connections() == 0)

    async def test_under_way(self) -> None:
        """Calls and streams that are under way when the certificate is renewed go on over the old connection, and end as
        they would have; then that connection is closed."""
        channel = self.channel()
        await self.until(lambda: channel.has_trunk)
        carried = channel.unary_unary("/test.Calls/Later")(b"", timeout=20)
        alone = channel.unary_unary("/test.Calls/Later")(b"x" * 100_000, timeout=20)
        responses = channel.unary_stream("/test.Calls/Stream")(b"")
        first = Deferred.fromCoroutine(anext(responses))
        await self.until(lambda: len(self.waiting) == 3)
        renewed = self.renew("mom")
        await self.until(lambda: channel._succession._retired)
        (old,) = channel._succession._retired
        await self.shown(channel, renewed)
        for deferred in self.waiting:
            deferred.callback(b"done")
        self.assertEqual([await carried, await alone, await first], [b"done"] * 3)
        last = Deferred.fromCoroutine(anext(responses))
        await self.until(lambda: len(self.waiting) == 4)
        self.assertTrue(channel._succession._retired)
        self.waiting[-1].callback(b"")
        await self.assertFailure(last, StopAsyncIteration)
        await self.until(lambda: not channel._succession._retired)
        self.assertTrue(old.channel._channel.closed() and not old._calls)

    async def test_half_way(self) -> None:
        """While the key is new and the certificate is not, or a file is missing, the old ones are shown on."""
        channel = self.channel(trunk=False)
        line = channel._line
        self.renew("mom", parts=("key",))
        await self.some_looks()
        (self.home / "mom.pem").unlink()
        await self.some_looks()
        (self.home / "mom.pem").write_bytes(b"junk")
        await self.some_looks()
        self.assertIs(channel._line, line)
        await self.ask(channel)
        await self.shown(channel, self.renew("mom"))

    async def some_looks(self) -> None:
        """As long as several looks take."""
        await deferLater(reactor, 0.2)

    async def test_not_taken(self) -> None:
        """A certificate that the peer does not take changes nothing while the old connection is good; the next one does."""
        self.patch(succession, "PATIENCE", 0.1)
        channel = self.channel(trunk=False)
        await self.ask(channel)
        line = channel._line
        self.renew("mom", pki.make_authority(self.now))
        for _ in range(20):
            await self.ask(channel)
            await deferLater(reactor, 0.02)
        self.assertEqual((channel._line, set(self.server.seen)), (line, {self.first}))
        await self.shown(channel, self.renew("mom"))

    async def test_nobody_there(self) -> None:
        """While the peer is away the new certificate takes its place at once: the old connection is of no use."""
        self.patch(succession, "PATIENCE", 0.1)
        channel = self.channel(trunk=False)
        await self.server.stopService()
        line = channel._line
        renewed = self.renew("mom")
        await self.until(lambda: channel._line is not line)
        port = self.server.port
        self.server = Seeing("127.0.0.1", port, self.files("inventory", tls.server_credentials), peers=["mom"])
        self.server.add_generic(self.lookup)
        self.server.startService()
        self.addCleanup(self.server.stopService)
        while not self.server.seen:
            try:
                await self.ask(channel)
            except Unavailable:
                await deferLater(reactor, 0.02)
        self.assertEqual(self.server.seen, [renewed])

    async def test_stop(self) -> None:
        """Stopping gives what is under way on an old connection the same grace, and ends it then; nothing is left."""
        for trunk in (True, False):
            channel = self.channel(trunk=trunk, grace=0.2)
            if trunk:
                await self.until(lambda channel=channel: channel.has_trunk)
            answered = channel.unary_unary("/test.Calls/Later")(b"answered", timeout=20)
            cut = channel.unary_unary("/test.Calls/Later")(b"cut", timeout=20)
            cut.addBoth(lambda _: None)
            await self.until(lambda: len(self.waiting) == 2)
            self.renew("mom")
            await self.until(lambda channel=channel: channel._succession._retired)
            stopped = channel.stopService()
            self.by[b"answered"].callback(b"done")
            self.assertEqual(await answered, b"done")
            self.assertFalse(stopped.called)
            await stopped
            self.assertTrue(cut.called)
            self.waiting.clear()

    async def test_stop_while_connecting(self) -> None:
        """Stopping in the middle of a succession ends both connections."""
        self.patch(succession, "PATIENCE", 10.0)
        channel = self.channel()
        await self.ask(channel)
        self.renew("mom", pki.make_authority(self.now))
        await self.some_looks()
        await channel.stopService()

    def test_at_first(self) -> None:
        """Files that cannot be used are told when the channel is made."""
        self.renew("mom", parts=("key",))
        self.assertRaises(ValueError, Channel, ["127.0.0.1:1"], self.files("mom"))
        (self.home / "mom.key").unlink()
        self.assertRaises(OSError, Channel, ["127.0.0.1:1"], self.files("mom"))
