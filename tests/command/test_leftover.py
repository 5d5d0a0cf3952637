"""One run at a time, and what a killed one leaves behind. The killing itself is in `test_up`."""

import os
import sys
from pathlib import Path
from threading import Event

import click
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from bookd.command.home import CommandError, Home
from bookd.command.leftover import end_leftovers, leftovers, only_one
from tests.command.suite import Ended


class LockTests(SynchronousTestCase):
    """The lock on a home."""

    def setUp(self) -> None:
        """An empty home."""
        self.home = Home(Path(self.mktemp()).absolute())
        self.home.path.mkdir(parents=True)

    def test_one_run_at_a_time(self) -> None:
        """The lock keeps a second run out until the first lets go."""
        with only_one(self.home):
            self.assertRaises(CommandError, only_one(self.home).__enter__)
        with only_one(self.home):
            pass

    def test_nothing_left_over(self) -> None:
        """No process of this machine belongs to a home in which nothing ran."""
        self.assertEqual(leftovers(self.home), [])

    def test_nothing_to_end(self) -> None:
        """Where nothing is left over, nothing is waited for."""
        end_leftovers(self.home, Event())


class LeftoverTests(TestCase):
    """Processes that look like a suite's."""

    async def test_daemon_by_hand_is_left_alone(self) -> None:
        """Of two processes on a home's configuration, only the one that a supervisor started is left over."""
        home = Home(Path(self.mktemp()).absolute())
        home.path.mkdir(parents=True)
        command = [sys.executable, "-c", "print('here', flush=True); input()", "--config", str(home.config_file)]
        by_hand, supervised = Ended(), Ended()
        plain = {name: value for name, value in os.environ.items() if name != "SUPERVISOR_ENABLED"}
        for ended, environment in ((by_hand, plain), (supervised, {**plain, "SUPERVISOR_ENABLED": "1"})):
            ended.process = reactor.spawnProcess(ended, sys.executable, command, environment)  # type: ignore[attr-defined]
            await ended.says("here")
        self.assertEqual(leftovers(home), [supervised.process.pid])
        self.patch(click, "echo", lambda text, err: None)
        end_leftovers(home, Event())
        by_hand.process.closeStdin()
        self.assertEqual(await by_hand.status, 1)  # at the end of its input, not by a signal
        self.assertEqual(await supervised.status, -15)
