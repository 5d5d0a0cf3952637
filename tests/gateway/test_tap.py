"""The gateway as twistd runs it, and over the real bridge."""

import json
import os
import resource
import signal
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any
from uuid import RFC_4122, UUID

import attrs
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.ssl import Certificate
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

from bookd.bridge import tls
from bookd.bridge.server import Server
from bookd.config import Gateway as Config
from bookd.config import Identity, Peer
from bookd.contract import descriptors
from bookd.errors import NotFound
from bookd.gateway import tap
from bookd.gateway.origin import Proxies
from bookd.gateway.site import Bounds
from bookd.pki import issue, make_authority
from bookd.testing.ports import free_port
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.inventory.v1.inventory_pb2_grpc import add_InventoryServiceServicer_to_server
from tests.gateway.serving import KEY, bearer, jwk

CONFIG = """
[gateway]
host = "localhost"
port = {port}
grace = 2.0
identity = {{certificate = "gateway.pem", private_key = "gateway.key", ca = "ca.pem"}}
mom = {{name = "mom", addresses = ["localhost:{mom}"]}}
jwks = "jwks.json"
"""

ISSUER = """
[[gateway.issuers]]
name = "{name}"
issuer = "https://{name}.example"
audience = "shop"
jwks = "{jwks}"
roles_claim = ["roles"]
roles = {{clerk = ["{role}"]}}
"""


class Daemon(ProcessProtocol):
    """A process, what it said, and how it ended."""

    def __init__(self) -> None:
        self.said = b""
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.said += data

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.exitCode if reason.value.exitCode is not None else -reason.value.signal)


class Books:
    """As much of the inventory as is needed to see a call arrive."""

    def __init__(self) -> None:
        self.contexts: list[Any] = []
        self.remaining = 0.0

    async def GetBook(self, request: Any, context: Any) -> Any:
        self.contexts.append(context)
        self.remaining = context.time_remaining()
        if request.book_id == "0":
            raise NotFound("no book 0")
        return inventory_pb2.Book(book_id=request.book_id, title="Solaris", etag="v1")

    def __getattr__(self, name: str) -> Any:
        if name[:1].isupper():
            return None
        raise AttributeError(name)


class TapTests(TestCase):
    """twistd -n bookd-gateway."""

    timeout = 60

    def setUp(self) -> None:
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir()
        authority = make_authority(datetime.now(UTC))
        (self.home / "ca.pem").write_bytes(authority.certificate_pem)
        for name in ("gateway", "mom"):
            issued = issue(authority, name, [], datetime.now(UTC))
            (self.home / f"{name}.pem").write_bytes(issued.certificate_pem)
            (self.home / f"{name}.key").write_bytes(issued.key_pem)
            (self.home / f"{name}.key").chmod(0o600)
        (self.home / "jwks.json").write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
        self.port, self.mom_port = free_port(), free_port()
        (self.home / "bookd.toml").write_text(CONFIG.format(port=self.port, mom=self.mom_port))
        trust = Certificate.loadPEM(authority.certificate_pem)
        pool = HTTPConnectionPool(reactor, persistent=False)
        self.client = HTTPClient(Agent(reactor, BrowserLikePolicyForHTTPS(trustRoot=trust), pool=pool))

    def start(self) -> Daemon:
        daemon = Daemon()
        twistd = Path(sys.executable).with_name("twistd")
        arguments = [str(twistd), "-n", "--pidfile=", "bookd-gateway", "--config", str(self.home / "bookd.toml")]
        root = str(Path(__file__).parents[2])
        # Without a folder to change to, Twisted spawns and does not fork: gRPC's threads in this process do not bear it.
        process = reactor.spawnProcess(daemon, arguments[0], arguments, {**os.environ, "PYTHONPATH": root})
        self.addCleanup(self.end, daemon, process)
        daemon.process = process
        return daemon

    def end(self, daemon: Daemon, process: Any) -> Any:
        if not daemon.ended.called:
            process.signalProcess(signal.SIGKILL)
            return daemon.ended
        return None

    async def get(self, path: str, **headers: str) -> Any:
        """The answer, once the daemon listens."""
        for _ in range(400):
            try:
                return await self.client.get(f"https://localhost:{self.port}{path}", headers=headers)
            except Exception:
                await deferLater(reactor, 0.05)
        raise AssertionError("the gateway does not listen")

    async def test_runs_and_ends(self) -> None:
        """It starts without a MOM, says so when asked, and ends on SIGTERM."""
        daemon = self.start()
        self.assertEqual((await self.get("/healthz")).code, 200)
        self.assertEqual((await self.get("/readyz")).code, 503)
        answer = await self.get("/v1/books/1")
        self.assertEqual((answer.code, (await answer.json())["code"]), (503, "UNAVAILABLE"))
        self.assertEqual(answer.headers.getRawHeaders("Retry-After"), ["1"])
        daemon.process.signalProcess(signal.SIGTERM)
        self.assertIn(await daemon.ended, (0, -signal.SIGTERM))  # twistd dies of the signal once it has stopped
        self.assertIn(b"Server Shut Down", daemon.said)
        self.assertNotIn(b"Traceback", daemon.said)

    async def test_calls_through_the_bridge(self) -> None:
        """Over mutual TLS a call reaches the MOM with its principal, and its answer and its error come back."""
        contract = descriptors.load([descriptors.shipped()])
        identity = Identity(certificate="mom.pem", private_key="mom.key", ca="ca.pem")
        credentials = tls.server_credentials(identity, self.home)
        names = ["gateway"]
        server = Server("localhost", self.mom_port, credentials, contract=contract, peers=names, trusted=names)
        books = Books()
        add_InventoryServiceServicer_to_server(books, server)
        server.startService()
        self.addCleanup(server.stopService)
        await server.started
        self.start()
        await self.get("/healthz")
        self.assertEqual((await self.get("/readyz")).code, 200)
        answer = await self.get("/v1/books/7", **bearer("ada", ("customer",)), **{"X-Request-Id": "r1"})
        self.assertEqual((answer.code, (await answer.json())["title"]), (200, "Solaris"))
        self.assertEqual(answer.headers.getRawHeaders("ETag"), ['"v1"'])
        context = books.contexts[0]
        self.assertEqual((context.peer, context.request_id, context.principal.subject), ("gateway", "r1", "ada"))
        self.assertTrue(5 < books.remaining < 11, books.remaining)  # gRPC rounds it up
        missing = await self.get("/v1/books/0")
        self.assertEqual((missing.code, (await missing.json())["detail"]), (404, "no book 0"))

    async def test_limits(self) -> None:
        """The limits are those of the configuration."""
        config = self.home / "bookd.toml"
        config.write_text(
            config.read_text() + 'max_url = 100\nopen_burst = 1\ncors_origins = ["https://shop.example"]\n'
        )
        self.start()
        answer = await self.get("/healthz", Origin="https://shop.example")
        self.assertEqual(answer.headers.getRawHeaders("Access-Control-Allow-Origin"), ["https://shop.example"])
        self.assertEqual((await self.get("/" + "a" * 200)).code, 414)
        url = f"https://localhost:{self.port}/v1/sessions"
        body = {"username": "ada", "password": "secret"}
        statuses = [(await self.client.post(url, json=body)).code for _ in range(2)]
        self.assertEqual(statuses, [503, 429])

    async def test_no_proxy(self) -> None:
        """A trusted proxy that is no address ends the process with a line that names it."""
        config = self.home / "bookd.toml"
        config.write_text(config.read_text() + 'trusted_proxies = ["proxy.example"]\n')
        daemon = self.start()
        self.assertEqual(await daemon.ended, 1)
        self.assertIn(b"proxy.example", daemon.said)
        self.assertNotIn(b"Traceback", daemon.said)

    async def test_issuers_elsewhere(self) -> None:
        """Issuers of the configuration are believed beside the users daemon; one that cannot be reached keeps nobody else from
        being served."""
        partner, config = Ed25519PrivateKey.generate(), self.home / "bookd.toml"
        (self.home / "partner.json").write_text(json.dumps({"keys": [jwk(partner, "k1")]}))
        usual = config.read_text()
        config.write_text(
            usual
            + ISSUER.format(name="partner", jwks="partner.json", role="staff")
            + ISSUER.format(name="away", jwks=f"https://localhost:{free_port()}/", role="staff")
        )
        daemon = self.start()
        self.assertEqual((await self.get("/healthz")).code, 200)
        for issuer, who, code in (("partner", "clerk", 503), ("partner", "nobody", 403), ("away", "clerk", 503)):
            claims = {"iss": f"https://{issuer}.example", "aud": "shop", "sub": "ada", "roles": [who]}
            now = int(time())
            made = jwt.encode({**claims, "iat": now, "exp": now + 60}, partner, "EdDSA", {"kid": "k1", "typ": "at+jwt"})
            answer = await self.get("/v1/orders", Authorization=f"Bearer {made}")
            self.assertEqual(answer.code, code)
            about = "keys of away" if issuer == "away" else ""
            self.assertIn(about, (await answer.json())["detail"])
        while b"the keys of away cannot be fetched" not in daemon.said:
            await deferLater(reactor, 0.05)
        daemon.process.signalProcess(signal.SIGTERM)
        await daemon.ended
        self.assertNotIn(b"Traceback", daemon.said)

    async def test_issuers_at_fault(self) -> None:
        """An issuer that cannot be used ends the process with a line that says why."""
        config = self.home / "bookd.toml"
        usual = config.read_text()
        for more, said in (
            (ISSUER.format(name="partner", jwks="none.json", role="staff"), b"none.json"),
            (ISSUER.format(name="partner", jwks="jwks.json", role="chief"), b"'chief', which no operation asks for"),
            (ISSUER.format(name="partner", jwks="http://localhost/", role="staff"), b"begins with https://"),
            (ISSUER.format(name="partner", jwks="https://localhost/", role="staff") + 'ca = "none.pem"\n', b"none.pem"),
        ):
            config.write_text(usual + more)
            daemon = self.start()
            self.assertEqual(await daemon.ended, 1)
            self.assertIn(said, daemon.said)
            self.assertNotIn(b"Traceback", daemon.said)

    def test_bounds(self) -> None:
        """Every bound is taken from the key of its name, and connections end where files do."""
        names = {each.name for each in attrs.fields(Bounds)} - {"proxies"}
        config = Config(
            identity=Identity(certificate="c", private_key="k"),
            mom=Peer(name="mom", addresses=["localhost:1"]),
            **{name: number for number, name in enumerate(sorted(names), 1)},  # type: ignore[arg-type]
        )
        made = tap.bounds(config, Proxies())
        self.assertEqual({name: getattr(made, name) for name in names}, {name: getattr(config, name) for name in names})
        greedy = msgspec.structs.replace(config, max_connections=10**9)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard != resource.RLIM_INFINITY:
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))
            self.assertLess(tap.bounds(greedy, Proxies()).max_connections, hard)

    def test_request_ids(self) -> None:
        """Ids of requests are UUIDs of version 7, in their canonical form, each another one, in the order of their time."""
        made = [tap.new_request_id() for _ in range(1000)]
        self.assertEqual({(UUID(each).version, UUID(each).variant) for each in made}, {(7, RFC_4122)})
        self.assertEqual([str(UUID(each)) for each in made], made)
        self.assertEqual(len(set(made)), len(made))
        times = [int(each.replace("-", "")[:12], 16) for each in made]
        self.assertEqual(times, sorted(times))
        self.assertLess(abs(times[-1] / 1000 - time()), 10)

    async def test_busy_port(self) -> None:
        """A port that is taken is one line that names the port and the daemon, and exit status 1."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            daemon = self.start()
            self.assertEqual(await daemon.ended, 1)
        lines = [line for line in daemon.said.decode().splitlines() if str(self.port) in line]
        self.assertEqual(len(lines), 1, daemon.said)
        self.assertRegex(lines[0], f"bookd-gateway: cannot listen on localhost:{self.port}: Address already in use")
        self.assertNotIn(b"Traceback", daemon.said)

    async def test_missing_file(self) -> None:
        """A file that is not there is one line that names it, and exit status 1."""
        for name in ("jwks.json", "gateway.key", "bookd.toml"):
            (self.home / name).rename(self.home / "away")
            daemon = self.start()
            self.assertEqual(await daemon.ended, 1)
            self.assertIn(name.encode(), daemon.said)
            self.assertNotIn(b"Traceback", daemon.said)
            (self.home / "away").rename(self.home / name)
