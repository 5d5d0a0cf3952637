"""A bounded pool of threads for what would hold up the reactor: hashing, reading from a database, searching.

Twisted has such a pool. What it does beside (a context for each piece of work, a team that grows and shrinks, two turns of
the reactor until a result is there) costs as much processor time again as the way to a thread and back, and each commit
takes that way.
"""

import os
import sys
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from bookd.bridge.reactor import loop
from bookd.errors import ResourceExhausted, Unavailable

# The share of the newest measurement in what work takes of late.
_LATELY = 0.1

P = ParamSpec("P")
T = TypeVar("T")
# What is to be done, and whom to tell; None sends a thread home.
_Pieces = SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None]


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
        size: int,
        name: str,
        *,
        waiting: int | None = None,
        patience: float | None = None,
        niceness: int = 0,
        spare: bool = False,
    ) -> None:
        self._size = size
        self._name = name
        self._most = None if waiting is None else size + waiting
        self._patience = patience
        self._niceness = niceness
        self._spare = spare
        self._under_way = 0
        self._usual = 0.0  # seconds that a piece of work has taken of late
        self._threads: list[Thread] = []
        self._pieces: _Pieces = SimpleQueue()

    def startService(self) -> None:
        """Take work; a thread is started when there is a piece of work and no thread for it."""
        super().startService()
        self._loop = loop()
        self._pieces = SimpleQueue()

    def stopService(self) -> Deferred[None]:
        """Refuse further work; fires when all that was accepted is done and the threads are gone."""
        super().stopService()
        threads, self._threads = self._threads, []
        gone: Deferred[None] = Deferred()
        if not threads:
            gone.callback(None)
            return gone
        for _ in threads:
            self._pieces.put(None)

        def join() -> None:
            for thread in threads:
                thread.join()
            self._loop.call_soon_threadsafe(gone.callback, None)

        # Results still go through the reactor, so it must not be held up.
        try:
            Thread(target=join, name=f"{self._name}-stopping", daemon=True).start()
        except RuntimeError:  # the system has no more threads
            join()
        return gone

    def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Call `work` in a thread; the Deferred fires with its result, on the reactor. Fails with `Unavailable` once
        stopped, and with `ResourceExhausted` when too much waits. Cancelling the Deferred does not interrupt the thread,
        but what has not begun then never begins."""
        if not self.running:
            return fail(Unavailable(f"{self._name} is stopped"))
        wait = max(0, self._under_way - self._size + 1) / self._size * self._usual
        full = self._most is not None and self._under_way >= self._most
        if full or (self._patience is not None and wait > self._patience):
            return fail(
                ResourceExhausted("too much is waiting; try again later", reason="BUSY", retry_after=max(1.0, wait))
            )
        if self._under_way >= len(self._threads) < self._size:
            try:
                self._start_thread()
            except RuntimeError as error:  # the system has no more; those that there are go on
                if not self._threads:
                    return fail(Unavailable(f"{self._name}: {error}", retry_after=1.0))
        self._under_way += 1
        answer: Deferred[T] = Deferred()
        self._pieces.put((lambda: work(*args, **kwargs), answer))
        return answer

    def _start_thread(self) -> None:
        idle = self._spare and bool(self._threads)
        name = f"{self._name}-{len(self._threads)}"
        thread = _Thread(self._work, self._pieces, name, niceness=self._niceness, idle=idle)
        thread.start()
        self._threads.append(thread)

    def _work(self, pieces: _Pieces) -> None:
        tell = self._loop.call_soon_threadsafe
        while (piece := pieces.get()) is not None:
            work, answer = piece
            result: Any = None
            if not answer.called:
                began = monotonic()
                try:
                    result = work()
                except BaseException:
                    result = Failure()
                # Two threads that meet here lose one of two measurements, which does no harm.
                self._usual += (monotonic() - began - self._usual) * _LATELY
            tell(self._ended, answer, result)
            del piece, work, answer, result  # or they would be kept until there is other work

    def _ended(self, answer: Deferred[Any], result: Any) -> None:
        self._under_way -= 1
        if not answer.called:
            answer.callback(result)


class _Thread(Thread):
    # A daemon that fails in the middle of its start ends, though a thread is at work; stopService waits for them.

    def __init__(
        self, work: Callable[[_Pieces], None], pieces: _Pieces, name: str, *, niceness: int, idle: bool
    ) -> None:
        super().__init__(target=work, args=(pieces,), name=name, daemon=True)
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
