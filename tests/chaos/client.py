"""A good client of the REST API, as the protocol describes one.

It names each write with an Idempotency-Key, sends it again under the same key until there is a final answer, waits as
long as Retry-After says (no longer than a run can bear), and follows a 202 to its end: by asking for the operation, or
by sending the request again, which has to come to the same.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid5

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.web.client import Agent, HTTPConnectionPool

from bookd.command.answer import PROBLEM, Refusal, outcome
from bookd.command.trust import trust
from tests.chaos.history import History, Operation

# The namespace of the gateway's message ids (bookd.gateway.intake).
NAMESPACE = UUID("6e1dbd8e-6a0c-5a3f-9d55-0d1e6f1f4b1d")
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 15.0
# Answers after which the same request, under the same key, may have another one.
BUSY = frozenset({408, 429, 500, 502, 503, 504})
LONGEST_PAUSE = 1.0


class Silence(Exception):
    """No answer, or none that can be read."""


@frozen
class Answer:
    """What the gateway answered."""

    status: int
    body: Any
    retry_after: float

    @property
    def reason(self) -> str:
        """Why it refused, or empty."""
        kind = str(self.body.get("type", "")) if isinstance(self.body, dict) else ""
        return kind.removeprefix(PROBLEM) if kind.startswith(PROBLEM) else ""


@frozen
class Request:
    """What a client sends for an operation."""

    verb: str
    path: str
    body: Any = None
    key: str = ""
    prefer: str = ""


@frozen
class Somebody:
    """Who asks."""

    user_id: str
    token: str


NOBODY = Somebody("", "")


def message_id(who: Somebody, key: str) -> str:
    """The message id that the gateway makes of a caller's key."""
    return str(uuid5(NAMESPACE, f"{who.user_id}\n{key}"))


@frozen
class Sent:
    """A write that has ended, and how its answer is read."""

    operation: Operation
    request: Request
    told: Callable[[Any], Mapping[str, Any]]


class Client:
    """Speaks for one user. `gave_up` says whether the run is over."""

    def __init__(
        self,
        reactor: Any,
        url: str,
        ca: Path,
        who: Somebody,
        history: History,
        chance: Random,
        gave_up: Callable[[], bool],
        connections: int = 4,
    ) -> None:
        self.who = who
        self.history = history
        self.chance = chance
        self.gave_up = gave_up
        # What has ended, to be sent once more.
        self.sent: list[Sent] = []
        self._reactor = reactor
        self._url = url
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = connections
        self._pool.retryAutomatically = False
        self._http = HTTPClient(Agent(reactor, trust(ca), CONNECT_SECONDS, pool=self._pool))

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.closeCachedConnections()

    async def ask(self, request: Request) -> Answer:
        """Send a request once. Raises `Silence`."""
        headers = {"Accept": "application/json, application/problem+json"}
        if request.key:
            headers["Idempotency-Key"] = f'"{request.key}"'
        if request.prefer:
            headers["Prefer"] = request.prefer
        if self.who.token:
            headers["Authorization"] = f"Bearer {self.who.token}"
        data = None
        if request.body is not None:
            data = json.dumps(request.body).encode()
            headers["Content-Type"] = "application/json"
        asked: Deferred[Answer] = ensureDeferred(self._exchange(request, headers, data))
        asked.addTimeout(ANSWER_SECONDS, self._reactor)
        try:
            return await asked
        except Exception as error:  # a broken connection has many names
            raise Silence(repr(error)) from error

    async def read(self, operation: Operation, path: str, told: Callable[[Any], Mapping[str, Any]]) -> None:
        """Read once. What does not answer is passed over."""
        operation.attempts += 1
        try:
            answer = await self.ask(Request("GET", path))
        except Silence:
            return
        if answer.status == 200:
            self.history.ok(operation, **told(answer.body))
        elif answer.status not in BUSY:
            self.history.refused(operation, answer.status, answer.reason)

    async def write(
        self,
        operation: Operation,
        request: Request,
        told: Callable[[Any], Mapping[str, Any]],
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        """Send until there is a final answer, or until the run is over. `accepted` is called at the first
        acknowledgement; `told` makes of the answer's body what the history remembers."""
        await self._until_answered(operation, request, told, accepted)
        if operation.ended is not None:
            self.sent.append(Sent(operation, request, told))

    async def repeat(self, sent: Sent) -> str:
        """Send again what has ended long ago, under its key; answers what is wrong with the answer."""
        while not self.gave_up():
            try:
                answer = await self.ask(sent.request)
            except Silence:
                answer = None
            if answer is None or answer.status in BUSY:
                await self._pause(0.5)
                continue
            name = f"{sent.operation.kind} {sent.operation.number}, sent again in the end,"
            if sent.operation.outcome == "refused":
                then = sent.operation.result["reason"]
                return "" if answer.reason == then else f"{name} is answered {answer.status}, and not {then}"
            if not 200 <= answer.status < 300 or answer.status == 202:
                return f"{name} is answered {answer.status} {answer.reason}"
            now, then = sent.told(answer.body), sent.operation.result
            # An order is answered as it is; whatever else has an identity or a version has the same one.
            different = [key for key in ("order_id", "version") if now.get(key) != then.get(key)]
            return f"{name} is answered {dict(now)} and not {dict(then)}" if different else ""
        return ""

    async def _until_answered(
        self,
        operation: Operation,
        request: Request,
        told: Callable[[Any], Mapping[str, Any]],
        accepted: Callable[[], None],
    ) -> None:
        asks_again = self.chance.random() < 0.3
        while not self.gave_up():
            try:
                if operation.name and not asks_again:
                    answer = await self.ask(Request("GET", f"/v1/{operation.name}"))
                    if answer.status == 200 and self.ended(operation, answer.body, told):
                        return
                else:
                    operation.attempts += 1
                    answer = await self.ask(request)
                    if 200 <= answer.status < 300 and answer.status != 202:
                        self.history.ok(operation, **told(answer.body))
                        return
            except Silence:
                await self._pause(0.3)
                continue
            if answer.status == 202:
                self.history.accept(operation, answer.body["name"])
                accepted()
            elif answer.status == 500:
                self.history.note("broken", operation=operation.number, body=answer.body)
            elif answer.status not in BUSY and answer.status != 200:
                self.history.refused(operation, answer.status, answer.reason)
                return
            await self._pause(answer.retry_after)

    def ended(self, operation: Operation, found: Any, told: Callable[[Any], Mapping[str, Any]]) -> bool:
        """Note the end of an operation that was asked for, if it is done; whether it is."""
        if not found.get("done"):
            return False
        try:
            self.history.ok(operation, **told(outcome(found)))
        except Refusal as refusal:
            self.history.refused(operation, 0, refusal.reason or refusal.code)
        return True

    async def _pause(self, seconds: float) -> None:
        await deferLater(self._reactor, min(seconds, LONGEST_PAUSE) * self.chance.uniform(0.3, 1.0))

    async def _exchange(self, request: Request, headers: Mapping[str, str], data: bytes | None) -> Answer:
        response: Any = await self._http.request(
            request.verb, self._url + request.path, headers=dict[Any, Any](headers), data=data, allow_redirects=False
        )
        body = await response.content()
        said = (response.headers.getRawHeaders("retry-after") or [""])[0]
        return Answer(response.code, json.loads(body) if body else None, float(said) if said.isdigit() else 0.5)
