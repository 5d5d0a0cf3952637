"""Indexes of some rows are the same on SQLite and on PostgreSQL, of which a daemon on SQLite imports nothing."""

import subprocess
import sys
from typing import Any

from sqlalchemy import Column, Integer, MetaData, Table, create_mock_engine, text
from twisted.trial.unittest import SynchronousTestCase

from bookd.storage.indexes import partial

IMPORTS = """
import sys
from bookd.bridge.reactor import install
install()
from bookd.{daemon} import tap
print([name for name in sys.modules if name.startswith("sqlalchemy.dialects.postgresql")])
"""


class PartialTests(SynchronousTestCase):
    """The statements that make an index."""

    def test_condition(self) -> None:
        """Both say for which rows it is."""
        for url in ("sqlite://", "postgresql+psycopg://"):
            said: list[Any] = []
            engine = create_mock_engine(url, lambda statement, *_, said=said, **__: said.append(statement))
            metadata = MetaData()
            Table("things", metadata, Column("n", Integer), partial("some_of_them", "n", where=text("n > 7")))
            metadata.create_all(engine, checkfirst=False)
            made = str(said[-1].compile(dialect=engine.dialect))
            self.assertEqual(made, "CREATE INDEX some_of_them ON things (n) WHERE n > 7")

    def test_nothing_of_postgresql(self) -> None:
        """No daemon imports it without need."""
        for daemon in ("gateway", "inventory", "mom", "orders", "users"):
            command = [sys.executable, "-c", IMPORTS.format(daemon=daemon)]
            ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            self.assertEqual(ended.stdout, "[]\n", daemon)
