"""Server-streaming rpcs over HTTP: one JSON text a line (NDJSON), or server-sent events when the client asks for them.

The next message is taken from the call only when the client has room for it, so a slow client slows the sender down
(through gRPC's flow control) and nothing piles up here. A client that hangs up ends the call.

A failure before the first message is an ordinary problem. One that comes later, when the status line is gone, is the
last line, `{"error": problem}`, or an event named `error`.
"""

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from bookd.errors import BookdError
from bookd.gateway import problem
from bookd.gateway.connection import Request

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
# A client waits no longer than this for the head of a response whose first message is not there yet.
_HEAD_AFTER = 1.0


@implementer(IPushProducer)
class Valve:
    """Open while the client takes what it is sent. `stop` is called when it never will again."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._closed: Deferred[None] | None = None

    def passable(self) -> Deferred[None] | None:
        """None when open, else a Deferred that fires when it opens."""
        return self._closed

    def pauseProducing(self) -> None:
        """The client's buffers are full."""
        if self._closed is None:
            self._closed = Deferred()

    def resumeProducing(self) -> None:
        """There is room again."""
        closed, self._closed = self._closed, None
        if closed is not None:
            closed.callback(None)

    def stopProducing(self) -> None:
        """The client has gone."""
        self._stop()


async def pour(
    request: Request,
    responses: Any,
    encode: Callable[[bytes], bytes],
    *,
    events: bool,
    told: Callable[[Exception], BookdError],
) -> None:
    """Send what the call yields, each message encoded by `encode`. Raises the call's failure while nothing was sent.

    `told` makes of a failure what the client may hear.
    """
    started = False

    def begin() -> None:
        nonlocal started
        if not started:
            started = True
            request.setHeader("Content-Type", EVENTS if events else NDJSON)
            request.setHeader("Cache-Control", "no-store")
            request.write(b"")

    valve = Valve(responses.cancel)
    request.registerProducer(valve, True)
    head = request.site.reactor.callLater(_HEAD_AFTER, begin)
    try:
        async for raw in responses:
            begin()
            text = encode(raw)
            request.write(b"data: " + text + b"\n\n" if events else text + b"\n")
            closed = valve.passable()
            if closed is not None:
                await closed
        begin()
    except Exception as error:
        if not started or request.channel is None:
            raise
        text = json.dumps(problem.fields(told(error), request.request_id)).encode()
        request.write(b"event: error\ndata: " + text + b"\n\n" if events else b'{"error": ' + text + b"}\n")
    finally:
        if head.active():
            head.cancel()
        responses.cancel()
        if request.channel is not None:
            request.unregisterProducer()
