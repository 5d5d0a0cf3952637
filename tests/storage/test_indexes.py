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
            said: list[str] = []

            def hear(statement: Any, *_: Any, said: list[str] = said, **__: Any) -> None:
                said.append(str(statement.compile(dialect=engine.dialect)))

            engine = create_mock_engine(url, hear)
            metadata = MetaData()
            Table("things", metadata, Column("n", Integer), partial("some", "n", where=text("n > 7")))
            metadata.create_all(engine, checkfirst=False)
            self.assertEqual(said[-1], "CREATE INDEX some ON things (n) WHERE n > 7")

    def test_nothing_of_postgresql(self) -> None:
        """No daemon imports it without need."""
        for daemon in ("gateway", "inventory", "mom", "orders", "users"):
            command = [sys.executable, "-c", IMPORTS.format(daemon=daemon)]
            ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
            self.assertEqual(ended.stdout, "[]\n", daemon)
