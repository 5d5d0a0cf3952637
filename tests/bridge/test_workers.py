"""Workers: how much they take on, and what becomes of work that nobody waits for."""

import os
import re
import sys
from gc import collect
from threading import Barrier, Event, Thread
from threading import enumerate as enumerate_threads
from weakref import ref

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge.workers import Workers, _Thread
from bookd.errors import ResourceExhausted, Unavailable


class WorkersTests(TestCase):
    """One thread, and room for two more pieces of work."""

    timeout = 20

    def setUp(self) -> None:
        self.workers = Workers(1, "test-worker", waiting=2, niceness=5)
        self.workers.startService()
        self.addCleanup(self.workers.stopService)
        self.gate = Event()
        self.addCleanup(self.gate.set)
        self.done: list[int] = []

    def piece(self, number: int) -> Deferred[int]:
        """Work that waits for the gate."""

        def work() -> int:
            self.gate.wait(10)
            self.done.append(number)
            return number

        return self.workers.run(work)

    async def test_bounded(self) -> None:
        """What is too much is refused at once, says when to come again, and room that was made is used."""
        taken = [self.piece(number) for number in range(3)]
        error = self.failureResultOf(self.piece(3), ResourceExhausted).value
        self.assertEqual((error.reason, error.retry_after), ("BUSY", 1.0))
        self.gate.set()
        self.assertEqual([await each for each in taken], [0, 1, 2])
        self.assertEqual(await self.piece(4), 4)

    async def test_patience(self) -> None:
        """Work that would wait too long, as things go, is refused, and is told how long."""
        slow = Workers(1, "slow-worker", patience=0.5)
        slow.startService()
        self.addCleanup(slow.stopService)
        slow._usual = 0.2
        taken = [slow.run(self.gate.wait, 10) for _ in range(3)]
        error = self.failureResultOf(slow.run(self.gate.wait, 10), ResourceExhausted).value
        self.assertEqual((error.reason, error.retry_after), ("BUSY", 1.0))
        self.gate.set()
        for each in taken:
            await each
        self.assertLess(slow._usual, 0.2 + 1.0)

    async def test_given_up(self) -> None:
        """Work that was given up before it began never begins."""
        first, second, third = (self.piece(number) for number in range(3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.gate.set()
        self.assertEqual([await first, await third], [0, 2])
        self.assertEqual(self.done, [0, 2])

    async def test_failure(self) -> None:
        """What work raises comes back, and makes room."""
        for _ in range(10):
            with self.assertRaises(ZeroDivisionError):
                await self.workers.run(lambda: 1 // 0)

    async def test_stands_back(self) -> None:
        """The threads let others go first, and the reactor's thread does not."""
        if sys.platform != "linux":
            return
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        self.assertEqual(await self.workers.run(os.getpriority, os.PRIO_PROCESS, 0), max(usual, 5))
        self.assertEqual(os.getpriority(os.PRIO_PROCESS, 0), usual)

    async def test_spare(self) -> None:
        """All threads but the first have what nobody else wants, where that is asked for."""
        if sys.platform != "linux":
            return
        usual = os.sched_getscheduler(0)
        for spare, most in ((False, 0), (True, 2)):
            workers = Workers(3, "spare-worker", spare=spare)
            workers.startService()
            meeting = Barrier(3, timeout=10)

            def look(meeting: Barrier = meeting) -> int:
                meeting.wait()  # so that each is in a thread of its own
                return os.sched_getscheduler(0)

            found = await gatherResults([workers.run(look) for _ in range(3)])
            if usual != os.SCHED_IDLE:  # which the whole run may have been given
                self.assertEqual((found.count(os.SCHED_IDLE), found.count(usual)), (most, 3 - most))
            await workers.stopService()
        self.assertEqual(os.sched_getscheduler(0), usual)

    async def test_stopped(self) -> None:
        """Stopped workers take nothing, and finish what they have."""
        taken = self.piece(1)
        stopping = self.workers.stopService()
        self.failureResultOf(self.piece(2), Unavailable)
        self.gate.set()
        await stopping
        self.assertEqual(await taken, 1)

    async def test_threads_are_gone(self) -> None:
        """Threads are started when there is work for them, no more than there may be, and none is left in the end; the reactor
        does not wait for one that is at work. Workers can be started again."""

        def threads() -> list[str]:
            return sorted(each.name for each in enumerate_threads() if re.fullmatch(r"several-\d", each.name))

        several = Workers(3, "several")
        for _ in range(2):
            several.startService()
            self.assertEqual(threads(), [])
            await several.run(int)
            await several.run(int)
            self.assertEqual(threads(), ["several-0"])
            work = [several.run(self.gate.wait, 10) for _ in range(2)] + [several.run(int) for _ in range(9)]
            self.assertEqual(threads(), ["several-0", "several-1", "several-2"])
            self.assertEqual(await gatherResults(work[2:]), [0] * 9)
            stopping = several.stopService()
            while len(threads()) > 2:
                await deferLater(reactor, 0.001)
            self.assertNoResult(stopping)
            self.gate.set()
            await stopping
            self.assertEqual(threads(), [])
            self.gate.clear()

    async def test_no_thread(self) -> None:
        """Where the system gives no thread, work is refused until it does; where it gives one, that does all."""

        def refuse(thread: Thread) -> None:
            raise RuntimeError("can't start new thread")

        poor = Workers(2, "poor-worker")
        poor.startService()
        patched = self.patch(_Thread, "start", refuse)
        self.failureResultOf(poor.run(int), Unavailable)
        patched.restore()
        self.assertEqual(await poor.run(int), 0)
        patched = self.patch(_Thread, "start", refuse)
        self.assertEqual(await gatherResults([poor.run(int) for _ in range(5)]), [0] * 5)
        patched.restore()
        await poor.stopService()

    async def test_started_while_it_stops(self) -> None:
        """What is left of the work from before is done by the threads from before, and both ends are told."""
        first = self.piece(1)
        stopping = self.workers.stopService()
        self.workers.startService()
        second = self.workers.run(int)
        self.assertEqual(await second, 0)
        self.assertNoResult(stopping)
        self.gate.set()
        self.assertEqual(await first, 1)
        await stopping
        await self.workers.stopService()
        self.workers.startService()

    async def test_never_used(self) -> None:
        """Workers that had no work stop at once, and may be asked to twice."""
        idle = Workers(1, "idle-worker")
        idle.startService()
        for _ in range(2):
            self.successResultOf(idle.stopService())

    async def test_forgets(self) -> None:
        """What a piece of work was given, and what it answered, is not kept until the next one comes."""

        class Large:
            pass

        given = Large()
        gone = ref(given)
        await self.workers.run(lambda large: None, given)
        del given
        answered = ref(await self.workers.run(Large))
        await deferLater(reactor, 0)
        collect()
        self.assertEqual((gone(), answered()), (None, None))
