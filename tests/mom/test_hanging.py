"""A destination that is stopped with SIGSTOP: its connection stays open, and nothing answers."""

import signal
from time import perf_counter
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from bookd.errors import Unavailable
from tests.mom.processes import spawn_post
from tests.mom.room import LOOK, receipt
from tests.mom.running import RunningTestCase


class HangingTests(RunningTestCase):
    """A real MOM before a post in a process of its own."""

    timeout = 60

    async def setUp(self) -> None:
        """Put the process in the place of the post."""
        await super().setUp()
        await self.post.stopService()
        self.process = spawn_post(self.post_port)
        self.addCleanup(self.process.end)
        await self.until(lambda: b"ready" in self.process.said, 20)
        await self.until(self.serving)

    async def test_hangs(self) -> None:
        """A call that comes then is kept within 2 s, a read refused; afterwards both at once. Within a second of SIGCONT
        calls are served again, and what was kept is delivered."""
        self.assertEqual(await self.call("a"), receipt("got a"))
        self.process.signal(signal.SIGSTOP)
        began = perf_counter()
        reading = self.call(path=LOOK, timeout=20)
        writing = self.kept(self.call("b", "box", timeout=20))
        with self.assertRaises(Unavailable) as caught:
            await reading
        self.assertEqual((caught.exception.reason, caught.exception.retry_after), ("DESTINATION_DOWN", 1.0))
        operation = await writing
        self.assertLess(perf_counter() - began, 2.0)
        began = perf_counter()
        for _ in range(5):
            with self.assertRaises(Unavailable):
                await self.call(path=LOOK, timeout=20)
            await self.kept(self.call("c", "box", timeout=20))
        self.assertLess(perf_counter() - began, 0.5)
        await self.pause(1.3)
        self.process.signal(signal.SIGCONT)
        self.assertLess(await self.until(self.serving), 1.0)
        self.assertEqual(await self.call(path=LOOK), receipt("got "))
        message_id = operation.name.removeprefix("operations/")
        while True:
            try:
                self.assertEqual(await self.call("b", "box", message_id=message_id), receipt("got b"))
                break
            except Unavailable:
                await self.pause(0.02)

    async def test_hangs_under_load(self) -> None:
        """So it is while many calls are answered until that moment."""
        running = True
        took: list[float] = []

        async def load() -> None:
            while running:
                began = perf_counter()
                try:
                    await self.call(path=LOOK, timeout=20)
                except Unavailable:
                    took.append(perf_counter() - began)
                    return

        async def wait() -> None:
            nonlocal running
            await self.pause(0.8)
            self.process.signal(signal.SIGSTOP)
            await self.until(lambda: not self.serving())
            running = False

        work: list[Deferred[Any]] = [Deferred.fromCoroutine(load()) for _ in range(20)]
        await gatherResults([*work, Deferred.fromCoroutine(wait())])
        self.assertEqual(len(took), 20)
        self.assertLess(max(took), 2.0)

    async def test_hangs_again_and_again(self) -> None:
        """Wherever in the MOM's rhythm it stops and goes on."""
        for number in range(4):
            self.process.signal(signal.SIGSTOP)
            self.assertLess(await self.until(lambda: not self.serving()), 2.0)
            await self.pause(0.31 * number)
            self.process.signal(signal.SIGCONT)
            self.assertLess(await self.until(self.serving), 1.0)

    async def test_stops_while_it_hangs(self) -> None:
        """A MOM whose destination hangs stops as soon as any."""
        calling = self.call(path=LOOK, timeout=20).addErrback(lambda failure: None)
        self.process.signal(signal.SIGSTOP)
        began = perf_counter()
        await self.mom.stopService()
        self.assertLess(perf_counter() - began, 3.0)
        await calling
