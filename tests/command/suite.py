"""A small HTTPS server in the place of a suite, which answers as the test says, and processes to run commands in."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from attrs import frozen
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from bookd import pki
from bookd.command.home import Home
from bookd.command.rest import Rest
from bookd.command.session import Session

AUTHORITY = pki.make_authority(datetime.now(UTC))
GATEWAY = pki.issue(AUTHORITY, "gateway", [], datetime.now(UTC))
CREDENTIALS = {"username": "admin", "password": "secret"}
HUNG = object()
BROKEN = object()
ENDLESS = object()


@frozen
class Asked:
    """A request as it reached the suite."""

    verb: str
    path: str  # with its query
    body: Any
    key: str | None
    token: str | None


@frozen
class Says:
    """What the suite answers."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = {}


def problem(status: int, code: str, detail: str, reason: str = "", **headers: str) -> Says:
    """An answer that refuses."""
    kind = f"urn:bookd:problem:{reason}" if reason else "about:blank"
    body = {"type": kind, "title": "No", "status": status, "detail": detail, "code": code, "violations": []}
    return Says(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


def tokens(number: int = 1, lifetime: int = 900) -> Says:
    """An opened session."""
    body = {"access_token": f"a{number}", "refresh_token": f"r{number}", "token_type": "Bearer"}
    return Says(200, {**body, "expires_in": lifetime, "user_id": "u1"})


Answers = Callable[[Asked], Any]


class Leaf(Resource):
    """All paths."""

    isLeaf = True

    def __init__(self, answers: Answers, asked: list[Asked]) -> None:
        super().__init__()
        self.answers = answers
        self.asked = asked

    def render(self, request: Request) -> Any:
        """Answer as the test says."""
        content = request.content.read()
        authorization = request.getHeader("authorization")
        asked = Asked(
            request.method.decode(),
            request.uri.decode(),
            json.loads(content) if content else None,
            request.getHeader("idempotency-key"),
            authorization.removeprefix("Bearer ") if authorization else None,
        )
        self.asked.append(asked)
        says = self.answers(asked)
        if says is ENDLESS:
            request.write(b"[" * 100_000)
        if says in (HUNG, ENDLESS):
            return NOT_DONE_YET
        if says is BROKEN:
            request.transport.abortConnection()
            return NOT_DONE_YET
        request.setResponseCode(says.status)
        for name, value in says.headers.items():
            request.setHeader(name, value)
        if isinstance(says.body, bytes):
            return says.body
        request.setHeader("content-type", "application/json")
        return b"" if says.body is None else json.dumps(says.body).encode()


class SuiteCase(TestCase):
    """Tests with a suite that the test plays."""

    timeout = 30

    def setUp(self) -> None:
        """A folder, with the authority in it."""
        self.folder = Path(mkdtemp(prefix="bookd-test-"))
        self.addCleanup(lambda: __import__("shutil").rmtree(self.folder))
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(AUTHORITY.certificate_pem)
        self.asked: list[Asked] = []

    def plays(self, answers: Answers) -> str:
        """Answer requests so, from now on; the address."""
        certificate = ssl.PrivateCertificate.loadPEM(GATEWAY.key_pem + GATEWAY.certificate_pem)
        site = Site(Leaf(answers, self.asked), reactor=reactor)
        port = reactor.listenSSL(0, site, certificate.options(), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return f"https://localhost:{port.getHost().port}"

    def rest(self, url: str, session: Session | None = None, ca: Path | None = None, **options: Any) -> Rest:
        """A client of the suite at `url`."""
        rest = Rest(reactor, url, ca or self.ca, session or Session(), **options)
        # cleanups go backwards; a connection that was broken off is gone some turns later
        self.addCleanup(deferLater, reactor, 0.02)
        self.addCleanup(lambda: Deferred.fromCoroutine(rest.close()))
        return rest

    def home(self, url: str) -> Home:
        """A home whose gateway is at `url`."""
        home = Home(self.folder / "home")
        (home.path / "pki").mkdir(parents=True)
        home.ca.write_bytes(AUTHORITY.certificate_pem)
        (home.path / "secrets").mkdir()
        home.admin.write_text(json.dumps(CREDENTIALS))
        home.config_file.write_text(
            f'[gateway]\nport = {url.rpartition(":")[2]}\nmom = {{name = "mom", addresses = ["localhost:1"]}}\n'
            'identity = {certificate = "c", private_key = "k"}\n'
        )
        return home

    def bookd(self, *arguments: str, stdin: bytes = b"", **environment: str) -> "Ended":
        """Run the command in a process of its own."""
        ended = Ended()
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100", **environment}
        command = [sys.executable, "-m", "bookd.command.main", *arguments]
        ended.process = reactor.spawnProcess(ended, sys.executable, command, variables)  # type: ignore[attr-defined]
        ended.process.write(stdin)
        ended.process.closeStdin()
        return ended


class Ended(ProcessProtocol):
    """A command that runs: what it printed, and the status with which it ended, negative for a signal."""

    process: Any

    def __init__(self) -> None:
        self.printed = ""
        self.errors = ""
        self.status: Deferred[int] = Deferred()
        self._awaited: list[tuple[str, Deferred[None]]] = []

    def outReceived(self, data: bytes) -> None:
        """Keep what it printed."""
        self.printed += data.decode()
        for text, told in list(self._awaited):
            if text in self.printed:
                self._awaited.remove((text, told))
                told.callback(None)

    def errReceived(self, data: bytes) -> None:
        """Keep what it said of errors."""
        self.errors += data.decode()

    def says(self, text: str) -> Deferred[None]:
        """When it has printed `text`; fails when it ends without."""
        told: Deferred[None] = Deferred()
        self._awaited.append((text, told))
        self.outReceived(b"")
        return told

    def processEnded(self, reason: Any) -> None:
        """Tell those who wait."""
        for text, told in self._awaited:
            told.errback(AssertionError(f"ended without {text!r}: {self.printed}{self.errors}"))
        self.status.callback(reason.value.exitCode if reason.value.exitCode is not None else -reason.value.signal)
