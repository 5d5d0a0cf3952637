"""Listening, TLS and the end of it."""

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.server import ListenError
from bookd.config import Identity
from bookd.gateway.listener import Listener, ServerTLS, Wire
from bookd.pki import issue, make_authority
from tests.gateway.kites import SERVICE
from tests.gateway.serving import GatewayTestCase

TUG = b"POST /kites/v1/kites/7:tug HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"


class TLSTests(GatewayTestCase):
    """What a TLS client sees."""

    def handshake(self, **limits: ssl.TLSVersion) -> tuple[str | None, Any, str | None]:
        context = ssl.create_default_context(cadata=self.trust.dumpPEM().decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        for name, version in limits.items():
            setattr(context, name, version)
        with (
            socket.create_connection(("127.0.0.1", self.listener.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            return client.version(), client.getpeercert(), client.selected_alpn_protocol()

    async def test_versions(self) -> None:
        """TLS 1.3 and 1.2 are spoken, HTTP/1.1 is what ALPN agrees on."""
        version, _, protocol = await deferToThread(self.handshake)
        self.assertEqual((version, protocol), ("TLSv1.3", "http/1.1"))
        version, _, _ = await deferToThread(self.handshake, maximum_version=ssl.TLSVersion.TLSv1_2)
        self.assertEqual(version, "TLSv1.2")

    async def test_old_versions(self) -> None:
        """TLS 1.1 is not."""
        with self.assertRaises(OSError):
            await deferToThread(
                self.handshake, minimum_version=ssl.TLSVersion.TLSv1_1, maximum_version=ssl.TLSVersion.TLSv1_1
            )

    async def test_ciphers(self) -> None:
        """Of TLS 1.2 the suites with AEAD and forward secrecy, and no others."""

        def agreed(cipher: str) -> str:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=self.authority.certificate_pem.decode())
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(cipher + ":@SECLEVEL=0")
            with (
                socket.create_connection(("127.0.0.1", self.listener.port), timeout=5) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as client,
            ):
                found = client.cipher()
                assert found is not None
                return found[0]

        for good in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            self.assertEqual(await deferToThread(agreed, good), good)
        for old in (
            "ECDHE-ECDSA-AES128-SHA256",
            "ECDHE-ECDSA-AES256-SHA384",
            "ECDHE-ECDSA-AES128-SHA",
            "ECDHE-ECDSA-AES128-CCM",
        ):
            with self.assertRaises(OSError):
                await deferToThread(agreed, old)

    async def test_renewal(self) -> None:
        """A renewed certificate is shown to new connections without a restart."""
        _, before, _ = await deferToThread(self.handshake)
        renewed = issue(self.authority, "gateway", [], datetime.now(UTC))
        (self.folder / "cert.pem").write_bytes(renewed.certificate_pem)
        (self.folder / "key.pem").write_bytes(renewed.key_pem)
        await self.pause(1.1)
        _, after, _ = await deferToThread(self.handshake)
        self.assertNotEqual(before["serialNumber"], after["serialNumber"])

    async def test_failed_renewal(self) -> None:
        """A certificate that cannot be used leaves the old one in place."""
        (self.folder / "cert.pem").write_bytes(b"half a file")
        await self.pause(1.1)
        version, _, _ = await deferToThread(self.handshake)
        self.assertEqual(version, "TLSv1.3")


class StartTests(SynchronousTestCase):
    """What is wrong at start is said then."""

    def test_unusable_certificate(self) -> None:
        """A certificate without its own key is an error that names the file."""
        folder = Path(self.mktemp())
        folder.mkdir()
        authority = make_authority(datetime.now(UTC))
        one, other = (issue(authority, "gateway", [], datetime.now(UTC)) for _ in range(2))
        (folder / "cert.pem").write_bytes(one.certificate_pem)
        for key in (other.key_pem, b"no key"):
            (folder / "key.pem").write_bytes(key)
            with self.assertRaisesRegex(ValueError, r"key\.pem"):
                ServerTLS(Identity(certificate="cert.pem", private_key="key.pem"), folder, lambda: 0.0)


class WireTests(GatewayTestCase):
    """What is sent."""

    async def test_at_once(self) -> None:
        """An answer goes out before the loop turns; one that the kernel does not take whole waits, and arrives whole too."""
        waited = []
        add_writer = reactor.addWriter

        def note(writer: Any) -> None:
            if isinstance(writer, Wire):
                waited.append(writer)
            add_writer(writer)

        self.patch(reactor, "addWriter", note)
        client = await self.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: b"alive" in client.received)
        self.assertEqual(waited, [])
        self.channel.answers[SERVICE + "GetKite"] = self.message("Kite", colour="k" * 20_000_000)
        client.transport.pauseProducing()
        client.transport.write(b"GET /kites/v1/kites/7 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: waited)
        client.transport.resumeProducing()
        await self.until(lambda: client.received.count(b"k") > 20_000_000)

    async def test_broken(self) -> None:
        """A connection that breaks while it is written to is lost, and nothing more."""
        self.channel.answers[SERVICE + "GetKite"] = reading = self.pause(0.2, b"")
        client = await self.raw(b"GET /kites/v1/kites/7 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: self.channel.calls)
        (connection,) = self.site.connections
        connection.transport.transport.socket.shutdown(socket.SHUT_WR)
        await reading
        await client.closed
        await self.until(lambda: not self.site.connections)
        self.assertEqual(self.flushLoggedErrors(), [])


class ListenerTests(GatewayTestCase):
    """Ports, and how it ends."""

    def test_busy_port(self) -> None:
        """A port that is taken is an error that names it."""
        listener = Listener("127.0.0.1", self.listener.port, self.site, self.listener._tls, grace=1.0, reactor=reactor)
        with self.assertRaisesRegex(ListenError, rf"127\.0\.0\.1:{self.listener.port}.*in use"):
            listener.startService()

    def test_unknown_host(self) -> None:
        """A host that is no address is an error that names it."""
        listener = Listener("nowhere.invalid", 0, self.site, self.listener._tls, grace=1.0, reactor=reactor)
        with self.assertRaisesRegex(ListenError, r"nowhere\.invalid"):
            listener.startService()

    async def test_localhost(self) -> None:
        """A name is listened on at all its addresses, under one port."""
        listener = Listener("localhost", 0, self.site, self.listener._tls, grace=1.0, reactor=reactor)
        listener.startService()
        self.addCleanup(listener.stopService)
        for *_, address in socket.getaddrinfo("localhost", listener.port, type=socket.SOCK_STREAM):
            plain = await deferToThread(socket.create_connection, address[:2], 5)
            plain.close()

    async def test_drain(self) -> None:
        """A request that is under way is finished, idle connections are closed, new ones are refused."""
        answer: Deferred[bytes] = Deferred()
        self.channel.answers[SERVICE + "TugKite"] = answer
        idle, busy = await self.raw(), await self.raw(TUG)
        await self.until(lambda: self.channel.calls)
        stopped = self.listener.stopService()
        await idle.closed
        with self.assertRaises(OSError):
            await deferToThread(socket.create_connection, ("127.0.0.1", self.listener.port), 5)
        self.assertNoResult(stopped)
        answer.callback(b"")
        await stopped
        await busy.closed
        self.assertIn(b"200 OK", busy.received)
        self.assertIn(b"Connection: close", busy.received)

    async def test_grace(self) -> None:
        """A request that does not end is cut off when the grace is over."""
        self.channel.answers[SERVICE + "GetKite"] = Deferred()
        self.listener._grace = 0.2
        client = await self.raw(b"GET /kites/v1/kites/7 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await self.until(lambda: self.channel.calls)
        await self.listener.stopService()
        await client.closed
        self.assertEqual(client.received, b"")
