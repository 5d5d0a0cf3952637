"""A bounded pool of threads for what would hold up the reactor: hashing, reading from a database, searching."""

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from bookd.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


class Workers(Service):
    """`size` threads at most; further work waits its turn. Threads exist between startService and stopService."""

    def __init__(self, reactor: Any, size: int, name: str) -> None:
        self._reactor = reactor
        self._size = size
        self._name = name
        self._pool: ThreadPool | None = None

    def startService(self) -> None:
        """Start the threads."""
        super().startService()
        self._pool = ThreadPool(0, self._size, self._name)
        # A daemon that fails in the middle of its start ends, though a thread is at work; stopService waits for them.
        self._pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
        self._pool.start()

    def stopService(self) -> Deferred[None]:
        """Refuse further work; fires when all that was accepted is done and the threads are gone."""
        super().stopService()
        pool, self._pool = self._pool, None
        done: Deferred[None] = Deferred()
        if pool is None:
            done.callback(None)
            return done

        def join() -> None:
            pool.stop()
            self._reactor.callFromThread(done.callback, None)

        # stop() joins the threads, whose last results still go through the reactor: so it must not hold it up.
        self._reactor.callInThread(join)
        return done

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call `work` in a thread; the Deferred fires with its result, on the reactor. Fails with Unavailable once
        stopped. Cancelling the Deferred does not interrupt the thread."""
        if self._pool is None:
            failed: Deferred[T] = Deferred()
            failed.errback(Unavailable(f"{self._name} is stopped"))
            return failed
        return deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)
