"""Tests for `bookd.mom.overview` on a real database."""

from typing import Any

from bookd.mom import overview, records, settling
from bookd.mom.machine import MessageState
from tests.mom.room import DEAD, DESTINATION, NOW, OTHER, StoreTestCase, done, draft


class PageTests(StoreTestCase):
    """Lists."""

    def setUp(self) -> None:
        """Ten messages of two subjects; every third is done."""
        super().setUp()
        for number in range(10):
            kept = self.keep(number, str(number), subject="ada" if number % 2 else "bob")
            if number % 3 == 0:
                self.do(settling.finish, kept.seq, done(), NOW)

    def numbers(self, *args: Any) -> list[int]:
        """Which messages a page has."""
        found, _ = self.do(overview.page, *args)
        return [int(each.message_id.replace("-", ""), 16) for each in found]

    def test_newest_first(self) -> None:
        """All, page by page, none twice and none left out though others come in between."""
        first = self.do(overview.page, None, None, None, 4)
        self.assertEqual(first[1], 10)
        self.keep(10, "new")
        self.assertEqual(self.numbers(None, None, first[0][-1].seq, 4), [5, 4, 3, 2])
        self.assertEqual(self.numbers(None, None, None, 3), [10, 9, 8])

    def test_filters(self) -> None:
        """Of one subject, in one state, or both; the total counts what the filter lets pass."""
        self.assertEqual(self.numbers("ada", None, None, 9), [9, 7, 5, 3, 1])
        self.assertEqual(self.numbers(None, MessageState.SUCCEEDED, None, 9), [9, 6, 3, 0])
        self.assertEqual(self.numbers("bob", MessageState.SUCCEEDED, None, 9), [6, 0])
        self.assertEqual(self.do(overview.page, "bob", MessageState.SUCCEEDED, None, 1)[1], 2)
        self.assertEqual(self.do(overview.page, "eve", None, None, 1), ([], 0))

    def test_queues(self) -> None:
        """What waits and what is dead, by destination, and how old the oldest is."""
        self.keep(20, "a", now=NOW - 5, destination=OTHER)
        self.keep(21, "a", destination=OTHER)
        self.do(settling.finish, self.keep(22, "b", destination=OTHER).seq, DEAD, NOW)
        self.assertEqual(self.do(overview.destinations), [OTHER, DESTINATION])
        size = len(draft(20).request)
        self.assertEqual(self.do(overview.queue, OTHER), records.Queue(OTHER, 2, 2 * size, 1, 1, NOW - 5, None))
        self.assertEqual(self.do(overview.queue, DESTINATION), records.Queue(DESTINATION, 6, 6 * 3, 6, 0, NOW, None))
        self.assertEqual(self.do(overview.queue, "nobody"), records.Queue("nobody", 0, 0, 0, 0, None, None))
