"""A MOM that lost a key: what it cannot open waits, in its lane, and the rest is delivered."""

from pathlib import Path

from twisted.internet.task import Clock

from bookd.mom import seals
from bookd.mom.courier import LONGEST_REFUSAL
from bookd.mom.machine import MessageState
from bookd.mom.vault import Vault, guarded
from tests.mom.room import NOW
from tests.mom.test_courier import CourierTestCase


class LostKeyTests(CourierTestCase):
    """A courier over a store whose first key is gone."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.file = seals.write(self.folder, seals.generate(NOW))
        super().setUp()

    def begin(self) -> None:
        """A new MOM, with a vault."""
        self.clock = Clock()
        self.engine = guarded(self.engine, Vault(self.folder, self.seconds, self.now))
        super().begin()

    def seconds(self) -> float:
        """By the clock of the MOM that runs."""
        return self.clock.seconds()

    def test_waits(self) -> None:
        """It is never delivered empty, costs no attempt, lets other lanes pass and none of its own, says why in the log, and
        is delivered when the key is back."""
        self.take(1)
        self.take(2)
        self.end()
        seals.rotate(self.folder, NOW, 0)
        aside = self.file.rename(self.folder / "aside")
        self.begin()
        self.breaker.serving()
        self.take(3, "other")
        self.assertEqual(self.channel.numbers(), [3])
        self.answer(3)
        self.clock.advance(LONGEST_REFUSAL / 1e6)
        self.clock.advance(1)
        self.assertEqual(self.channel.numbers(), [3])
        waiting = self.found("00000000-0000-0000-0000-000000000001")
        self.assertEqual((waiting.state, waiting.attempts), (MessageState.QUEUED, 0))
        self.assertIn(str(self.file), waiting.last_error)
        aside.rename(self.file)
        for _ in range(3):
            self.clock.advance(LONGEST_REFUSAL / 1e6)
        self.assertEqual(self.channel.numbers(), [3, 1])
        self.answer(1)
        self.assertEqual(self.channel.numbers(), [3, 1, 2])
        self.answer(2)
