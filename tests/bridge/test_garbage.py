"""The collector of reference cycles: set while a daemon runs, and as it was afterwards."""

import gc

from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.garbage import THRESHOLDS, Garbage


class Knot:
    """Holds itself."""

    def __init__(self) -> None:
        self.itself = self


class GarbageTests(SynchronousTestCase):
    """The service."""

    def test_while_it_runs(self) -> None:
        """What was there is set aside, cycles made later are still found, and all is undone at the end."""
        before, frozen = gc.get_threshold(), gc.get_freeze_count()
        garbage = Garbage()
        garbage.startService()
        self.addCleanup(lambda: garbage.running and garbage.stopService())
        self.assertEqual(gc.get_threshold(), THRESHOLDS)
        self.assertGreater(gc.get_freeze_count(), frozen)
        Knot()
        gc.collect()
        self.assertFalse(any(isinstance(each, Knot) for each in gc.get_objects()))
        garbage.stopService()
        self.assertEqual((gc.get_threshold(), gc.get_freeze_count()), (before, 0))

    def test_cycles_are_found(self) -> None:
        """A daemon that only ever makes cycles does not grow: they are collected without being asked for."""
        garbage = Garbage()
        garbage.startService()
        self.addCleanup(garbage.stopService)
        for _ in range(3 * THRESHOLDS[0]):
            Knot()
        self.assertLess(sum(isinstance(each, Knot) for each in gc.get_objects()), 2 * THRESHOLDS[0])
