"""The connection for look-ups that must not last."""

from pathlib import Path

from sqlalchemy import Connection, text
from twisted.trial.unittest import SynchronousTestCase

from bookd.storage.engine import open_engine
from bookd.storage.point_reader import Lasting, PointReader

MUCH = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT max(i) FROM n"


def numbers(connection: Connection) -> list[int]:
    """All rows."""
    return [row[0] for row in connection.execute(text("SELECT number FROM numbers ORDER BY number"))]


class PointReaderTests(SynchronousTestCase):
    """On a file with one table."""

    def setUp(self) -> None:
        """Make the database, and open the reader."""
        self.engine = open_engine(Path(self.mktemp()) / "db.sqlite")
        self.addCleanup(self.engine.dispose)
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE numbers (number INTEGER)"))
        self.reader = PointReader(self.engine)
        self.addCleanup(self.reader.close)

    def insert(self, number: int) -> None:
        """Commit a row."""
        with self.engine.begin() as connection:
            connection.execute(text("INSERT INTO numbers VALUES (:number)"), {"number": number})

    def test_sees_what_was_committed(self) -> None:
        """Each time, all that was committed before; while it looks, nothing else."""
        self.insert(1)
        self.assertEqual(self.reader.run(numbers), [1])

        def twice(connection: Connection) -> list[list[int]]:
            before = numbers(connection)
            self.insert(2)
            return [before, numbers(connection)]

        self.assertEqual(self.reader.run(twice), [[1], [1]])
        self.assertEqual(self.reader.run(numbers), [1, 2])

    def test_lasts(self) -> None:
        """What takes long is broken off; what is asked next is not."""
        self.assertRaises(Lasting, self.reader.run, lambda connection: connection.execute(text(MUCH)).all())
        self.assertEqual(self.reader.run(numbers), [])

    def test_waits_for_no_lock(self) -> None:
        """It is not told to, and neither does it leave the pool a connection that is not."""
        told = text("PRAGMA busy_timeout")
        self.assertEqual(self.reader.run(lambda connection: connection.execute(told).scalar()), 0)
        self.reader.close()
        with self.engine.connect() as connection:
            self.assertGreater(connection.execute(told).scalar_one(), 0)

    def test_only_reads(self) -> None:
        """It changes nothing."""
        self.assertRaises(Lasting, self.reader.run, lambda c: c.execute(text("INSERT INTO numbers VALUES (1)")))
        self.assertEqual(self.reader.run(numbers), [])

    def test_errors_of_the_work(self) -> None:
        """What the work raises comes as it is, and ends the transaction."""

        def fail(connection: Connection) -> None:
            numbers(connection)
            raise KeyError("mine")

        self.assertRaises(KeyError, self.reader.run, fail)
        self.insert(1)
        self.assertEqual(self.reader.run(numbers), [1])
