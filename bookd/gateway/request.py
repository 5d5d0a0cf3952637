"""One request: its id, the headers that every response has, limits on its body, and its line in the access log.

What a response depends on beside its address is collected in `vary` and told in one header when the response begins.
"""

from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from klein import Response
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NO_BODY_CODES
from twisted.web.http_headers import Headers

from bookd.bridge.metrics import OTHER
from bookd.errors import BookdError, Internal, InvalidArgument, ResourceExhausted
from bookd.gateway import head, headers, hosts, problem

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# On every response, whatever it says.
_ALWAYS = {
    "Server": "bookd",
    "X-Content-Type-Options": "nosniff",
    "Strict-Transport-Security": "max-age=31536000",
}
_REFUSED = (401, 403)
# Characters of a verb that clients made up.
_LONGEST_VERB = 32
# What clients run into day by day: it says nothing about anybody.
_USUAL = ("", "TOKEN_MISSING", "TOKEN_EXPIRED")


class Standing(Protocol):
    """How the client stands with the limit on how often it may ask."""

    def marks(self) -> Mapping[str, str]:
        """What the response says of it."""


class Request(server.Request):
    """One request. Its `channel` is a `bookd.gateway.connection.Connection`."""

    defaultContentType = None  # noqa: N815 - Twisted's name
    site: Any
    channel: Any

    request_id = ""
    # For the logs: the template that matched, who asked, and from where.
    route = ""
    subject = ""
    address = ""
    _audited = False
    # For the audit log: why it was refused, and whether it writes by the right of a role.
    reason = ""
    privileged = False
    standing: Standing | None = None
    _received = 0
    _began = 0.0
    # Whether it has come whole, so that its end is of interest.
    _whole = False
    # The values of its headers by their names in small letters, once somebody wants one.
    _fields: Mapping[str, list[str]] | None = None
    _given: Headers | None = None
    # The body of a request that was read at once.
    _body = b""
    # The answer to come, of a request that a route of the contract answers.
    _serving: Deferred[None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.vary: set[str] = set()

    @classmethod
    def plain(cls, channel: Any, fields: Mapping[str, list[str]], body: bytes = b"") -> "Request":
        """A request whose head was read at once, and its body too if that has come with it."""
        request = cls(channel)
        request._fields, request._given, request._body = fields, None, body
        return request

    def whole(self, body: bytes) -> None:
        """Take the whole body, of a request whose head was read at once."""
        self._body = body

    def _get_headers(self) -> Headers:
        if self._given is None:
            self._given = Headers()
            for name, values in (self._fields or {}).items():
                self._given.setRawHeaders(name, [value.encode("latin-1") for value in values])
        return self._given

    def _set_headers(self, given: Headers) -> None:
        self._given = given

    # What Twisted has as an attribute. Of a request whose head was read at once it is made when somebody asks.
    requestHeaders = property(_get_headers, _set_headers)  # noqa: N815

    def every(self, name: str) -> list[str]:
        """The values of a header, one for each line of it; `name` is in small letters. Bytes are characters, as in RFC 9110,
        section 5.5. Nobody asks before all headers are there."""
        fields = self._fields
        if fields is None:
            lines = self.requestHeaders.getAllRawHeaders()
            fields = {key.decode("ascii").lower(): [v.decode("latin-1") for v in values] for key, values in lines}
            self._fields = fields
        return fields.get(name) or []

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, unless it makes the body too large."""
        self._received += len(data)
        limit = self.channel.site.bounds.max_body
        if self._received > limit:
            self.channel.refuse(too_large(limit))
        else:
            super().handleContentChunk(data)

    def identify(self, site: Any) -> None:
        """Give the request its id. Twisted calls nothing of ours before the headers are in."""
        self._began = site.reactor.seconds()
        self.address = self.channel.host
        given = self.every("x-request-id")
        self.request_id = headers.request_id(given[0] if len(given) == 1 else None, site.new_id)
        site.cors.mark(self)

    def marks(self, site: Any) -> dict[str, str]:
        """The headers of the response that are there whatever it says."""
        found = {**_ALWAYS, "Date": site.date(), "X-Request-Id": self.request_id}
        if self.standing is not None:
            found.update(self.standing.marks())
        if self.vary:
            found["Vary"] = ", ".join(sorted(self.vary))
        return found

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take a whole request. What Twisted makes of queries and forms beside it nobody wants here."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path, self.args = path.partition(b"?")[0], {}
        if self.content is not None:
            self.content.seek(0)
        self.process()

    def process(self) -> None:
        """Answer the request: it is complete."""
        self.site = site = self.channel.site
        self.identify(site)
        self._whole = True
        misplaced = self._misplaced()
        if misplaced is not None:
            self.answer(problem.response(misplaced, self.request_id))
        elif not _readable(self):
            self.answer(self._bad())
        elif self.path == b"*":
            self.answer(Response(204, {"Allow": ", ".join(VERBS)}, b"") if self.method == b"OPTIONS" else self._bad())
        elif self.path in site.gateway.own:
            super().process()
        else:
            serving = site.gateway.serve(self)
            if isinstance(serving, Response):
                self.answer(serving)
            else:
                self._serving = serving.addCallback(self._served).addErrback(self.processingFailed)

    def _served(self, response: Response | None) -> None:
        self._serving = None
        if self._disconnected:
            return
        if response is None:
            self.finish()
        else:
            self.answer(response)

    def finish(self) -> None:
        """The whole response has been written."""
        ended = self.finished
        super().finish()
        if self._whole and not ended:
            self.record(self.code)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The client has left: what it asked for is given up."""
        super().connectionLost(reason)
        if self._whole:
            self.record(499)
            if self._serving is not None:
                self._serving.cancel()

    def body(self) -> bytes:
        """The whole body."""
        if self.content is None:
            return self._body
        body: bytes = self.content.read()
        return body

    def write(self, data: bytes) -> None:
        """Send a piece of the response."""
        if not self.startedWriting:
            for name, value in self.marks(self.site).items():
                self.setHeader(name, value)
        super().write(data)

    def processingFailed(self, reason: Failure) -> None:
        """Tell of a failure that nothing else told of. Never a traceback."""
        self.site.logger.failure("request {request_id} failed", failure=reason, request_id=self.request_id)
        if not self.startedWriting and not self._disconnected:
            self.answer(problem.response(Internal("failed"), self.request_id))

    def answer(self, response: Response) -> None:
        """Send a whole response: head and body in one piece, if its length is known."""
        self.setResponseCode(response.code)
        self._audit(response.code)
        given: Any = response.headers
        empty = self.method == b"HEAD" or response.code in NO_BODY_CODES
        made = None
        if empty or "Content-Length" in given:
            made = head.written(self.clientproto, response.code, {**self.marks(self.site), **given})
        if made is None:
            for name, value in given.items():
                self.setHeader(name, value)
            self.write(response.body)
        else:
            self.startedWriting = 1
            parts = [made]
            # What Twisted, or one of us on the way, has put on the response.
            for key, values in self.responseHeaders.getAllRawHeaders():
                parts += (b"\r\n%b: %b" % (key, each) for each in values)
            parts += (b"\r\n\r\n",) if empty else (b"\r\n\r\n", response.body)
            self.channel.write(b"".join(parts))
        self.finish()

    def _misplaced(self) -> BookdError | None:
        """What is wrong with the host that the request is for; one that names it in its target is as if it did not."""
        values = self.every("host")
        host = values[0].encode("latin-1") if values else None
        if not self.path.startswith(b"/"):
            short = hosts.origin_form(self.uri, host)
            if short is not None:
                self.uri, self.path = short, short.partition(b"?")[0]
        wrong: BookdError | None = self.site.hosts.judge(host)
        return wrong

    def _bad(self) -> Response:
        return problem.response(InvalidArgument("the request line cannot be read"), self.request_id)

    def _audit(self, status: int) -> None:
        """Write down what has to be, once, and before the client hears of it."""
        if self._audited:
            return
        self._audited = True
        if self.privileged or (status in _REFUSED and self.reason not in _USUAL):
            (self.site or self.channel.site).audit(
                f"{self.method.decode('ascii', 'replace')} {self.route or '-'}",
                "refused" if status in _REFUSED else "done" if status < 400 else f"failed {status}",
                subject=self.subject,
                target=self.path.decode("ascii", "replace"),
                address=self.address,
                request=self.request_id,
                reason=self.reason,
            )

    def record(self, status: int) -> None:
        """Tell the logs and the counts how the request ended."""
        site = self.site or self.channel.site
        self._audit(status)
        seconds = site.reactor.seconds() - self._began
        verb = self.method.decode("ascii", "replace") if self.method else "-"
        # What clients may make up is not counted by name.
        site.count(seconds, str(status), verb if verb in VERBS else OTHER, self.route or OTHER)
        site.access(
            verb[:_LONGEST_VERB],
            self.route,
            status,
            seconds,
            self.request_id,
            self.subject,
            self.address,
        )


def too_large(limit: int) -> BookdError:
    """The error of a body of more than `limit` bytes."""
    return ResourceExhausted(f"the body is larger than {limit} bytes", reason=problem.BODY_TOO_LARGE)


def _readable(request: Request) -> bool:
    """Whether verb and path are such that the router can read them."""
    path = request.path
    try:
        if b"%" in path:
            unquote_to_bytes(path).decode("utf-8")
        request.method.decode("ascii")
    except UnicodeError:
        return False
    return path.startswith(b"/") or path == b"*"
