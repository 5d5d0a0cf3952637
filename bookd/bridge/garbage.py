"""Python's collector of reference cycles, set for a process that serves for years.

What is there once a daemon has started stays (modules, descriptors, compiled statements: a few hundred thousand objects):
it is set aside, so that no collection walks through it again. What calls leave behind is nearly always freed by counting
references; cycles, mostly errors with their frames, are few, so the youngest objects are looked through less often than
Python does by itself. Measured: a seventh less processor time for a read through the gateway with 128 connections, and
half the 99th percentile.
"""

import gc

from twisted.application.service import Service

# New objects until the youngest are looked through, and how many such looks until the next generation is.
THRESHOLDS = (20_000, 20, 20)


class Garbage(Service):
    """Sets the collector while it runs. It starts last, when all that stays is there."""

    _before = gc.get_threshold()

    def startService(self) -> None:
        """Set what there is aside, and be patient with what comes."""
        super().startService()
        self._before = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)

    def stopService(self) -> None:
        """As it was."""
        super().stopService()
        gc.set_threshold(*self._before)
        gc.unfreeze()
