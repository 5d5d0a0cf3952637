"""How many messages came and went lately, a second: counted as it happens, in memory, by destination.

A second is a slot of a ring, so that a queue costs the same whatever goes through it, and nothing has to be done as time
passes. A clock that jumps costs the counts of a minute at most.
"""

from collections.abc import Callable
from typing import Final

from attrs import frozen

# Seconds that a rate is taken over.
WINDOW: Final = 60
_MICROSECONDS: Final = 1_000_000


@frozen
class Rate:
    """Messages a second: that came into a queue, and that left it, with whatever outcome."""

    kept: float
    finished: float


class Tally:
    """How many times something happened in the last `WINDOW` seconds. Times are in microseconds."""

    def __init__(self) -> None:
        # Of each slot the second that it counts, and the count.
        self._seconds = [-1] * WINDOW
        self._counts = [0] * WINDOW

    def add(self, now: int, times: int = 1) -> None:
        """It happened so many times."""
        second = now // _MICROSECONDS
        slot = second % WINDOW
        if self._seconds[slot] != second:
            self._seconds[slot], self._counts[slot] = second, 0
        self._counts[slot] += times

    def total(self, now: int) -> int:
        """How many times, up to now."""
        second = now // _MICROSECONDS
        counted = zip(self._seconds, self._counts, strict=True)
        return sum(count for at, count in counted if second - WINDOW < at <= second)


class Rates:
    """The rates of all queues. `now` answers microseconds."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._kept: dict[str, Tally] = {}
        self._finished: dict[str, Tally] = {}

    def kept(self, destination: str, messages: int = 1) -> None:
        """So many messages came into the queue of `destination`."""
        self._kept.setdefault(destination, Tally()).add(self._now(), messages)

    def finished(self, destination: str) -> None:
        """A message left it."""
        self._finished.setdefault(destination, Tally()).add(self._now())

    def of(self, destination: str) -> Rate:
        """Both rates of one queue, over the last `WINDOW` seconds."""
        now = self._now()
        kept, finished = (
            tallies[destination].total(now) / WINDOW if destination in tallies else 0.0
            for tallies in (self._kept, self._finished)
        )
        return Rate(kept, finished)
