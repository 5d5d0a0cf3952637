"""Where the two colours of coroutine meet: futures become Deferreds here, and Deferreds futures."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from inspect import isawaitable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.python.failure import Failure

from bookd.bridge.reactor import loop
from bookd.errors import FINAL, BookdError, Code

T = TypeVar("T")


def from_asyncio(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run an asyncio coroutine; the Deferred fires with its result. Cancelling the Deferred cancels the coroutine.

    A cancelled coroutine makes the Deferred fail with Twisted's CancelledError, not with asyncio's, which is no
    Exception and would pass through every `except Exception` of the caller.
    """
    deferred: Deferred[T] = Deferred.fromFuture(loop().create_task(work))
    return deferred.addErrback(_own_cancellation)


def _own_cancellation(failure: Failure) -> Failure:
    if failure.check(asyncio.CancelledError):
        return Failure(CancelledError())
    return failure


async def to_asyncio(outcome: Any) -> Any:
    """Await, in asyncio's colour, what a servicer returned: a Deferred, a coroutine that awaits Deferreds, or a value.

    When the asyncio task is cancelled meanwhile, the Deferred is cancelled.
    """
    if isinstance(outcome, Deferred):
        deferred = outcome
    elif isawaitable(outcome):
        deferred = ensureDeferred(_awaited(outcome))
    else:
        return outcome
    if deferred.called and not deferred.paused and not isinstance(deferred.result, (Failure, Deferred)):
        return deferred.result
    return await deferred.asFuture(loop())


async def _awaited(work: Awaitable[T]) -> T:
    return await work


def shield(deferred: Deferred[T]) -> Deferred[T]:
    """A Deferred that fires as `deferred` does, but whose cancellation leaves `deferred` alone.

    For what has to finish although nobody waits for it any more, such as storing a message. A final error that comes
    after the cancellation (the service said no) is nobody's business any more, and neither is a cancellation; any other
    failure stays on `deferred`, so that it is logged as an unhandled error unless somebody takes it.
    """
    outer: Deferred[T] = Deferred()

    def relay(result: Any) -> Any:
        if outer.called:
            return None if isinstance(result, Failure) and _expected(result.value) else result
        outer.callback(result)
        return None

    deferred.addBoth(relay)
    return outer


def _expected(error: BaseException | None) -> bool:
    if isinstance(error, BookdError):
        # Of a database that refuses the desk has told.
        return error.code in FINAL or error.code is Code.CANCELLED or error.reason == "STORAGE"
    return isinstance(error, CancelledError)


class Incoming(AsyncIterator[T]):
    """An asyncio stream of messages as our colour iterates it. `read` answers the next message, or `end`."""

    def __init__(self, read: Callable[[], Coroutine[Any, Any, T]], end: object) -> None:
        self._read = read
        self._end = end

    async def __anext__(self) -> T:
        message = await from_asyncio(self._read())
        if message is self._end:
            raise StopAsyncIteration
        return message


async def outgoing(messages: AsyncIterator[T]) -> AsyncIterator[T]:
    """An iterator of our colour as asyncio iterates it; closed when asyncio stops iterating."""
    iterator = aiter(messages)
    try:
        while True:
            try:
                message = await to_asyncio(_awaited(anext(iterator)))
            except StopAsyncIteration:
                return
            yield message
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await to_asyncio(close())
