"""What the gateway tells its audit log: refusals that mean something, and what is done by the right of a role."""

from bookd.contract.descriptors import Contract, load, shipped
from bookd.errors import FailedPrecondition
from bookd.gateway.connection import Connection
from bookd.wire.users.v1 import users_pb2
from tests.gateway.serving import GatewayTestCase, bearer

USERS = "/bookd.users.v1.UsersService/"


class AuditedTests(GatewayTestCase):
    """The bookstore's gateway, and what its audit log hears."""

    def contract(self) -> Contract:
        """The bookstore's."""
        return load([shipped()])

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[dict[str, str]] = []
        self.site.audit = self.hear
        for name in ("UpdateUser", "GetUser", "RegisterUser"):
            self.channel.answers[USERS + name] = users_pb2.User(user_id="u1")

    def hear(self, action: str, outcome: str, /, **about: str) -> None:
        """Note a line."""
        self.heard.append({"action": action, "outcome": outcome, **about})

    async def test_refusals(self) -> None:
        """A forged token and a missing role are written down, with where it was tried; a token that is missing or expired,
        and a request that is wrong, are not."""
        await self.ask("GET", "/v1/users", headers={"Authorization": "Bearer forged"})
        await self.ask("GET", "/v1/users/u1", headers=bearer("ada", ["customer"]))
        await self.ask("GET", "/v1/users")
        await self.ask("GET", "/v1/users", headers=bearer("ada", exp=1))
        await self.ask("GET", "/v1/nothing")
        await self.ask("GET", "/v1/users?page_size=x", headers=bearer("boss", ["admin"]))
        self.assertEqual(
            [(line["action"], line["outcome"], line["subject"], line["reason"]) for line in self.heard],
            [
                ("GET /v1/users", "refused", "", "TOKEN_INVALID"),
                ("GET /v1/users/{user_id}", "refused", "ada", "ROLE_MISSING"),
            ],
        )
        self.assertEqual(self.heard[1]["target"], "/v1/users/u1")
        self.assertEqual({line["address"] for line in self.heard}, {"127.0.0.1"})
        self.assertTrue(all(line["request"] for line in self.heard))

    async def test_writes_by_role(self) -> None:
        """What an administrator changes of somebody else is written down, also when it failed; what people change of their
        own, what anybody may do, and reads are not."""
        boss = bearer("boss", ["admin"])
        await self.ask("PATCH", "/v1/users/u1", {"address": "x"}, boss)
        await self.ask("PATCH", "/v1/users/boss", {"address": "x"}, boss)
        await self.ask("PATCH", "/v1/users/u1", {"address": "x"}, bearer("u1", ["customer"]))
        await self.ask("GET", "/v1/users/u1", headers=boss)
        await self.ask("POST", "/v1/users", {"username": "ana", "password": "s3cret word"}, boss)
        self.channel.answers[USERS + "UpdateUser"] = FailedPrecondition("no", reason="LAST_ADMIN")
        await self.ask("PATCH", "/v1/users/u1?x", {"roles": ["customer"]}, boss)
        await self.ask("PATCH", "/v1/users/u1", {"roles": ["customer"]}, boss)
        self.assertEqual(
            [(line["action"], line["outcome"], line["subject"], line["reason"]) for line in self.heard],
            [
                ("PATCH /v1/users/{user.user_id}", "done", "boss", ""),
                ("PATCH /v1/users/{user.user_id}", "failed 400", "boss", "LAST_ADMIN"),
            ],
        )
        self.assertNotIn("s3cret word", repr(self.heard))

    async def test_before_it_is_told(self) -> None:
        """What has to be written down is, before the first byte of the answer leaves."""
        order: list[str] = []
        write = Connection.write

        def writing(connection: Connection, data: bytes) -> None:
            order.append("told")
            write(connection, data)

        self.patch(Connection, "write", writing)
        self.site.audit = lambda *_, **__: order.append("written down")
        await self.ask("PATCH", "/v1/users/u1", {"address": "x"}, bearer("boss", ["admin"]))
        await self.ask("GET", "/v1/users", headers={"Authorization": "Bearer forged"})
        self.assertEqual(order, ["written down", "told"] * 2)
