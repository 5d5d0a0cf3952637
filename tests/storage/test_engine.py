"""The engine keeps its promises on a real file: savepoints, snapshots, durability settings, file modes."""

import stat
import threading
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError, OperationalError
from twisted.trial.unittest import SynchronousTestCase

from bookd.storage.engine import open_engine, reading


class EngineTests(SynchronousTestCase):
    """A SQLite file with one table."""

    def setUp(self) -> None:
        """Make the database."""
        self.path = Path(self.mktemp()) / "deep" / "db.sqlite"
        self.engine = open_engine(self.path)
        self.addCleanup(self.engine.dispose)
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE a (id INTEGER PRIMARY KEY)"))
            connection.execute(text("CREATE TABLE b (a INTEGER NOT NULL REFERENCES a (id))"))

    def insert(self, number: int) -> None:
        """Insert a row in a transaction of its own."""
        with self.engine.begin() as connection:
            connection.execute(text("INSERT INTO a VALUES (:n)"), {"n": number})

    def count(self, engine: Engine) -> int:
        """How many rows a new transaction sees."""
        with engine.begin() as connection:
            return int(connection.execute(text("SELECT count(*) FROM a")).scalar_one())

    def test_modes(self) -> None:
        """Nobody but the owner reads the database, its log or the folder made for it."""
        self.assertEqual(stat.S_IMODE(self.path.parent.stat().st_mode), 0o700)
        for path in self.path.parent.iterdir():
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600, path)

    def test_existing_modes_stay(self) -> None:
        """A folder that is there keeps its mode: it may be shared on purpose."""
        folder = Path(self.mktemp())
        folder.mkdir(mode=0o755)
        open_engine(folder / "db.sqlite").dispose()
        self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o755)

    def test_pragmas(self) -> None:
        """Each connection logs ahead, syncs on commit, and checks foreign keys."""
        for engine in (self.engine, reading(self.engine)):
            with engine.begin() as connection:
                said = {
                    name: connection.execute(text(f"PRAGMA {name}")).scalar()
                    for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                }
            self.assertEqual(said, {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000})

    def test_foreign_keys(self) -> None:
        """A reference to nothing is refused."""
        with self.assertRaises(IntegrityError), self.engine.begin() as connection:
            connection.execute(text("INSERT INTO b VALUES (7)"))

    def test_savepoint(self) -> None:
        """What happened in a savepoint is undone alone."""
        with self.engine.begin() as connection:
            connection.execute(text("INSERT INTO a VALUES (1)"))
            savepoint = connection.begin_nested()
            connection.execute(text("INSERT INTO a VALUES (2)"))
            savepoint.rollback()
            connection.execute(text("INSERT INTO a VALUES (3)"))
        with self.engine.begin() as connection:
            self.assertEqual(list(connection.execute(text("SELECT id FROM a ORDER BY id")).scalars()), [1, 3])

    def test_schema_changes_roll_back(self) -> None:
        """A table made in a transaction that fails is not there."""
        connection = self.engine.connect()
        with connection, connection.begin() as transaction:
            connection.execute(text("CREATE TABLE c (id INTEGER)"))
            transaction.rollback()
        with self.engine.begin() as connection:
            self.assertIsNone(connection.execute(text("SELECT name FROM sqlite_master WHERE name = 'c'")).scalar())

    def test_snapshot(self) -> None:
        """A reader sees one state of the database, however much is written meanwhile."""
        self.insert(1)
        with reading(self.engine).begin() as connection:
            before = connection.execute(text("SELECT count(*) FROM a")).scalar()
            self.insert(2)
            self.assertEqual(connection.execute(text("SELECT count(*) FROM a")).scalar(), before)
        self.assertEqual(self.count(reading(self.engine)), 2)

    def test_reader_cannot_write(self) -> None:
        """A write through a reading connection fails, and the connection can write again for others."""
        for database in (self.path, ":memory:"):
            engine = open_engine(database)
            self.addCleanup(engine.dispose)
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE IF NOT EXISTS a (id INTEGER PRIMARY KEY)"))
            with self.assertRaises(OperationalError), reading(engine).begin() as connection:
                connection.execute(text("INSERT INTO a VALUES (1)"))
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO a VALUES (1)"))
            self.assertEqual(self.count(reading(engine)), 1)

    def test_writers_wait(self) -> None:
        """A second writer waits for the first, where it would otherwise find its reads outdated."""
        self.insert(0)
        waiting = threading.Event()

        def second() -> None:
            waiting.set()
            self.insert(self.count(self.engine) + 100)

        thread = threading.Thread(target=second)
        with self.engine.begin() as connection:
            thread.start()
            waiting.wait(5)
            connection.execute(text("INSERT INTO a VALUES (1)"))
        thread.join(10)
        with self.engine.begin() as connection:
            self.assertEqual(list(connection.execute(text("SELECT id FROM a ORDER BY id")).scalars()), [0, 1, 102])

    def test_memory_is_shared(self) -> None:
        """All connections of a :memory: engine see the same database."""
        engine = open_engine(":memory:")
        self.addCleanup(engine.dispose)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE a (id INTEGER)"))
        self.assertEqual(self.count(reading(engine)), 0)

    def test_unusable_urls(self) -> None:
        """A URL that cannot be used is a ValueError that shows no password."""
        for url in ("nosuch://user:secret@host/db", "://", "postgresql+nosuch://user:secret@host/db"):
            error = self.assertRaises(ValueError, open_engine, url)
            self.assertNotIn("secret", str(error))

    def test_url(self) -> None:
        """A SQLite URL is as good as a path."""
        engine = open_engine(f"sqlite:///{self.path}")
        self.addCleanup(engine.dispose)
        self.assertEqual(self.count(engine), 0)
