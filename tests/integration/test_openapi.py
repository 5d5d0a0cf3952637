"""The whole suite against its own description: schemathesis makes requests of /openapi.json, right ones and wrong ones,
and checks every answer. No 5xx, no status, header or body that is not described, no bad data taken, no good data refused,
no operation open to whom it is not for.

In short, each operation gets what covers its parameters and schemas. `make fuzz-api` goes on from there: BOOKD_FUZZ is the number
of requests that are made up for each operation, and operations are asked in sequences, with what others answered.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol

from tests.integration import hooks
from tests.integration.running import Person, SuiteTestCase

FUZZ = int(os.environ.get("BOOKD_FUZZ", "0"))
CONFIG = Path(__file__).with_name("schemathesis.toml")
# A stream that has no end of its own is asked for by those only whom it refuses.
ENDLESS = "/v1/events"
# At first a customer; who may do more is made so by the administrator.
ROLES = {"customer": ["customer"], "staff": ["staff"], "admin": ["admin"]}
ASKED = re.compile(r"^\s*([0-9]+) generated, ([0-9]+) passed", re.MULTILINE)


class Run(ProcessProtocol):
    """A run of schemathesis: what it printed, and how it ended."""

    def __init__(self) -> None:
        self.printed = ""
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        """Keep what it printed."""
        self.printed += data.decode(errors="replace")

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        """Tell the exit status."""
        self.ended.callback(reason.value.exitCode if reason.value.exitCode is not None else -reason.value.signal)


class DescriptionTests(SuiteTestCase):
    """Each role, and nobody in particular."""

    timeout = 180 + FUZZ * 60

    async def setUp(self) -> None:
        """Let the gateway take more log-ins than a person ever makes, so that more than 429 is seen of them."""
        await super().setUp()
        text = self.config.read_text()
        self.config.write_text(text.replace("# open_burst = 100\n", "open_burst = 1000000\n"))
        await self.take("gateway", "stop")
        self.give_back("gateway")
        await self.ready()
        self.book_id = await self.book(isbn="9780060883287")

    async def person(self, role: str) -> Person:
        """Somebody with one role."""
        who = await self.customer()
        await self.done("POST", "/v1/orders", {"items": [{"book_id": self.book_id, "quantity": 1}]}, who)
        if role != "customer":
            await self.done("PATCH", f"/v1/users/{who.user_id}", {"roles": ROLES[role]}, self.admin)
            who = await self.log_in(who.username)
        return who

    async def run_as(self, who: Person | None, *more: str) -> None:
        """Ask everything as somebody, and find nothing."""
        arguments = [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", str(CONFIG), "run", f"https://localhost:{self.ports['gateway']}/openapi.json"),
            *("--tls-verify", str(self.home / "pki" / "ca.pem"), "--checks", "all", "--no-color"),
            *(
                "--continue-on-failure",
                "--warnings",
                "off",
                "--output-sanitize",
                "false",
            ),
            *("--max-examples", str(FUZZ or 1), "--phases", "examples,coverage" + ",fuzzing,stateful" * bool(FUZZ)),
            *(["--generation-database", "none"] if FUZZ else ["--generation-deterministic"]),
            *more,
        ]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": hooks.__name__, "PYTHONPATH": os.pathsep.join(sys.path)}
        if who is not None:
            arguments += ["--header", f"Authorization: Bearer {who.token}"]
            environment[hooks.SELF] = who.user_id
        run = Run()
        reactor.spawnProcess(run, arguments[0], arguments, environment)  # type: ignore[attr-defined]
        status = await run.ended
        self.assertEqual(status, 0, f"as {who and who.username}: {run.printed}")
        counted = ASKED.search(run.printed)
        assert counted is not None, run.printed
        self.assertGreater(int(counted[1]), 500, run.printed)

    async def test_all_roles(self) -> None:
        """Nobody in particular, a customer, staff and an administrator ask; each is what it was afterwards."""
        await self.run_as(None)
        for role, endless in (
            ("customer", ()),
            ("staff", ("--exclude-path", ENDLESS)),
            ("admin", ("--exclude-path", ENDLESS)),
        ):
            who = await self.person(role)
            await self.run_as(who, *endless)
            user = await self.done("GET", f"/v1/users/{who.user_id}", who=who)
            self.assertEqual(user["roles"], ROLES[role])
        for name in self.programs:
            self.assertNotIn("Traceback", self.log_of(name))
