"""Server-streaming rpcs over HTTP: one JSON text a line (NDJSON), or server-sent events when the client asks for them.

The next message is taken from the call only when the client has room for it, so a slow client slows the sender down
(through gRPC's flow control) and nothing piles up here. A client that hangs up ends the call. One that does not take what
it was sent within the time that a connection may be idle is cut off: it holds what others could use.

A failure before the first message is an ordinary problem. One that comes later, when the status line is gone, is the
last line, `{"error": problem}`, or an event named `error`.

Where the rpc's policy names a field as the id of an event, events have that id, so that a client whose connection broke
can resume (HTML, section 9.2). A silent stream of events sends a comment now and then, which shows both sides that the
other is there.

A stream ends when its client's access token expires or is revoked, which is looked at every few seconds. It says so as any
failure is told, and the client may come again with a new token.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from bookd.errors import BookdError, ResourceExhausted, Unavailable
from bookd.gateway import problem
from bookd.gateway.origin import client_key
from bookd.gateway.request import Request

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
# A client waits no longer than this for the head of a response whose first message is not there yet.
_HEAD_AFTER = 1.0
# Seconds between the comments in a stream of events.
HEARTBEAT = 15.0
# Seconds between two looks at whether the client still may.
RECHECK = 2.0
# What the id of an event cannot hold.
_BREAKS = re.compile("[\\r\\n\\0]")

Told = Callable[[Exception], BookdError]


@implementer(IPushProducer)
class Valve:
    """Open while the client takes what it is sent. `stop` is called when it never will again; `seconds` is the clock."""

    def __init__(self, stop: Callable[[], object], seconds: Callable[[], float]) -> None:
        self._stop = stop
        self._seconds = seconds
        self._closed: Deferred[None] | None = None
        self._closed_at = 0.0

    def closed_for(self) -> float:
        """How long it has been closed."""
        return 0.0 if self._closed is None else self._seconds() - self._closed_at

    def passable(self) -> Deferred[None] | None:
        """None when open, else a Deferred that fires when it opens."""
        return self._closed

    def pauseProducing(self) -> None:
        """The client's buffers are full."""
        if self._closed is None:
            self._closed = Deferred()
            self._closed_at = self._seconds()

    def resumeProducing(self) -> None:
        """There is room again."""
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)

    def stopProducing(self) -> None:
        """The client has gone."""
        self._stop()


class Streams(Service):
    """The streams that are open, no more than `most` of one user, or of one address without a token: all of them go over one
    connection to the MOM, which has room for so many. It stops before the listener: a stream that never ends by itself is cut off when the
    daemon drains, at the end of a message, and its client may resume elsewhere."""

    def __init__(self, reactor: Any, most: int) -> None:
        self._reactor = reactor
        self._most = most
        self._open: dict[_Stream, str] = {}

    def stopService(self) -> Any:
        """End all streams."""
        stopped = super().stopService()
        for each in list(self._open):
            each.stop()
        return stopped

    async def pour(
        self,
        request: Request,
        responses: Any,
        frame: Callable[[bytes], bytes],
        told: Told,
        allowed: Callable[[], object],
        *,
        events: bool,
    ) -> None:
        """Send what the call yields, each message framed by `frame`. Raises the call's failure while nothing was sent.

        `told` makes of a failure what the client may hear. `allowed` raises what ends the stream.
        """
        if not self.running:
            responses.cancel()
            raise Unavailable("the gateway is stopping", reason="STOPPING", retry_after=1.0)
        client = request.subject or client_key(request.address)
        if sum(each == client for each in self._open.values()) >= self._most:
            responses.cancel()
            raise ResourceExhausted(
                f"more than {self._most} streams are open", reason="TOO_MANY_STREAMS", retry_after=1.0
            )
        stream = _Stream(request, responses, allowed, events=events, reactor=self._reactor)
        self._open[stream] = client
        try:
            await stream.pour(frame, told)
        finally:
            del self._open[stream]


class _Stream:
    def __init__(
        self, request: Request, responses: Any, allowed: Callable[[], object], *, events: bool, reactor: Any
    ) -> None:
        self._request = request
        self._responses = responses
        self._allowed = allowed
        self._events = events
        self._started = False
        self._stopped = False
        self._failure: Exception | None = None
        self._valve = Valve(responses.cancel, reactor.seconds)
        self._patience: float = request.channel.site.bounds.idle_timeout
        self._reactor = reactor
        # First the head, if nothing comes; then the comments.
        self._timer = reactor.callLater(_HEAD_AFTER, self._beat)
        self._watch = reactor.callLater(RECHECK, self._look)

    def stop(self) -> None:
        """End the stream as if the call had ended."""
        self._stopped = True
        self._valve.resumeProducing()
        self._responses.cancel()

    async def pour(self, frame: Callable[[bytes], bytes], told: Told) -> None:
        request = self._request
        request.registerProducer(self._valve, True)
        try:
            await self._send(frame)
            if self._failure is None:
                self._begin()
            elif not self._started or request.channel is None:
                raise self._failure
            else:
                text = json.dumps(problem.fields(told(self._failure), request.request_id)).encode()
                request.write(
                    b"event: error\ndata: " + text + b"\n\n" if self._events else b'{"error": ' + text + b"}\n"
                )
        finally:
            for timer in (self._timer, self._watch):
                if timer.active():
                    timer.cancel()
            self._responses.cancel()
            if request.channel is not None:
                request.unregisterProducer()

    async def _send(self, frame: Callable[[bytes], bytes]) -> None:
        try:
            async for raw in self._responses:
                if self._stopped:
                    break
                self._begin()
                self._request.write(frame(raw))
                closed = self._valve.passable()
                if closed is not None:
                    await closed
                if self._stopped:
                    break
        except Exception as error:
            if not self._stopped:
                self._failure = error

    def _look(self) -> None:
        try:
            self._allowed()
        except BookdError as error:
            self._failure = error
            self.stop()
            return
        if self._valve.closed_for() > self._patience:
            self._request.channel.transport.abortConnection()
        else:
            self._watch = self._reactor.callLater(RECHECK, self._look)

    def _begin(self) -> None:
        if not self._started and self._request.channel is not None:
            self._started = True
            self._request.setHeader("Content-Type", EVENTS if self._events else NDJSON)
            self._request.setHeader("Cache-Control", "no-store")
            self._request.write(b"")

    def _beat(self) -> None:
        if self._started and self._valve.passable() is None:
            self._request.write(b":\n\n")
        self._begin()
        if self._events:
            self._timer = self._reactor.callLater(HEARTBEAT, self._beat)


def line(text: bytes) -> bytes:
    """A line of NDJSON. `text` is JSON without line breaks."""
    return text + b"\n"


def event(text: bytes, event_id: str) -> bytes:
    """A server-sent event; without an id when that is empty. `text` is JSON without line breaks."""
    number = b"id: " + event_id.encode() + b"\n" if event_id and not _BREAKS.search(event_id) else b""
    return number + b"data: " + text + b"\n\n"
