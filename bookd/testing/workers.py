"""Workers without threads: the work is done at once."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred

P = ParamSpec("P")
T = TypeVar("T")


class ImmediateWorkers:
    """`bookd.bridge.workers.Workers` as tests want it: when `run` returns, its Deferred has fired."""

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call `work` now."""
        return maybeDeferred(work, *args, **kwargs)  # type: ignore[arg-type]
