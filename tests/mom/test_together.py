"""Tests for `bookd.mom.together`: a group is kept as its messages would be one after another."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select
from sqlalchemy.exc import OperationalError

from bookd.errors import BookdError, InvalidArgument, Unavailable
from bookd.mom import overview, settling, store
from bookd.mom.records import Bounds, Draft
from bookd.mom.schema import lanes, messages, queues
from bookd.mom.together import keep_all
from bookd.storage import savepoint
from bookd.testing.faults import Injected, overhear
from tests.mom.room import DEAD, DESTINATION, NOW, OTHER, StoreTestCase, draft, letter, number_id, unsound

Drafts = list[tuple[Draft, int]]
DRAFTS = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from("abc"), st.sampled_from([DESTINATION, OTHER]), st.integers(0, 9)),
    max_size=100,
)


def several(*numbers: int, **changes: Any) -> Drafts:
    """Drafts with these numbers."""
    return [(draft(number, **changes), NOW + number) for number in numbers]


def one_by_one(connection: Connection, drafts: Drafts, bounds: Bounds | None = None) -> list[Any]:
    """The same, as units of their own."""
    answers: list[Any] = []
    for each, now in drafts:
        try:
            with savepoint.part(connection):
                answers.append(store.keep(connection, each, now, bounds))
        except BookdError as error:
            answers.append(error)
    return answers


def said(answers: list[Any]) -> list[Any]:
    """Answers that can be compared."""
    return [
        answer if isinstance(answer, tuple) else (type(answer), answer.message, answer.reason) for answer in answers
    ]


class TogetherTests(StoreTestCase):
    """Groups."""

    def rows(self, connection: Connection) -> list[Any]:
        """All that there is."""
        return [
            [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in (messages, lanes, queues)
        ]

    @settings(max_examples=60, deadline=None)
    @given(st.just([]) | DRAFTS, DRAFTS, st.integers(1, 120), st.integers(10, 2000))
    def test_as_one_by_one(self, before: Any, group: Any, depth: int, size: int) -> None:
        """Whatever is there, comes twice, or does not fit: same answers, same rows."""
        found = []
        bounds = Bounds(depth, size)
        for keep in (one_by_one, keep_all):
            with self.engine.connect() as connection, connection.begin() as transaction:
                one_by_one(connection, [self.drawn(each) for each in before], bounds)
                answers = keep(connection, [self.drawn(each) for each in group], bounds)
                self.assertEqual(unsound(connection), [])
                found.append((said(answers), self.rows(connection)))
                transaction.rollback()
        self.assertEqual(found[0], found[1])

    def drawn(self, drawn: tuple[int, str, str, int]) -> tuple[Draft, int]:
        """A draft of what was drawn."""
        number, lane, destination, size = drawn
        return draft(number, lane, destination=destination, request=letter("x" * size)), NOW + number

    def test_few_statements(self) -> None:
        """A group takes a few statements, however large it is; its messages are what they were answered to be."""
        statements: list[str] = []
        answers: Any = self.do(keep_all, several(*range(85)))
        self.assertEqual([kept.message_id for kept, _ in answers], [number_id(number) for number in range(85)])
        for kept, is_new in answers:
            self.assertTrue(is_new)
            self.assertEqual(kept, self.found(kept.message_id))
        with overhear(self.engine, lambda text, _: statements.append(text)), self.engine.begin() as connection:
            keep_all(connection, several(*range(100, 185)))
        self.assertLess(len(statements), 12, statements)

    def test_one_is_refused(self) -> None:
        """One that is refused says why, and the others do not notice."""
        self.keep(2)
        first, second, third = self.do(keep_all, [*several(1), *several(2, subject="eve"), *several(3)])
        assert isinstance(first, tuple) and isinstance(third, tuple)
        self.assertIsInstance(second, InvalidArgument)
        self.assertEqual((first[0].message_id, third[0].message_id), (number_id(1), number_id(3)))
        self.assertEqual(self.do(overview.count), 3)

    def test_same_id_twice(self) -> None:
        """The same id twice in a group is one message, which both are answered."""
        first, second, other = self.do(keep_all, several(1, 1, 2))
        assert isinstance(first, tuple) and isinstance(second, tuple) and isinstance(other, tuple)
        self.assertEqual((first[1], second[1], other[1]), (True, False, True))
        self.assertEqual(first[0], second[0])
        self.assertEqual(self.do(overview.count), 2)

    def test_full_on_the_way(self) -> None:
        """A queue takes what fits into it, though it becomes full in the middle of a group; another is not touched."""
        drafts = [*several(1, 2, 3), *several(4, destination=OTHER)]
        answers = self.do(keep_all, drafts, Bounds(2, 10**9))
        self.assertEqual([isinstance(each, tuple) for each in answers], [True, True, False, True])
        assert isinstance(answers[2], Unavailable)
        self.assertEqual(answers[2].reason, "QUEUE_FULL")

    def test_blocked_lane(self) -> None:
        """A lane that a dead letter blocks stays so."""
        self.do(settling.finish, self.keep(1, "a").seq, DEAD, NOW, block_lane=True)
        self.do(keep_all, [*several(2, 3, lane="a"), *several(4, lane="b")])
        self.assertEqual(self.heads(NOW + 9), [number_id(4)])

    def test_refused_at_any_statement(self) -> None:
        """Whichever statement fails, once or from then on: what is answered to be kept is, and nothing else."""
        for lasting in (False, True):
            number, struck = 0, True
            while struck:
                drafts = several(*range(1000 * number, 1000 * number + 6))
                struck = self.strike(drafts, number, lasting)
                number += 1
            self.assertGreater(number, 8)
            with self.engine.begin() as connection:
                for table in (lanes, messages, queues):
                    connection.execute(table.delete())

    def strike(self, drafts: Drafts, nth: int, lasting: bool) -> bool:
        """Let the n-th statement fail; whether there was such a one."""
        count = -1

        def fail(text: str, _: Any) -> None:
            nonlocal count
            count += 1
            # Savepoints fail with the transaction only, which the desk's tests have.
            if "SAVEPOINT" not in text and (count >= nth if lasting else count == nth):
                raise Injected(text)

        with self.engine.begin() as connection:
            savepoint.begin(connection)
            try:
                with overhear(self.engine, fail):
                    answers = keep_all(connection, drafts)
            except OperationalError:  # of the unit as a whole, which the desk undoes
                self.assertTrue(lasting)
                savepoint.undo(connection)
                answers = []
            self.assertEqual(unsound(connection), [])
            for number, (each, _) in enumerate(drafts):
                kept = answers[number][0] if answers else None
                self.assertEqual(store.find(connection, each.message_id), kept)
        return count >= nth

    def test_one_alone(self) -> None:
        """One that comes alone is kept by itself."""
        statements: list[str] = []
        with overhear(self.engine, lambda text, _: statements.append(text)):
            self.do(keep_all, several(1))
        self.assertTrue(any("ON CONFLICT (message_id)" in text for text in statements))
