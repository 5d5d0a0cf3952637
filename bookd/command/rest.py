"""A client of the suite's REST API.

It trusts the suite's own authority and nobody else, gives every write an Idempotency-Key, keeps the session's tokens
fresh, waits and tries again where the caller is patient, and never takes more of an answer than it can hold. A write
that is tried again keeps its key, so it takes effect once.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

from OpenSSL.SSL import Error as TLSError
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from bookd.command.answer import LONGEST_PAUSE, SHORTEST_PAUSE, Answer, Call, Refusal, Unreachable, judge, outcome, path
from bookd.command.home import CommandError
from bookd.command.session import Session, Tokens
from bookd.command.trust import tls_reason, trust

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
# Whoever follows an operation puts up with silence for so long.
AWAY_SECONDS = 30.0
LARGEST_ANSWER = 16 * 1024 * 1024
# The access token is renewed when it has less than this left.
MARGIN_SECONDS = 30.0
# Answers after which the same call, under the same key, may have another one.
BUSY = frozenset({429, 502, 503, 504})
WRITES = frozenset({"POST", "PATCH", "PUT", "DELETE"})
_BROKEN = (ConnectionClosed, ResponseNeverReceived, ResponseFailed, RequestTransmissionFailed)


class _Body(Protocol):
    """Collects an answer's body up to the largest that is taken."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        """Keep a part, or hang up."""
        self._size += len(data)
        if self._size > LARGEST_ANSWER:
            self._finish(Unreachable(f"the answer is larger than {LARGEST_ANSWER:,} bytes"))
            if self.transport is not None:
                self.transport.loseConnection()
            return
        self._parts.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The body is complete, or the connection broke in the middle of it."""
        self._finish(b"".join(self._parts) if reason.check(ResponseDone, PotentialDataLoss) else reason)

    def _finish(self, result: Any) -> None:
        if not self.done.called:
            self.done.callback(result) if isinstance(result, bytes) else self.done.errback(result)


class Rest:
    """The API at `url`. `patience` is how many seconds a call goes on trying while the suite is busy or away."""

    def __init__(
        self,
        reactor: Any,
        url: str,
        ca: Path | None,
        session: Session,
        *,
        patience: float = 0.0,
        connections: int = 2,
        credentials: Mapping[str, str] | None = None,
        on_retry: Callable[[], None] = lambda: None,
    ) -> None:
        address = urlsplit(url)
        if address.scheme != "https" or not address.hostname or address.path.strip("/"):
            raise CommandError(f"{url!r} is not the address of a suite; it looks like https://localhost:8081")
        self.url = url.rstrip("/")
        self.session = session
        self.retried = 0
        self._reactor = reactor
        self._clock = IReactorTime(reactor)
        self._patience = patience
        self._credentials = credentials
        self._on_retry = on_retry
        self._renewal: Deferred[None] | None = None
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = connections
        agent = Agent(reactor, trust(ca), CONNECT_SECONDS, pool=self._pool)
        self._http = HTTPClient(agent)

    async def close(self) -> None:
        """Close the connections, once those whose answers have just been read are back among the others."""
        await deferLater(self._reactor, 0)
        await self._pool.closeCachedConnections()

    async def call(self, call: Call, *, key: str | None = None) -> Answer:
        """Make the call. `key` is its Idempotency-Key, made up for a write that has none. Raises `Refusal`, and
        `Unreachable` when there was no answer."""
        key = key or (str(uuid4()) if call.verb in WRITES else None)
        started = self._clock.seconds()
        pause = SHORTEST_PAUSE
        renewed = False
        while True:
            if not call.public:
                await self._fresh()
            try:
                return await self._once(call, key)
            except Refusal as refusal:
                if refusal.status == 401 and not call.public and not renewed and self._may_renew():
                    renewed = True
                    await self._renew(self.session.tokens)
                    continue
                if refusal.status not in BUSY or not self._patient(started):
                    raise
                if refusal.answer is not None:
                    pause = refusal.answer.retry_after(pause)
            except Unreachable:
                if not self._patient(started):
                    raise
            self.retried += 1
            self._on_retry()
            await deferLater(self._reactor, pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def follow(self, operation: str, patience: float | None = None) -> Any:
        """Wait until the operation is done, `patience` seconds at most when given; the response that it holds. A suite
        that is away for a while does no harm. Raises `Refusal` when the kept call was refused, and `Unreachable` when it
        is not done in time."""
        call = Call("GET", path("/v1/operations/{name}", name=operation.rpartition("/")[2]))
        started = heard = self._clock.seconds()
        pause = SHORTEST_PAUSE
        while True:
            try:
                found = (await self.call(call)).body
                heard = self._clock.seconds()
            except Refusal as refusal:
                if refusal.status not in BUSY:
                    raise
                found = {}
            except Unreachable:
                if self._clock.seconds() - heard > AWAY_SECONDS:
                    raise
                found = {}
            if isinstance(found, dict) and found.get("done"):
                return outcome(found)
            if patience is not None and self._clock.seconds() - started > patience:
                raise Unreachable(f"{operation} is not done yet")
            await deferLater(self._reactor, pause)
            pause = min(pause * 1.5, 2.0)

    async def log_in(self, username: str, password: str) -> Answer:
        """Open a session and keep its tokens."""
        body = {"username": username, "password": password}
        answer = await self.call(Call("POST", "/v1/sessions", body, public=True))
        self._keep(answer)
        return answer

    async def log_out(self) -> Answer:
        """End the session, at the suite and here. Without a session there is nothing to do."""
        if self.session.tokens is None:
            return Answer(204, Headers(), None)
        body = {"refresh_token": self.session.tokens.refresh_token}
        answer = await self.call(Call("POST", "/v1/sessions:revoke", body, public=True))
        self.session.keep(None)
        return answer

    def _patient(self, started: float) -> bool:
        return self._clock.seconds() - started < self._patience

    async def _once(self, call: Call, key: str | None) -> Answer:
        """One attempt; a connection that was kept open for too long and broke at once gets a second one."""
        try:
            return await self._exchange(call, key)
        except _BROKEN:
            try:
                return await self._exchange(call, key)
            except _BROKEN as error:
                raise Unreachable(f"{self.url} broke the connection{tls_reason(error)}") from error

    async def _exchange(self, call: Call, key: str | None) -> Answer:
        deferred = ensureDeferred(self._answer(call, key))
        deferred.addTimeout(ANSWER_SECONDS, self._clock, self._too_slow)
        try:
            status, headers, data = await deferred
        except ConnectingCancelledError:
            raise CancelledError from None
        except _BROKEN as error:
            if any(reason.check(CancelledError) for reason in getattr(error, "reasons", ())):
                raise CancelledError from None  # nobody broke it but the caller, who gave up
            raise
        except (ConnectError, DNSLookupError) as error:
            raise Unreachable(f"{self.url} cannot be reached: {error}") from error
        except TLSError as error:
            raise Unreachable(f"{self.url}{tls_reason(error)}") from error
        return judge(status, headers, data)

    def _too_slow(self, _: object, seconds: float) -> NoReturn:
        raise Unreachable(f"{self.url} did not answer within {seconds:.0f} seconds")

    async def _answer(self, call: Call, key: str | None) -> tuple[int, Headers, bytes]:
        headers = {"Accept": "application/json, application/problem+json", "User-Agent": "bookd"}
        if key is not None:
            headers["Idempotency-Key"] = f'"{key}"'
        if not call.public and self.session.tokens is not None:
            headers["Authorization"] = f"Bearer {self.session.tokens.access_token}"
        data = None
        if call.body is not None:
            data = json.dumps(call.body, ensure_ascii=False).encode()
            headers["Content-Type"] = "application/json"
        response: Any = await self._http.request(
            call.verb,
            self.url + call.path,
            params=dict(call.query),
            data=data,
            headers=dict[bytes | str, bytes | str](headers.items()),
            allow_redirects=False,
            unbuffered=True,
        )
        body = _Body()
        response.deliverBody(body)
        return response.code, response.headers, await body.done

    def _may_renew(self) -> bool:
        return self._credentials is not None or self.session.tokens is not None

    async def _fresh(self) -> None:
        """See that there is an access token with some life in it, if there can be one."""
        tokens = self.session.tokens
        if tokens is None:
            if self._credentials is not None:
                await self._renew(None)
        elif tokens.expires_at - time.time() < MARGIN_SECONDS:
            await self._renew(tokens)

    async def _renew(self, stale: Tokens | None) -> None:
        """Replace `stale`, once for all calls that find it so."""
        if self.session.tokens is not stale:
            return
        if self._renewal is not None:
            waiting: Deferred[None] = Deferred()

            def tell(result: Any) -> Any:
                waiting.callback(None)
                return result

            self._renewal.addBoth(tell)
            await waiting
            return
        self._renewal = Deferred()
        try:
            await self._replace(stale)
        except GeneratorExit:
            raise  # nobody holds this client any more, nor those who wait: to wake one that was collected before is an error
        except BaseException:
            self._renewed()
            raise
        self._renewed()

    def _renewed(self) -> None:
        done, self._renewal = self._renewal, None
        if done is not None:
            done.callback(None)

    async def _replace(self, stale: Tokens | None) -> None:
        if stale is not None:
            with self.session.alone():
                self.session.read()
                if self.session.tokens not in (None, stale):
                    return  # another process was quicker
                self.session.tokens = stale
                try:
                    body = {"refresh_token": stale.refresh_token}
                    # once: the token is spent, even if the answer gets lost
                    self._keep(await self._exchange(Call("POST", "/v1/sessions:refresh", body, public=True), None))
                    return
                except Refusal as refusal:
                    if refusal.status not in (400, 401, 403, 404):
                        raise
                except _BROKEN as error:
                    raise Unreachable(f"{self.url} broke the connection") from error
            if self._credentials is None:
                self.session.keep(None)
                raise Refusal(
                    401, {"title": "Unauthorized", "status": 401, "detail": "the session has ended; log in again"}
                )
        if self._credentials is not None:
            await self.log_in(**self._credentials)

    def _keep(self, answer: Answer) -> None:
        try:
            tokens = Tokens(
                user_id=str(answer.body["user_id"]),
                access_token=str(answer.body["access_token"]),
                refresh_token=str(answer.body["refresh_token"]),
                expires_at=time.time() + float(answer.body["expires_in"]),
            )
        except (TypeError, LookupError, ValueError) as error:
            raise Unreachable(f"{self.url} answers, but not as a bookd suite does") from error
        self.session.keep(tokens)
