"""Tests for `bookd.orders.sweep`: what nobody answers is asked again, and what is done with is forgotten."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from shutil import copyfile
from typing import Any

from alembic import command
from sqlalchemy import select, text
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import metadata
from bookd.orders import rules, sweep
from bookd.orders.rules import Status, Step
from bookd.orders.schema import orders, steps
from bookd.orders.sweep import BATCH, LONGEST_REST
from bookd.storage.engine import open_engine
from bookd.storage.migrate import configuration, upgrade
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.policy.v1 import policy_pb2
from tests.orders.room import PATIENCE, USER, FakeMom, OrdersTestCase, asked, pending

AFTER = 600.0
SECOND = 1_000_000


class SweepTestCase(OrdersTestCase):
    """A daemon whose sweep comes when the test calls it."""

    def setUp(self) -> None:
        """Listen to the log."""
        super().setUp()
        self.said: list[str] = []
        globalLogPublisher.addObserver(self.hear)
        self.addCleanup(globalLogPublisher.removeObserver, self.hear)

    def hear(self, event: LogEvent) -> None:
        """Note which orders are named."""
        if "order_id" in event and "step" in event:
            self.said.append(f"{event['order_id']} {event['step']}")

    def sweep(self, seconds: float = 0.0) -> bool:
        """One batch, after some time; whether there may be more to do."""
        self.clock.advance(seconds)
        chore: Any = sweep.sweeping(self.desk, self.now, AFTER)
        return bool(self.successResultOf(Deferred.fromCoroutine(chore())))

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        """Do something to the database."""
        return self.successResultOf(self.desk.write(work, *args))

    def rows(self, column: str = "step") -> list[Any]:
        """A column of `steps`, in the order in which they were asked."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(f"SELECT {column} FROM steps ORDER BY rowid")).scalars())

    def sent_ids(self) -> list[str]:
        """The message ids of the calls, in order."""
        return [carried[metadata.MESSAGE_ID] for _, carried in self.mom.calls]

    def kept(self, *args: Any) -> str:
        """Place an order whose reservation the MOM keeps; its id."""
        self.mom.mode[""] = "keep"
        return self.created(*args).order_id


class AskAgainTests(SweepTestCase):
    """Messages that nobody has, and messages that somebody has."""

    def test_lost_reply(self) -> None:
        """An outcome that never came is fetched from the MOM, which has it still; the log names the order."""
        order_id = self.kept()
        self.mom.deliver()  # and the reply was discarded
        self.assertFalse(self.sweep(AFTER + 1))
        self.assertEqual(self.load(order_id).status, Status.CONFIRMED)
        self.assertEqual(self.mom.inventory.stock["a"], 9)
        self.assertEqual(len(set(self.sent_ids())), 1)
        self.assertEqual(self.said, [f"{order_id} RESERVE"])
        self.assertEqual(self.outbox(), [])

    def test_discarded(self) -> None:
        """A message that was discarded before it was delivered is sent again, whole, and the order goes on."""
        order_id = self.kept(asked(("a", 1), ("b", 2)))
        (discarded,) = self.mom.kept
        self.mom.kept = []
        self.sweep(AFTER + 1)
        self.assertEqual(self.mom.kept, [discarded])
        for each in self.mom.deliver():
            self.apply(each)
        self.assertEqual(self.load(order_id).status, Status.CONFIRMED)
        self.assertEqual(self.mom.calls[0][1].get(metadata.REPLY_TO), self.mom.calls[1][1].get(metadata.REPLY_TO))

    def test_discarded_after_its_effect(self) -> None:
        """One that had taken effect is answered by the inventory as it was then."""
        order_id = self.kept()
        self.mom.deliver()
        self.mom.outcomes.clear()
        self.mom.mode[""] = "up"
        self.sweep(AFTER + 1)
        self.assertEqual(self.load(order_id).status, Status.CONFIRMED)
        self.assertEqual(self.mom.inventory.stock["a"], 9)

    def test_discarded_release(self) -> None:
        """A release that was lost is asked again until it is done, for a cancelled order and for a rejected one."""
        self.mom.mode[""] = "up"
        cancelled = self.created().order_id
        self.mom.mode["ReleaseStock"] = "keep"
        self.cancel(cancelled)
        rejected = self.kept()
        self.mom._deliver(*self.mom.kept[-1])
        broken = message_pb2.Outcome(message_id=self.sent_ids()[-1])
        broken.status.code = 13
        self.apply(broken)
        self.mom.kept = []
        self.assertEqual(self.mom.inventory.held(), {cancelled, rejected})
        self.mom.mode = {"": "up"}
        self.sweep(AFTER + 1)
        self.assertEqual(self.mom.inventory.held(), set())
        self.assertEqual(
            [self.load(each).status for each in (cancelled, rejected)], [Status.CANCELLED, Status.REJECTED]
        )
        self.assertEqual(self.said, [f"{cancelled} RELEASE", f"{rejected} RELEASE"])

    def test_address(self) -> None:
        """An address is asked for again with the right of the order's user, whatever the caller's was."""
        self.mom.mode[""] = "down"
        placing = self.create(asked(address=""))
        self.push(PATIENCE)
        order_id = self.successResultOf(placing).order_id
        before = self.mom.calls[0]
        self.do(lambda connection: connection.execute(text("DELETE FROM outbox WHERE method LIKE '%GetUser'")))
        self.mom.mode[""] = "up"
        self.push(5)
        self.mom.calls.clear()
        self.sweep(AFTER)
        self.assertEqual(self.load(order_id).shipping_address, "1 Elm Street")
        self.assertEqual(self.load(order_id).status, Status.CONFIRMED)
        method, carried = self.mom.calls[0]
        self.assertEqual((method, carried[metadata.MESSAGE_ID]), (before[0], before[1][metadata.MESSAGE_ID]))
        who = policy_pb2.Principal.FromString(carried[metadata.PRINCIPAL])
        self.assertEqual((who.subject, list(who.roles)), (USER, ["customer"]))

    def test_not_before_its_time(self) -> None:
        """A step that is young is left alone."""
        self.kept()
        self.sweep(AFTER - 1)
        self.assertEqual(len(self.mom.calls), 1)

    def test_alive(self) -> None:
        """While the MOM has the message, it is offered now and then, at longer and longer intervals; it stays one message,
        and the answer that comes in the end is applied once."""
        order_id = self.kept()
        offered = []
        for minute in range(24 * 60):
            self.sweep(60)
            if len(self.mom.calls) > 1 + len(offered):
                offered.append(minute)
        self.assertEqual(len(self.mom.kept), 1)
        self.assertEqual(len(set(self.sent_ids())), 1)
        self.assertLess(len(offered), 15)
        pauses = [later - earlier for earlier, later in pairwise(offered)]
        self.assertEqual(pauses, sorted(pauses))
        for each in self.mom.deliver() * 2:
            self.apply(each)
        self.assertEqual(self.load(order_id).status, Status.CONFIRMED)
        self.assertEqual(self.mom.inventory.stock["a"], 9)

    def test_answered_meanwhile(self) -> None:
        """An answer that comes while the message is on its way again is applied, and the other one changes nothing."""
        order_id = self.kept()
        self.mom.mode[""] = "hang"
        self.sweep(AFTER + 1)
        self.assertEqual(self.outbox(), ["ReserveStock"])
        (outcome,) = self.mom.deliver()
        self.apply(outcome)
        version = self.load(order_id).version
        self.mom.mode[""] = "up"
        self.mom.time_out()
        self.push(5)
        self.assertEqual((self.outbox(), self.load(order_id).version), ([], version))

    def test_in_the_outbox(self) -> None:
        """What the relay is at is left to it: a new time begins when the message has left."""
        self.mom.mode[""] = "down"
        placing = self.create()
        self.push(PATIENCE)
        self.successResultOf(placing)
        self.sweep(AFTER + 1)
        self.assertEqual((self.outbox(), self.said), (["ReserveStock"], []))
        self.mom.mode[""] = "keep"
        self.push(5)
        self.sweep(AFTER - 10)
        self.assertEqual(self.said, [])
        self.sweep(10)
        self.assertEqual(len(self.said), 1)

    def test_what_does_not_matter(self) -> None:
        """The open reservation of an order that is cancelled, and released, is closed without a word."""
        order_id = self.kept()
        self.mom.mode["ReleaseStock"] = "up"
        self.cancel(order_id)
        self.assertEqual(self.rows("done_at IS NULL"), [1, 0])
        self.sweep(AFTER + 1)
        self.assertEqual(self.rows("done_at IS NULL"), [0, 0])
        self.assertEqual(self.said, [])
        for each in self.mom.deliver():
            self.apply(each)
        self.assertEqual((self.load(order_id).status, self.mom.inventory.held()), (Status.CANCELLED, set()))

    def test_batches(self) -> None:
        """No more than a batch is looked at, the oldest first; what is beyond waits for the next."""
        self.mom.mode[""] = "keep"
        placed = []
        for _ in range(BATCH + 3):
            placed.append(self.created().order_id)
            self.clock.advance(1)
        self.mom.calls.clear()
        self.assertTrue(self.sweep(AFTER + 100))
        self.assertEqual(self.said, [f"{order_id} RESERVE" for order_id in placed[:BATCH]])
        self.assertFalse(self.sweep())
        self.assertEqual(len(self.said), len(placed))
        self.assertFalse(self.sweep())
        self.assertEqual(len(self.mom.calls), len(placed))

    def test_clock_was_ahead(self) -> None:
        """Steps that were asked while the clock was ahead are not waited for until it comes there again."""
        order_id = self.kept()
        ahead = self.now() + 2 * LONGEST_REST
        self.do(lambda connection: connection.execute(steps.update().values(sweep_from=ahead)))
        self.sweep()
        self.assertEqual(self.said, [f"{order_id} RESERVE"])
        self.sweep()
        self.assertEqual(len(self.said), 1)


class RestoredTests(SweepTestCase):
    """A daemon on a file, whose MOM was restored from a backup that is older."""

    def setUp(self) -> None:
        """Name the file."""
        self.database = Path(self.mktemp()) / "orders.sqlite"
        super().setUp()

    def test_mom_of_yesterday(self) -> None:
        """Orders whose messages the MOM has forgotten, the inventory too in part, are decided all the same."""
        known, unknown = self.kept(), self.kept()
        self.mom._deliver(*self.mom.kept[0])
        inventory = self.mom.inventory
        self.mom = FakeMom()
        self.mom.inventory = inventory
        self.successResultOf(self.relay.stopService())
        self.engine.dispose()
        copy = self.database.with_name("restored.sqlite")
        copyfile(self.database, copy)
        self.database = copy
        self.engine = self.open()
        self.build(self.engine)
        self.assertEqual(self.mom.calls, [])
        self.sweep(AFTER + 1)
        self.assertEqual([self.load(each).status for each in (known, unknown)], [Status.CONFIRMED] * 2)
        self.assertEqual((inventory.stock["a"], inventory.held()), (8, {known, unknown}))


class ForgetTests(SweepTestCase):
    """What becomes of done steps."""

    def forget(self, seconds: float = 1.0) -> int:
        """Forget what was done so many seconds ago; how many that were."""
        return int(self.do(sweep.forget, self.now() - round(seconds * SECOND), 100))

    def test_confirmed(self) -> None:
        """The steps of a confirmed order are forgotten after a while; it can be cancelled after that, and its first
        release is the first."""
        order_id = self.created(asked(address="")).order_id
        self.assertEqual((self.forget(), self.rows()), (0, ["ADDRESS", "RESERVE"]))
        self.clock.advance(2)
        self.assertEqual((self.forget(), self.rows()), (2, []))
        self.cancel(order_id)
        self.assertEqual(self.rows(), ["RELEASE"])
        self.assertEqual(self.mom.inventory.held(), set())
        self.clock.advance(2)
        self.assertEqual((self.forget(), self.rows()), (1, []))

    def test_pending(self) -> None:
        """The steps of a pending order stay."""
        self.mom.mode["ReserveStock"] = "keep"
        self.created(asked(address=""))
        self.clock.advance(1000)
        self.assertEqual((self.forget(), self.rows()), (0, ["ADDRESS", "RESERVE"]))

    def test_release_under_way(self) -> None:
        """As long as a release may be repeated none is forgotten, so that no two of them have one name."""
        order_id = self.created().order_id
        self.mom.mode[""] = "keep"
        self.cancel(order_id)
        seen = set()
        for _ in range(5):
            open_one = self.rows("CASE WHEN done_at IS NULL THEN message_id END")[-1]
            self.assertNotIn(open_one, seen)
            seen.add(open_one)
            failed = message_pb2.Outcome(message_id=open_one)
            failed.status.code = 13
            self.apply(failed)
            self.clock.advance(1000)
            self.assertEqual(self.forget(), 0)
        for each in self.mom.deliver():
            self.apply(each)
        self.assertEqual(self.rows("done_at IS NULL"), [0] * 7)
        self.clock.advance(2)
        self.assertEqual(self.forget(), 7)

    def test_late_outcome(self) -> None:
        """An outcome of a step that was forgotten changes nothing."""
        order_id = self.created().order_id
        self.clock.advance(2)
        self.forget()
        failed = message_pb2.Outcome(message_id=self.sent_ids()[0])
        failed.status.code = 13
        self.apply(failed)
        self.assertEqual(self.load(order_id).status, Status.CONFIRMED)

    def test_batches(self) -> None:
        """The oldest go first, no more than the limit."""
        for _ in range(3):
            self.created()
            self.clock.advance(2)
        done = self.rows("done_at")
        self.assertEqual([self.do(sweep.forget, self.now(), 2), self.rows("done_at")], [2, done[2:]])


class PlanTests(SweepTestCase):
    """The database finds what is due without looking at all there is."""

    def test_indexes(self) -> None:
        """Neither chore reads the whole table."""
        statements = {
            "steps_open": "SELECT * FROM steps WHERE done_at IS NULL AND (sweep_from < 5 OR sweep_from > 9)"
            " ORDER BY sweep_from LIMIT 20",
            "steps_done": "SELECT steps.message_id FROM steps JOIN orders ON orders.order_id = steps.order_id"
            " WHERE done_at < 5 AND status <> 'PENDING' ORDER BY done_at LIMIT 20",
        }
        with self.engine.connect() as connection:
            for index, statement in statements.items():
                plan = [row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {statement}"))]
                self.assertIn(index, " ".join(plan))
                self.assertFalse([line for line in plan if line == "SCAN steps"], plan)


class MattersTests(SynchronousTestCase):
    """Which open steps are worth asking for."""

    def test_table(self) -> None:
        """Those of an order that waits for them, and releases."""
        matter = {(status, step) for status in Status for step in Step if rules.matters(status, step)}
        expected = {(Status.PENDING, Step.ADDRESS), (Status.PENDING, Step.RESERVE)}
        expected |= {(Status.CANCELLED, Step.RELEASE), (Status.REJECTED, Step.RELEASE)}
        self.assertEqual(matter, expected)


class MigrationTests(SynchronousTestCase):
    """Steps of an older version."""

    def test_kept(self) -> None:
        """They are all there after the migration, with the time of their orders."""
        engine = open_engine(":memory:")
        self.addCleanup(engine.dispose)
        config = configuration("bookd.orders")
        order = pending(updated_at=7)

        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            columns = {"order_id": order.order_id, "user_id": "u", "shipping_address": "a", "status": "PENDING"}
            columns |= {"reason": "", "version": 1, "created_at": 5, "updated_at": 7}
            connection.execute(orders.insert().values(columns))
            insert = text(
                "INSERT INTO steps (message_id, order_id, step, done_at) VALUES (:id, :order_id, :step, :done)"
            )
            for number, step, done in ((1, "ADDRESS", 6), (2, "RESERVE", None)):
                values = {"id": str(number) * 36, "order_id": order.order_id, "step": step, "done": done}
                connection.execute(insert, values)

        upgrade(engine, "bookd.orders")
        with engine.begin() as connection:
            rows = connection.execute(select(steps).order_by(steps.c.message_id)).all()
        self.assertEqual(
            [tuple(row) for row in rows],
            [("1" * 36, order.order_id, "ADDRESS", 7, 6), ("2" * 36, order.order_id, "RESERVE", 7, None)],
        )
