"""A bounded pool of threads for what would hold up the reactor: hashing, reading from a database, searching."""

import os
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from bookd.errors import ResourceExhausted, Unavailable

# The share of the newest measurement in what work takes of late.
_LATELY = 0.1

P = ParamSpec("P")
T = TypeVar("T")


class Workers(Service):
    """`size` threads at most; further work waits its turn, no more than `waiting` pieces of it (None: any number),
    and none that would wait for more than about `patience` seconds, as long as work has taken of late (None: however
    long). Threads exist between startService and stopService.

    `niceness` is how much threads stand back for others where the system lets a thread have one of its own (Linux). With
    `spare` all but the first run only on processors that nobody else wants: much work costs others little, and yet some of
    it goes on whatever else the host does.
    """

    def __init__(
        self,
        reactor: Any,
        size: int,
        name: str,
        *,
        waiting: int | None = None,
        patience: float | None = None,
        niceness: int = 0,
        spare: bool = False,
    ) -> None:
        self._reactor = reactor
        self._size = size
        self._name = name
        self._most = None if waiting is None else size + waiting
        self._patience = patience
        self._niceness = niceness
        self._spare = spare
        self._threads = 0
        self._under_way = 0
        self._usual = 0.0  # seconds that a piece of work has taken of late
        self._pool: ThreadPool | None = None

    def startService(self) -> None:
        """Start the threads."""
        super().startService()
        self._threads = 0
        self._pool = ThreadPool(0, self._size, self._name)
        # A daemon that fails in the middle of its start ends, though a thread is at work; stopService waits for them.
        self._pool.threadFactory = self._thread  # type: ignore[assignment]
        self._pool.start()

    def _thread(self, *args: Any, **kwargs: Any) -> Thread:
        self._threads += 1
        idle = self._spare and self._threads > 1
        return _Thread(*args, **kwargs, daemon=True, niceness=self._niceness, idle=idle)

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
        """Call `work` in a thread; the Deferred fires with its result, on the reactor. Fails with `Unavailable` once
        stopped, and with `ResourceExhausted` when too much waits. Cancelling the Deferred does not interrupt the thread,
        but what has not begun then never begins."""
        if self._pool is None:
            return fail(Unavailable(f"{self._name} is stopped"))
        wait = max(0, self._under_way - self._size + 1) / self._size * self._usual
        full = self._most is not None and self._under_way >= self._most
        if full or (self._patience is not None and wait > self._patience):
            return fail(
                ResourceExhausted("too much is waiting; try again later", reason="BUSY", retry_after=max(1.0, wait))
            )
        self._under_way += 1
        answer: Deferred[T] = Deferred()

        def run() -> T | None:
            if answer.called:
                return None
            began = self._reactor.seconds()
            try:
                return work(*args, **kwargs)
            finally:
                taken = self._reactor.seconds() - began
                # Two threads that meet here lose one of two measurements, which does no harm.
                self._usual += (taken - self._usual) * _LATELY

        def ended(result: Any) -> None:
            self._under_way -= 1
            if not answer.called:
                answer.callback(result)

        deferToThreadPool(self._reactor, self._pool, run).addBoth(ended)
        return answer


class _Thread(Thread):
    def __init__(self, *args: Any, niceness: int, idle: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._niceness = niceness
        self._idle = idle

    def run(self) -> None:
        """Stand back, then work."""
        if sys.platform == "linux":
            if self._niceness:
                os.setpriority(os.PRIO_PROCESS, self.native_id or 0, self._niceness)
            if self._idle:
                os.sched_setscheduler(self.native_id or 0, os.SCHED_IDLE, os.sched_param(0))
        super().run()
