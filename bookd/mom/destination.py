"""A service that calls go to: its channel, and its breaker, which every call feeds."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bookd.errors import BookdError, Code
from bookd.mom.breaker import Breaker, BreakerState

Metadata = Sequence[tuple[str, str | bytes]]


class Destination:
    """One service behind the MOM. `name` is its full proto name, `channel` a `bookd.bridge.channel.Channel`."""

    def __init__(self, name: str, channel: Any, breaker: Breaker) -> None:
        self.name = name
        self.breaker = breaker
        self._channel = channel
        self._callables: dict[str, Callable[..., Any]] = {}

    async def answers(self) -> bool:
        """Whether calls may be made; while there is doubt, waits for the verdict."""
        return await self.breaker.settled() is BreakerState.CLOSED

    def call(self, path: str, request: Any, timeout: float | None, metadata: Metadata) -> Deferred[bytes]:
        """Make a call with one response. Fails with the error of the call; with `Unavailable` once the breaker opens."""
        shape = "unary_unary" if isinstance(request, bytes) else "stream_unary"
        call: Deferred[bytes] = self._callable(shape, path)(request, timeout=timeout, metadata=metadata)
        call.addCallbacks(self._answered, self._failed)
        return self.breaker.guard(call)

    async def stream(self, path: str, request: Any, seconds: float | None, metadata: Metadata) -> AsyncIterator[bytes]:
        """Make a call with a stream of responses. Ends as `call` does; closing the iterator cancels the call."""
        shape = "unary_stream" if isinstance(request, bytes) else "stream_stream"
        responses = self._callable(shape, path)(request, timeout=seconds, metadata=metadata)
        done = self.breaker.ends(responses.cancel)
        try:
            async for response in responses:
                self.breaker.heard()
                yield response
        except Exception as error:
            if self.breaker.state is BreakerState.OPEN:
                raise self.breaker.refusal() from error
            if isinstance(error, BookdError) and error.code is Code.UNAVAILABLE:
                self.breaker.doubt()
            raise
        finally:
            done()
            responses.cancel()

    def _callable(self, shape: str, path: str) -> Callable[..., Any]:
        if path not in self._callables:
            self._callables[path] = getattr(self._channel, shape)(path)
        return self._callables[path]

    def _answered(self, response: bytes) -> bytes:
        self.breaker.heard()
        return response

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, BookdError):
            if error.code is Code.UNAVAILABLE:
                self.breaker.doubt()
            elif error.code not in (Code.DEADLINE_EXCEEDED, Code.CANCELLED):
                self.breaker.heard()
        return failure
