"""Tests for `bookd audit`: sound books pass, each kind of damage is found and named, and motion is no damage."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from click.testing import CliRunner, Result
from sqlalchemy import Engine
from twisted.trial.unittest import SynchronousTestCase

from bookd.command.accounts import CHECKS
from bookd.command.audit import LOOKS, Report, audit_engines
from bookd.command.home import Home
from bookd.command.init import make_home
from bookd.command.look import Gravity
from bookd.command.main import main
from tests.command.test_backup import history
from tests.faults.room import migrated, opened
from tests.faults.shoppers import Shoppers
from tests.faults.world import PROCESSES, START, World

DATABASES = ("inventory", "orders", "users", "mom")
NOW = START + 3600 * 1_000_000


class AuditCase(SynchronousTestCase):
    """The databases of a suite in which there was traffic, now at rest."""

    def setUp(self) -> None:
        """Let orders be placed, confirmed, rejected and cancelled, some of them by way of the MOM's queue."""
        self.home = Home(Path(self.mktemp()).absolute() / "home")
        make_home(self.home)
        self.engines: dict[str, Engine] = {}
        for name in DATABASES:
            path = self.home.path / "data" / f"{name}.sqlite"
            path.write_bytes(migrated(f"bookd.{name}").read_bytes())
            manager = opened(path)
            self.engines[name] = manager.__enter__()
            self.addCleanup(manager.__exit__, None, None, None)
        self.world = World({name: self.engines[name] for name in PROCESSES})
        self.shoppers = Shoppers(self.world)
        self.shoppers.supply()
        self.world.push(0.5)
        self.traffic()
        self.shoppers.heal()
        self.flushLoggedErrors()

    def traffic(self) -> None:
        """What has happened."""
        self.shoppers.order("ada", a=2, b=1)
        self.shoppers.order("ada", a=1)
        self.world.push(2)
        self.shoppers.cancel(1)
        self.world.kill("inventory")
        self.shoppers.order("bob", a=1, b=2)
        self.shoppers.order("bob", b=100)
        self.world.push(3)
        self.shoppers.adjust("a", 5)
        self.world.push(15)
        self.world.start("inventory")

    def sql(self, name: str, *statements: str) -> None:
        """Damage a database, past all its checks."""
        with self.engines[name].connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute("PRAGMA query_only = OFF")  # an earlier look may have left it on
            driver.execute("PRAGMA ignore_check_constraints = ON")
            driver.execute("PRAGMA foreign_keys = OFF")
            for statement in statements:
                self.assertGreater(driver.execute(statement).rowcount, 0, statement)
            driver.execute("PRAGMA ignore_check_constraints = OFF")
            driver.execute("PRAGMA foreign_keys = ON")

    def audit(self, sleep: Callable[[float], Any] = lambda _: None, late: float = 60) -> Report:
        """The report."""
        return audit_engines(self.engines, late=late, sleep=sleep, now=lambda: NOW)

    def found(self, check: str, *words: str, gravity: Gravity = Gravity.WRONG) -> None:
        """The damage is found by this check, and its text has these words."""
        report = self.audit()
        texts = [f"{each.subject} {each.text}" for each in report.findings if each.check == check]
        self.assertTrue(
            any(all(word in text for word in words) for text in texts), [(f.check, f.text) for f in report.findings]
        )
        self.assertIn(gravity, {each.gravity for each in report.findings if each.check == check})
        self.assertEqual(report.balanced, gravity is not Gravity.WRONG)


class SoundTests(AuditCase):
    """Books that balance."""

    def test_balanced(self) -> None:
        """Nothing is found, every check is made, and the figures are those of the suite."""
        report = self.audit()
        self.assertEqual([(each.check, each.subject, each.text) for each in report.findings], [])
        self.assertTrue(report.balanced)
        self.assertEqual((report.skipped, report.in_motion), ((), 0))
        self.assertEqual(report.figures["orders"], {"CANCELLED": 1, "CONFIRMED": 2, "REJECTED": 1})
        self.assertEqual(report.figures["books"], {"titles": 2, "stock": 19, "reserved": 6, "supplied": 25})
        self.assertIn("SUCCEEDED", report.figures["messages"])

    def test_changes_nothing(self) -> None:
        """An audit does not write."""
        before = {name: self.dump(name) for name in DATABASES}
        self.audit()
        self.assertEqual({name: self.dump(name) for name in DATABASES}, before)

    def dump(self, name: str) -> list[str]:
        """All of a database."""
        with self.engines[name].connect() as connection:
            driver: Any = connection.connection.driver_connection
            return list(driver.iterdump())

    def test_some_databases(self) -> None:
        """On a host that has some of the databases, what needs others is skipped, and said to be."""
        report = audit_engines({"inventory": self.engines["inventory"]}, late=60)
        self.assertTrue(report.balanced)
        self.assertEqual(set(report.skipped), {check.name for check in CHECKS if set(check.needs) - {"inventory"}})

    def test_in_motion(self) -> None:
        """In the middle of any traffic nothing is told to be wrong, whatever fails on the way."""
        random = Random(7)
        moved = 0
        for _ in range(25):
            history(random, self.shoppers, self.world)
            report = self.audit(sleep=lambda _: self.world.push(1))
            self.assertEqual([each for each in report.findings if each.gravity is Gravity.WRONG], [])
            moved += sum(self.shoppers.waiting().values())
        self.assertGreater(moved, 0)
        self.flushLoggedErrors()

    def test_gone_when_looked_at_again(self) -> None:
        """What is put right between two looks was in motion."""
        self.sql("inventory", "UPDATE reservations SET status = 'RELEASED' WHERE status = 'RESERVED'")
        looks = []

        def sleep(_: float) -> None:
            looks.append(True)
            if len(looks) == LOOKS - 2:
                released = "order_id IN (SELECT order_id FROM reservation_items) AND order_id <> ?"
                cancelled = self.shoppers.wishes[1].answer.order_id
                with self.engines["inventory"].begin() as connection:
                    connection.exec_driver_sql(
                        f"UPDATE reservations SET status = 'RESERVED' WHERE {released}",
                        (cancelled,),
                    )

        report = self.audit(sleep)
        self.assertEqual(report.findings, ())
        self.assertGreater(report.in_motion, 0)


class DamageTests(AuditCase):
    """Damage, each kind of it."""

    def order(self, status: str) -> str:
        """An order."""
        with self.engines["orders"].connect() as connection:
            found = connection.exec_driver_sql("SELECT order_id FROM orders WHERE status = ?", (status,)).scalars()
            return str(found.first())

    def test_copies(self) -> None:
        """A copy that nobody put in."""
        self.sql("inventory", "UPDATE books SET stock = stock + 1 WHERE book_id = 'a'")
        self.found("copies", "book a", "is not supplied 15")

    def test_negative(self) -> None:
        """Stock below zero."""
        self.sql("inventory", "UPDATE books SET supplied = supplied - stock - 1, stock = -1 WHERE book_id = 'a'")
        self.found("copies", "stock -1")

    def test_held(self) -> None:
        """A reservation that lost a line."""
        self.sql("inventory", "DELETE FROM reservation_items WHERE book_id = 'b'")
        self.found("held", "book b", "but reservations hold 0")

    def test_no_reservation(self) -> None:
        """A confirmed order without stock."""
        order_id = self.order("CONFIRMED")
        self.sql("inventory", f"DELETE FROM reservations WHERE order_id = '{order_id}'")
        self.found("reserved", order_id, "confirmed, but has no reservation")

    def test_released(self) -> None:
        """A confirmed order whose stock was given back."""
        order_id = self.order("CONFIRMED")
        self.sql("inventory", f"UPDATE reservations SET status = 'RELEASED' WHERE order_id = '{order_id}'")
        self.found("reserved", order_id, "confirmed, but has no reservation")

    def test_quantities(self) -> None:
        """An order for more than is reserved."""
        order_id = self.order("CONFIRMED")
        self.sql("orders", f"UPDATE order_items SET quantity = 9 WHERE order_id = '{order_id}' AND position = 0")
        self.found("reserved", order_id, "has 9 of a", "its reservation has")
        self.found("totals", order_id)

    def test_prices(self) -> None:
        """Another price than the inventory's."""
        order_id = self.order("CONFIRMED")
        self.sql("orders", f"UPDATE order_items SET price_units = 1 WHERE order_id = '{order_id}'")
        self.found("reserved", order_id, "at 1.000000000 USD")

    def test_total(self) -> None:
        """A total that is not the sum."""
        order_id = self.order("CONFIRMED")
        self.sql("orders", f"UPDATE orders SET total_units = total_units + 1 WHERE order_id = '{order_id}'")
        self.found("totals", order_id, "is not the sum of its lines")

    def test_unknown_order(self) -> None:
        """Stock that is held for an order that nobody knows."""
        order_id = self.order("CONFIRMED")
        for table in ("steps", "order_items", "orders"):
            self.sql("orders", f"DELETE FROM {table} WHERE order_id = '{order_id}'")
        self.found("reserved", order_id, "there is no such order")

    def test_held_for_cancelled(self) -> None:
        """Stock that a cancelled order holds, and nobody gives back."""
        order_id = self.order("CONFIRMED")
        self.sql("orders", f"UPDATE orders SET status = 'CANCELLED' WHERE order_id = '{order_id}'")
        self.found("reserved", order_id, "is CANCELLED, holds stock, and nobody gives it back")
        self.found("told", order_id, "never told")

    def pending(self, step: str = "RESERVE") -> tuple[str, str]:
        """Make an order PENDING again, its step open; answers the ids of the order and of the step's message."""
        with self.engines["mom"].connect() as connection:
            kept = connection.exec_driver_sql("SELECT lane FROM messages WHERE method LIKE '%/ApplyOutcome'").scalars()
            answered = set(kept)
        with self.engines["orders"].connect() as connection:
            reserved = connection.exec_driver_sql("SELECT message_id, order_id FROM steps WHERE step = 'RESERVE'").all()
            message_id, order_id = next((str(row[0]), str(row[1])) for row in reserved if row[0] in answered)
        self.sql(
            "orders",
            f"UPDATE orders SET status = 'PENDING', total_units = NULL WHERE order_id = '{order_id}'",
            f"UPDATE steps SET done_at = NULL WHERE message_id = '{message_id}'",
        )
        return order_id, message_id

    def test_without_effect(self) -> None:
        """An answer that was delivered and did nothing."""
        order_id, _ = self.pending()
        self.found("saga", order_id, "is PENDING; its RESERVE", "had no effect")

    def test_nobody_asks(self) -> None:
        """A pending order for which nothing is asked."""
        order_id, message_id = self.pending()
        self.sql("orders", f"DELETE FROM steps WHERE message_id = '{message_id}'")
        self.found("saga", order_id, "nothing is asked for it")

    def test_nowhere(self) -> None:
        """A pending order whose message is nowhere."""
        order_id, message_id = self.pending()
        self.sql("mom", f"DELETE FROM messages WHERE message_id = '{message_id}' OR lane = '{message_id}'")
        self.found("saga", order_id, "is in no outbox and not with the MOM")

    def test_no_answer(self) -> None:
        """A pending order whose message ended without an answer."""
        order_id, message_id = self.pending()
        self.sql("mom", f"DELETE FROM messages WHERE lane = '{message_id}'")
        self.found("saga", order_id, "no answer was sent")

    def test_dead_letters(self) -> None:
        """A pending order whose message, or whose answer, is a dead letter."""
        order_id, message_id = self.pending()
        dead = "UPDATE messages SET state = 4, response = NULL, status = '', last_error = 'poison' WHERE"
        self.sql("mom", f"{dead} lane = '{message_id}'")
        self.found("saga", order_id, "the answer is a dead letter")
        self.sql("mom", f"DELETE FROM messages WHERE lane = '{message_id}'")
        self.sql("mom", f"{dead} message_id = '{message_id}'")
        self.found("saga", order_id, "RESERVE is a dead letter")
        self.found("queued", message_id, "ReserveStock is a dead letter", "poison")

    def test_late_with_the_mom(self) -> None:
        """A pending order whose message waits for long is late, not wrong; --late says how long is long."""
        order_id, message_id = self.pending()
        self.sql("mom", f"DELETE FROM messages WHERE lane = '{message_id}'")
        again = "state = 1, finished_at = NULL, status_code = NULL, response = NULL, last_error = 'down', attempts = 3"
        self.sql(
            "mom",
            f"UPDATE messages SET {again} WHERE message_id = '{message_id}'",
            "INSERT INTO lanes (destination, lane, head_seq, ready_at, blocked) SELECT destination, lane, seq, 0, 0"
            f" FROM messages WHERE message_id = '{message_id}'",
            "UPDATE queues SET depth = depth + 1 WHERE destination LIKE '%Inventory%'",
        )
        self.found("saga", order_id, "waits with the MOM for 0:59", "3 attempts", "down", gravity=Gravity.LATE)
        self.found("queued", "InventoryService", "1 messages wait", gravity=Gravity.LATE)
        self.assertEqual(self.audit(late=3600).findings, ())

    def test_outboxes(self) -> None:
        """Something to send that does not leave."""
        self.world.kill("mom")
        self.shoppers.order("ada", a=1)
        with self.engines["inventory"].begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO outbox (message_id, lane, method, request, principal, reply_to, request_id, traceparent,"
                f" attempts, ready_at, last_error, created_at) VALUES ('{'x' * 36}', 'l', 'm', '', '', '', '', '', 7, 0,"
                f" 'UNAVAILABLE: nobody there', {START})"
            )
        self.found("outboxes", "inventory", "1 messages wait", "nobody there", gravity=Gravity.LATE)

    def test_lanes(self) -> None:
        """A message that is in no lane, a lane that has nothing, and a count that is wrong."""
        again = "state = 1, finished_at = NULL, status_code = NULL, response = NULL, status = NULL"
        self.sql("mom", f"UPDATE messages SET {again} WHERE seq = 1")
        self.found("in_lanes", "is in no lane")
        self.found("in_lanes", "counts 0 queued messages, but there are 1")
        self.sql("mom", "INSERT INTO lanes (destination, lane, head_seq, ready_at, blocked) VALUES ('d', 'l', 2, 0, 0)")
        self.found("in_lanes", "lane l", "nothing to deliver")

    def test_not_applied(self) -> None:
        """A message that the MOM calls done, and whose service does not know it."""
        self.sql("inventory", "DELETE FROM inbox")
        self.found("applied", "succeeded for the MOM, but inventory does not know it")

    def test_not_told(self) -> None:
        """An order of which nothing was told."""
        order_id = self.order("CONFIRMED")
        self.sql("mom", f"DELETE FROM events WHERE subject = '{order_id}' AND type LIKE '%Confirmed'")
        self.found("told", order_id, "is CONFIRMED, and that was never told")

    def test_out_of_order(self) -> None:
        """Events that were published the wrong way round."""
        order_id = self.order("CONFIRMED")
        self.sql("mom", f"UPDATE events SET seq = 1000 - seq WHERE subject = '{order_id}'")
        self.found("in_order", order_id, "was published after a later one")


class CommandTests(AuditCase):
    """The command."""

    def run_command(self, *arguments: str) -> Result:
        """Run it."""
        return CliRunner().invoke(main, ["--home", str(self.home.path), "audit", *arguments])

    def test_balanced(self) -> None:
        """Status 0, every check by name, and the figures."""
        result = self.run_command()
        self.assertEqual(result.exit_code, 0, result.output)
        for check in CHECKS:
            self.assertIn(check.name, result.output)
        self.assertIn("The books balance.", result.output)
        self.assertIn("CONFIRMED 2", result.output)

    def test_wrong(self) -> None:
        """Status 1, and what is wrong, for people and as JSON."""
        self.sql("inventory", "UPDATE books SET stock = stock + 1 WHERE book_id = 'a'")
        self.patch(__import__("bookd.command.audit", fromlist=["PAUSE"]), "PAUSE", 0.0)
        result = self.run_command()
        self.assertEqual(result.exit_code, 1)
        self.assertIn("wrong copies: book a stock", result.output)
        result = self.run_command("--json")
        self.assertEqual(result.exit_code, 1)
        body = json.loads(result.output)
        self.assertFalse(body["balanced"])
        self.assertEqual([(each["check"], each["subject"]) for each in body["findings"]], [("copies", "book a")])

    def test_late(self) -> None:
        """What is late is told, and is no fault unless --strict says so."""
        self.sql("users", "INSERT INTO outbox VALUES (1, 'm', 'l', 'm', '', '', '', '', '', 0, 0, '', 0)")
        result = self.run_command()
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("late  outboxes: users", result.output)
        self.assertEqual(self.run_command("--strict").exit_code, 1)

    def test_cannot_look(self) -> None:
        """Status 2 when there is nothing to look at, or it cannot be read."""
        for path, damage in (
            (self.home.path / "data" / "mom.sqlite", b"no database at all" * 1000),
            (self.home.config_file, b"["),
        ):
            kept = path.read_bytes()
            path.write_bytes(damage)
            result = self.run_command()
            self.assertEqual(result.exit_code, 2, result.output)
            self.assertEqual(result.output.count("\n"), 1)
            path.write_bytes(kept)
        (self.home.path / "data" / "orders.sqlite").unlink()
        result = self.run_command()
        self.assertEqual(result.exit_code, 2)
        self.assertIn("is not there", result.output)
        self.assertEqual(CliRunner().invoke(main, ["--home", str(self.home.path / "no"), "audit"]).exit_code, 2)

    def test_control_characters(self) -> None:
        """What stands in a database cannot act on the terminal."""
        self.sql("inventory", "UPDATE books SET stock = stock + 1, book_id = char(27) || '[2J' WHERE book_id = 'a'")
        self.patch(__import__("bookd.command.audit", fromlist=["PAUSE"]), "PAUSE", 0.0)
        self.assertNotIn("\x1b[2J", self.run_command().output)
