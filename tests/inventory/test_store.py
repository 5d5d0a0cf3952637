"""The inventory's statements, in memory and on disk."""

from typing import Any

from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql

from bookd.errors import Aborted, AlreadyExists, BookdError, FailedPrecondition, NotFound, OutOfRange
from bookd.inventory import store
from bookd.inventory.rules import Change, Draft, Line
from bookd.inventory.schema import books, reservation_items
from bookd.wire.inventory.v1 import events_pb2
from bookd.wire.inventory.v1 import inventory_pb2 as wire
from bookd.wire.mom.v1.events_pb2 import PublishRequest
from tests.inventory.room import NOW, InventoryTestCase, draft, usd

RESERVED, REJECTED, RELEASED = (
    wire.RESERVATION_STATUS_RESERVED,
    wire.RESERVATION_STATUS_REJECTED,
    wire.RESERVATION_STATUS_RELEASED,
)
# The stock that is told to be low.
LOW = 1


class StoreTests(InventoryTestCase):
    """Books."""

    def do(self, function: Any, *args: Any) -> Any:
        """Run a store function in a transaction of its own."""
        with self.engine.begin() as connection:
            return function(connection, *args)

    def stock(self, book_id: str) -> int:
        """Copies that can be ordered."""
        stock: int = self.do(store.get_book, book_id).stock
        return stock

    def told(self) -> list[Any]:
        """The data of the events in the outbox, in order."""
        kinds = {kind.DESCRIPTOR.full_name: kind for kind in (events_pb2.BookChanged, events_pb2.StockLow)}
        with self.engine.begin() as connection:
            requests = connection.exec_driver_sql("SELECT request FROM outbox ORDER BY seq").scalars().all()
        events = [event for request in requests for event in PublishRequest.FromString(request).events]
        self.assertEqual(len({event.id for event in events}), len(events))
        return [kinds[event.type].FromString(event.data.value) for event in events]

    def test_changes_are_told(self) -> None:
        """Each change of a book is told with the book; of a book that comes again under its id too."""
        for _ in range(2):
            made = self.do(store.create_book, draft("b", stock=5), NOW)
            changed = self.do(store.update_book, Change("b", "", title="Other"), NOW)
            more = self.do(store.adjust_stock, "b", 1, NOW, LOW)
            self.do(store.delete_book, "b", NOW)
            told = self.told()[-4:]
            self.assertEqual([each.book for each in told], [made, changed, more, more])
            self.assertEqual([each.change for each in told], [1, 2, 2, 3])

    def test_low_stock_is_told(self) -> None:
        """A stock that falls to the threshold is told once; what falls further, or was below before, is not."""
        self.add(draft("a", "T", stock=4))
        before = len(self.told())
        for order in range(4):
            self.do(store.reserve_stock, f"o{order}", [Line("a", 1)], NOW, 2)
        self.do(store.adjust_stock, "a", 5, NOW, 2)
        self.do(store.adjust_stock, "a", -4, NOW, 2)
        low = [each for each in self.told()[before:] if isinstance(each, events_pb2.StockLow)]
        self.assertEqual(
            [(each.book_id, each.title, each.stock, each.threshold) for each in low],
            [("a", "T", 2, 2), ("a", "T", 1, 2)],
        )

    def test_nothing_is_told_of_what_fails(self) -> None:
        """A write that is refused tells nothing."""
        self.add(draft("a", stock=1))
        before = self.told()
        self.assertRaises(FailedPrecondition, self.do, store.adjust_stock, "a", -2, NOW, LOW)
        self.do(store.reserve_stock, "o", [Line("a", 2)], NOW, LOW)
        self.assertEqual(self.told(), before)

    def test_create(self) -> None:
        """A new book is answered whole, and read as it was answered."""
        made = self.do(store.create_book, draft("b", "Dune", "Frank Herbert", "9780441172719", 3), NOW)
        self.assertEqual(made, self.do(store.get_book, "b"))
        self.assertEqual(
            (made.title, made.isbn, made.stock, made.price), ("Dune", "9780441172719", 3, usd(15, 990_000_000))
        )
        self.assertEqual((made.created_at.seconds, made.created_at.nanos), (1_700_000_000, 123_456_000))
        self.assertRegex(made.etag, r'^"[0-9]+-1"$')

    def test_taken(self) -> None:
        """An id or ISBN that is taken is refused by name, with the book that has it."""
        self.add(draft("a", isbn="9780441172719"), draft("none"), draft("none too"))
        for other, field, reason in (
            (draft("a"), "book_id", "BOOK_ID_TAKEN"),
            (draft("b", isbn="9780441172719"), "book.isbn", "ISBN_TAKEN"),
        ):
            error = self.assertRaises(AlreadyExists, self.do, store.create_book, other, NOW)
            self.assertEqual((error.violations[0].field, error.reason, error.info["book_id"]), (field, reason, "a"))
        self.assertEqual(self.page().total_size, 3)

    def test_taken_in_a_group(self) -> None:
        """A refused book does not disturb the transaction it was refused in."""
        with self.engine.begin() as connection:
            store.create_book(connection, draft("a"), NOW)
            self.assertRaises(AlreadyExists, store.create_book, connection, draft("a"), NOW)
            store.create_book(connection, draft("b"), NOW)
        self.assertEqual(self.ids(), ["a", "b"])

    def test_not_found(self) -> None:
        """No function makes a book up."""
        for function, *args in (
            (store.get_book, "x" * 10_000),
            (store.update_book, Change("x", "", title="t"), NOW),
            (store.delete_book, "x", NOW),
            (store.adjust_stock, "x", 1, NOW, LOW),
        ):
            error = self.assertRaises(NotFound, self.do, function, *args)
            self.assertLess(len(error.message), 100)

    def test_update(self) -> None:
        """The named fields change, the others stay, and the tag changes."""
        self.add(draft("b", "Dune", "Herbert", "9780441172719"))
        before = self.do(store.get_book, "b")
        after = self.do(
            store.update_book, Change("b", before.etag, title="Dune Messiah", isbn="", price=usd(3)), NOW + 1
        )
        self.assertEqual((after.title, after.author, after.isbn, after.price), ("Dune Messiah", "Herbert", "", usd(3)))
        self.assertEqual(
            (after.created_at, after.updated_at.nanos), (before.created_at, before.updated_at.nanos + 1000)
        )
        self.assertNotEqual(after.etag, before.etag)
        self.assertEqual(self.do(store.get_book, "b"), after)

    def test_update_of_another_state(self) -> None:
        """A tag that is not the book's stops the change."""
        self.add(draft("b"))
        old = self.do(store.get_book, "b").etag
        self.do(store.adjust_stock, "b", 1, NOW, LOW)
        error = self.assertRaises(Aborted, self.do, store.update_book, Change("b", old, title="t"), NOW)
        self.assertEqual(error.reason, "ETAG_MISMATCH")

    def test_tag_of_a_deleted_book(self) -> None:
        """A book that is added again under its old id has another tag."""
        self.add(draft("b"))
        old = self.do(store.get_book, "b").etag
        self.do(store.delete_book, "b", NOW)
        self.add(draft("b"))
        self.assertNotEqual(self.do(store.get_book, "b").etag, old)

    def test_update_to_a_taken_isbn(self) -> None:
        """A book does not get another's ISBN; its own it may keep."""
        self.add(draft("a", isbn="9780441172719"), draft("b"))
        error = self.assertRaises(AlreadyExists, self.do, store.update_book, Change("b", "", isbn="9780441172719"), NOW)
        self.assertEqual(error.violations[0].field, "book.isbn")
        self.do(store.update_book, Change("a", "", isbn="9780441172719"), NOW)

    def test_adjust(self) -> None:
        """Copies come and go; never below none, never more than can be counted."""
        self.add(draft("b", stock=5))
        self.assertEqual(self.do(store.adjust_stock, "b", -5, NOW, LOW).stock, 0)
        error = self.assertRaises(FailedPrecondition, self.do, store.adjust_stock, "b", -1, NOW, LOW)
        self.assertEqual(error.reason, "OUT_OF_STOCK")
        self.assertRaises(FailedPrecondition, self.do, store.adjust_stock, "b", -(2**31), NOW, LOW)
        self.assertEqual(self.do(store.adjust_stock, "b", 2**31 - 1, NOW, LOW).stock, 2**31 - 1)
        self.assertRaises(OutOfRange, self.do, store.adjust_stock, "b", 1, NOW, LOW)
        self.assertRaises(OutOfRange, self.do, store.adjust_stock, "b", 2**31 - 1, NOW, LOW)
        self.assert_balanced()

    def test_adjust_beside_reservations(self) -> None:
        """Reserved copies count against the most there may be, so that a release always fits."""
        self.add(draft("b", stock=5))
        self.do(store.reserve_stock, "o", [Line("b", 5)], NOW, LOW)
        self.assertRaises(OutOfRange, self.do, store.adjust_stock, "b", 2**31 - 1, NOW, LOW)
        self.do(store.adjust_stock, "b", 2**31 - 6, NOW, LOW)
        self.do(store.release_stock, "o", NOW)
        self.assertEqual(self.stock("b"), 2**31 - 1)

    def test_reserve(self) -> None:
        """All lines are taken, with the prices and titles of now, in the order asked for."""
        self.add(draft("a", "Dune", stock=5), draft("b", "Emma", stock=5))
        made = self.do(store.reserve_stock, "o", [Line("b", 5), Line("a", 2)], NOW, LOW)
        self.assertEqual(made.status, RESERVED)
        self.assertEqual([(i.book_id, i.quantity, i.title) for i in made.items], [("b", 5, "Emma"), ("a", 2, "Dune")])
        self.assertEqual(made.items[0].unit_price, usd(15, 990_000_000))
        self.assertEqual((self.stock("a"), self.stock("b")), (3, 0))
        self.assert_balanced()

    def test_price_of_then(self) -> None:
        """What a reservation says does not change with the book."""
        self.add(draft("a", "Dune"))
        made = self.do(store.reserve_stock, "o", [Line("a", 2)], NOW, LOW)
        self.do(store.update_book, Change("a", "", title="Other", price=usd(1)), NOW)
        self.assertEqual(self.do(store.reserve_stock, "o", [Line("a", 2)], NOW, LOW), made)

    def test_reserve_all_or_none(self) -> None:
        """One line that cannot be had, and nothing is taken."""
        self.add(draft("a", stock=5), draft("b", stock=5))
        for order, lines in (
            ("o1", [Line("a", 1), Line("b", 6)]),
            ("o2", [Line("a", 1), Line("c", 1)]),
            ("o3", [Line("a", 2**40)]),
        ):
            made = self.do(store.reserve_stock, order, lines, NOW, LOW)
            self.assertEqual((made.status, len(made.items)), (REJECTED, 0))
            self.assertTrue(made.reason)
        self.assertEqual((self.stock("a"), self.stock("b")), (5, 5))

    def test_mixed_currencies(self) -> None:
        """An order has one total, so its books have one currency."""
        euro = usd(1)
        euro.currency_code = "EUR"
        self.add(draft("a"), Draft("e", "t", "a", "", 5, euro))
        made = self.do(store.reserve_stock, "o", [Line("a", 1), Line("e", 1)], NOW, LOW)
        self.assertEqual(made.status, REJECTED)
        self.assertIn("EUR, USD", made.reason)

    def test_decided_once(self) -> None:
        """The first decision on an order stands, whatever is asked later."""
        self.add(draft("a", stock=1))
        rejected = self.do(store.reserve_stock, "o1", [Line("a", 2)], NOW, LOW)
        self.do(store.adjust_stock, "a", 10, NOW, LOW)
        self.assertEqual(self.do(store.reserve_stock, "o1", [Line("a", 2)], NOW, LOW), rejected)
        made = self.do(store.reserve_stock, "o2", [Line("a", 2)], NOW, LOW)
        self.assertEqual(self.do(store.reserve_stock, "o2", [Line("a", 9)], NOW, LOW), made)
        self.assertEqual(self.stock("a"), 9)

    def test_release(self) -> None:
        """Released copies can be ordered again, once."""
        self.add(draft("a", stock=5))
        self.do(store.reserve_stock, "o", [Line("a", 5)], NOW, LOW)
        for _ in range(2):
            made = self.do(store.release_stock, "o", NOW + 1)
            self.assertEqual((made.status, len(made.items), self.stock("a")), (RELEASED, 0, 5))
        self.assertEqual(self.do(store.reserve_stock, "o", [Line("a", 1)], NOW, LOW).status, RELEASED)
        self.assertEqual(self.stock("a"), 5)
        self.assert_balanced()

    def test_release_first(self) -> None:
        """A release that overtakes its reservation wins."""
        self.add(draft("a", stock=5))
        self.assertEqual(self.do(store.release_stock, "o", NOW).status, RELEASED)
        self.assertEqual(self.do(store.reserve_stock, "o", [Line("a", 1)], NOW, LOW).status, RELEASED)
        self.assertEqual(self.stock("a"), 5)

    def test_release_of_a_rejected_one(self) -> None:
        """What was rejected has nothing to give back and stays rejected."""
        rejected = self.do(store.reserve_stock, "o", [Line("x", 1)], NOW, LOW)
        self.assertEqual(self.do(store.release_stock, "o", NOW), rejected)

    def test_release_of_a_deleted_book(self) -> None:
        """Books that are there get their copies back; one that came later under an old id does not."""
        self.add(draft("a", stock=5), draft("b", stock=5))
        self.do(store.reserve_stock, "o", [Line("a", 2), Line("b", 2)], NOW, LOW)
        self.do(store.delete_book, "a", NOW)
        self.add(draft("a", stock=7))
        self.assertEqual(self.do(store.release_stock, "o", NOW).status, RELEASED)
        self.assertEqual((self.stock("a"), self.stock("b")), (7, 5))
        self.assert_balanced()

    def test_tags_follow_the_stock(self) -> None:
        """A reservation changes the book that others have read."""
        self.add(draft("a"))
        tags = [self.do(store.get_book, "a").etag]
        self.do(store.reserve_stock, "o", [Line("a", 1)], NOW, LOW)
        tags.append(self.do(store.get_book, "a").etag)
        self.do(store.release_stock, "o", NOW)
        tags.append(self.do(store.get_book, "a").etag)
        self.assertEqual(len(set(tags)), 3)

    def test_large_order(self) -> None:
        """An order of a thousand books is one reservation."""
        self.add(*(draft(f"b{n}") for n in range(1000)))
        made = self.do(store.reserve_stock, "o", [Line(f"b{n}", 1) for n in range(1000)], NOW, LOW)
        self.assertEqual((made.status, len(made.items)), (RESERVED, 1000))
        self.assert_balanced()

    def test_crash_at_each_statement(self) -> None:
        """Whichever statement of a reservation or a release fails, nothing of it is left."""
        self.add(draft("a", stock=5), draft("b", stock=5))
        self.do(store.reserve_stock, "held", [Line("a", 1), Line("b", 1)], NOW, LOW)
        for work in (
            lambda connection: store.reserve_stock(connection, "o", [Line("a", 2), Line("b", 2)], NOW, LOW),
            lambda connection: store.release_stock(connection, "held", NOW),
        ):
            whole = self._statements(work, None)
            for broken in range(whole):
                self._statements(work, broken)
                self.assertEqual((self.stock("a"), self.stock("b")), (4, 4))
                self.assert_balanced()

    def _statements(self, work: Any, broken: int | None) -> int:
        """Run the work with a failure before statement `broken`, and roll back; how many statements there were."""
        from sqlalchemy import event

        count = 0

        def before(*_: Any) -> None:
            nonlocal count
            if count == broken:
                raise BookdError("the disk is gone")
            count += 1

        connection = self.connect()
        transaction = connection.begin()
        event.listen(connection, "before_cursor_execute", before)
        try:
            work(connection)
        except BookdError:
            pass
        finally:
            event.remove(connection, "before_cursor_execute", before)
            transaction.rollback()
            connection.close()
        return count

    def test_postgresql(self) -> None:
        """What reservations lock is locked in one order there as well."""
        statement = select(books).where(books.c.book_id.in_(["a"])).order_by(books.c.seq).with_for_update()
        self.assertIn("FOR UPDATE", str(statement.compile(dialect=postgresql.dialect())))
        self.assertNotIn("FOR UPDATE", str(statement.compile(self.engine)))


class DiskTests(StoreTests):
    """The same on a file."""

    on_disk = True

    def test_survives(self) -> None:
        """What was committed is there for another process."""
        self.add(draft("a", stock=5))
        self.do(store.reserve_stock, "o", [Line("a", 2)], NOW, LOW)
        other = self.open(str(self.engine.url.database))
        with other.begin() as connection:
            self.assertEqual(store.get_book(connection, "a").stock, 3)
            self.assertEqual(len(connection.execute(select(reservation_items)).all()), 1)

    def test_books_by_id_use_the_index(self) -> None:
        """One book is found without a look at the others."""
        with self.engine.begin() as connection:
            plan = connection.execute(text("EXPLAIN QUERY PLAN SELECT * FROM books WHERE book_id = 'a'")).one()
        self.assertIn("USING INDEX", plan.detail)
