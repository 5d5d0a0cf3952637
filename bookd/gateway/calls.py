"""The gateway's calls, all of them to the MOM, as bytes.

A read dies with the client that asked for it. A write does not: whether it takes effect must not depend on when a
client hangs up, so it is shielded, runs to its end or its deadline, and is waited for when the daemon stops.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.bridge.crossing import shield

Metadata = Sequence[tuple[str, str | bytes]]

# grpc.health.v1.Health, which every server of the bridge serves, in the bytes of its two messages.
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
_PROBE_SECONDS = 2.0


class Channel(Protocol):
    """What is needed of `bookd.bridge.channel.Channel`."""

    def unary_unary(self, method: str) -> Callable[..., Deferred[bytes]]: ...

    def unary_stream(self, method: str) -> Callable[..., Any]: ...


class Calls(Service):
    """Makes calls on a channel, those that stream on another one, and knows which writes are under way."""

    log = Logger()

    def __init__(self, channel: Channel, streams: Channel, *, grace: float, reactor: Any) -> None:
        self._channel = channel
        self._streams = streams
        self._grace = grace
        self._reactor = reactor
        self._writes: set[Deferred[bytes]] = set()
        # What makes calls of a method; there are as many as the contract has methods.
        self._methods: dict[str, Callable[..., Deferred[bytes]]] = {}

    def _method(self, path: str) -> Callable[..., Deferred[bytes]]:
        found = self._methods.get(path)
        if found is None:
            found = self._methods[path] = self._channel.unary_unary(path)
        return found

    def read(self, path: str, request: bytes, seconds: float | None, metadata: Metadata) -> Deferred[bytes]:
        """Call a method; cancelling the Deferred cancels the call."""
        return self._method(path)(request, timeout=seconds, metadata=metadata)

    def write(
        self, path: str, request: bytes, seconds: float | None, metadata: Metadata, after: Callable[[], None]
    ) -> Deferred[bytes]:
        """Call a method; the call goes on when the Deferred is cancelled. `after` is called when it has ended, before
        anybody is told."""
        call = self._method(path)(request, timeout=seconds, metadata=metadata)
        self._writes.add(call)

        def ended(result: Any) -> Any:
            self._writes.discard(call)
            after()
            return result

        call.addBoth(ended)
        outer = shield(call)
        call.addErrback(self._unheard, path)
        return outer

    def _unheard(self, failure: Failure, path: str) -> None:
        self.log.info("{path} failed after its client had left: {why}", path=path, why=failure.getErrorMessage())

    def stream(self, path: str, request: bytes, seconds: float | None, metadata: Metadata) -> Any:
        """Call a method that streams; answers an async iterator of bytes with `cancel()`."""
        return self._streams.unary_stream(path)(request, timeout=seconds, metadata=metadata)

    async def ready(self) -> bool:
        """Whether the MOM answers that it serves."""
        try:
            answer = await self.read(_HEALTH, b"", _PROBE_SECONDS, ())
        except Exception as error:
            self.log.info("the MOM does not answer: {error}", error=error)
            return False
        return answer == _SERVING

    def stopService(self) -> Deferred[None]:
        """Fires when the writes that are under way have ended, after the grace at the latest."""
        super().stopService()
        return Deferred.fromCoroutine(self._wait())

    async def _wait(self) -> None:
        patience: Deferred[None] = Deferred()
        timer = self._reactor.callLater(self._grace, patience.callback, None)
        ended = DeferredList([_end(write) for write in self._writes])
        either: list[Deferred[Any]] = [ended, patience]
        await DeferredList(either, fireOnOneCallback=True)
        if timer.active():
            timer.cancel()


def _end(deferred: Deferred[bytes]) -> Deferred[None]:
    """Fires with None when `deferred` has fired, either way, and leaves its result alone."""
    ended: Deferred[None] = Deferred()

    def tell(result: Any) -> Any:
        ended.callback(None)
        return result

    deferred.addBoth(tell)
    return ended
