"""Who does not get through mutual TLS, for whatever reason, and that each leaves one line; and renewal under connections
that are open."""

import os
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from bookd import pki
from bookd.bridge import tls
from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.methods import RawMethod
from bookd.bridge.server import Server
from bookd.config import Identity
from bookd.contract import metadata
from bookd.errors import BookdError, PermissionDenied, Unavailable
from bookd.wire.policy.v1 import policy_pb2

DAY = timedelta(days=1)
# gRPC writes of handshakes that fail unless it is told not to, as the runner of all tests does.
TALKS = os.environ.get("GRPC_VERBOSITY", "").upper() not in ("NONE", "ERROR")


async def echo(request: bytes, context: Context) -> bytes:
    """The same again."""
    return request


class RefusalsTestCase(TestCase):
    """A server `inventory` that lists `mom`, and callers of all kinds."""

    timeout = 60

    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir()
        self.now = datetime.now(UTC)
        self.authority = pki.make_authority(self.now - 3000 * DAY)
        (self.home / "ca.pem").write_bytes(self.authority.certificate_pem)
        self.lines: list[str] = []
        observer: Any = self.hear
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.errors = self.home / "stderr"
        with self.errors.open("wb") as file:
            usual = os.dup(2)
            os.dup2(file.fileno(), 2)
        self.addCleanup(os.close, usual)
        self.addCleanup(os.dup2, usual, 2)

    def refusals(self) -> list[str]:
        """What gRPC has written of handshakes that failed, since this was last asked: daemons have it in their logs."""
        lines = [line for line in self.errors.read_text().splitlines() if "Handshake failed" in line]
        os.truncate(2, 0)
        return lines

    def hear(self, event: LogEvent) -> None:
        if str(event.get("log_namespace", "")).startswith("bookd."):
            self.lines.append(str(event.get("log_format", "")).format(**event))

    def write(self, name: str, issued: pki.Issued, file: str = "") -> Identity:
        """The identity of a certificate."""
        stem = file or name
        for ending, content in (("key", issued.key_pem), ("pem", issued.certificate_pem)):
            fresh = self.home / f"{stem}.{ending}.new"
            fresh.write_bytes(content)
            fresh.replace(self.home / f"{stem}.{ending}")
        return Identity(certificate=f"{stem}.pem", private_key=f"{stem}.key", ca="ca.pem")

    def issue(self, name: str, when: datetime | None = None, authority: pki.Issued | None = None) -> pki.Issued:
        """A certificate that was made at some time."""
        return pki.issue(authority or self.authority, name, [], when or self.now)

    async def serve(self, identity: Identity) -> Server:
        server = Server(
            "127.0.0.1", 0, tls.server_credentials(identity, self.home), peers=["mom"], trusted=["mom"], grace=0.1
        )
        server.add_generic(lambda path: RawMethod(False, False, echo))
        server.startService()
        self.addCleanup(server.stopService)
        await server.started
        return server

    def channel(self, server: Server, identity: Identity | None, name: str = "inventory") -> Channel:
        credentials = tls.channel_credentials(identity, self.home) if identity is not None else None
        channel = Channel([f"127.0.0.1:{server.port}"], credentials, name=name, grace=0.1, trunk=False)
        channel.startService()
        self.addCleanup(channel.stopService)
        return channel

    async def call(self, channel: Channel) -> bytes:
        answer: bytes = await channel.unary_unary("/test.Echo/Echo")(b"hello", timeout=20)
        return answer


class RefusalTests(RefusalsTestCase):
    """Each wrong certificate, on either side."""

    async def test_right(self) -> None:
        """What the others differ from in one thing gets through."""
        server = await self.serve(self.write("inventory", self.issue("inventory")))
        self.assertEqual(await self.call(self.channel(server, self.write("mom", self.issue("mom")))), b"hello")

    async def test_callers(self) -> None:
        """A caller whose certificate is of another authority, over, not valid yet, or not there, is told nothing, and
        leaves one line that says why."""
        server = await self.serve(self.write("inventory", self.issue("inventory")))
        foreign = pki.make_authority(self.now)
        wrong: dict[str, Callable[[], Identity | None]] = {
            "self signed certificate in certificate chain": lambda: self.write(
                "mom", self.issue("mom", authority=foreign)
            ),
            "certificate has expired": lambda: self.write("mom", self.issue("mom", self.now - 900 * DAY)),
            "certificate is not yet valid": lambda: self.write("mom", self.issue("mom", self.now + 1 * DAY)),
            "WRONG_VERSION_NUMBER": lambda: None,
        }
        for why, make in wrong.items():
            channel = self.channel(server, make())
            with self.assertRaises(Unavailable, msg=why):
                await self.call(channel)
            await channel.stopService()
            # It tries again until it is stopped; each time it is one line.
            lines = self.refusals()
            if TALKS:
                self.assertTrue(lines and all(why in line for line in lines), (why, lines))

    async def test_no_certificate(self) -> None:
        """A caller that shows no certificate does not finish the handshake."""
        server = await self.serve(self.write("inventory", self.issue("inventory")))

        def connect() -> bytes:
            """What comes after a handshake without a certificate, which TLS 1.3 tells of only then."""
            context = ssl.create_default_context(cafile=str(self.home / "ca.pem"))
            context.set_alpn_protocols(["h2"])
            plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            with plain, context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                try:
                    return wrapped.recv(100)
                except (ssl.SSLError, ConnectionError):
                    return b""

        self.assertEqual(await deferToThread(connect), b"")
        if TALKS:
            (line,) = self.refusals()
            self.assertIn("PEER_DID_NOT_RETURN_A_CERTIFICATE", line)

    async def test_unlisted(self) -> None:
        """A caller with a good certificate that is not listed is refused, in one line that names it."""
        server = await self.serve(self.write("inventory", self.issue("inventory")))
        with self.assertRaises(PermissionDenied):
            await self.call(self.channel(server, self.write("orders", self.issue("orders"))))
        self.assertEqual(
            [line for line in self.lines if "refused" in line], ["refused /test.Echo/Echo: peer orders is not listed"]
        )

    async def test_untrusted(self) -> None:
        """A caller that is listed, but whose word about principals is not believed, is refused when it gives one, in one
        line; what it says of a client's address is not heard."""
        heard: list[str] = []

        async def address(request: bytes, context: Context) -> bytes:
            heard.append(context.client_address)
            return b""

        identity = self.write("inventory", self.issue("inventory"))
        server = Server(
            "127.0.0.1",
            0,
            tls.server_credentials(identity, self.home),
            peers=["mom", "operator"],
            trusted=["mom"],
            grace=0.1,
        )
        server.add_generic(lambda path: RawMethod(False, False, address))
        server.startService()
        self.addCleanup(server.stopService)
        await server.started
        carried: list[tuple[str, str | bytes]] = [(metadata.CLIENT_ADDRESS, "192.0.2.1")]
        for name in ("mom", "operator"):
            channel = self.channel(server, self.write(name, self.issue(name)))
            await channel.unary_unary("/test.Echo/Echo")(b"", timeout=20, metadata=carried)
        self.assertEqual(heard, ["192.0.2.1", ""])
        principal = policy_pb2.Principal(subject="u1").SerializeToString()
        with self.assertRaises(PermissionDenied):
            await channel.unary_unary("/test.Echo/Echo")(b"", timeout=20, metadata=[(metadata.PRINCIPAL, principal)])
        self.assertEqual(
            [line for line in self.lines if "refused" in line],
            ["refused /test.Echo/Echo: operator may not speak for a principal"],
        )

    async def test_nameless(self) -> None:
        """A certificate of ours that names no daemon is nobody's."""
        server = await self.serve(self.write("inventory", self.issue("inventory")))
        for name in ("mom-x", "xmom"):
            with self.assertRaises(PermissionDenied):
                await self.call(self.channel(server, self.write(name, self.issue(name))))

    async def test_servers(self) -> None:
        """A caller does not talk to a server whose certificate is of another authority, of another name, over, or not
        valid yet; and is told which, in one line."""
        identity = self.write("mom", self.issue("mom"))
        foreign = pki.make_authority(self.now)
        for why, issued in {
            "another authority": self.issue("inventory", authority=foreign),
            "another name": self.issue("users"),
            "over": self.issue("inventory", self.now - 900 * DAY),
            "not yet": self.issue("inventory", self.now + 1 * DAY),
        }.items():
            server = await self.serve(self.write("server", issued))
            with self.assertRaises(BookdError, msg=why) as caught:
                await self.call(self.channel(server, identity))
            self.assertIsInstance(caught.exception, Unavailable)
            self.assertNotIn("\n", caught.exception.message)


class LinesTests(TestCase):
    """What daemons write, who run as they do when nobody tells gRPC to be silent."""

    timeout = 120

    async def test_lines(self) -> None:
        """The tests above hold with their lines."""
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        folder = str(Path(self.mktemp()).absolute())
        command = ["-m", "twisted.trial", "--reactor=asyncio", "--temp-directory", folder, f"{__name__}.RefusalTests"]
        out, _, status = await getProcessOutputAndValue(sys.executable, command, environment)
        self.assertEqual(status, 0, out.decode())


class RenewalTests(RefusalsTestCase):
    """A certificate that is renewed while connections are open."""

    def shown(self, server: Server) -> int:
        """The serial number of the certificate that a new connection is shown."""
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        context = ssl.create_default_context(cafile=str(self.home / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(self.home / "mom.pem", self.home / "mom.key")
        with plain, context.wrap_socket(plain, server_hostname="localhost") as wrapped:
            shown = wrapped.getpeercert(binary_form=True)
            assert shown is not None
            return x509.load_der_x509_certificate(shown).serial_number

    async def test_renewed(self) -> None:
        """New connections are shown the new certificate; one that is open stays open, and calls go on on it."""
        first, second = self.issue("inventory"), self.issue("inventory")
        identity = self.write("inventory", first)
        server = await self.serve(identity)
        channel = self.channel(server, self.write("mom", self.issue("mom")))
        await self.call(channel)
        before = await deferToThread(self.shown, server)
        self.write("inventory", second)
        self.assertEqual(await self.call(channel), b"hello")
        after = await deferToThread(self.shown, server)
        serials = [x509.load_pem_x509_certificate(each.certificate_pem).serial_number for each in (first, second)]
        self.assertEqual([before, after], serials)
        self.assertEqual(await self.call(channel), b"hello")

    async def test_half_way(self) -> None:
        """While a new key lies beside the old certificate, the old pair goes on serving."""
        first, second = self.issue("inventory"), self.issue("inventory")
        server = await self.serve(self.write("inventory", first))
        self.write("mom", self.issue("mom"))
        (self.home / "inventory.key").write_bytes(second.key_pem)
        shown = await deferToThread(self.shown, server)
        self.assertEqual(shown, x509.load_pem_x509_certificate(first.certificate_pem).serial_number)
        (self.home / "inventory.pem").write_bytes(second.certificate_pem)
        shown = await deferToThread(self.shown, server)
        self.assertEqual(shown, x509.load_pem_x509_certificate(second.certificate_pem).serial_number)

    async def test_pair_that_does_not_fit(self) -> None:
        """At start, a key that is not the certificate's is an error that names both."""
        self.write("inventory", self.issue("inventory"))
        (self.home / "inventory.key").write_bytes(self.issue("inventory").key_pem)
        identity = Identity(certificate="inventory.pem", private_key="inventory.key", ca="ca.pem")
        self.assertRaisesRegex(
            ValueError,
            "inventory.key holds a key that is not that of .*inventory.pem",
            tls.server_credentials,
            identity,
            self.home,
        )
