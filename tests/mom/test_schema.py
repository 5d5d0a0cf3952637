"""The schema says the rules again, and the migrations make this very schema."""

from typing import Any

from sqlalchemy import create_mock_engine, insert
from sqlalchemy.exc import IntegrityError

from bookd.mom import schema
from bookd.storage.engine import open_engine
from tests.mom.room import NOW, StoreTestCase, number_id
from tests.storage.test_migrate import described

QUEUED: dict[str, Any] = {
    "message_id": number_id(1),
    "destination": "d",
    "lane": "l",
    "method": "/d/M",
    "request": b"",
    "fingerprint": bytes(32),
    "principal": b"",
    "subject": "",
    "metadata": {},
    "reply_to": None,
    "state": 1,
    "attempts": 0,
    "refusals": 0,
    "ready_at": NOW,
    "expire_at": NOW,
    "last_error": "",
    "created_at": NOW,
    "updated_at": NOW,
    "finished_at": None,
    "status_code": None,
    "status": None,
    "response": None,
}
SUCCEEDED = {**QUEUED, "state": 2, "finished_at": NOW, "status_code": 0, "response": b""}
FAILED = {**QUEUED, "state": 3, "finished_at": NOW, "status_code": 5, "status": b"s"}


class SchemaTests(StoreTestCase):
    """What the database refuses, whoever writes."""

    def test_migrations_make_the_schema(self) -> None:
        """A database that was upgraded from nothing has the tables that the code describes."""
        fresh = open_engine(":memory:")
        self.addCleanup(fresh.dispose)
        schema.metadata.create_all(fresh)
        self.maxDiff = None
        self.assertEqual(described(fresh), described(self.engine))

    def test_everything_is_explained(self) -> None:
        """Tables and columns say what they hold."""
        for table in schema.metadata.tables.values():
            self.assertTrue(table.comment, table.name)
            for column in table.columns:
                self.assertTrue(column.comment, f"{table.name}.{column.name}")

    def put(self, row: dict[str, Any]) -> None:
        """Insert a message."""
        with self.engine.begin() as connection:
            connection.execute(insert(schema.messages).values(row))

    def test_good_messages(self) -> None:
        """A message in each state is taken."""
        for number, row in enumerate((QUEUED, SUCCEEDED, FAILED, {**FAILED, "state": 4}, {**FAILED, "state": 5})):
            self.put({**row, "message_id": number_id(number)})

    def test_bad_messages(self) -> None:
        """Each rule that is broken refuses the message."""
        bad = [
            {**QUEUED, "state": 0},
            {**QUEUED, "state": 6},
            {**QUEUED, "message_id": "short"},
            {**QUEUED, "fingerprint": b"short"},
            {**QUEUED, "attempts": -1},
            {**QUEUED, "refusals": -1},
            {**QUEUED, "lane": None},
            {**QUEUED, "finished_at": NOW},
            {**QUEUED, "status_code": 0},
            {**QUEUED, "response": b""},
            {**QUEUED, "status": b"s"},
            {**SUCCEEDED, "response": None},
            {**SUCCEEDED, "finished_at": None},
            {**SUCCEEDED, "status": b"s"},
            {**FAILED, "status": None},
            {**FAILED, "response": b""},
        ]
        for row in bad:
            self.assertRaises(IntegrityError, self.put, row)
        self.put(QUEUED)
        self.assertRaises(IntegrityError, self.put, QUEUED)

    def test_lane_needs_its_head(self) -> None:
        """No lane without its first message, and that message cannot be removed from under it."""
        lane = {"destination": "d", "lane": "l", "head_seq": 1, "ready_at": NOW, "blocked": False}
        with self.assertRaises(IntegrityError), self.engine.begin() as connection:
            connection.execute(insert(schema.lanes).values(lane))
        self.put(QUEUED)
        with self.engine.begin() as connection:
            connection.execute(insert(schema.lanes).values(lane))
        with self.assertRaises(IntegrityError), self.engine.begin() as connection:
            connection.execute(schema.messages.delete())
        with self.assertRaises(IntegrityError), self.engine.begin() as connection:
            connection.execute(insert(schema.lanes).values({**lane, "lane": "m"}))

    def test_blocker_needs_its_letter(self) -> None:
        """Nothing blocks a lane but a message, and that one cannot be removed while it does."""
        blocker = {"destination": "d", "lane": "l", "seq": 1}
        with self.assertRaises(IntegrityError), self.engine.begin() as connection:
            connection.execute(insert(schema.blockers).values(blocker))
        self.put({**FAILED, "state": 4})
        with self.engine.begin() as connection:
            connection.execute(insert(schema.blockers).values(blocker))
        with self.assertRaises(IntegrityError), self.engine.begin() as connection:
            connection.execute(schema.messages.delete())

    def test_numbers_are_not_used_again(self) -> None:
        """The seq of a removed message is never another one's: page tokens and what is in flight rest on that."""
        with self.engine.begin() as connection:
            made = insert(schema.messages).values(QUEUED).returning(schema.messages.c.seq)
            first = connection.execute(made).scalar_one()
            connection.execute(schema.messages.delete())
            self.assertGreater(connection.execute(made).scalar_one(), first)

    def test_postgresql(self) -> None:
        """The same tables and indexes can be made in PostgreSQL."""
        said: list[Any] = []
        engine = create_mock_engine("postgresql+psycopg://", lambda statement, *_, **__: said.append(statement))
        schema.metadata.create_all(engine, checkfirst=False)
        made = [str(statement.compile(dialect=engine.dialect)).strip() for statement in said]
        for table in schema.metadata.tables.values():
            self.assertTrue(any(each.startswith(f"CREATE TABLE {table.name} ") for each in made), table.name)
            for index in table.indexes:
                self.assertTrue(any(f"INDEX {index.name} ON " in each for each in made), index.name)
        self.assertTrue(any(each.endswith("WHERE finished_at IS NOT NULL") for each in made), made)
