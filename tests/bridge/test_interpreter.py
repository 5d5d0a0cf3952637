"""The interpreter: set while a daemon runs, and as it was afterwards."""

import gc
import sys

from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.interpreter import SWITCH, THRESHOLDS, Interpreter


class Knot:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


class InterpreterTests(SynchronousTestCase):
    """The service."""

    def test_while_it_runs(self) -> None:
        """What was there is set aside, cycles made later are still found, and all is undone at the end."""
        before, frozen, interval = gc.get_threshold(), gc.get_freeze_count(), sys.getswitchinterval()
        interpreter = Interpreter()
        interpreter.startService()
        self.addCleanup(lambda: interpreter.running and interpreter.stopService())
        self.assertEqual(gc.get_threshold(), THRESHOLDS)
        self.assertGreater(gc.get_freeze_count(), frozen)
        self.assertAlmostEqual(sys.getswitchinterval(), SWITCH)
        Knot()
        gc.collect()
        self.assertFalse(any(isinstance(each, Knot) for each in gc.get_objects()))
        interpreter.stopService()
        self.assertEqual((gc.get_threshold(), gc.get_freeze_count()), (before, 0))
        self.assertEqual(sys.getswitchinterval(), interval)

    def test_cycles_are_found(self) -> None:
        """A daemon that only ever makes cycles does not grow: they are collected without being asked for."""
        interpreter = Interpreter()
        interpreter.startService()
        self.addCleanup(interpreter.stopService)
        for _ in range(3 * THRESHOLDS[0]):
            Knot()
        self.assertLess(sum(isinstance(each, Knot) for each in gc.get_objects()), 2 * THRESHOLDS[0])
