"""The one timer of a connection that idles."""

from collections.abc import Callable
from typing import Any


class Idle:
    """What Twisted's TimeoutMixin does, for less. `timeOut` is in seconds, None for never.

    Each request sets it twice, and moves it. So it is one timer that looks, when its time has come, whether it still has.
    """

    site: Any
    timeOut: Any  # noqa: N815 - Twisted's name
    callLater: Callable[..., Any]  # noqa: N815 - likewise
    timeoutConnection: Callable[[], None]  # noqa: N815 - likewise

    _idle: Any = None
    _until = 0.0

    def setTimeout(self, period: Any) -> Any:
        """Close the connection when nothing has come for `period` seconds; None: never. Answers what was set before."""
        before, self.timeOut = self.timeOut, period
        if period is not None:
            self._until = until = self.site.reactor.seconds() + period
            if self._idle is None:
                self._idle = self.callLater(period, self._idled)
            elif self._idle.getTime() > until:
                self._idle.reset(period)
        return before

    def resetTimeout(self) -> None:
        """Something has come."""
        if self.timeOut is not None:
            self._until = self.site.reactor.seconds() + self.timeOut

    def _idled(self) -> None:
        self._idle = None
        if self.timeOut is None:
            return
        left = self._until - self.site.reactor.seconds()
        if left > 0:
            self._idle = self.callLater(left, self._idled)
        else:
            self.timeOut = None
            self.timeoutConnection()
