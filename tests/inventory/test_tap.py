"""The inventory as a daemon: it migrates and serves, or says in one line why not."""

import os
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import cast

from google.protobuf.empty_pb2 import Empty
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial.unittest import TestCase

from bookd import pki
from bookd.bridge import daemon
from bookd.bridge.daemon import Daemon
from bookd.bridge.server import Server
from bookd.config import Identity, Peer
from bookd.contract.descriptors import load, shipped
from bookd.errors import NotFound, PermissionDenied
from bookd.inventory import tap
from bookd.wire.inventory.v1 import inventory_pb2 as wire
from bookd.wire.inventory.v1.inventory_pb2_grpc import InventoryServiceStub
from bookd.wire.policy.v1.policy_pb2 import Principal
from tests.inventory.room import usd

INTENT = "0190a0b0-0000-7000-8000-000000000001"

CONFIG = """
[inventory]
mom = { name = "mom", addresses = ["localhost:1"] }
[inventory.grpc]
identity = { certificate = "inventory.pem", private_key = "inventory.key", ca = "ca.pem" }
port = 0
peers = ["mom"]
trusted = ["mom"]
"""


class TapTests(TestCase):
    """A home of its own for each test."""

    def setUp(self) -> None:
        """Write certificates and configuration."""
        self.home = Path(self.mktemp())
        self.home.mkdir()
        now = datetime.now(UTC)
        authority = pki.make_authority(now)
        (self.home / "ca.pem").write_bytes(authority.certificate_pem)
        for name in ("inventory", "mom"):
            issued = pki.issue(authority, name, [], now)
            (self.home / f"{name}.pem").write_bytes(issued.certificate_pem)
            (self.home / f"{name}.key").write_bytes(issued.key_pem)
            (self.home / f"{name}.key").chmod(0o600)
        (self.home / "bookd.toml").write_text(CONFIG)
        self.options = tap.Options()
        self.options.parseOptions(["--config", str(self.home / "bookd.toml")])

    def refusal(self) -> str:
        """What the daemon says as it does not start."""
        said = StringIO()
        self.patch(sys, "stderr", said)
        error = self.assertRaises(SystemExit, tap.makeService, self.options)
        self.assertEqual(error.code, 1)
        return said.getvalue()

    def test_serves(self) -> Deferred[None]:
        """A client with a certificate creates, finds and deletes a book; the database is the owner's only."""
        return ensureDeferred(self._serves())

    async def _serves(self) -> None:
        service = tap.makeService(self.options)
        service.startService()
        self.addCleanup(service.stopService)
        (server,) = (each for each in cast("Daemon", service) if isinstance(each, Server))
        port = server.port
        identity = Identity(certificate="mom.pem", private_key="mom.key", ca="ca.pem")
        channel = daemon.channel(Peer(name="inventory", addresses=[f"localhost:{port}"]), identity, self.home)
        channel.startService()
        self.addCleanup(channel.stopService)
        stub = InventoryServiceStub(channel)
        staff = [("bookd-principal-bin", Principal(subject="s", roles=["staff"]).SerializeToString())]
        book = wire.Book(title="Dune", author="Frank Herbert", price=usd(9))
        request = wire.CreateBookRequest(book=book)
        with self.assertRaises(PermissionDenied):
            principal = Principal(subject="c", roles=["customer"]).SerializeToString()
            await stub.CreateBook(request, timeout=10, metadata=[("bookd-principal-bin", principal)])
        keyed = [*staff, ("bookd-message-id", INTENT)]
        made = await stub.CreateBook(request, timeout=10, metadata=keyed)
        self.assertEqual(await stub.CreateBook(request, timeout=10, metadata=keyed), made)
        page = await stub.ListBooks(wire.ListBooksRequest(query="dune"), timeout=10)
        self.assertEqual(list(page.books), [made])
        gone = await stub.DeleteBook(wire.DeleteBookRequest(book_id=made.book_id), timeout=10, metadata=staff)
        self.assertEqual(gone, Empty())
        with self.assertRaises(NotFound):
            await stub.GetBook(wire.GetBookRequest(book_id=made.book_id), timeout=10)
        database = self.home / "data" / "inventory.sqlite"
        self.assertEqual(database.stat().st_mode & 0o777, 0o600)
        self.assertEqual(database.parent.stat().st_mode & 0o777, 0o700)

    def test_unusable_database(self) -> None:
        """A file that is no database: one line that names the daemon and the file."""
        (self.home / "data").mkdir()
        (self.home / "data" / "inventory.sqlite").write_bytes(os.urandom(5000))
        said = self.refusal()
        self.assertRegex(said, r"\Abookd-inventory: [^\n]*inventory\.sqlite[^\n]*\n\Z")

    def test_no_certificate(self) -> None:
        """A missing certificate likewise."""
        (self.home / "inventory.pem").unlink()
        self.assertRegex(self.refusal(), r"\Abookd-inventory: [^\n]*inventory\.pem[^\n]*\n\Z")

    def test_forgets_too_soon(self) -> None:
        """A contract by which a message comes again after it was forgotten: one line that names the rpc and the key."""
        contract = load([shipped()])
        contract.methods["/bookd.inventory.v1.InventoryService/AdjustStock"].delivery.expire_after.FromSeconds(86400)
        daemon.require_memory(contract, "bookd.inventory.v1.InventoryService", 90_000)
        daemon.require_memory(contract, "bookd.users.v1.UsersService", 60)
        self.patch(daemon, "load", lambda sets: contract)
        path = self.home / "bookd.toml"
        path.write_text(CONFIG.replace("[inventory]", "[inventory]\nkeep_inbox = 89999", 1))
        self.assertRegex(self.refusal(), r"\Abookd-inventory: `keep_inbox` [^\n]*AdjustStock[^\n]*\n\Z")

    def test_unknown_driver(self) -> None:
        """A database URL without its driver likewise."""
        path = self.home / "bookd.toml"
        path.write_text(CONFIG.replace("[inventory]", '[inventory]\ndatabase = "nosuch://x/y"'))
        self.assertRegex(self.refusal(), r"\Abookd-inventory: [^\n]*nosuch[^\n]*\n\Z")
