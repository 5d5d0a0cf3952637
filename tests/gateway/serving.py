"""A whole gateway on a free port, with TLS and a fake in the MOM's place, and clients for it."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import time
from typing import Any, ClassVar

import jwt
from attrs import define, field, frozen
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

from bookd.config import Identity
from bookd.contract import openapi
from bookd.contract.binding import bindings
from bookd.contract.codec import encode
from bookd.contract.descriptors import Contract
from bookd.gateway.cache import Cache
from bookd.gateway.calls import Calls
from bookd.gateway.cors import Cors
from bookd.gateway.hosts import Hosts
from bookd.gateway.intake import Intake, Limits
from bookd.gateway.issuers import Issuer, users
from bookd.gateway.keys import KeyFile
from bookd.gateway.listener import Listener, ServerTLS
from bookd.gateway.origin import Proxies
from bookd.gateway.rates import Buckets, Quota, Rates
from bookd.gateway.refusals import Refusals
from bookd.gateway.routes import Gateway, route_table
from bookd.gateway.site import Bounds, Site
from bookd.gateway.streams import Streams
from bookd.gateway.tokens import Tokens
from bookd.pki import issue, make_authority
from tests.gateway import kites

HEALTH = "/grpc.health.v1.Health/Check"
_AUTHORITY = make_authority(datetime.now(UTC))
_ISSUED = issue(_AUTHORITY, "gateway", [], datetime.now(UTC))
KEY = Ed25519PrivateKey.generate()


def jwk(key: Ed25519PrivateKey, kid: str) -> dict[str, Any]:
    """The public half as a JWK."""
    return {**jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


def token(subject: str = "ada", roles: Any = (), key: Any = KEY, kid: str | None = "k1", **claims: Any) -> str:
    """An access token as the users daemon makes them; a claim that is given as None is left out."""
    now = int(time())
    whole = {
        "iss": "bookd",
        "aud": "bookd",
        "sub": subject,
        "iat": now,
        "nbf": now,
        "exp": now + 900,
        "roles": list(roles) if isinstance(roles, tuple) else roles,
        "sid": "s1",
        **claims,
    }
    algorithm = "EdDSA" if isinstance(key, Ed25519PrivateKey) else "HS256"
    headers = {"kid": kid} if kid is not None else {}
    return jwt.encode({k: v for k, v in whole.items() if v is not None}, key, algorithm, headers=headers)


@frozen
class Call:
    """A call as it reached the fake."""

    path: str
    request: bytes
    timeout: float | None
    metadata: dict[str, str | bytes]


@define
class FakeChannel:
    """Answers calls with what the test put under their path: bytes, a message, an error, a Deferred, or a function."""

    answers: dict[str, Any] = field(factory=dict)
    calls: list[Call] = field(factory=list)
    cancelled: list[str] = field(factory=list)
    on_cancel: Callable[[], object] = lambda: None

    def unary_unary(self, method: str) -> Callable[..., Deferred[bytes]]:
        def call(request: bytes, timeout: float | None = None, metadata: Any = ()) -> Deferred[bytes]:
            made = Call(method, request, timeout, dict(metadata))
            self.calls.append(made)
            return maybeDeferred(self._answer, made)

        return call

    def _answer(self, call: Call) -> Any:
        answer = self.answers[call.path]
        if callable(answer):
            answer = answer(call)
        if isinstance(answer, Exception):
            return fail(answer)
        return answer.SerializeToString() if isinstance(answer, Message) else answer

    def unary_stream(self, method: str) -> Callable[..., "FakeStream"]:
        def call(request: bytes, timeout: float | None = None, metadata: Any = ()) -> FakeStream:
            made = Call(method, request, timeout, dict(metadata))
            self.calls.append(made)
            return FakeStream(self, method, self.answers[method](made))

        return call


@define
class FakeStream:
    """A streaming call over an async iterator of messages."""

    channel: FakeChannel
    path: str
    messages: AsyncIterator[Message]
    ended: bool = False

    def __aiter__(self) -> "FakeStream":
        return self

    async def __anext__(self) -> bytes:
        try:
            return (await anext(self.messages)).SerializeToString()
        except StopAsyncIteration:
            self.ended = True
            raise

    def cancel(self) -> None:
        if not self.ended:
            self.ended = True
            self.channel.cancelled.append(self.path)
            self.channel.on_cancel()


class Answer:
    """A response that has arrived."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.status: int = response.code
        self.headers = response.headers
        self.body = body

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Raw(Protocol):
    """A client that sends what it is told to, and keeps what comes."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)


class GatewayTestCase(TestCase):
    """Each test has a gateway that serves the kites beside the bookstore."""

    # What the test wants otherwise than the suite does.
    bounds: ClassVar[dict[str, Any]] = {}
    quotas: ClassVar[dict[str, tuple[float, int]]] = {}
    hosts: ClassVar[list[str]] = []
    origins: ClassVar[list[str]] = []
    proxies: ClassVar[list[str]] = []
    # Seconds that answers are kept for, while they are fresh and after.
    fresh = stale = 0.0
    most_streams = 100
    timeout = 20

    def contract(self) -> Contract:
        return kites.contract(kites.KITES)

    def issuers(self) -> list[Issuer]:
        """Who makes tokens."""
        return [users(KeyFile(self.folder / "jwks.json", reactor.seconds), "bookd", "bookd")]

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "cert.pem").write_bytes(_ISSUED.certificate_pem)
        (folder / "key.pem").write_bytes(_ISSUED.key_pem)
        (folder / "jwks.json").write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
        self.folder = folder
        self.spoken = self.contract()
        self.channel = FakeChannel({HEALTH: b"\x08\x01"})
        numbers = count(1)
        self.cache_seconds = 0.0
        self.new_id = lambda: f"01900000-0000-7000-8000-{next(numbers):012x}"
        self.calls = Calls(self.channel, self.channel, grace=2.0, reactor=reactor)
        self.tokens = Tokens(self.issuers(), lambda: int(time() * 1e6))
        self.streams = Streams(reactor, self.most_streams)
        proxies = Proxies(self.proxies)
        usual = {"address": (10_000.0, 10_000), "principal": (10_000.0, 10_000), "open": (1000.0, 1000), **self.quotas}
        self.buckets = {name: Buckets(Quota(name, *quota), 100, reactor.seconds) for name, quota in usual.items()}
        self.rates = Rates(*self.buckets.values(), proxies)
        self.cache = Cache(self.fresh, self.stale, 100_000, lambda: self.cache_seconds)
        self.gateway = Gateway(
            route_table(bindings(self.spoken)),
            Intake(self.tokens, self.rates, Limits(default_deadline=10.0, max_deadline=60.0), self.new_id),
            self.calls,
            self.streams,
            self.rates,
            lambda message: encode(message, self.spoken.pool),
            json.dumps(openapi.document(self.spoken, bindings(self.spoken), title="bookd", version="1")).encode(),
            self.cache,
            Refusals(reactor),
            max_wait=60.0,
            seconds=reactor.seconds,
        )
        self.site = Site(
            self.gateway,
            Bounds(**{"max_body": 100_000, "idle_timeout": 30.0, "proxies": proxies, **self.bounds}),
            Cors(self.origins),
            new_id=self.new_id,
            reactor=reactor,
            hosts=Hosts(self.hosts),
        )
        tls = ServerTLS(Identity(certificate="cert.pem", private_key="key.pem"), folder, reactor.seconds)
        self.listener = Listener("127.0.0.1", 0, self.site, tls, grace=2.0, reactor=reactor)
        self.calls.startService()
        self.streams.startService()
        self.listener.startService()
        self.addCleanup(self.stop)
        self.authority = _AUTHORITY
        self.trust = Certificate.loadPEM(_AUTHORITY.certificate_pem)
        agent = Agent(
            reactor, BrowserLikePolicyForHTTPS(trustRoot=self.trust), pool=HTTPConnectionPool(reactor, persistent=False)
        )
        self.client = HTTPClient(agent)

    async def stop(self) -> None:
        if self.streams.running:
            await maybeDeferred(self.streams.stopService)
        if self.listener.running:
            await self.listener.stopService()
        if self.calls.running:
            await self.calls.stopService()

    def message(self, name: str, **fields: Any) -> Any:
        """A message of the kites, as bytes-compatible class of the contract."""
        for method in self.spoken.methods.values():
            for kind in (method.request, method.response):
                if kind.DESCRIPTOR.name == name:
                    return kind(**fields)
        raise AssertionError(name)

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, Any] | None = None, **options: Any
    ) -> Answer:
        """One request; a body that is no bytes is sent as JSON."""
        sent = dict(headers or {})
        if options.pop("roles", None) is not None:
            raise AssertionError("say who in the headers")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        url = f"https://127.0.0.1:{self.listener.port}{path}"
        response = await self.client.request(method, url, data=body, headers=sent, unbuffered=False, **options)
        return Answer(response, await response.content())

    async def raw(self, data: bytes = b"") -> Raw:
        """A raw TLS connection on which `data` was sent."""
        endpoint = wrapClientTLS(
            optionsForClientTLS("localhost", trustRoot=self.trust),
            HostnameEndpoint(reactor, "127.0.0.1", self.listener.port),
        )
        client: Raw = await connectProtocol(endpoint, Raw())
        self.addCleanup(self._leave, client)
        client.transport.write(data)
        return client

    def _leave(self, client: Raw) -> Deferred[None]:
        client.transport.loseConnection()
        return client.closed

    def pause(self, seconds: float, result: Any = None) -> Deferred[Any]:
        """Fires with `result` after a while."""
        return deferLater(reactor, seconds, lambda: result)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Turn the reactor until the condition holds; trial's timeout ends a wait that is in vain."""
        while not condition():
            await deferLater(reactor, 0.005)

    def assert_problem(self, answer: Answer, status: int, code: str) -> dict[str, Any]:
        """Assert that the answer is a complete problem, and give it."""
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.header("Content-Type"), "application/problem+json")
        problem: dict[str, Any] = answer.json
        self.assertEqual(list(problem), ["type", "title", "status", "detail", "code", "request_id", "violations"])
        self.assertEqual((problem["status"], problem["code"]), (status, code))
        self.assertEqual(problem["request_id"], answer.header("X-Request-Id"))
        return problem


def bearer(*arguments: Any, **options: Any) -> dict[str, str]:
    """The header of a request by somebody; arguments as for `token`."""
    return {"Authorization": f"Bearer {token(*arguments, **options)}"}


__all__ = ["KEY", "CancelledError", "GatewayTestCase", "bearer", "jwk", "token"]
