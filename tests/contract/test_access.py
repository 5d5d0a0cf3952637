"""The table of who may call what: that the document has it, and that each of its cells is so.

Each cell is tried over HTTPS, by a token, against a gateway with a fake in the MOM's place; and over gRPC, with a
certificate that is believed, against a server with the bookstore's rules. Whose a resource is that has to be loaded first
is up to the services: tests.orders and tests.mom try that.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from twisted.trial.unittest import SynchronousTestCase, TestCase

from bookd import pki
from bookd.bridge import tls
from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.server import Server
from bookd.config import Identity
from bookd.contract import access, metadata
from bookd.contract.access import OTHER, OWNER, Who
from bookd.contract.binding import Binding, bindings
from bookd.contract.descriptors import Contract, Method, load, shipped
from bookd.errors import PermissionDenied, Unauthenticated
from bookd.wire.inventory.v1 import inventory_pb2_grpc
from bookd.wire.mom.v1 import events_pb2_grpc, mom_pb2_grpc
from bookd.wire.orders.v1 import orders_pb2_grpc
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2_grpc
from tests.gateway.serving import GatewayTestCase, bearer

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
CONTRACT = load([shipped()])


def path(binding: Binding, owner: str) -> str:
    """A path of the template, about what is the owner's."""
    values = [owner if name == binding.method.access.owner_field else "x1" for name in binding.template.variables]
    text = binding.template.text
    for start, value in zip(reversed([i for i, c in enumerate(text) if c == "{"]), reversed(values), strict=True):
        stop = text.index("}", start)
        pattern = text[start + 1 : stop].partition("=")[2]
        text = text[:start] + (pattern.replace("**", "*").replace("*", value) if pattern else value) + text[stop + 1 :]
    return text


class DocumentTests(SynchronousTestCase):
    """The table in docs/security.md."""

    def test_fresh(self) -> None:
        """It is what the rules make; protos/generate.py writes it."""
        text = DOCUMENT.read_text()
        self.assertEqual(access.placed(text, access.table(CONTRACT)), text)

    def test_marks(self) -> None:
        """A document without the marks is an error."""
        self.assertRaises(ValueError, access.placed, "no marks", "table")

    def test_every_operation(self) -> None:
        """Every rpc has a row, and nobody but daemons has a cell in a row of theirs."""
        made = access.table(CONTRACT)
        for method in CONTRACT.methods.values():
            self.assertIn(f"| `{method.path[1:]}` |", made)
            if method.access.audience == policy_pb2.AUDIENCE_INTERNAL:
                self.assertEqual([who for who in Who if access.allowed(method, who)], [Who.DAEMON])


class HttpsTests(GatewayTestCase):
    """Each cell over HTTPS."""

    timeout = 120

    def contract(self) -> Contract:
        """The bookstore's."""
        return CONTRACT

    async def test_cells(self) -> None:
        """What is allowed reaches the MOM, for the right principal; what is not is refused before."""
        for binding in bindings(self.spoken):
            method = binding.method
            if method.access.audience == policy_pb2.AUDIENCE_INTERNAL:
                continue
            self.channel.answers[method.path] = self.answer(method)
            for who in Who:
                if who is not Who.DAEMON:
                    await self.cell(binding, method, who)

    def answer(self, method: Method) -> Any:
        """What the MOM answers."""
        if not method.server_streaming:
            return method.response()

        async def nothing() -> Any:
            for _ in ():
                yield _

        return lambda call: nothing()

    async def cell(self, binding: Binding, method: Method, who: Who) -> None:
        """Ask, and see whether it comes through."""
        principal = who.principal
        headers = bearer(principal.subject, list(principal.roles)) if principal is not None else {}
        # A service finds out itself whose the resource is: the gateway lets everybody with a token pass.
        expected = access.allowed(method, who) or (method.access.owned_resource and principal is not None)
        if method.access.owner_field and method.access.owner_field not in binding.template.variables:
            expected = principal is not None and bool(set(method.access.roles) & set(principal.roles))
        body: Any = {} if binding.verb in ("POST", "PATCH", "PUT") else None
        del self.channel.calls[:]
        answer = await self.ask(binding.verb, path(binding, OWNER), body, headers)
        where = f"{binding.verb} {binding.template.text} by {who.value}: {answer.status} {answer.body[:200]!r}"
        if expected:
            self.assertLess(answer.status, 300, where)
            (call,) = self.channel.calls
            self.assertEqual(call.path, method.path, where)
            carried = call.metadata.get(metadata.PRINCIPAL)
            said = policy_pb2.Principal.FromString(carried) if isinstance(carried, bytes) else None
            self.assertEqual(said, principal, where)
        else:
            self.assertEqual(answer.status, 403 if principal is not None else 401, where)
            self.assertEqual(self.channel.calls, [], where)

    async def test_daemons_only(self) -> None:
        """What is for daemons has no address, whoever asks."""
        for method in CONTRACT.methods.values():
            if method.access.audience != policy_pb2.AUDIENCE_INTERNAL:
                continue
            self.assertEqual(list(method.http), [], method.path)
            for headers in ({}, bearer("boss", ["admin"])):
                answer = await self.ask("POST", method.path, {}, headers)
                self.assertEqual(answer.status, 404, method.path)
        self.assertEqual(self.channel.calls, [])

    async def test_one_role_too_many(self) -> None:
        """A role that does not exist, or of other letters, opens nothing."""
        for roles in ("Admin", "ADMIN", "admin ", "root", "*", ""):
            answer = await self.ask("GET", "/v1/users", headers=bearer(OTHER, [roles]))
            self.assertEqual(answer.status, 403, roles)


SERVICES: tuple[tuple[str, Callable[[Any, Any], None]], ...] = (
    ("bookd.inventory.v1.InventoryService", inventory_pb2_grpc.add_InventoryServiceServicer_to_server),
    ("bookd.orders.v1.OrdersService", orders_pb2_grpc.add_OrdersServiceServicer_to_server),
    ("bookd.users.v1.UsersService", users_pb2_grpc.add_UsersServiceServicer_to_server),
    ("bookd.mom.v1.MomService", mom_pb2_grpc.add_MomServiceServicer_to_server),
    ("bookd.mom.v1.EventService", events_pb2_grpc.add_EventServiceServicer_to_server),
)


class Servicer:
    """Answers every rpc of a service with an empty response, and notes that it was asked."""

    def __init__(self, service: str, asked: list[str]) -> None:
        for method in CONTRACT.services()[service]:
            setattr(
                self, method.name, self._stream(method, asked) if method.server_streaming else self._one(method, asked)
            )

    def _one(self, method: Method, asked: list[str]) -> Any:
        async def answer(request: Message, context: Context) -> Message:
            asked.append(method.path)
            return method.response()

        return answer

    def _stream(self, method: Method, asked: list[str]) -> Any:
        async def answer(request: Any, context: Context) -> Any:
            asked.append(method.path)
            for _ in ():
                yield _

        return answer


class GrpcTests(TestCase):
    """Each cell over gRPC: a service looks again, whatever the gateway did."""

    timeout = 120

    async def setUp(self) -> None:  # type: ignore[override]
        self.home = Path(self.mktemp())
        self.home.mkdir()
        now = datetime.now(UTC)
        authority = pki.make_authority(now)
        (self.home / "ca.pem").write_bytes(authority.certificate_pem)
        for name in ("server", "mom", "operator", "stranger"):
            issued = pki.issue(authority, name, [], now)
            (self.home / f"{name}.pem").write_bytes(issued.certificate_pem)
            (self.home / f"{name}.key").write_bytes(issued.key_pem)
            (self.home / f"{name}.key").chmod(0o600)
        self.asked: list[str] = []
        self.server = Server(
            "127.0.0.1",
            0,
            tls.server_credentials(self.identity("server"), self.home),
            contract=CONTRACT,
            peers=["mom", "operator"],
            trusted=["mom"],
            grace=0.1,
        )
        for service, add in SERVICES:
            add(Servicer(service, self.asked), self.server)
        self.server.startService()
        self.addCleanup(self.server.stopService)
        await self.server.started

    def identity(self, name: str) -> Identity:
        return Identity(certificate=f"{name}.pem", private_key=f"{name}.key", ca="ca.pem")

    def channel(self, name: str) -> Channel:
        credentials = tls.channel_credentials(self.identity(name), self.home)
        made = Channel([f"127.0.0.1:{self.server.port}"], credentials, name="server", grace=0.1)
        made.startService()
        self.addCleanup(made.stopService)
        return made

    async def call(self, channel: Channel, method: Method, principal: policy_pb2.Principal | None) -> None:
        """Call for somebody. Raises what the server answers."""
        carried: list[tuple[str, str | bytes]] = []
        if principal is not None:
            carried.append((metadata.PRINCIPAL, principal.SerializeToString()))
        request = access.request(method).SerializeToString()
        if method.client_streaming:

            async def requests() -> Any:
                yield request

            async for _ in channel.stream_stream(method.path)(requests(), timeout=20, metadata=carried):
                pass
        elif method.server_streaming:
            async for _ in channel.unary_stream(method.path)(request, timeout=20, metadata=carried):
                pass
        else:
            await channel.unary_unary(method.path)(request, timeout=20, metadata=carried)

    async def test_cells(self) -> None:
        """What is allowed reaches the service's method; what is not is refused before."""
        mom = self.channel("mom")
        for method in CONTRACT.methods.values():
            for who in Who:
                principal = who.principal
                if method.access.audience == policy_pb2.AUDIENCE_INTERNAL:
                    expected = True  # the certificate decides, not whom the call is for
                else:
                    expected = access.allowed(method, who) or (method.access.owned_resource and principal is not None)
                del self.asked[:]
                if expected:
                    await self.call(mom, method, principal)
                    self.assertEqual(self.asked, [method.path], who)
                else:
                    with self.assertRaises(
                        Unauthenticated if principal is None else PermissionDenied, msg=(method.path, who)
                    ):
                        await self.call(mom, method, principal)
                    self.assertEqual(self.asked, [], (method.path, who))

    async def test_other_peers(self) -> None:
        """A peer that is listed but not trusted speaks for nobody, and one that is not listed calls nothing at all."""
        operator, stranger = self.channel("operator"), self.channel("stranger")
        admin = Who.ADMIN.principal
        for method in CONTRACT.methods.values():
            for channel, principal in ((operator, admin), (stranger, admin), (stranger, None)):
                with self.assertRaises(PermissionDenied, msg=method.path):
                    await self.call(channel, method, principal)
        self.assertEqual(self.asked, [])

    async def test_forged_principals(self) -> None:
        """A principal without a subject is nobody, whatever roles it says it has."""
        mom = self.channel("mom")
        nobody = policy_pb2.Principal(subject="", roles=["admin"])
        for method in CONTRACT.methods.values():
            if method.access.audience == policy_pb2.AUDIENCE_USER:
                with self.assertRaises(Unauthenticated, msg=method.path):
                    await self.call(mom, method, nobody)
        self.assertEqual(self.asked, [])
