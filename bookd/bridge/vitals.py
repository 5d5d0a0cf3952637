"""The port on which a daemon tells how it is: `/metrics`, `/healthz` (the process lives) and `/readyz` (it can do its work).

Plain HTTP, on the loopback interface only: numbers are no secrets between programs of one host, and are nobody else's
business. Whoever asks from elsewhere asks through something that knows its clients. Requests that name another host are
refused, so that no page in a browser reads along by way of its own name server.

It is bounded whatever comes: so many connections, each for so long, heads of 8 KiB, and of bodies nothing is kept.
"""

from collections.abc import Awaitable, Callable, Coroutine
from io import BytesIO
from ipaddress import ip_address
from typing import Any

from prometheus_client.exposition import choose_encoder
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.web import server
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource

from bookd.bridge.crossing import shield
from bookd.bridge.metrics import Metrics
from bookd.bridge.server import ListenError, check_free

LOOPBACK = "127.0.0.1"
# Connections at a time, seconds that one may last, and that looks may take.
MOST, LIFE, PATIENCE = 20, 30.0, 2.0
_HEAD, _HEADERS = 8192, 50

Ready = Callable[[], Coroutine[Any, Any, bool]]


async def always() -> bool:
    """Ready as soon as it runs."""
    return True


class _Request(server.Request):
    """A request of which the body is dropped."""

    def gotLength(self, length: int | None) -> None:
        """Twisted would open a file for a large body."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Drop a piece."""

    def process(self) -> None:
        """Answer, if it was us who were asked."""
        self.setHeader("Server", "bookd")
        self.setHeader("Cache-Control", "no-store")
        self.setHeader("X-Content-Type-Options", "nosniff")
        if _is_here(self.getRequestHostname()):
            super().process()
        else:
            self.setResponseCode(421)
            self.finish()

    def render(self, resrc: Any) -> None:
        """Answer with a resource; by now Twisted has put its own version into the Server header."""
        self.setHeader("Server", "bookd")
        super().render(resrc)


class _Connection(HTTPChannel):
    """A connection that does not last."""

    totalHeadersSize = _HEAD  # noqa: N815 - Twisted's names
    maxHeaders = _HEADERS  # noqa: N815
    MAX_LENGTH = _HEAD
    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        """Begin."""
        super().connectionMade()
        self.factory.open.add(self)
        self._end = self.callLater(LIFE, self.abort)

    def abort(self) -> None:
        """End, whatever is under way."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Any = connectionDone) -> None:
        """Leave nothing behind."""
        if self._end.active():
            self._end.cancel()
        super().connectionLost(reason)
        self.factory.left(self)


class _Site(server.Site):
    """The connections."""

    noisy = False

    def __init__(self, resource: Resource, reactor: Any) -> None:
        super().__init__(resource, requestFactory=_Request, timeout=LIFE, reactor=reactor)
        self.protocol = _Connection  # type: ignore[assignment]
        self.displayTracebacks = False
        self.open: set[_Connection] = set()
        self._emptied: Deferred[None] | None = None

    def startFactory(self) -> None:
        """Nothing: Twisted would keep an access log."""

    def stopFactory(self) -> None:
        """Nothing, likewise."""

    def log(self, request: Any) -> None:
        """Nothing, likewise."""

    def buildProtocol(self, addr: Any) -> Any:
        """The protocol of a connection; None for one too many."""
        return super().buildProtocol(addr) if len(self.open) < MOST else None

    def left(self, connection: _Connection) -> None:
        """Forget a connection."""
        self.open.discard(connection)
        if not self.open and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def abort(self) -> Deferred[None] | None:
        """End all connections; fires when they are gone."""
        if not self.open:
            return None
        self._emptied = Deferred()
        for connection in list(self.open):
            connection.abort()
        return self._emptied


class Vitals(Service):
    """Serves the port; from startService on `port` is the one that it listens on. With `port` None nothing is served.
    `ready` is asked for `/readyz`. Raises `ListenError` from startService."""

    log = Logger()

    def __init__(self, reactor: Any, port: int | None, metrics: Metrics, ready: Ready = always) -> None:
        self.port = port
        self.ready = ready
        self._reactor = reactor
        self._metrics = metrics
        self._looking: Deferred[None] | None = None
        root = Resource()
        root.putChild(b"healthz", _Page(self._alive))
        root.putChild(b"readyz", _Page(self._is_ready))
        root.putChild(b"metrics", _Page(self._numbers))
        self._site = _Site(root, reactor)
        self._listening: Any = None

    def startService(self) -> None:
        """Listen."""
        super().startService()
        if self.port is None:
            return
        check_free(LOOPBACK, self.port)
        try:
            self._listening = self._reactor.listenTCP(self.port, self._site, interface=LOOPBACK)
        except CannotListenError as error:
            raise ListenError(f"cannot listen on {LOOPBACK}:{self.port}: {error.socketError}") from None
        self.port = self._listening.getHost().port

    def stopService(self) -> Deferred[None]:
        """Stop listening; fires when no connection is left."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await listening.stopListening()
        if self._looking is not None:
            self._looking.cancel()
        gone = self._site.abort()
        if gone is not None:
            await gone

    # The pages.

    async def _alive(self, request: Any) -> bytes:
        request.setHeader("Content-Type", "application/json")
        return b'{"status": "alive"}'

    async def _is_ready(self, request: Any) -> bytes:
        request.setHeader("Content-Type", "application/json")
        try:
            ready = await Deferred.fromCoroutine(self.ready()).addTimeout(PATIENCE, self._reactor)
        except Exception as error:
            self.log.info("not ready: {error}", error=error)
            ready = False
        if ready:
            return b'{"status": "ready"}'
        request.setResponseCode(503)
        request.setHeader("Retry-After", "1")
        return b'{"status": "not ready"}'

    async def _numbers(self, request: Any) -> bytes:
        if self._looking is None:  # else somebody else's look is under way
            self._looking = Deferred.fromCoroutine(self._metrics.look(self._reactor, PATIENCE))
            self._looking.addBoth(self._looked)
        if self._looking is not None:
            await shield(self._looking)
        encode, kind = choose_encoder(request.getHeader("accept") or "")
        request.setHeader("Content-Type", kind)
        return encode(self._metrics.registry)

    def _looked(self, _: Any) -> None:
        self._looking = None


class _Page(Resource):
    """A page that takes a while."""

    def __init__(self, answer: Callable[[Any], Awaitable[bytes]]) -> None:
        super().__init__()
        self._answer = answer

    def render_GET(self, request: Any) -> int:
        """Begin to answer."""
        gone: list[Any] = []
        request.notifyFinish().addErrback(gone.append)

        async def answer() -> None:
            try:
                body = await self._answer(request)
            except Exception:
                Vitals.log.failure("{path} failed", path=request.path)
                request.setResponseCode(500)
                body = b""
            if not gone:
                request.write(body)
                request.finish()

        Deferred.fromCoroutine(answer())
        return server.NOT_DONE_YET


def _is_here(host: bytes) -> bool:
    """Whether a Host header names this host by itself."""
    name = host.decode("ascii", "replace").strip("[]").lower()
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name in ("localhost", "")
