"""No copy is lost, none is made up: random histories of the inventory against a model of a few lines."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import BookdError, FailedPrecondition, NotFound
from bookd.inventory import store
from bookd.inventory.rules import Line
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from bookd.wire.inventory.v1 import inventory_pb2 as wire
from tests.inventory.room import NOW, UNBALANCED, draft

book_ids = st.sampled_from(["a", "b", "c"])
order_ids = st.sampled_from(["o1", "o2", "o3", "o4"])
quantities = st.integers(1, 6)


class Inventory(RuleBasedStateMachine):
    """Books come, change and go; orders reserve and release, in any order and any number of times."""

    def __init__(self) -> None:
        """An empty inventory, and an empty model: stock a book, and what each order decided and holds."""
        super().__init__()
        self.engine = open_engine(":memory:")
        upgrade(self.engine, "bookd.inventory")
        self.stock: dict[str, int] = {}
        self.born: dict[str, int] = {}
        self.decided: dict[str, int] = {}
        self.held: dict[str, dict[tuple[str, int], int]] = {}
        self.births = 0

    def teardown(self) -> None:
        """Close the database."""
        self.engine.dispose()

    @rule(book_id=book_ids, copies=st.integers(0, 10))
    def add(self, book_id: str, copies: int) -> None:
        """Add a book, unless it is there."""
        if book_id in self.stock:
            return
        with self.engine.begin() as connection:
            store.create_book(connection, draft(book_id, stock=copies), NOW)
        self.births += 1
        self.stock[book_id], self.born[book_id] = copies, self.births

    @rule(book_id=book_ids)
    def delete(self, book_id: str) -> None:
        """Delete a book, whatever holds copies of it."""
        try:
            with self.engine.begin() as connection:
                store.delete_book(connection, book_id, NOW)
        except NotFound:
            assert book_id not in self.stock
        else:
            del self.stock[book_id]

    @rule(book_id=book_ids, change=st.integers(-8, 8).filter(bool))
    def adjust(self, book_id: str, change: int) -> None:
        """Copies come in or go out."""
        try:
            with self.engine.begin() as connection:
                store.adjust_stock(connection, book_id, change, NOW, 1)
        except NotFound:
            assert book_id not in self.stock
        except FailedPrecondition:
            assert self.stock[book_id] + change < 0
        else:
            self.stock[book_id] += change

    @rule(order_id=order_ids, lines=st.dictionaries(book_ids, quantities, min_size=1))
    def reserve(self, order_id: str, lines: dict[str, int]) -> None:
        """An order asks for copies, perhaps again."""
        with self.engine.begin() as connection:
            answer = store.reserve_stock(connection, order_id, [Line(*line) for line in lines.items()], NOW, 1)
        if order_id not in self.decided:
            if all(self.stock.get(book_id, -1) >= quantity for book_id, quantity in lines.items()):
                self.decided[order_id] = wire.RESERVATION_STATUS_RESERVED
                self.held[order_id] = {(each, self.born[each]): quantity for each, quantity in lines.items()}
                for book_id, quantity in lines.items():
                    self.stock[book_id] -= quantity
            else:
                self.decided[order_id] = wire.RESERVATION_STATUS_REJECTED
        self.check(order_id, answer)

    @rule(order_id=order_ids)
    def release(self, order_id: str) -> None:
        """An order gives back what it holds, perhaps before it asked, perhaps again."""
        with self.engine.begin() as connection:
            answer = store.release_stock(connection, order_id, NOW)
        if self.decided.get(order_id) != wire.RESERVATION_STATUS_REJECTED:
            self.decided[order_id] = wire.RESERVATION_STATUS_RELEASED
        for (book_id, birth), quantity in self.held.pop(order_id, {}).items():
            if book_id in self.stock and self.born[book_id] == birth:
                self.stock[book_id] += quantity
        self.check(order_id, answer)

    @rule(order_id=order_ids, book_id=book_ids)
    def failed_transaction(self, order_id: str, book_id: str) -> None:
        """Work that is rolled back has no effect."""
        try:
            with self.engine.begin() as connection:
                store.release_stock(connection, order_id, NOW)
                store.reserve_stock(connection, order_id + "x", [Line(book_id, 1)], NOW, 1)
                raise BookdError("rolled back")
        except BookdError:
            pass

    def check(self, order_id: str, answer: wire.Reservation) -> None:
        """The answer is the decision, with the items that the order holds."""
        assert answer.status == self.decided[order_id]
        held = {book_id: quantity for (book_id, _), quantity in self.held.get(order_id, {}).items()}
        assert {item.book_id: item.quantity for item in answer.items} == held

    @invariant()
    def same_stock(self) -> None:
        """The database and the model have the same books with the same stock."""
        with self.engine.begin() as connection:
            rows = connection.execute(text("SELECT book_id, stock FROM books")).all()
        assert {row.book_id: row.stock for row in rows} == self.stock

    @invariant()
    def balanced(self) -> None:
        """Stock and reservations add up, by SQL alone."""
        with self.engine.begin() as connection:
            assert connection.execute(text(UNBALANCED)).all() == []


class ConservationTests(SynchronousTestCase):
    """The machine above, run."""

    def test_conservation(self) -> None:
        """Whatever the history, every copy is accounted for."""
        run_state_machine_as_test(Inventory, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
