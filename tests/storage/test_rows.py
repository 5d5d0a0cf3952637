"""Rows that are inserted many at a time are those that were given."""

from sqlalchemy import JSON, Column, Integer, LargeBinary, MetaData, String, Table, select
from sqlalchemy.exc import IntegrityError
from twisted.trial.unittest import SynchronousTestCase

from bookd.storage.engine import open_engine
from bookd.storage.rows import Rows
from bookd.testing.faults import overhear


class RowsTests(SynchronousTestCase):
    """A table in memory."""

    def setUp(self) -> None:
        """Make the table."""
        self.engine = open_engine(":memory:")
        self.addCleanup(self.engine.dispose)
        metadata = MetaData()
        self.table = Table(
            "things",
            metadata,
            Column("seq", Integer, primary_key=True),
            Column("name", String, unique=True),
            Column("data", LargeBinary),
            Column("about", JSON),
            Column("state", Integer),
        )
        metadata.create_all(self.engine)
        self.rows = Rows(self.table, ("name", "about", "data"), {"state": "7"})

    def test_any_number(self) -> None:
        """In their order, with what they have in common; as few statements as there can be; none for none."""
        for count in (0, 1, 3, 4, 5, 21, 64, 149):
            given = [(f"{count} {number}", {"n": [number]}, b"\0%d" % number) for number in range(count)]
            said: list[str] = []
            with self.engine.begin() as connection, overhear(self.engine, lambda text, _, said=said: said.append(text)):
                self.rows.insert(connection, given)
            with self.engine.begin() as connection:
                found = connection.execute(select(self.table).order_by(self.table.c.seq)).all()
                connection.execute(self.table.delete())
            self.assertEqual([(row.name, row.about, row.data) for row in found], given)
            self.assertEqual({row.state for row in found}, {7} if count else set())
            expected = {0: 0, 1: 1, 3: 3, 4: 1, 5: 2, 21: 3, 64: 1, 149: 5}[count]
            self.assertEqual(sum(text.startswith("INSERT") for text in said), expected, said)

    def test_refused(self) -> None:
        """One that the table does not take is an error."""
        with self.assertRaises(IntegrityError), self.engine.begin() as connection:
            self.rows.insert(connection, [("a", {}, b""), ("b", {}, b""), ("a", {}, b"")])
