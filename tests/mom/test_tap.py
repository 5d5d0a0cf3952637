"""The MOM as twistd runs it: it migrates, serves, survives kill -9, stops on SIGTERM, or says in one line why not."""

import os
import signal
import socket
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from google.longrunning.operations_pb2 import GetOperationRequest
from google.longrunning.operations_pb2_grpc import OperationsStub
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd import config, pki
from bookd.bridge import tls
from bookd.bridge.channel import Channel
from bookd.command.supervise import STOP_SECONDS
from bookd.config import Identity
from bookd.contract import metadata
from bookd.contract.status import detail
from bookd.errors import PermissionDenied, Unavailable
from bookd.mom import tap
from bookd.testing.ports import free_port
from bookd.wire.mom.v1 import message_pb2
from tests.gateway.kites import descriptor_set
from tests.mom.processes import Spawned, spawn_mom
from tests.mom.room import LOOK, POST, SEND, letter, receipt
from tests.mom.running import Post, who

CONFIG = """
[mom]
database = "{home}/mom.sqlite"
descriptor_sets = ["post.binpb"]
{further}
[[mom.destinations]]
peer = {{ name = "post", addresses = ["localhost:{post}"] }}
services = ["post.v1.PostService", "post.v1.BarnService"]
[mom.grpc]
identity = {{ certificate = "mom.pem", private_key = "mom.key", ca = "ca.pem" }}
port = {port}
peers = ["gateway", "orders"]
trusted = ["gateway"]
"""


class TapTests(TestCase):
    """A home of its own for each test."""

    timeout = 60

    def setUp(self) -> None:
        """Write certificates and configuration."""
        self.home = Path(self.mktemp()).resolve()
        self.home.mkdir()
        authority = pki.make_authority(datetime.now(UTC))
        (self.home / "ca.pem").write_bytes(authority.certificate_pem)
        for name in ("mom", "post", "gateway", "orders", "users"):
            issued = pki.issue(authority, name, [], datetime.now(UTC))
            (self.home / f"{name}.pem").write_bytes(issued.certificate_pem)
            (self.home / f"{name}.key").write_bytes(issued.key_pem)
            (self.home / f"{name}.key").chmod(0o600)
        (self.home / "post.binpb").write_bytes(descriptor_set(POST))
        self.port, self.post_port = free_port(), free_port()
        self.configure()

    def configure(self, further: str = "") -> None:
        """Write bookd.toml."""
        text = CONFIG.format(home=self.home, post=self.post_port, port=self.port, further=further)
        (self.home / "bookd.toml").write_text(text)

    def identity(self, name: str) -> Identity:
        """The certificate of a daemon."""
        return Identity(certificate=f"{name}.pem", private_key=f"{name}.key", ca="ca.pem")

    def start(self) -> Spawned:
        """Start twistd bookd-mom."""
        started = spawn_mom(self.home / "bookd.toml")
        self.addCleanup(started.end)
        return started

    def channel(self, name: str = "gateway") -> Channel:
        """A client with the certificate of a daemon."""
        credentials = tls.channel_credentials(self.identity(name), self.home)
        made = Channel([f"localhost:{self.port}"], credentials, name="mom", grace=0.0)
        made.startService()
        self.addCleanup(made.stopService)
        return made

    async def open_post(self) -> Post:
        """The service behind the MOM, with its certificate."""
        post = Post(self.post_port)
        post.host = "localhost"
        post._credentials = tls.server_credentials(self.identity("post"), self.home)
        post.startService()
        self.addCleanup(lambda: post.stopService() if post.running else None)
        await post.started
        return post

    async def listening(self, channel: Channel, mom: Spawned) -> None:
        """Wait until the MOM serves."""
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        for _ in range(400):
            try:
                await check(b"", timeout=5)
                return
            except Unavailable:
                await deferLater(reactor, 0.05)
            if mom.ended.called:
                raise AssertionError(mom.said)
        raise AssertionError("the MOM does not listen")

    def call(self, channel: Channel, text: str, message_id: str, *carried: Any) -> Deferred[bytes]:
        """Send a letter, all into one box."""
        values = [(metadata.MESSAGE_ID, message_id), *carried]
        return channel.unary_unary(SEND)(letter(text, "box"), timeout=10, metadata=values)

    async def test_killed(self) -> None:
        """Killed without warning, three times, in the middle of deliveries: all that was acknowledged takes effect once,
        in order."""
        mom = self.start()
        channel = self.channel()
        await self.listening(channel, mom)
        ids = [str(uuid4()) for _ in range(30)]
        for number, message_id in enumerate(ids):
            try:
                await self.call(channel, str(number), message_id, who("ada"))
                self.fail("delivered to nobody")
            except Unavailable as error:
                self.assertIsNotNone(detail(error, message_pb2.Deferred))
        post = await self.open_post()
        post.answer = lambda letter, context: deferLater(reactor, 0.02, lambda: receipt(f"got {letter.text}"))
        for _turn in range(3):
            seen = len(post.came)
            while len(post.came) < seen + 5:
                await deferLater(reactor, 0.005)
            mom.signal(signal.SIGKILL)
            self.assertEqual(await mom.ended, -signal.SIGKILL)
            mom = self.start()
        await self.listening(channel, mom)
        while len(post.texts) < 30:
            await deferLater(reactor, 0.01)
        self.assertEqual(post.texts, [str(number) for number in range(30)])
        for number, message_id in enumerate(ids):
            self.assertEqual(await self.call(channel, str(number), message_id, who("ada")), receipt(f"got {number}"))
        stub = OperationsStub(channel)
        found = await stub.GetOperation(
            GetOperationRequest(name=f"operations/{ids[0]}"), timeout=5, metadata=[who("ada")]
        )
        self.assertTrue(found.done)

    async def test_stops(self) -> None:
        """SIGTERM ends it in time though calls hang in it; the database is the owner's only and needs no repair."""
        post = await self.open_post()
        post.answer = lambda letter, context: Deferred()
        mom = self.start()
        channel = self.channel()
        await self.listening(channel, mom)
        hanging = [
            self.call(channel, "a", str(uuid4())),
            self.call(channel, "b", str(uuid4())),
            channel.unary_unary(LOOK)(letter("c"), timeout=30),
        ]
        while len(post.came) < 2:
            await deferLater(reactor, 0.01)
        for each in hanging:
            each.addErrback(lambda failure: None)
        began = reactor.seconds()  # type: ignore[attr-defined]
        mom.signal(signal.SIGTERM)
        self.assertEqual(await mom.ended, -signal.SIGTERM, mom.said)
        self.assertLess(reactor.seconds() - began, STOP_SECONDS["mom"])  # type: ignore[attr-defined]
        self.assertNotIn(b"Traceback", mom.said)
        for each in hanging:
            await each
        database = self.home / "mom.sqlite"
        self.assertEqual(database.stat().st_mode & 0o777, 0o600)
        self.assertFalse(Path(f"{database}-wal").exists())

    async def test_peers(self) -> None:
        """Who has no business here is refused; who is not trusted may call, but for nobody else."""
        mom = self.start()
        await self.open_post()
        await self.listening(self.channel(), mom)
        with self.assertRaises(PermissionDenied):
            await self.call(self.channel("users"), "a", str(uuid4()))
        orders = self.channel("orders")
        self.assertEqual(await self.call(orders, "a", str(uuid4())), receipt("got a"))
        with self.assertRaises(PermissionDenied):
            await self.call(orders, "a", str(uuid4()), who("ada"))

    def refusal(self) -> str:
        """What the daemon says as it does not start."""
        said = StringIO()
        self.patch(sys, "stderr", said)
        options = tap.Options()
        options.parseOptions(["--config", str(self.home / "bookd.toml")])
        error = self.assertRaises(SystemExit, tap.makeService, options)
        self.assertEqual(error.code, 1)
        return said.getvalue()

    def test_cannot_start(self) -> None:
        """One line that names the daemon and the fault: a file that is no database, a certificate that is not there, a
        descriptor set that is none, a configuration with an unknown key."""
        (self.home / "mom.sqlite").write_bytes(os.urandom(5000))
        self.assertRegex(self.refusal(), r"\Abookd-mom: [^\n]*mom\.sqlite[^\n]*\n\Z")
        (self.home / "mom.sqlite").unlink()
        (self.home / "mom.key").rename(self.home / "other.key")
        self.assertRegex(self.refusal(), r"\Abookd-mom: [^\n]*mom\.key[^\n]*\n\Z")
        (self.home / "other.key").rename(self.home / "mom.key")
        (self.home / "post.binpb").write_bytes(b"\xff")
        self.assertRegex(self.refusal(), r"\Abookd-mom: [^\n]*\n\Z")
        self.configure("patience = 1.0")
        self.assertRegex(self.refusal(), r"\Abookd-mom: [^\n]*patience[^\n]*\n\Z")

    async def test_port_taken(self) -> None:
        """A busy port ends it likewise."""
        with socket.create_server(("localhost", self.port)):
            mom = self.start()
            self.assertEqual(await mom.ended, 1)
        self.assertIn(f"bookd-mom: cannot listen on localhost:{self.port}".encode(), mom.said)


class GraceTests(TestCase):
    """The example of the configuration."""

    def test_daemons_end_before_they_are_killed(self) -> None:
        """Each daemon lets its calls end, and still stops before its supervisor loses patience."""
        example, _ = config.load(Path(__file__).parents[2] / "etc" / "bookd.toml")
        for name, seconds in STOP_SECONDS.items():
            table = getattr(example, name)
            grace = getattr(table, "grpc", table).grace
            self.assertLess(grace + (tap.GRACE if name == "mom" else 0.0), seconds, name)
