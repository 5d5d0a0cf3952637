"""An issuer that is a server: real HTTPS, good ones and bad ones, and a gateway that takes its tokens."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions, KeyPair, PrivateCertificate, TLSVersion
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from bookd.config import Issuer as Table
from bookd.gateway import jwks
from bookd.gateway.issuers import Issuer, elsewhere
from bookd.gateway.jwks import FetchedKeys
from bookd.gateway.remote import LARGEST, Address, reason
from bookd.pki import Issued, issue, make_authority
from tests.gateway.serving import KEY, GatewayTestCase, bearer, jwk

NOW = datetime.now(UTC)
AUTHORITY = make_authority(NOW)
THEIRS = Ed25519PrivateKey.generate()
SET = json.dumps({"keys": [jwk(THEIRS, "k1")]}).encode()


def certificate(issued: Issued) -> CertificateOptions:
    """TLS of a server with this certificate."""
    loaded = PrivateCertificate.loadPEM(issued.certificate_pem + issued.key_pem)
    pair = KeyPair.load(issued.key_pem, 1)
    return CertificateOptions(privateKey=pair.original, certificate=loaded.original, raiseMinimumTo=TLSVersion.TLSv1_2)


class Answering(Resource):
    """Answers every request as the test says."""

    isLeaf = True

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[bytes] = []

    def render_GET(self, request: Any) -> Any:
        self.asked.append(request.path)
        return self.answer(request)


class Saying(Protocol):
    """Says something when it is asked anything, again and again, and never closes."""

    factory: Any
    asked = False

    def dataReceived(self, data: bytes) -> None:
        if not self.asked:
            self.asked = True
            self.speak()

    def speak(self) -> None:
        if self.connected:
            self.transport.write(self.factory.words)
            if self.factory.pause is not None:
                reactor.callLater(self.factory.pause, self.speak)

    def connectionLost(self, reason: Any = None) -> None:
        self.connected = 0
        self.factory.lost.append(self)


class IssuerTestCase(TestCase):
    """Has a server on a free port."""

    timeout = 30

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        (self.folder / "ca.pem").write_bytes(AUTHORITY.certificate_pem)

    def listen(self, factory: Any, issued: Issued | None = None, *, tls: bool = True) -> int:
        """Listen with a factory; answers the port."""
        issued = issued or issue(AUTHORITY, "login", [], NOW)
        port = (
            reactor.listenSSL(0, factory, certificate(issued), interface="127.0.0.1")
            if tls
            else reactor.listenTCP(0, factory, interface="127.0.0.1")
        )
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def serve(self, answer: Callable[[Any], Any]) -> tuple[str, Answering]:
        """Answer requests; answers the address of the key set."""
        resource = Answering(answer)
        site = Site(resource)
        channels: list[HTTPChannel] = []
        build = site.buildProtocol

        def built(address: Any) -> Any:
            channel: Any = build(address)
            channels.append(channel)
            return channel

        site.buildProtocol = built  # type: ignore[method-assign]
        port = self.listen(site)
        self.addCleanup(self.settle)
        return f"https://localhost:{port}/jwks.json", resource

    def say(self, words: bytes, pause: float | None = None) -> tuple[str, Any]:
        """Say these words to whoever asks, and again after each pause."""
        factory: Any = Factory.forProtocol(Saying)
        factory.words, factory.pause, factory.lost = words, pause, []
        port = self.listen(factory)
        return f"https://localhost:{port}/jwks.json", factory

    async def settle(self) -> None:
        """Let servers notice that their clients have gone."""
        await deferLater(reactor, 0.01)

    async def fetch(self, url: str, seconds: float = 5.0) -> bytes:
        """What an address answers, within so many seconds."""
        return await Address(reactor, url, self.folder / "ca.pem").fetch().addTimeout(seconds, reactor)

    async def refused(self, url: str, seconds: float = 5.0) -> str:
        """Why an address is refused."""
        began = time()
        try:
            await self.fetch(url, seconds)
        except Exception as error:
            self.assertLess(time() - began, seconds + 2)
            return reason(error)
        raise AssertionError("it was taken")


class AddressTests(IssuerTestCase):
    """What is taken, and what is refused."""

    async def test_good(self) -> None:
        """A set that is served as it should be is taken, and asked for without tokens or cookies."""
        seen: list[Any] = []

        def answer(request: Any) -> bytes:
            seen.append({name.lower() for name, _ in request.requestHeaders.getAllRawHeaders()})
            return SET

        url, resource = self.serve(answer)
        self.assertEqual(await self.fetch(url), SET)
        self.assertEqual(resource.asked, [b"/jwks.json"])
        self.assertEqual(seen, [{b"accept", b"accept-encoding", b"connection", b"host", b"user-agent"}])

    async def test_in_pieces(self) -> None:
        """One that comes byte by byte is taken too."""

        def answer(request: Any) -> Any:
            def more(left: bytes) -> None:
                request.write(left[:1])
                reactor.callLater(0, more, left[1:]) if left[1:] else request.finish()

            more(SET)
            return NOT_DONE_YET

        self.assertEqual(await self.fetch(self.serve(answer)[0]), SET)

    async def test_statuses(self) -> None:
        """Nothing but 200 is taken; no redirect is followed, wherever it leads."""
        target, followed = self.serve(lambda _: SET)
        for status in (201, 204, 206, 300, 301, 302, 303, 307, 308, 400, 401, 404, 500, 503):

            def answer(request: Any, status: int = status) -> bytes:
                request.setResponseCode(status)
                request.setHeader("Location", target if status % 2 else target.replace("https", "http"))
                return b"" if status == 204 else SET

            self.assertEqual(await self.refused(self.serve(answer)[0]), f"the answer is {status}")
        self.assertEqual(followed.asked, [])

    async def test_too_large(self) -> None:
        """A body of more than a set may have breaks the connection, whether its length was told or not."""

        def known(request: Any) -> bytes:
            return b" " * LARGEST + SET

        def endless(request: Any) -> Any:
            def more() -> None:
                if request.transport is not None and not gone:
                    request.write(b" " * 65536)
                    reactor.callLater(0, more)

            gone: list[Any] = []
            request.notifyFinish().addErrback(gone.append)
            more()
            return NOT_DONE_YET

        for answer in (known, endless):
            self.assertNotEqual(await self.refused(self.serve(answer)[0]), "")

    async def test_endless_head(self) -> None:
        """Headers without an end, interim answers without an end, and a line without an end, break the connection."""
        for words in (
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
            b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
            b"H" * 10_000,
        ):
            url, factory = self.say(words, 0)
            self.assertNotEqual(await self.refused(url), "")
            await self.until(lambda factory=factory: factory.lost)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Turn the reactor until the condition holds."""
        while not condition():
            await deferLater(reactor, 0.005)

    async def test_too_slow(self) -> None:
        """Whoever gives up is rid of the connection: nobody answers, a head drips, a body drips or stops."""
        for words, pause in (
            (b"", None),
            (b"HTTP/1.1 200 OK\r\nX: ", None),
            (b"H", 0.01),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n{", None),
            (b"HTTP/1.1 200 OK\r\n\r\n ", 0.01),
        ):
            url, factory = self.say(words, pause)
            await self.refused(url, 0.2)
            await self.until(lambda factory=factory: factory.lost)

    async def test_compressed(self) -> None:
        """What is compressed is refused before it is unpacked."""
        bomb = gzip.compress(bytes(200 * 1024 * 1024), 9)
        self.assertLess(len(bomb), LARGEST)

        def answer(request: Any) -> bytes:
            request.setHeader("Content-Encoding", "gzip")
            return bomb

        self.assertEqual(await self.refused(self.serve(answer)[0]), "the answer is compressed")

    async def test_no_http(self) -> None:
        """Junk, an answer that was cut off, and a line that is closed at once, are failures."""
        for words in (b"junk\r\n\r\n", b"HTTP/9.9 200\r\n\r\n", b"\0" * 100 + b"\r\n", b"HTTP/1.1 abc\r\n\r\n"):
            url, _ = self.say(words)
            await self.refused(url, 1.0)

        def cut(request: Any) -> Any:
            request.setHeader("Content-Length", "1000")
            request.write(SET[:20])
            request.transport.abortConnection()
            return NOT_DONE_YET

        await self.refused(self.serve(cut)[0])

    async def test_certificates(self) -> None:
        """A certificate of another authority, of another name, or that is over, is refused; so is a server without TLS, and
        a port that nobody listens on."""
        site = Site(Answering(lambda _: SET))
        old = make_authority(NOW - timedelta(days=3000))
        for issued in (
            issue(make_authority(NOW), "login", [], NOW),
            issue(old, "login", [], NOW - timedelta(days=2000)),
        ):
            port = self.listen(site, issued)
            self.assertIn("TLS: ", await self.refused(f"https://localhost:{port}/"))
        elsewhere = reactor.listenSSL(0, site, certificate(issue(AUTHORITY, "login", [], NOW)), interface="127.0.0.2")
        self.addCleanup(elsewhere.stopListening)
        self.assertIn("Verification", await self.refused(f"https://127.0.0.2:{elsewhere.getHost().port}/"))
        plain = self.listen(site, tls=False)
        await self.refused(f"https://localhost:{plain}/")
        self.assertIn("refused", await self.refused("https://localhost:1/"))

    async def test_system_authorities(self) -> None:
        """Without a file it is the system's authorities that are believed, and they do not know ours."""
        url, _ = self.serve(lambda _: SET)
        try:
            await Address(reactor, url, None).fetch()
        except Exception as error:
            self.assertIn("TLS: ", reason(error))
        else:
            raise AssertionError("it was taken")

    def test_authority_files(self) -> None:
        """A file that holds no authority is refused at the start, by its name."""
        for name, content in (("empty.pem", b""), ("junk.pem", b"-----BEGIN CERTIFICATE-----\njunk")):
            (self.folder / name).write_bytes(content)
            self.assertIn(name, str(self.assertRaises(ValueError, Address, reactor, "https://x", self.folder / name)))
        self.assertRaises(OSError, Address, reactor, "https://x", self.folder / "none.pem")
        several = self.folder / "several.pem"
        several.write_bytes(make_authority(NOW).certificate_pem + AUTHORITY.certificate_pem)
        Address(reactor, "https://x", several)


class ServedTests(GatewayTestCase):
    """A gateway that takes tokens of a server's."""

    def issuers(self) -> list[Issuer]:
        self.published = SET
        self.resource = Answering(lambda _: self.published)
        listening = reactor.listenSSL(
            0, Site(self.resource), certificate(issue(AUTHORITY, "login", [], NOW)), interface="127.0.0.1"
        )
        self.addCleanup(listening.stopListening)
        ca = self.folder / "login.pem"
        ca.write_bytes(AUTHORITY.certificate_pem)
        url = f"https://localhost:{listening.getHost().port}/jwks.json"
        table = Table(
            name="partner",
            issuer="https://login.example",
            audience="https://shop.example",
            jwks=url,
            roles_claim=["groups"],
            roles={"clerks": ["staff"]},
        )
        self.keys = FetchedKeys(
            "partner",
            Address(reactor, url, ca).fetch,
            table.algorithms,
            reactor,
            refresh=table.refresh,
            keep=table.keep_keys,
            fraction=lambda: 1.0,
        )
        self.addCleanup(self.stop_keys)
        return [*super().issuers(), elsewhere(table, self.keys)]

    def stop_keys(self) -> Any:
        """Stop fetching."""
        return self.keys.stopService() if self.keys.running else None

    def theirs(self, subject: str = "ada", key: Any = THEIRS, kid: str = "k1", **claims: Any) -> dict[str, str]:
        """The header of a request with a token of theirs."""
        now = int(time())
        usual = {"iss": "https://login.example", "aud": "https://shop.example", "iat": now, "exp": now + 300}
        made = jwt.encode({**usual, "sub": subject, **claims}, key, "EdDSA", {"kid": kid, "typ": "at+jwt"})
        return {"Authorization": f"Bearer {made}"}

    async def known(self) -> None:
        """Start, and wait for the first set."""
        self.keys.startService()
        await self.until(lambda: self.resource.asked and self.keys._text)

    async def test_served(self) -> None:
        """A token of theirs is taken, for what the configuration maps; ours go on being taken; forged ones are not."""
        await self.known()
        path = "/v1/orders"
        for headers, status in (
            (self.theirs(groups=["clerks"]), 200),
            (self.theirs(groups=["admin"], roles=["admin", "staff"]), 403),
            (self.theirs(groups=["clerks"], key=KEY), 401),
            (self.theirs(groups=["clerks"], aud="bookd"), 401),
            (bearer("ada", ("staff",)), 200),
        ):
            self.channel.answers["/bookd.orders.v1.OrdersService/ListOrders"] = b""
            answer = await self.ask("GET", path, headers=headers)
            self.assertEqual(answer.status, status, answer.body)

    async def test_own_only(self) -> None:
        """Who has the same name there as somebody here sees nothing of theirs, but what is their own."""
        await self.known()
        self.channel.answers["/bookd.orders.v1.OrdersService/ListOrders"] = b""
        for user, status in (("ada", 403), ("partner~ada", 200)):
            answer = await self.ask("GET", f"/v1/users/{user}/orders", headers=self.theirs())
            self.assertEqual(answer.status, status, answer.body)

    async def test_before_keys(self) -> None:
        """Until the keys are there, their tokens are answered 503 with Retry-After, and ours as always."""
        answer = await self.ask("GET", "/v1/orders", headers=self.theirs())
        self.assert_problem(answer, 503, "UNAVAILABLE")
        self.assertEqual(answer.header("Retry-After"), "1")
        self.channel.answers["/bookd.orders.v1.OrdersService/ListOrders"] = b""
        self.assertEqual((await self.ask("GET", "/v1/orders", headers=bearer("ada", ("staff",)))).status, 200)

    async def test_rotation(self) -> None:
        """A key that the issuer begins to use at once is believed as soon as it was fetched; the old one no longer then."""
        self.patch(jwks, "EAGER", 0.0)
        await self.known()
        self.channel.answers["/bookd.orders.v1.OrdersService/ListOrders"] = b""
        fresh = Ed25519PrivateKey.generate()
        self.published = json.dumps({"keys": [jwk(fresh, "k2")]}).encode()
        old, new = self.theirs(groups=["clerks"]), self.theirs(groups=["clerks"], key=fresh, kid="k2")
        self.assertEqual((await self.ask("GET", "/v1/orders", headers=old)).status, 200)
        self.assertEqual((await self.ask("GET", "/v1/orders", headers=new)).status, 401)
        await self.until(lambda: self.keys._text == self.published)
        self.assertEqual((await self.ask("GET", "/v1/orders", headers=new)).status, 200)
        self.assertEqual((await self.ask("GET", "/v1/orders", headers=old)).status, 401)

    async def test_stopped_while_fetching(self) -> None:
        """Stopping breaks off a fetch that is under way, and leaves nothing open."""
        waiting: list[Any] = []

        def never(request: Any) -> int:
            request.notifyFinish().addErrback(lambda _: gone.callback(None))
            waiting.append(request)
            return NOT_DONE_YET

        gone: Deferred[None] = Deferred()
        self.resource.answer = never
        self.keys.startService()
        await self.until(lambda: waiting)
        await self.keys.stopService()
        await gone
