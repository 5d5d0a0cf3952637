"""Tests for `bookd.mom.forgetting` on a real database."""

from bookd.errors import (
    FailedPrecondition,
    NotFound,
)
from bookd.mom import forgetting, overview, settling
from tests.mom.room import (
    DAY,
    DEAD,
    DESTINATION,
    NOW,
    StoreTestCase,
    done,
    number_id,
)


class RemoveTests(StoreTestCase):
    """How messages are forgotten."""

    def test_forget(self) -> None:
        """A finished message goes, and its id may be used again; a queued one stays; one that is not there is told."""
        kept = self.keep(1)
        error = self.assertRaises(FailedPrecondition, self.do, forgetting.forget, number_id(1))
        self.assertEqual(error.reason, "OPERATION_NOT_DONE")
        self.do(settling.finish, kept.seq, done(), NOW)
        place = self.do(forgetting.forget, number_id(1))
        self.assertEqual((place.seq, place.destination, place.lane), (kept.seq, DESTINATION, "lane"))
        self.assertRaises(NotFound, self.do, forgetting.forget, number_id(1))
        self.keep(1)

    def test_purge(self) -> None:
        """What finished before a time goes, the oldest first and only so many; queued and dead messages stay."""
        for number in range(5):
            self.do(settling.finish, self.keep(number, str(number)).seq, done(), NOW + number)
        self.do(settling.finish, self.keep(5, "5").seq, DEAD, NOW - DAY, block_lane=True)
        self.keep(6, "6", now=NOW - DAY)
        self.assertEqual(self.do(forgetting.purge, NOW + 4, 3), 3)
        left = [each.message_id for each in self.do(overview.page, None, None, None, 9)[0]]
        self.assertEqual(left, [number_id(number) for number in (6, 5, 4, 3)])
        self.assertEqual(self.do(forgetting.purge, NOW + 4, 3), 1)
        self.assertEqual(self.do(forgetting.purge, NOW + 4, 3), 0)
