"""Prepared statements do what the same statements do when SQLAlchemy executes them."""

from pathlib import Path

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_mock_engine,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError, OperationalError
from twisted.trial.unittest import SynchronousTestCase

from bookd.storage.engine import open_engine
from bookd.storage.prepared import Prepared, _Made, inserting
from bookd.testing.faults import Injected, watch

_metadata = MetaData()
things = Table(
    "things",
    _metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("name", String(20), nullable=False, unique=True),
    Column("content", LargeBinary),
    Column("labels", JSON),
    Column("good", Boolean, nullable=False),
    Column("count", BigInteger, nullable=False),
)
ADD = Prepared(insert(things).inline())
NAMED = Prepared(select(things).where(things.c.name == bindparam("wanted")))
ALL = Prepared(select(things.c.name, things.c.count).order_by(things.c.seq))


def thing(name: str, count: int = 0) -> dict[str, object]:
    """The values of a row."""
    return {"name": name, "content": b"\x00\xff", "labels": {"a": ["b"]}, "good": True, "count": count}


class PreparedTests(SynchronousTestCase):
    """On a SQLite file."""

    def setUp(self) -> None:
        """Make the table."""
        self.engine = open_engine(Path(self.mktemp()) / "db.sqlite")
        self.addCleanup(self.engine.dispose)
        _metadata.create_all(self.engine)

    def test_types(self) -> None:
        """Values of every type come back as they went in, as SQLAlchemy reads and writes them too."""
        with self.engine.begin() as connection:
            self.assertEqual(ADD.run(connection, thing("a")), 1)
            connection.execute(insert(things), thing("b"))
            for name in "ab":
                prepared = NAMED.row(connection, {"wanted": name})
                executed = connection.execute(select(things).where(things.c.name == name)).one()
                self.assertEqual(tuple(prepared), tuple(executed))
                self.assertIs(prepared.good, True)
                self.assertEqual(prepared.labels, {"a": ["b"]})
                self.assertEqual(prepared.content, b"\x00\xff")

    def test_nothing(self) -> None:
        """No row is None, an empty list, and nothing that was changed."""
        with self.engine.begin() as connection:
            self.assertIsNone(NAMED.row(connection, {"wanted": "a"}))
            self.assertIsNone(NAMED.value(connection, {"wanted": "a"}))
            self.assertEqual(ALL.rows(connection), [])
            self.assertEqual(Prepared(delete(things)).run(connection), 0)

    def test_many(self) -> None:
        """Several values are run in their order."""
        with self.engine.begin() as connection:
            ADD.run_each(connection, [thing("b", 1), thing("a", 2)])
            ADD.run_each(connection, [])
            self.assertEqual(ALL.rows(connection), [("b", 1), ("a", 2)])

    def test_values_of_the_statement(self) -> None:
        """What a statement says by itself is not asked for: values, conditions, limits, expressions."""
        raise_ = Prepared(
            update(things)
            .where(things.c.name == bindparam("which"), things.c.count < 5)
            .values(count=things.c.count + bindparam("more"))
            .returning(things.c.count)
        )
        some = Prepared(select(things.c.name).where(things.c.count > 0).order_by(things.c.name).limit(1))
        with self.engine.begin() as connection:
            ADD.run_each(connection, [thing("b", 1), thing("a", 2)])
            self.assertEqual(raise_.value(connection, {"which": "a", "more": 4}), 6)
            self.assertIsNone(raise_.value(connection, {"which": "a", "more": 4}))
            self.assertEqual(some.rows(connection), [("a",)])
            self.assertEqual(Prepared(select(exists().where(things.c.count == 6))).value(connection), 1)
            self.assertEqual(Prepared(select(func.max(things.c.count))).value(connection), 6)

    def test_transaction(self) -> None:
        """It belongs to the connection's transaction, and begins one where there is none."""
        with self.engine.connect() as connection:
            ADD.run(connection, thing("a"))
            self.assertTrue(connection.in_transaction())
            connection.rollback()
            self.assertEqual(ALL.rows(connection), [])

    def test_errors(self) -> None:
        """Errors are SQLAlchemy's, with the statement and without the values."""
        with self.engine.begin() as connection:
            ADD.run(connection, thing("secret"))
            error = self.assertRaises(IntegrityError, ADD.run, connection, thing("secret"))
            self.assertIn("INSERT INTO things", str(error))
            self.assertNotIn("secret", str(error))
            missing = Prepared(select(Table("missing", MetaData(), Column("a", Integer))))
            self.assertRaises(OperationalError, missing.rows, connection)

    def test_a_value_that_is_missing(self) -> None:
        """It is said by its name."""
        with self.engine.begin() as connection:
            ADD.run(connection, thing("a"))
            values = thing("b")
            del values["count"]
            self.assertEqual(self.assertRaises(KeyError, ADD.run, connection, values).args, ("count",))

    def test_lists(self) -> None:
        """A parameter that stands for a list is refused at once, not sent to the database."""
        listed = Prepared(select(things).where(things.c.name.in_(bindparam("wanted", expanding=True))))
        with self.engine.begin() as connection:
            self.assertRaises(ValueError, listed.rows, connection, {"wanted": ["a"]})

    def test_watched(self) -> None:
        """Faults strike before prepared statements, as before all others."""
        passed: list[str] = []
        with watch(self.engine, passed.append), self.engine.begin() as connection:
            ADD.run(connection, thing("a"))
        self.assertTrue(any("INSERT INTO things" in each for each in passed), passed)

        def strike(where: str) -> None:
            if "INSERT" in where:
                raise Injected(where)

        with watch(self.engine, strike), self.engine.connect() as connection:
            self.assertRaises(OperationalError, ADD.run, connection, thing("b"))

    def test_by_dialect(self) -> None:
        """Where dialects differ each has its own statement."""
        prepared = Prepared(
            lambda dialect: inserting(dialect, things).on_conflict_do_nothing(index_elements=["name"]).inline()
        )
        with self.engine.begin() as connection:
            self.assertEqual([prepared.run(connection, thing("a")), prepared.run(connection, thing("a"))], [1, 0])

    def test_by_name(self) -> None:
        """A driver that takes values by their names gets them so."""
        server = create_mock_engine("postgresql+psycopg://", lambda *_: None).dialect
        made = _Made(update(things).where(things.c.count == 1).values(count=bindparam("to")), server, ["to"])
        self.assertEqual(made.arguments({"to": 2}), {"to": 2, "count_1": 1})
