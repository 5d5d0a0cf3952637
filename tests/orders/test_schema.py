"""The schema says the rules again, and the migrations make this very schema."""

from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable
from twisted.trial.unittest import SynchronousTestCase

from bookd.orders.schema import metadata, orders
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from tests.storage.test_migrate import described

GOOD = {
    "order_id": "0193bbbb-0000-7000-8000-000000000001", "user_id": "u", "shipping_address": "a", "status": "PENDING",
    "reason": "", "currency_code": None, "total_units": None, "total_nanos": None, "version": 1, "created_at": 1,
    "updated_at": 1,
}  # fmt: skip
TOTAL = {"currency_code": "USD", "total_units": 1, "total_nanos": 0}


class SchemaTests(SynchronousTestCase):
    """What the database refuses, whoever writes."""

    def test_migrations_make_the_schema(self) -> None:
        """A database that was upgraded from nothing has the tables that the code describes."""
        fresh, upgraded = open_engine(":memory:"), open_engine(":memory:")
        self.addCleanup(fresh.dispose)
        self.addCleanup(upgraded.dispose)
        metadata.create_all(fresh)
        upgrade(upgraded, "bookd.orders")
        self.maxDiff = None
        self.assertEqual(described(upgraded), described(fresh))

    def test_every_column_is_explained(self) -> None:
        """Tables and columns say what they hold."""
        for table in metadata.tables.values():
            self.assertTrue(table.comment, table.name)
            for column in table.columns:
                self.assertTrue(column.comment, f"{table.name}.{column.name}")

    def test_postgresql(self) -> None:
        """Every table can be written down for PostgreSQL."""
        for table in metadata.sorted_tables:
            self.assertIn(table.name, str(CreateTable(table).compile(dialect=postgresql.dialect())))

    def test_orders(self) -> None:
        """States, reasons and totals that do not belong together are refused; those that do are taken."""
        engine = open_engine(":memory:")
        self.addCleanup(engine.dispose)
        metadata.create_all(engine)
        bad: list[dict[str, object]] = [
            {"order_id": "short"}, {"user_id": ""}, {"status": "LOST"}, {"reason": "why"}, {"version": 0}, TOTAL,
            {"status": "REJECTED"}, {"status": "REJECTED", "reason": "why", **TOTAL}, {"status": "CONFIRMED"},
            {"status": "CONFIRMED", **TOTAL, "shipping_address": ""}, {"status": "CANCELLED", "total_units": 1},
        ]  # fmt: skip
        for change in bad:
            with self.assertRaises(IntegrityError, msg=str(change)), engine.begin() as connection:
                connection.execute(orders.insert().values({**GOOD, **change}))
        for change in ({}, {"status": "REJECTED", "reason": "why"}, {"status": "CONFIRMED", **TOTAL}):
            with engine.begin() as connection:
                connection.execute(orders.insert().values({**GOOD, **change}))
                connection.execute(orders.delete())
