"""HTTP/1.1 as the gateway speaks it: Twisted's channel, with limits and with problems in place of bare status lines.

Limits are enforced while the bytes come in. A request that breaks one is refused at once: the problem is sent, the
connection is closed for writing, and what the client still sends is read and dropped up to a bound. Without that the
kernel would answer a client in the middle of its upload with a reset, and the client would never see the problem. A
client that waits for `100 Continue` gets the refusal in its place.

A head has a time, counted from its first byte, and so has a body, however steadily they trickle. Nothing is said to a
connection that never began a request; it is closed when it was idle too long. While a request is answered, the next ones
of the same connection are read up to a bound, and wait. They wait too until the client has taken the answer, so that one
that asks and never reads costs no more than one answer; it is closed as if it were idle. So is one that is told that its
connection ends, and does not end it.

Where two readers could understand a request differently (RFC 9112, section 11.2), it is refused: two lengths, a transfer
coding other than one `chunked`, a coding in HTTP/1.0, folded lines, spaces before a colon, line ends without both
characters.

A plain request that comes in one piece while the connection rests is read at once (`bookd.gateway.head`). Its body
may come in a second piece; in more of them, it goes the long way from where the head has ended.
"""

import re
from typing import Any

from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from bookd.errors import BookdError, DeadlineExceeded, InvalidArgument, ResourceExhausted
from bookd.gateway import head, problem
from bookd.gateway.idle import Idle
from bookd.gateway.request import Request, too_large

# How long, and how much, a refused client may go on sending.
_LINGER_SECONDS = 5.0
_LINGER_BYTES = 64 * 1024 * 1024
# What a request line has beside the address: verb, version, spaces.
_AROUND_URL = 40
# Digits of a length that anybody means.
_LONGEST_LENGTH = 18
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


class Connection(Idle, HTTPChannel):
    """One connection of a client."""

    site: Any
    requests: list[Request]
    # The address that the connection comes from.
    host = ""
    requestFactory: Any  # noqa: N815
    transport: Any

    _refused = False
    _first_line = 0
    _dropped = 0
    _closing = False
    _lingering: Any = None
    _longest_plain = _largest_plain = 0
    _peer: Any = None
    _here: Any = None
    _untaken: Request | None = None
    # A request of which nothing but the rest of the body is missing, and nothing of that has come.
    _begins: head.Head | None = None
    _hurry: Any = None

    def connectionMade(self) -> None:
        """Begin; the site counts its connections so that it can drain them."""
        super().connectionMade()
        bounds = self.site.bounds
        self.MAX_LENGTH = max(bounds.max_url + _AROUND_URL, bounds.max_headers)
        # Twisted counts the request line with the headers. It is our own limits that are met first.
        self.totalHeadersSize = bounds.max_url + _AROUND_URL + bounds.max_headers
        self.maxHeaders = bounds.max_header_count
        # A plain request of so many bytes is within all limits on the parts of a head.
        self._longest_plain = min(bounds.max_url, bounds.max_headers)
        self._largest_plain = bounds.max_body
        self.host = self.getPeer().host
        self.site.came(self)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Leave nothing behind."""
        self._no_hurry()
        for timer in (self._lingering, self._idle):
            if timer is not None and timer.active():
                timer.cancel()
        super().connectionLost(reason)
        self.site.gone(self)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; after a refusal, count and drop them."""
        if self._refused:
            self._dropped += len(data)
            if self._dropped > _LINGER_BYTES:
                self.transport.abortConnection()
            return
        if self._begins is not None:
            if self._completes(self._begins, data):
                return
        elif self._rests():
            found = head.plain(data, self._longest_plain, self.maxHeaders, self._largest_plain)
            if found is not None:
                self._take(found)
                return
        super().dataReceived(data)
        if self._hurry is None and not self._handlingRequest and not self._refused:
            self._begun()

    def getPeer(self) -> Any:
        """The client's address, which each request asks for."""
        if self._peer is None:
            self._peer = self.transport.getPeer()
        return self._peer

    def getHost(self) -> Any:
        """The address that the client has reached, likewise."""
        if self._here is None:
            self._here = self.transport.getHost()
        return self._here

    def _rests(self) -> bool:
        """Whether what comes next is the beginning of a request, and may be one."""
        return not (
            self.requests
            or self._buffer
            or self.paused
            or self._busyReceiving
            or self._closing
            or self._hurry is not None
            or not self.persistent
            or self.transport.disconnecting
        )

    def _take(self, found: head.Head) -> None:
        """Answer a request that has come whole, or wait for the rest of its body. What is left out here has nothing to do
        for it."""
        self.requests.append(Request.plain(self, found.fields, found.body))
        self._command, self._path, self._version = found.verb, found.uri, b"HTTP/1.1"
        if not found.missing:
            super().allContentReceived()
            return
        self.resetTimeout()
        self._begins = found
        self._hurry = self.callLater(self.site.bounds.body_timeout, self._too_slow)

    def _completes(self, found: head.Head, data: bytes) -> bool:
        """Take what comes next after a head that was read at once. Most clients send the body in one piece of its own, and
        that is all; answers whether it is so. If not, the body goes the long way."""
        self._begins, request = None, self.requests[-1]
        if len(data) == found.missing:
            request.whole(found.body + data)
            self.allContentReceived()
            return True
        self._maybeChooseTransferDecoder(b"Content-Length", b"%d" % found.length)
        request.gotLength(found.length)
        self.setRawMode()
        if found.body:
            self.rawDataReceived(found.body)
        return False

    def lineReceived(self, line: bytes) -> None:
        """Take a line of the request's head."""
        if self._refused:
            return
        bounds, known = self.site.bounds, len(self.requests)
        if b"\n" in line or b"\r" in line or (known and line[:1] in (b" ", b"\t")):
            self._respondToBadRequestAndDisconnect()
        elif not known and len(line) > bounds.max_url + _AROUND_URL:
            self._too_long(problem.URI_TOO_LONG, f"the address is longer than {bounds.max_url} bytes")
        elif known and self._receivedHeaderSize + len(line) > self._first_line + bounds.max_headers:
            self._too_long(problem.HEADERS_TOO_LARGE, f"the headers are longer than {bounds.max_headers} bytes")
        elif known:
            super().lineReceived(line)
        else:
            self._first_line = len(line)
            # The request line. Twisted wants it in ASCII, and people type umlauts.
            super().lineReceived(_NOT_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), line))

    def lineLengthExceeded(self, line: bytes) -> None:
        """Refuse a head with a line that does not end: 414 for the request line, else 431."""
        if self.requests:
            self._too_long(problem.HEADERS_TOO_LARGE, f"a header is longer than {self.MAX_LENGTH} bytes")
        else:
            self._too_long(problem.URI_TOO_LONG, f"the address is longer than {self.site.bounds.max_url} bytes")

    def _too_long(self, reason: str, message: str) -> None:
        self.refuse(ResourceExhausted(message, reason=reason))

    def headerReceived(self, line: bytes) -> bool:
        """Take a whole header; answers whether the request may go on."""
        if self._refused:
            return False
        if self._receivedHeaderCount >= self.maxHeaders:
            self._too_long(problem.HEADERS_TOO_LARGE, f"there are more than {self.maxHeaders} headers")
            return False
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"content-length" and len(value) > _LONGEST_LENGTH and value.isdigit():
            self.refuse(too_large(self.site.bounds.max_body))
            return False
        if name == b"transfer-encoding" and (value.lower() != b"chunked" or self._version != b"HTTP/1.1"):
            self._respondToBadRequestAndDisconnect()
            return False
        taken: bool = super().headerReceived(line)
        return taken

    def rawDataReceived(self, data: bytes) -> None:
        """Take a piece of the body."""
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        """Refuse a body whose declared length is too large, before the client is told to go on, and a request that
        does not say for which host it is, or for which of two (RFC 9112, section 3.2)."""
        if self._refused:
            return
        hosts = self.requests[-1].every("host")
        if len(hosts) > 1 or (not hosts and self._version == b"HTTP/1.1"):
            self._respondToBadRequestAndDisconnect()
            return
        if self.length is not None and self.length > self.site.bounds.max_body:
            self.refuse(too_large(self.site.bounds.max_body))
            return
        self._no_hurry()
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """Answer the request, unless it was refused meanwhile."""
        if not self._refused:
            self._no_hurry()
            super().allContentReceived()

    def pauseProducing(self) -> None:
        """The client does not take what it was sent: take nothing from it either."""
        super().pauseProducing()
        self._networkProducer.pauseProducing()

    def resumeProducing(self) -> None:
        """The client has taken all that it was sent: go on with its next request."""
        super().resumeProducing()
        request, self._untaken = self._untaken, None
        if request is not None:
            super().requestDone(request)
        elif sum(map(len, self._dataBuffer)) <= self._optimisticEagerReadSize:
            self._networkProducer.resumeProducing()  # or nobody would see the client hang up

    def requestDone(self, request: Request) -> None:
        """A request has been answered. The next one has its turn when the client has taken the answer."""
        if self._waitingForTransport and self.persistent:
            self._untaken = request
            self.setTimeout(self._savedTimeOut)
        else:
            super().requestDone(request)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection outlives the response: not when the site is closing."""
        if self._closing:
            request.responseHeaders.setRawHeaders("Connection", ["close"])
            return False
        persistent: bool = super().checkPersistence(request, version)
        return persistent

    def loseConnection(self) -> None:
        """Close, once the client has taken what it was sent and closes its end too; it has as long as if it were idle."""
        if self._lingering is None:
            self._lingering = self.callLater(self.site.bounds.idle_timeout, self.transport.abortConnection)
        super().loseConnection()

    def timeoutConnection(self) -> None:
        """Close an idle connection; in the middle of a request, say why."""
        if self._untaken is not None:
            self.transport.abortConnection()
        elif self.requests and not self._refused:
            self._too_slow()
        else:
            super().timeoutConnection()

    def _begun(self) -> None:
        """Time what has begun to come and is not complete. What comes in one piece, as most does, needs no timer."""
        if not self.line_mode:
            self._hurry = self.callLater(self.site.bounds.body_timeout, self._too_slow)
        elif self.requests or self._buffer:
            self._hurry = self.callLater(self.site.bounds.head_timeout, self._too_slow)

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
        for name, value in {**request.marks(self.site), **response.headers, "Connection": "close"}.items():
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
