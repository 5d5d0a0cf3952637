"""Waiting for something, but not longer than so many seconds."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred


async def within(seconds: float, clock: Any, awaited: Deferred[Any]) -> bool:
    """Whether `awaited` fires in time. When it does not, it is cancelled; when it fails, so does this."""
    over = False

    def end() -> None:
        nonlocal over
        over = True
        awaited.cancel()

    timer = clock.callLater(max(seconds, 0.0), end)
    try:
        await awaited
    except CancelledError:
        if not over:
            raise
        return False
    finally:
        if timer.active():
            timer.cancel()
    return True
