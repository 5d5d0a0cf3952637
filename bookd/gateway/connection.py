"""HTTP/1.1 as the gateway speaks it: Twisted's channel, with limits and with problems in place of bare status lines.

Limits are enforced while the bytes come in. A request that breaks one is refused at once: the problem is sent, the
connection is closed for writing, and what the client still sends is read and dropped up to a bound. Without that the
kernel would answer a client in the middle of its upload with a reset, and the client would never see the problem. A
client that waits for `100 Continue` gets the refusal in its place.

A request has to be here within the idle timeout, counted from its first line, however steadily it trickles.
"""

import re
from typing import Any
from urllib.parse import unquote_to_bytes

from klein import Response
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.resource import IResource

from bookd.errors import BookdError, DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted
from bookd.gateway import headers, problem

# How long, and how much, a refused client may go on sending.
_LINGER_SECONDS = 5.0
_LINGER_BYTES = 64 * 1024 * 1024
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
# On every response, whatever it says.
_ALWAYS = {
    "Server": "bookd",
    "X-Content-Type-Options": "nosniff",
    "Strict-Transport-Security": "max-age=31536000",
}


class Request(server.Request):
    """One request: its id, what the access log wants to know of it, and limits on its body."""

    defaultContentType = None  # noqa: N815 - Twisted's name
    site: "Site"
    channel: "Connection"

    request_id = ""
    # For the log: the template that matched, and who asked.
    route = ""
    subject = ""
    _received = 0
    _began = 0.0

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, unless it makes the body too large."""
        self._received += len(data)
        if self._received > self.channel.site.max_body:
            self.channel.refuse(_too_large(self.channel.site.max_body))
        else:
            super().handleContentChunk(data)

    def identify(self, site: "Site") -> None:
        """Give the request its id and its common headers. Twisted calls nothing of ours before the headers are in."""
        self._began = site.reactor.seconds()
        given = self.requestHeaders.getRawHeaders("x-request-id", [])
        self.request_id = headers.request_id(given[0] if len(given) == 1 else None, site.new_id)
        for name, value in _ALWAYS.items():
            self.setHeader(name, value)
        self.setHeader("Date", datetimeToString())
        self.setHeader("X-Request-Id", self.request_id)

    def process(self) -> None:
        """Answer the request: Twisted calls this once it is complete."""
        self.identify(self.channel.site)
        self.notifyFinish().addCallbacks(lambda _: self.record(self.code), lambda _: self.record(499))
        self.site = self.channel.site
        if self.path == b"*":
            self.prepath, self.postpath = [], []
            self.answer(Response(204, {"Allow": ", ".join(VERBS)}, b"") if self.method == b"OPTIONS" else self._bad())
        elif not _readable(self):
            self.answer(self._bad())
        else:
            super().process()

    def body(self) -> bytes:
        """The whole body."""
        assert self.content is not None
        body: bytes = self.content.read()
        return body

    def render(self, resrc: IResource) -> None:
        """Answer with a resource; by now Twisted has put its own version into the Server header."""
        self.setHeader("Server", _ALWAYS["Server"])
        super().render(resrc)

    def processingFailed(self, reason: Failure) -> Failure:
        """Tell of a failure that nothing else told of. Never a traceback."""
        self.site.logger.failure("request {request_id} failed", failure=reason, request_id=self.request_id)
        if not self.startedWriting and not self._disconnected:
            self.answer(problem.response(Internal("failed"), self.request_id))
        return reason

    def answer(self, response: Response) -> None:
        """Send a whole response."""
        self.setResponseCode(response.code)
        for name, value in response.headers.items():
            self.setHeader(name, value)
        self.write(response.body)
        self.finish()

    def _bad(self) -> Response:
        return problem.response(InvalidArgument("the request line or the Host header cannot be read"), self.request_id)

    def record(self, status: int) -> None:
        """Write the line of the access log."""
        site = self.site or self.channel.site
        site.logger.info(
            "{method} {route} {status} in {milliseconds} ms, request {request_id}, subject {subject}",
            method=self.method.decode("ascii", "replace") if self.method else "-",
            route=self.route or "-",
            status=status,
            milliseconds=round((site.reactor.seconds() - self._began) * 1000, 1),
            request_id=self.request_id,
            subject=self.subject or "-",
        )


def _readable(request: Request) -> bool:
    """Whether verb, path and host are such that the router can read them."""
    try:
        unquote_to_bytes(request.path).decode("utf-8")
        request.method.decode("ascii")
        request.getRequestHostname().decode("ascii").partition(":")[0].encode("idna")
    except UnicodeError:
        return False
    return request.path.startswith(b"/")


def _too_large(limit: int) -> BookdError:
    return ResourceExhausted(f"the body is larger than {limit} bytes", reason=problem.BODY_TOO_LARGE)


class Connection(HTTPChannel):
    """One connection of a client."""

    site: "Site"
    requests: list[Request]
    requestFactory: Any  # noqa: N815
    transport: Any

    _refused = False
    _dropped = 0
    _closing = False
    _lingering: Any = None
    _hurry: Any = None

    def connectionMade(self) -> None:
        """Begin; the site counts its connections so that it can drain them."""
        super().connectionMade()
        self.site.connections.add(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Leave nothing behind."""
        self._no_hurry()
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        super().connectionLost(reason)
        self.site.gone(self)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; after a refusal, count and drop them."""
        if not self._refused:
            super().dataReceived(data)
            return
        self._dropped += len(data)
        if self._dropped > _LINGER_BYTES:
            self.transport.abortConnection()

    def lineReceived(self, line: bytes) -> None:
        """Take a line of the request's head."""
        if self._refused:
            return
        if self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self.lineLengthExceeded(line)
            return
        known = len(self.requests)
        # Until there is a request this is its first line. Twisted wants it in ASCII, and people type umlauts.
        super().lineReceived(line if known else _NOT_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), line))
        if len(self.requests) > known and not self._refused and self.timeOut and self._hurry is None:
            self._hurry = self.callLater(self.timeOut, self._too_slow)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a head that is too long: 414 while it is the request line, else 431."""
        reason, what = (
            (problem.HEADERS_TOO_LARGE, "headers are") if self.requests else (problem.URI_TOO_LONG, "address is")
        )
        self.refuse(ResourceExhausted(f"the {what} longer than {self.totalHeadersSize} bytes", reason=reason))

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of the body."""
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        """Refuse a body whose declared length is too large, before the client is told to go on."""
        if self._refused:
            return
        if self.length is not None and self.length > self.site.max_body:
            self.refuse(_too_large(self.site.max_body))
        else:
            super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """Answer the request, unless it was refused meanwhile."""
        if not self._refused:
            self._no_hurry()
            super().allContentReceived()

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection outlives the response: not when the site is closing."""
        if self._closing:
            request.responseHeaders.setRawHeaders("Connection", ["close"])
            return False
        persistent: bool = super().checkPersistence(request, version)
        return persistent

    def timeoutConnection(self) -> None:
        """Close an idle connection; in the middle of a request, say why."""
        if self.requests and not self._refused:
            self._too_slow()
        else:
            super().timeoutConnection()

    def _too_slow(self) -> None:
        self.refuse(DeadlineExceeded("the request took too long to arrive", reason=problem.REQUEST_TOO_SLOW))

    def _no_hurry(self) -> None:
        if self._hurry is not None and self._hurry.active():
            self._hurry.cancel()
        self._hurry = None

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Refuse what is no HTTP. Twisted calls this; were it to stop, its bare 400 would go out in its place."""
        self.refuse(InvalidArgument("this is no HTTP/1.1 request"))

    def refuse(self, error: BookdError) -> None:
        """Answer the request that is coming in with a problem, and close. What is refused once stays refused."""
        if self._refused:
            return
        self._refused = True
        self._no_hurry()
        self.setTimeout(None)
        request = self.requests[-1] if self.requests else self.requestFactory(self)
        request.identify(self.site)
        request.method = getattr(self, "_command", b"-")
        response = problem.response(error, request.request_id)
        for name, value in {**response.headers, "Connection": "close"}.items():
            request.setHeader(name, value)
        phrase = problem.fields(error, "")["title"]
        self.writeHeaders(b"HTTP/1.1", b"%d" % response.code, str(phrase).encode(), request.responseHeaders)
        self.write(response.body)
        request.site = self.site
        request.record(response.code)
        self._lingering = self.callLater(_LINGER_SECONDS, self.transport.abortConnection)
        self.loseConnection()

    def finish_up(self) -> None:
        """Close as soon as the request that is under way has been answered; at once when there is none."""
        self._closing = True
        if self.requests:
            self.persistent = False
            self.requests[0].responseHeaders.setRawHeaders("Connection", ["close"])
        else:
            self.loseConnection()


class Site(server.Site):
    """The factory of connections. `new_id` makes request ids; `max_body` is in bytes, `idle_timeout` in seconds."""

    reactor: Any

    def __init__(self, resource: IResource, *, max_body: int, idle_timeout: float, new_id: Any, reactor: Any) -> None:
        super().__init__(
            resource, requestFactory=Request, timeout=idle_timeout, reactor=reactor, parsePOSTFormSubmission=False
        )
        self.protocol = Connection  # type: ignore[assignment]
        self.displayTracebacks = False
        self.logger = Logger(namespace="bookd.gateway.access")
        self.max_body = max_body
        self.new_id = new_id
        self.connections: set[Connection] = set()
        self._drained: list[Deferred[None]] = []

    def startFactory(self) -> None:
        """Nothing: Twisted would keep an access log of its own."""

    def stopFactory(self) -> None:
        """Nothing, likewise."""

    def log(self, request: Any) -> None:
        """Nothing, likewise: requests record themselves, also those that never finish."""

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS offers by ALPN: the connection above speaks HTTP/1.1 only."""
        return [b"http/1.1"]

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        if not self.connections:
            waiting, self._drained = self._drained, []
            for deferred in waiting:
                deferred.callback(None)

    def drain(self) -> Deferred[None]:
        """Let each connection finish its request; fires when the last one has ended."""
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        for connection in list(self.connections):
            connection.finish_up()
        if not self.connections and not drained.called:
            self._drained.remove(drained)
            drained.callback(None)
        return drained

    def abort(self) -> None:
        """End every connection that is left."""
        for connection in list(self.connections):
            connection.transport.abortConnection()
