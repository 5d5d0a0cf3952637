"""Drafts that gather while the writer is busy, and then are kept together.

The first of them asks the desk for a unit of work; until that begins others may join. So a draft may be written before what
was asked of the desk between the first one and itself. All of that is under way at the same time, and nobody was told of any
of it, so this is as good an order as any; among themselves drafts keep theirs.
"""

from threading import Lock

from twisted.internet.defer import Deferred

from bookd.mom.records import Draft, Kept

# Drafts that are kept together at most: while some are being written, others can be read and judged, and those before
# answered.
GROUP = 64


class Gathering:
    """The drafts of one unit of work. They are added by the reactor and taken by the writer's thread."""

    def __init__(self) -> None:
        self.drafts: list[tuple[Draft, int]] = []
        self.keeping: list[Deferred[Kept]] = []
        self._is_open = True
        self._lock = Lock()

    def add(self, draft: Draft, now: int, keeping: Deferred[Kept]) -> bool:
        """Let a draft join; False, and nothing done, when it is too late or too many are there."""
        with self._lock:
            if not self._is_open or len(self.drafts) >= GROUP:
                return False
            self.drafts.append((draft, now))
            self.keeping.append(keeping)
            return True

    def close(self) -> list[tuple[Draft, int]]:
        """Let nobody join any more; answers the drafts, in the order in which they came."""
        with self._lock:
            self._is_open = False
        return self.drafts
