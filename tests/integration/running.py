"""Five real daemons in a home of their own, on free ports, and a client of their REST API."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from bookd.command.trust import trust
from tests.chaos.daemons import Program, twistd
from tests.chaos.stage import configure, make_home

PASSWORD = "correct horse battery"
# The order in which a suite starts; it stops in the other.
ORDER = ("inventory", "orders", "users", "mom", "gateway")


@frozen
class Answer:
    """What the gateway answered, and after how many seconds."""

    status: int
    headers: Any
    body: Any
    seconds: float

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None


@frozen
class Person:
    """Somebody who has logged in."""

    user_id: str
    token: str
    username: str


class SuiteTestCase(TestCase):
    """Each test has a suite, whose daemons it may stop, kill and freeze."""

    timeout = 120

    async def setUp(self) -> None:
        """Start the suite."""
        self.home = Path(mkdtemp(prefix="bookd-suite-"))
        self.addCleanup(shutil.rmtree, self.home)
        self.ports = make_home(self.home)
        configure(self.home, self.ports, lambda link: self.ports[link.partition("-")[2]])
        self.dead: list[str] = []
        self.programs = {
            name: Program(reactor, name, twistd(name, self.config), self.home / f"{name}.log", self.died)
            for name in ORDER
        }
        self.pool = HTTPConnectionPool(reactor)
        self.http = HTTPClient(Agent(reactor, trust(self.home / "pki" / "ca.pem"), 5, pool=self.pool))
        self.addCleanup(self.end)
        for name in ORDER:
            self.programs[name].start()
        await self.ready()
        secret = json.loads((self.home / "secrets" / "admin.json").read_text())
        self.admin = await self.log_in(secret["username"], secret["password"])

    @property
    def config(self) -> Path:
        """The configuration of all daemons."""
        return self.home / "bookd.toml"

    def died(self, name: str, status: int) -> None:
        """A daemon ended that nobody had ended."""
        self.dead.append(f"{name} ({status})")

    async def end(self) -> None:
        """End what runs; show what the daemons logged, when the test failed."""
        await self.pool.closeCachedConnections()
        for name in reversed(ORDER):
            await self.programs[name].stop()
        if self._passed is False:  # trial's own note
            for name in ORDER:
                sys.stderr.write(f"--- {name}\n{self.log_of(name)[-4000:]}\n")
        self.assertEqual(self.dead, [])

    _passed: bool | None = None

    def log_of(self, name: str) -> str:
        """What a daemon has logged."""
        path = self.home / f"{name}.log"
        return path.read_text() if path.exists() else ""

    async def ready(self) -> None:
        """Wait until the whole suite serves."""
        await self.until(self.serves)

    async def serves(self) -> bool:
        """Whether reads of all services are answered."""
        paths = ("/readyz", "/v1/books?page_size=1", "/.well-known/jwks.json")
        found = [await self.try_to_ask("GET", path) for path in paths]
        orders = await self.try_to_ask("GET", "/v1/orders/x")
        return all(each is not None and each.status == 200 for each in found) and getattr(orders, "status", 0) == 401

    async def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> float:
        """Wait for an awaitable condition; answers how long that took, in seconds."""
        began = reactor.seconds()  # type: ignore[attr-defined]
        while not await condition():
            passed = reactor.seconds() - began  # type: ignore[attr-defined]
            if passed > seconds:
                self.fail(f"not within {seconds} s; dead: {self.dead}; {self.log_of('gateway')[-2000:]}")
            await deferLater(reactor, 0.03)
        took: float = reactor.seconds() - began  # type: ignore[attr-defined]
        return took

    # Asking.

    async def ask(
        self,
        verb: str,
        path: str,
        body: Any = None,
        who: Person | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; a body that is no bytes is sent as JSON."""
        sent: dict[str, Any] = dict(headers or {})
        data = None
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        if who is not None:
            sent["Authorization"] = f"Bearer {who.token}"
        began = reactor.seconds()  # type: ignore[attr-defined]
        url = f"https://localhost:{self.ports['gateway']}{path}"
        response: Any = await self.http.request(verb, url, data=data, headers=sent, allow_redirects=False, timeout=30)
        content = await response.content()
        took = reactor.seconds() - began  # type: ignore[attr-defined]
        return Answer(response.code, response.headers, json.loads(content) if content else None, took)

    async def try_to_ask(self, *args: Any, **options: Any) -> Answer | None:
        """One request; None when there is no answer."""
        try:
            return await self.ask(*args, **options)
        except Exception:
            return None

    async def done(self, *args: Any, **options: Any) -> Any:
        """The body of a request that must succeed at once."""
        answer = await self.ask(*args, **options)
        self.assertIn(answer.status, (200, 201), answer.body)
        return answer.body

    def assert_problem(self, answer: Answer, status: int, field: str | None = None) -> None:
        """Assert that an answer is a complete problem; `field` is named among its violations."""
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.header("Content-Type"), "application/problem+json")
        for name in ("type", "title", "status", "detail", "code", "request_id", "violations"):
            self.assertIn(name, answer.body)
        self.assertTrue(answer.body["detail"])
        if field is not None:
            self.assertIn(field, [each["field"] for each in answer.body["violations"]], answer.body)

    # People and books.

    async def log_in(self, username: str, password: str = PASSWORD) -> Person:
        """Log in."""
        session = await self.done("POST", "/v1/sessions", {"username": username, "password": password})
        return Person(session["user_id"], session["access_token"], username)

    async def customer(self) -> Person:
        """A new customer."""
        name = f"c{uuid4().hex[:10]}"
        await self.done(
            "POST",
            "/v1/users",
            {"username": name, "email": f"{name}@example.org", "password": PASSWORD, "address": "1 Main Street"},
        )
        return await self.log_in(name)

    async def book(self, **changes: Any) -> str:
        """A new book with ten copies at 15.99 dollars; answers its id."""
        price = {"currency_code": "USD", "units": "15", "nanos": 990000000}
        book = {"title": f"Title {uuid4().hex[:6]}", "author": "Ada", "stock": 10, "price": price, **changes}
        made: str = (await self.done("POST", "/v1/books", book, self.admin))["book_id"]
        return made

    async def order(
        self, who: Person, book_id: str, quantity: int = 1, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Order one book."""
        return await self.ask(
            "POST", "/v1/orders", {"items": [{"book_id": book_id, "quantity": quantity}]}, who, headers
        )

    async def stock(self, book_id: str) -> int:
        """Copies that can be ordered."""
        found: int = (await self.done("GET", f"/v1/books/{book_id}"))["stock"]
        return found

    async def order_is(self, who: Person, order_id: str, status: str) -> bool:
        """Whether an order stands so."""
        answer = await self.try_to_ask("GET", f"/v1/orders/{order_id}", who=who)
        return answer is not None and answer.status == 200 and answer.body["status"] == f"ORDER_STATUS_{status}"

    async def operation_done(self, who: Person, location: str) -> bool:
        """Whether an operation has its outcome."""
        answer = await self.try_to_ask("GET", location, who=who)
        return answer is not None and answer.status == 200 and bool(answer.body.get("done"))

    # What may happen to a daemon.

    async def take(self, name: str, how: str) -> None:
        """Let a daemon stop, be killed or freeze."""
        program = self.programs[name]
        if how == "stop":
            self.assertTrue(await program.stop(), f"{name} had to be killed")
        elif how == "kill":
            await program.kill()
        else:
            program.signal(signal.SIGSTOP)

    def give_back(self, name: str) -> None:
        """Let it run again."""
        self.programs[name].start()
        self.programs[name].signal(signal.SIGCONT)
