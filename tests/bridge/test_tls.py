"""Mutual TLS: who is let in, who may speak for whom, and that a renewed certificate needs no restart."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from bookd import pki
from bookd.bridge import pem, tls
from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.methods import RawMethod
from bookd.bridge.server import Server
from bookd.config import Identity
from bookd.contract import metadata
from bookd.errors import InvalidArgument, PermissionDenied, Unavailable
from bookd.wire.policy.v1 import policy_pb2


async def whoami(request: bytes, context: Context) -> bytes:
    """Tell the peer what the server knows of it."""
    subject = context.principal.subject if context.principal is not None else "-"
    return f"{context.peer} for {subject} as {context.message_id}".encode()


class MutualTlsTests(TestCase):
    """A server that knows `mom` and `operator`, and believes `mom`."""

    async def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir()
        self.now = datetime.now(UTC)
        self.authority = pki.make_authority(self.now)
        (self.home / "ca.pem").write_bytes(self.authority.certificate_pem)
        self.server = Server(
            "127.0.0.1",
            0,
            tls.server_credentials(self.identity("inventory"), self.home),
            peers=["mom", "operator"],
            trusted=["mom"],
        )
        self.server.add_generic(lambda path: RawMethod(False, False, whoami))
        self.server.startService()
        self.addCleanup(self.server.stopService)
        await self.server.started

    def identity(self, name: str, authority: pki.Issued | None = None) -> Identity:
        issued = pki.issue(authority or self.authority, name, ["127.0.0.1"], self.now)
        (self.home / f"{name}.pem").write_bytes(issued.certificate_pem)
        (self.home / f"{name}.key").write_bytes(issued.key_pem)
        return Identity(certificate=f"{name}.pem", private_key=f"{name}.key", ca="ca.pem")

    async def call(
        self,
        identity: Identity | None,
        carried: Sequence[tuple[str, str | bytes]] = (),
        name: str = "inventory",
    ) -> str:
        credentials = tls.channel_credentials(identity, self.home) if identity is not None else None
        channel = Channel([f"127.0.0.1:{self.server.port}"], credentials, name=name, grace=0.1)
        channel.startService()
        try:
            answer: bytes = await channel.unary_unary("/test.Who/Ami")(b"", timeout=10, metadata=carried)
        finally:
            await channel.stopService()
        return answer.decode()

    async def test_peer_is_known_by_its_certificate(self) -> None:
        """The server reads the peer's name from its certificate."""
        self.assertEqual(await self.call(self.identity("mom")), "mom for - as None")

    async def test_trusted_peer_speaks_for_a_principal(self) -> None:
        """The principal and the message id of a trusted peer reach the method."""
        principal = policy_pb2.Principal(subject="u1").SerializeToString()
        number = "0199C0DE-0000-7000-8000-000000000001"
        answer = await self.call(self.identity("mom"), [(metadata.PRINCIPAL, principal), (metadata.MESSAGE_ID, number)])
        self.assertEqual(answer, f"mom for u1 as {number.lower()}")

    async def test_other_peer_does_not(self) -> None:
        """A peer that is admitted but not trusted is refused when it sends a principal."""
        principal = policy_pb2.Principal(subject="u1").SerializeToString()
        with self.assertRaises(PermissionDenied):
            await self.call(self.identity("operator"), [(metadata.PRINCIPAL, principal)])

    async def test_unlisted_peer(self) -> None:
        """A peer with a good certificate that is not listed is refused."""
        with self.assertRaises(PermissionDenied):
            await self.call(self.identity("gateway"))

    async def test_damaged_metadata(self) -> None:
        """A principal that cannot be parsed and an id that is no UUID are refused by name."""
        identity = self.identity("mom")
        for key, value in ((metadata.PRINCIPAL, b"\xff"), (metadata.MESSAGE_ID, "17")):
            with self.assertRaises(InvalidArgument) as caught:
                await self.call(identity, [(key, value)])
            self.assertEqual(caught.exception.violations[0].field, key)

    async def test_no_certificate(self) -> None:
        """A client without TLS does not get through."""
        with self.assertRaises(Unavailable):
            await self.call(None)

    async def test_foreign_authority(self) -> None:
        """A certificate of another authority does not get through, whatever its name."""
        with self.assertRaises(Unavailable):
            await self.call(self.identity("mom", pki.make_authority(self.now)))

    async def test_wrong_server(self) -> None:
        """A client that looks for another daemon does not talk to this one."""
        with self.assertRaises(Unavailable):
            await self.call(self.identity("mom"), name="users")

    async def test_spoilt_certificate(self) -> None:
        """One that is spoilt while the server runs changes nothing for those who connect, and is told once."""
        self.patch(pem, "_HALF_WAY", 0.0)
        said: list[str] = []

        def observe(event: Any) -> None:
            if "serves on" in event.get("log_format", ""):
                said.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        for name in ("inventory.pem", "inventory.key", "ca.pem"):
            said.clear()
            good = (self.home / name).read_bytes()
            (self.home / "good.pem").write_bytes((self.home / "ca.pem").read_bytes())
            self.identity("mom")
            mom = Identity(certificate="mom.pem", private_key="mom.key", ca="good.pem")
            (self.home / ".new").write_bytes(b"")
            os.replace(self.home / ".new", self.home / name)
            for _ in range(4):
                self.assertEqual(await self.call(mom), "mom for - as None", name)
            self.assertEqual(len(said), 1, said)
            self.assertIn(f"{name} is empty", said[0])
            (self.home / ".new").write_bytes(good)
            os.replace(self.home / ".new", self.home / name)
            await self.call(self.identity("mom"))

    async def test_renewed_certificate(self) -> None:
        """A certificate that was replaced on disk is served to the next connection."""
        identity = self.identity("mom")
        await self.call(identity)
        self.identity("users")
        for suffix in ("pem", "key"):
            os.replace(self.home / f"users.{suffix}", self.home / f"inventory.{suffix}")
        self.assertEqual(await self.call(identity, name="users"), "mom for - as None")
