"""Migrations: once, whole, and never backwards."""

import re
import subprocess
import sys
import threading
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text
from twisted.trial.unittest import SynchronousTestCase

from bookd.storage.engine import open_engine
from bookd.storage.migrate import MigrationError, configuration, newest, upgrade

PACKAGE = "bookd.inventory"


def described(engine: Engine) -> dict[str, list[str]]:
    """The statements that made each table and index, part by part in a fixed order; without Alembic's own table.
    Columns that were added later stand in one line with the last one before."""
    with engine.begin() as connection:
        rows = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'")
        )
        parts = {name: [part.strip(" \t,") for part in re.split(r"\n|, (?![^()]*\))", sql)] for name, sql in rows}
        return {name: sorted(filter(None, each)) for name, each in parts.items()}


class MigrateTests(SynchronousTestCase):
    """The revisions of a real daemon on a file."""

    def setUp(self) -> None:
        """Name the file."""
        self.path = Path(self.mktemp()) / "db.sqlite"

    def open(self) -> Engine:
        """An engine of its own, as another process has it."""
        engine = open_engine(self.path)
        self.addCleanup(engine.dispose)
        return engine

    def test_again(self) -> None:
        """A second upgrade changes nothing, and what was stored stays."""
        engine = self.open()
        upgrade(engine, PACKAGE)
        once = described(engine)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO reservations VALUES ('o', 'RELEASED', '', 1, 1)"))
        upgrade(engine, PACKAGE)
        self.assertEqual(described(engine), once)
        with engine.begin() as connection:
            self.assertEqual(connection.execute(text("SELECT count(*) FROM reservations")).scalar(), 1)

    def test_nothing_to_do(self) -> None:
        """A start that finds the newest revision does not load what it would migrate with."""
        engine = self.open()
        upgrade(engine, PACKAGE)
        engine.dispose()
        look = (
            "import sys; from bookd.storage import engine, migrate; "
            f"migrate.upgrade(engine.open_engine({str(self.path)!r}), {PACKAGE!r}); print('alembic' in sys.modules)"
        )
        for expected in ("False", "True"):
            done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
            self.assertEqual(done.stdout.strip(), expected)
            for file in self.path.parent.iterdir():
                file.unlink()

    def test_names(self) -> None:
        """The names of the files say which revision is the newest, for each daemon."""
        for package in ("bookd.inventory", "bookd.mom", "bookd.orders", "bookd.users"):
            head = ScriptDirectory.from_config(configuration(package)).get_current_head()
            self.assertEqual(newest(package), head, package)

    def test_newer_database(self) -> None:
        """A database of a newer version is left alone, and the error says which file it is."""
        engine = self.open()
        upgrade(engine, PACKAGE)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        error = self.assertRaises(MigrationError, upgrade, self.open(), PACKAGE)
        self.assertIn(str(self.path), str(error))
        self.assertIn("9999", str(error))

    def test_all_or_nothing(self) -> None:
        """A revision that fails leaves no table behind, and can be repeated once the cause is gone."""
        engine = self.open()
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE inbox (in_the_way INTEGER)"))
        self.assertRaises(MigrationError, upgrade, engine, PACKAGE)
        self.assertEqual(list(described(engine)), ["inbox"])
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE inbox"))
        upgrade(engine, PACKAGE)
        self.assertIn("books", described(engine))

    def test_no_database(self) -> None:
        """A file that is no database is an error of one line."""
        self.path.parent.mkdir()
        self.path.write_bytes(b"not a database, whatever its name says " * 100)
        error = self.assertRaises(MigrationError, upgrade, self.open(), PACKAGE)
        self.assertNotIn("\n", str(error))

    def test_at_once(self) -> None:
        """Several that upgrade one database at the same time all succeed."""
        failures: list[Exception] = []

        def start() -> None:
            try:
                upgrade(open_engine(self.path), PACKAGE)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        self.assertEqual(failures, [])
        self.assertIn("books", described(self.open()))
