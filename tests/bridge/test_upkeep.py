"""Tests for `bookd.bridge.upkeep`, with a clock that is pushed."""

from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.upkeep import BATCH, INTERVAL, SOON, Upkeep, removing
from bookd.storage.engine import open_engine
from bookd.testing.desk import ImmediateDesk


class UpkeepTests(SynchronousTestCase):
    """Two chores that do what the test says."""

    def setUp(self) -> None:
        """Nothing to do yet; it is not started."""
        self.clock = Clock()
        self.done: list[str] = []
        self.answers: dict[str, Any] = {}
        self.upkeep = Upkeep(self.clock, {"sweep": self.chore("sweep"), "mop": self.chore("mop")})
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop; no timer is left."""
        if self.upkeep.running:
            self.assertIsNone(self.upkeep.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def chore(self, name: str) -> Any:
        """A chore that notes its turn, and answers, or raises, or waits for, what stands in `answers`."""

        async def batch() -> bool:
            self.done.append(name)
            answer = self.answers.get(name, False)
            if isinstance(answer, Exception):
                raise answer
            return bool(await answer) if isinstance(answer, Deferred) else bool(answer)

        return batch

    def test_each_in_turn(self) -> None:
        """Every chore has its turn at the start, and again after a while."""
        self.upkeep.startService()
        self.assertEqual(self.done, ["sweep", "mop"])
        self.clock.advance(INTERVAL - 1)
        self.assertEqual(len(self.done), 2)
        self.clock.advance(1)
        self.assertEqual(self.done, ["sweep", "mop"] * 2)

    def test_more(self) -> None:
        """As long as a chore has more to do, the next look follows soon, whichever chore it is."""
        for busy in ("sweep", "mop"):
            self.answers = {busy: True}
            self.upkeep.startService()
            self.clock.advance(SOON)
            self.answers = {}
            self.clock.advance(SOON)
            self.assertEqual(self.done, ["sweep", "mop"] * 3)
            self.clock.advance(SOON)
            self.assertEqual(len(self.done), 6)
            self.upkeep.stopService()
            self.done.clear()

    def test_survives(self) -> None:
        """A chore that fails is logged by its name; the others have their turn, and it has its next."""
        self.answers = {"sweep": OSError("the broom broke")}
        self.upkeep.startService()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.done, ["sweep", "mop"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_stop_in_between(self) -> None:
        """Stopping waits for the batch under way, and begins no other."""
        waiting: Deferred[bool] = Deferred()
        self.answers = {"sweep": waiting}
        self.upkeep.startService()
        self.clock.advance(INTERVAL * 2)
        stopped = self.upkeep.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        waiting.callback(True)
        self.successResultOf(stopped)
        self.assertEqual(self.done, ["sweep"])

    def test_again(self) -> None:
        """It can be started again."""
        self.upkeep.startService()
        self.upkeep.stopService()
        self.clock.advance(INTERVAL)
        self.upkeep.startService()
        self.clock.advance(INTERVAL)
        self.assertEqual(self.done, ["sweep", "mop"] * 3)

    def test_removing(self) -> None:
        """What is removed is older than the age, in batches; a whole batch means that there may be more."""
        engine = open_engine(":memory:")
        self.addCleanup(engine.dispose)
        removed = [BATCH, BATCH - 1]
        asked: list[tuple[int, int]] = []

        def remove(connection: Connection, before: int, limit: int) -> int:
            asked.append((before, limit))
            return removed.pop(0)

        chore = removing(ImmediateDesk(engine), remove, lambda: 10_000_000, 2.5)
        answers = [self.successResultOf(Deferred.fromCoroutine(_await(chore))) for _ in range(2)]
        self.assertEqual(answers, [True, False])
        self.assertEqual(asked, [(7_500_000, BATCH)] * 2)


async def _await(chore: Any) -> bool:
    return bool(await chore())
