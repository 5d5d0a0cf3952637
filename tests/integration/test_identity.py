"""Sessions that end, keys that rotate, certificates that are renewed and passwords that are guessed, in a suite that runs."""

import json
import re
import socket
import ssl
import stat
from datetime import UTC, datetime
from functools import partial
from typing import Any

import jwt
from click.testing import CliRunner
from cryptography import x509
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from bookd.command import certs
from bookd.command.home import Home
from bookd.command.main import main
from tests.chaos.daemons import Program, twistd
from tests.integration.running import ORDER, PASSWORD, Person, SuiteTestCase

# The promise.
REFUSED_WITHIN = 5.0


class SessionsTests(SuiteTestCase):
    """Access tokens of sessions that have ended."""

    async def refused(self, who: Person) -> bool:
        """Whether the gateway refuses a token because its session has ended."""
        answer = await self.ask("GET", "/v1/users/" + who.user_id, who=who)
        if answer.status != 401:
            return False
        self.assertIn("session", answer.body["detail"])
        return True

    async def goes(self, who: Person) -> None:
        """See that a token is refused in time."""
        took = await self.until(partial(self.refused, who))
        self.assertLess(took, REFUSED_WITHIN)

    async def test_every_end(self) -> None:
        """Log-out, a new password, new roles, the admin's word and deletion end a session: its access token is refused in
        time, also by a gateway that starts afterwards, and while the MOM is away. Who logs in again is let in."""
        user, name = "/v1/users/{}", "ana"
        await self.done("POST", "/v1/users", {"username": name, "email": "a@example.org", "password": PASSWORD})

        session = await self.done("POST", "/v1/sessions", {"username": name, "password": PASSWORD})
        ana = Person(session["user_id"], session["access_token"], name)
        other = await self.log_in(name)
        user = user.format(ana.user_id)
        await self.done("POST", "/v1/sessions:revoke", {"refresh_token": session["refresh_token"]})
        await self.goes(ana)
        self.assertEqual((await self.ask("GET", user, who=other)).status, 200)

        body = {"old_password": PASSWORD, "new_password": "battery staple"}
        await self.done("POST", f"{user}:changePassword", body, other)
        await self.goes(other)
        ana = await self.log_in(name, "battery staple")
        self.assertEqual((await self.ask("GET", user, who=ana)).status, 200)

        await self.done("PATCH", user, {"roles": ["customer", "staff"]}, self.admin)
        await self.goes(ana)
        ana = await self.log_in(name, "battery staple")
        await self.done("POST", f"{user}:revokeSessions", {}, self.admin)
        await self.goes(ana)
        second = await self.log_in(name, "battery staple")
        await self.done("POST", f"{user}:revokeSessions", {}, second)
        await self.goes(second)
        third = await self.log_in(name, "battery staple")
        self.assertEqual((await self.ask("DELETE", user, who=self.admin)).status, 204)
        await self.goes(third)

        await self.take("gateway", "kill")
        self.give_back("gateway")
        await self.ready()
        for each in (ana, other, second, third):
            await self.goes(each)
        await self.take("mom", "stop")
        self.assertEqual((await self.ask("GET", user, who=third)).status, 401)
        self.assertEqual((await self.ask("GET", user, who=self.admin)).status, 503)
        self.give_back("mom")
        await self.ready()
        ben = await self.customer()
        await self.done("POST", f"/v1/users/{ben.user_id}:revokeSessions", {}, ben)
        await self.goes(ben)

    async def test_several_gateways(self) -> None:
        """Each of several gateways hears of it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        second = self.home / "second.toml"
        text = self.config.read_text()
        self.assertIn(f"port = {self.ports['gateway']}", text)
        text = re.sub(r"(?m)^metrics_port = .*$", "", text)  # one port is for one daemon
        second.write_text(text.replace(f"port = {self.ports['gateway']}", f"port = {port}"))
        log = self.home / "second.log"
        program = Program(reactor, "gateway", twistd("gateway", second), log, self.died)
        program.start()
        self.addCleanup(program.stop)
        who = await self.customer()
        first = self.ports["gateway"]
        try:
            self.ports["gateway"] = port
            await self.ready()
            self.assertEqual((await self.ask("GET", f"/v1/users/{who.user_id}", who=who)).status, 200)
            self.ports["gateway"] = first
            await self.done("POST", f"/v1/users/{who.user_id}:revokeSessions", {}, who)
            await self.goes(who)
            self.ports["gateway"] = port
            await self.goes(who)
        finally:
            self.ports["gateway"] = first


class KeysAndCertificatesTests(SuiteTestCase):
    """What is renewed under daemons that run."""

    def command(self, *arguments: str) -> None:
        """Run a command of bookd; it starts no process."""
        result = CliRunner().invoke(main, ["--home", str(self.home), *arguments])
        self.assertEqual(result.exit_code, 0, result.output)

    async def test_keys(self) -> None:
        """After a rotation new tokens are signed with the new key within seconds, and no token is refused meanwhile."""
        first = jwt.get_unverified_header(self.admin.token)["kid"]
        secret = json.loads((self.home / "secrets" / "admin.json").read_text())
        held = [self.admin]
        self.command("keys", "rotate", "--signs-in", "2")

        async def rotated() -> bool:
            held.append(await self.log_in(secret["username"], secret["password"]))
            for who in held:
                self.assertEqual((await self.ask("GET", "/v1/users", who=who)).status, 200)
            return bool(jwt.get_unverified_header(held[-1].token)["kid"] != first)

        self.assertLess(await self.until(rotated), 10.0)
        published = await self.done("GET", "/.well-known/jwks.json")
        self.assertEqual([key["kid"] == first for key in published["keys"]], [False, True])

    def serial(self) -> int:
        """The serial number of the certificate that the gateway shows."""
        pem = ssl.get_server_certificate(("localhost", self.ports["gateway"]))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    async def test_certificates(self) -> None:
        """Renewed certificates are shown without a restart, to those who connect and to those who are called, and no request
        fails meanwhile; daemons that start anew get on with all others."""
        who, book_id = await self.customer(), await self.book(stock=10_000)
        before = await deferToThread(self.serial)
        certs.renew(Home(self.home), ("gateway", "mom", "inventory", "orders", "users"), datetime.now(UTC))

        async def shown() -> bool:
            self.assertEqual((await self.order(who, book_id)).status, 201)
            await self.done("GET", f"/v1/books/{book_id}")
            told = [self.log_of(name).count("is shown the renewed certificate") for name in ORDER]
            return bool(sum(told) == 8 and await deferToThread(self.serial) != before)

        await self.until(shown)  # each of four calls the MOM, the gateway over two connections; the MOM calls three
        await self.done("GET", f"/v1/books/{book_id}")
        for name in ("mom", "users", "gateway"):
            await self.take(name, "stop")
            self.give_back(name)
            await self.ready()
            self.assertEqual((await self.order(who, book_id)).status, 201)


class GuessingTests(SuiteTestCase):
    """Somebody guesses passwords."""

    async def test_slowed_down_and_written_down(self) -> None:
        """After some failures the guesser waits (429, Retry-After); the audit log has each, with the address, and no log
        has a password or a token."""
        who = await self.customer()
        wrong = {"username": who.username, "password": "a wrong passw0rd"}
        answers: list[Any] = [await self.ask("POST", "/v1/sessions", wrong) for _ in range(11)]
        self.assertEqual([answer.status for answer in answers], [401] * 10 + [429])
        self.assert_problem(answers[-1], 429)
        self.assertGreaterEqual(int(answers[-1].header("Retry-After")), 1)
        right = {"username": who.username, "password": PASSWORD}

        async def let_in() -> bool:
            return (await self.ask("POST", "/v1/sessions", right)).status == 200

        self.assertLess(await self.until(let_in), 5.0)
        await self.done("PATCH", f"/v1/users/{who.user_id}", {"roles": ["customer", "staff"]}, self.admin)
        files = {name: self.home / "log" / f"{name}.audit.jsonl" for name in ("users", "gateway")}
        lines = {name: [json.loads(line) for line in path.read_text().splitlines()] for name, path in files.items()}
        refused = [line for line in lines["users"] if line["outcome"] == "refused" and line["action"] == "log-in"]
        self.assertGreaterEqual(len(refused), 11)
        self.assertEqual({line["target"] for line in refused if "target" in line}, {who.user_id})
        self.assertTrue(all(line["address"] in ("127.0.0.1", "::1") for line in refused), refused)
        (change,) = [line for line in lines["users"] if line["action"] == "change-roles"]
        self.assertEqual((change["subject"], change["target"]), (self.admin.user_id, who.user_id))
        self.assertIn("PATCH /v1/users/{user.user_id}", [line["action"] for line in lines["gateway"]])
        for path in files.values():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        secrets = ["a wrong passw0rd", PASSWORD, who.token, self.admin.token]
        for path in [*self.home.glob("*.log"), *self.home.glob("log/*")]:
            text = path.read_text()
            for secret in secrets:
                self.assertNotIn(secret, text, path)
