"""One request: its id, the headers that every response has, limits on its body, and its line in the access log.

What a response depends on beside its address is collected in `vary` and told in one header when the response begins.
"""

from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from klein import Response
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import datetimeToString
from twisted.web.resource import IResource

from bookd.bridge.metrics import OTHER
from bookd.errors import BookdError, Internal, InvalidArgument, ResourceExhausted
from bookd.gateway import headers, problem

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
    # For the audit log: why it was refused, and whether it writes by the right of a role.
    reason = ""
    privileged = False
    _received = 0
    _began = 0.0
    # The answer to come, of a request that a route of the contract answers.
    _serving: Deferred[None] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.vary: set[str] = set()

    def every(self, name: str) -> list[str]:
        """The values of a header, one for each line of it. Bytes are characters, as in RFC 9110, section 5.5."""
        found = self.requestHeaders.getRawHeaders(name.encode("ascii"), [])
        return [value.decode("latin-1") for value in found]

    def handleContentChunk(self, data: bytes) -> None:
        """Take a piece of the body, unless it makes the body too large."""
        self._received += len(data)
        limit = self.channel.site.bounds.max_body
        if self._received > limit:
            self.channel.refuse(too_large(limit))
        else:
            super().handleContentChunk(data)

    def identify(self, site: Any) -> None:
        """Give the request its id and its common headers. Twisted calls nothing of ours before the headers are in."""
        self._began = site.reactor.seconds()
        self.address = self.channel.host
        given = self.every("x-request-id")
        self.request_id = headers.request_id(given[0] if len(given) == 1 else None, site.new_id)
        for name, value in _ALWAYS.items():
            self.setHeader(name, value)
        self.setHeader("Date", datetimeToString())
        self.setHeader("X-Request-Id", self.request_id)
        site.cors.mark(self)

    def process(self) -> None:
        """Answer the request: Twisted calls this once it is complete."""
        self.site = site = self.channel.site
        self.identify(site)
        self.notifyFinish().addCallbacks(self._ended, self._left)
        if not _readable(self):
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

    def _ended(self, _: object) -> None:
        self.record(self.code)

    def _left(self, _: Failure) -> None:
        """The client has left: what it asked for is given up."""
        self.record(499)
        if self._serving is not None:
            self._serving.cancel()

    def body(self) -> bytes:
        """The whole body."""
        assert self.content is not None
        body: bytes = self.content.read()
        return body

    def render(self, resrc: IResource) -> None:
        """Answer with a resource; by now Twisted has put its own version into the Server header."""
        self.setHeader("Server", _ALWAYS["Server"])
        super().render(resrc)

    def write(self, data: bytes) -> None:
        """Send a piece of the response."""
        if self.vary and not self.startedWriting:
            self.setHeader("Vary", ", ".join(sorted(self.vary)))
        super().write(data)

    def processingFailed(self, reason: Failure) -> None:
        """Tell of a failure that nothing else told of. Never a traceback."""
        self.site.logger.failure("request {request_id} failed", failure=reason, request_id=self.request_id)
        if not self.startedWriting and not self._disconnected:
            self.answer(problem.response(Internal("failed"), self.request_id))

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
        """Tell the logs and the counts how the request ended."""
        site = self.site or self.channel.site
        if self.privileged or (status in _REFUSED and self.reason not in _USUAL):
            site.audit(
                f"{self.method.decode('ascii', 'replace')} {self.route or '-'}",
                "refused" if status in _REFUSED else "done" if status < 400 else f"failed {status}",
                subject=self.subject,
                target=self.path.decode("ascii", "replace"),
                address=self.address,
                request=self.request_id,
                reason=self.reason,
            )
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
    """Whether verb, path and host are such that the router can read them."""
    path = request.path
    try:
        if b"%" in path:
            unquote_to_bytes(path).decode("utf-8")
        request.method.decode("ascii")
    except UnicodeError:
        return False
    return _is_host(request.getRequestHostname()) and (path.startswith(b"/") or path == b"*")


@lru_cache(maxsize=1024)
def _is_host(name: bytes) -> bool:
    try:
        name.decode("ascii").partition(":")[0].encode("idna")
    except UnicodeError:
        return False
    return True
