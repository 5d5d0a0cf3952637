"""Events in their order, and how far each subscription has come."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import NotFound, OutOfRange, Unavailable
from bookd.mom import journal, overview
from bookd.mom.journal import Fact, Filter
from bookd.mom.records import Bounds, Draft
from bookd.mom.schema import metadata
from bookd.storage.engine import open_engine

NOW = 1_700_000_000_000_000


def fact(number: int, kind: str = "t.Kind", subject: str = "s") -> Fact:
    """An event."""
    return Fact("here", str(number), kind, subject, f"event {number}".encode())


def nobody(fact: Fact, seq: int) -> list[Draft]:
    """No rpc subscribes."""
    return []


def draft(message_id: str, seq: int) -> Draft:
    """A message to a subscriber."""
    return Draft(message_id, "d", "lane", "/d/Take", b"%d" % seq, b"f" * 32, b"", "", {}, None, NOW * 2)


class JournalTests(SynchronousTestCase):
    """The journal in memory."""

    def setUp(self) -> None:
        """Make the tables."""
        engine = open_engine(":memory:")
        self.addCleanup(engine.dispose)
        metadata.create_all(engine)
        self.connection = engine.connect()
        self.addCleanup(self.connection.close)

    def publish(self, *facts: Fact, messages: Any = nobody, now: int = NOW) -> list[int]:
        """Publish; answer the places."""
        return journal.publish(self.connection, facts, messages, None, now).seqs

    def subscribe(self, name: str = "n", *, from_oldest: bool = False, now: int = NOW, **wanted: Any) -> Any:
        """Subscribe as peer p."""
        return journal.subscribe(self.connection, "p", name, Filter(**wanted), from_oldest=from_oldest, now=now)

    def test_order(self) -> None:
        """Events have the order in which they were published; pages follow it without gaps."""
        self.assertEqual(journal.bounds(self.connection), (1, 0))
        self.assertEqual(self.publish(fact(1), fact(2)), [1, 2])
        self.assertEqual(self.publish(fact(3)), [3])
        page = journal.page(self.connection, 0, Filter(), 2)
        self.assertEqual(([each.event for each in page.records], page.upto), ([b"event 1", b"event 2"], 2))
        page = journal.page(self.connection, page.upto, Filter(), 2)
        self.assertEqual(([each.event for each in page.records], page.upto), ([b"event 3"], 3))
        self.assertEqual(journal.page(self.connection, 3, Filter(), 2), journal.Page([], 3))

    def test_twice(self) -> None:
        """An event that is published again is there once, and makes no second message."""
        sent: list[int] = []

        def one(fact: Fact, seq: int) -> list[Draft]:
            sent.append(seq)
            return [draft(f"0190a0b0-0000-7000-8000-{seq:012}", seq)]

        first = journal.publish(self.connection, [fact(1), fact(1), fact(2)], one, None, NOW)
        self.assertEqual((first.seqs, first.destinations), ([1, 1, 2], ["d", "d"]))
        again = journal.publish(self.connection, [fact(2), fact(3)], one, None, NOW)
        self.assertEqual((again.seqs, again.destinations), ([2, 3], ["d"]))
        self.assertEqual(overview.count(self.connection), 3)
        # The same id at another source is another event.
        self.assertEqual(self.publish(Fact("there", "1", "t.Kind", "s", b"")), [4])

    def test_many(self) -> None:
        """Many that come together have the places that they would have one by one, also where some are known."""
        self.assertEqual(self.publish(*map(fact, range(1, 151))), list(range(1, 151)))
        some = [fact(number) for number in (151, 7, 152, 153, 151, 154)]
        self.assertEqual(self.publish(*some), [151, 7, 152, 153, 151, 154])
        self.assertEqual(self.publish(*map(fact, range(155, 240))), list(range(155, 240)))
        # Enough of them to be written together, and some known: by themselves then.
        mixed = [240, 241, 8, 242, 243, 240, 244, 245, 246, 247]
        self.assertEqual(self.publish(*map(fact, mixed)), mixed)
        records = journal.page(self.connection, 0, Filter(), 1000).records
        self.assertEqual([(each.seq, each.event) for each in records], [(n, b"event %d" % n) for n in range(1, 248)])

    def test_full(self) -> None:
        """A queue that is full refuses events that would go into it, and all that come with them; one that has room for
        the first of a batch takes the whole batch; and what needs no message is taken still."""

        def one(fact: Fact, seq: int) -> list[Draft]:
            made = draft(f"0190a0b0-0000-7000-8000-{seq:012}", seq)
            return [] if fact.type == "t.Other" else [made]

        most = Bounds(3, 1000)
        journal.publish(self.connection, [fact(1)], one, most, NOW)
        journal.publish(self.connection, [fact(number) for number in range(2, 8)], one, most, NOW)
        self.assertEqual(overview.count(self.connection), 7)
        savepoint = self.connection.begin_nested()
        with self.assertRaises(Unavailable) as caught:
            journal.publish(self.connection, [Fact("there", "1", "t.Other", "s", b""), fact(8)], one, most, NOW)
        savepoint.rollback()
        self.assertEqual(caught.exception.reason, "QUEUE_FULL")
        self.assertEqual(journal.bounds(self.connection), (1, 7))
        # An event that is there already, and one that nobody gets.
        found = journal.publish(self.connection, [fact(7), Fact("there", "1", "t.Other", "s", b"")], one, most, NOW)
        self.assertEqual(found.seqs, [7, 8])

    def test_filter(self) -> None:
        """Types and subject narrow a page; `upto` says how far it looked."""
        self.publish(fact(1, "a", "x"), fact(2, "b", "x"), fact(3, "a", "y"), fact(4, "c", "y"))
        for wanted, found in (
            (Filter(("a",)), [1, 3]),
            (Filter(("a", "c"), "y"), [3, 4]),
            (Filter((), "x"), [1, 2]),
            (Filter(("z",)), []),
        ):
            page = journal.page(self.connection, 0, wanted, 10)
            self.assertEqual(([each.seq for each in page.records], page.upto), (found, 4))
        self.assertEqual(journal.page(self.connection, 0, Filter(("a",)), 1).upto, 1)

    def test_start(self) -> None:
        """One may go on from any event that is kept, or whose successor is; not from one that never was."""
        self.assertEqual(journal.start(self.connection, None), 0)
        self.assertEqual(journal.start(self.connection, 0), 0)
        self.publish(*(fact(number) for number in range(1, 6)))
        journal.purge(self.connection, NOW + 1, 2)
        self.assertEqual(journal.bounds(self.connection), (3, 5))
        for after in (0, 2, 3, 5):
            self.assertEqual(journal.start(self.connection, after), after)
        self.assertEqual(journal.start(self.connection, None), 5)
        for after in (1, 6, 10**19):
            self.assertRaises(OutOfRange, journal.start, self.connection, after)

    def test_purge(self) -> None:
        """Old events go, except the newest, and except what a subscription has not acknowledged; places are not reused."""
        self.publish(*(fact(number) for number in range(1, 5)))
        self.publish(fact(5), now=NOW + 10)
        self.subscribe("behind", from_oldest=True)
        self.subscribe("ahead")
        self.assertEqual(journal.purge(self.connection, NOW + 5, 10), 0)
        journal.acknowledge(self.connection, "p", "behind", 2, NOW)
        self.assertEqual(journal.purge(self.connection, NOW + 5, 10), 2)
        journal.unsubscribe(self.connection, "p", "behind")
        self.assertEqual(journal.purge(self.connection, NOW + 5, 1), 1)
        self.assertEqual(journal.purge(self.connection, NOW + 99, 10), 1)
        self.assertEqual(journal.purge(self.connection, NOW + 99, 10), 0)
        self.assertEqual(journal.bounds(self.connection), (5, 5))
        self.assertEqual(self.publish(fact(6)), [6])

    def test_subscription(self) -> None:
        """A new subscription begins at the end, or at the oldest event; a known one keeps its place and takes the filter."""
        self.publish(fact(1), fact(2))
        self.assertEqual(self.subscribe("new").cursor, 2)
        self.assertEqual(self.subscribe("old", from_oldest=True).cursor, 0)
        journal.acknowledge(self.connection, "p", "old", 1, NOW + 1)
        again = self.subscribe("old", from_oldest=True, now=NOW + 2, types=("a",), subject="x")
        self.assertEqual((again.cursor, again.wanted, again.created_at), (1, Filter(("a",), "x"), NOW))
        self.assertEqual(again.seen_at, NOW + 2)
        self.assertEqual([each.name for each in journal.standings(self.connection)], ["new", "old"])

    def test_acknowledging(self) -> None:
        """A place only moves forward, and a subscription that is gone is not made again by it."""
        self.publish(fact(1), fact(2))
        self.subscribe(from_oldest=True)
        for seq, cursor in ((1, 1), (2, 2), (1, 2)):
            journal.acknowledge(self.connection, "p", "n", seq, NOW)
            standing = journal.find(self.connection, "p", "n")
            assert standing is not None
            self.assertEqual(standing.cursor, cursor)
        journal.unsubscribe(self.connection, "p", "n")
        journal.acknowledge(self.connection, "p", "n", 2, NOW)
        self.assertIsNone(journal.find(self.connection, "p", "n"))
        self.assertRaises(NotFound, journal.unsubscribe, self.connection, "p", "n")

    def test_expiry(self) -> None:
        """A subscription ends whose client was not heard for long."""
        self.subscribe("gone", now=NOW)
        self.subscribe("here", now=NOW + 10)
        self.assertEqual([each.name for each in journal.expire(self.connection, NOW + 5)], ["gone"])
        self.assertEqual([each.name for each in journal.standings(self.connection)], ["here"])

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=30), st.integers(1, 7))
    def test_pages_meet(self, kinds: list[tuple[str, str]], size: int) -> None:
        """Whatever the filter and the size, pages together hold each event that matches once, in order."""
        transaction = self.connection.begin_nested()
        newest = journal.bounds(self.connection)[1]
        seqs = self.publish(*(fact(newest + number, *kind) for number, kind in enumerate(kinds)))
        for wanted in (Filter(), Filter(("a", "c")), Filter(("b",), "x")):
            expected = [
                seq
                for seq, (kind, subject) in zip(seqs, kinds, strict=True)
                if (not wanted.types or kind in wanted.types) and wanted.subject in ("", subject)
            ]
            after, found = newest, list[int]()
            while (page := journal.page(self.connection, after, wanted, size)).records:
                found += [each.seq for each in page.records]
                after = page.upto
            self.assertEqual(found, expected)
        transaction.rollback()
