"""The sweep of the orders before a real MOM: harmless while that has the message, and the only hope when it has not."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.mom import settling, store
from bookd.orders import sweep
from tests.faults.shoppers import Shoppers, books, rows
from tests.faults.test_anything import ACTIONS, act, disk
from tests.faults.world import PROCESSES, World
from tests.mom.room import DEAD

SWEEPS = st.tuples(st.just("sweep"))


class Swept:
    """A world and its shoppers, on disks of their own."""

    def __init__(self) -> None:
        self.engines = {name: disk(f"bookd.{name}") for name in PROCESSES}
        self.world = World(self.engines)
        self.shoppers = Shoppers(self.world)
        self.shoppers.supply()
        self.world.push(0.5)

    def close(self) -> None:
        """The disks are gone."""
        for engine in self.engines.values():
            engine.dispose()

    def sweep(self) -> None:
        """The sweep comes once, for all that is open, however often it came before."""
        if self.world.is_up("orders"):
            desk = self.world.running["orders"].desk
            chore: Any = sweep.sweeping(desk, self.world.now, -sweep.LONGEST_REST / 1e6 - 1)
            Deferred.fromCoroutine(chore()).addErrback(lambda _: None)

    def replace(self, name: str) -> None:
        """A process comes back with an empty disk."""
        self.world.kill(name)
        self.engines[name].dispose()
        self.engines[name] = self.world.engines[name] = disk(f"bookd.{name}")
        self.world.start(name)

    def statuses(self) -> list[str]:
        """Where all orders stand."""
        return [row.status for row in rows(self.engines["orders"], "SELECT status FROM orders ORDER BY seq")]

    def offered(self) -> list[str]:
        """The ids of the steps that are in the outbox."""
        steps = "SELECT message_id FROM outbox WHERE lane NOT LIKE 'event %' ORDER BY seq"
        return [row.message_id for row in rows(self.engines["orders"], steps)]

    def put(self) -> int:
        """How many messages were put into the outbox by now."""
        return int(rows(self.engines["orders"], "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")[0].seq)

    def messages(self, method: str) -> list[str]:
        """The ids of the messages that the MOM has to this method."""
        found = rows(self.engines["mom"], "SELECT message_id, method FROM messages ORDER BY seq")
        return [row.message_id for row in found if row.method.endswith(method)]


class SweepTests(SynchronousTestCase):
    """What becomes of orders whose reservation nobody answers."""

    def setUp(self) -> None:
        """A world; its inventory is away."""
        self.swept = Swept()
        self.addCleanup(self.swept.close)
        self.world = self.swept.world
        self.world.kill("inventory")

    def test_alive(self) -> None:
        """A message that the MOM keeps stays one, however often it is offered, and takes effect once."""
        self.swept.shoppers.order("ann", a=2)
        self.world.push(5)
        (kept,) = self.swept.messages("/ReserveStock")
        for _ in range(10):
            before = self.swept.put()
            self.swept.sweep()
            self.assertEqual(self.swept.put(), before + 1)
            self.world.push(6)
            self.assertEqual(self.swept.offered(), [])
        self.assertEqual(self.swept.messages("/ReserveStock"), [kept])
        self.swept.shoppers.heal()
        self.swept.shoppers.check()
        self.assertEqual(self.swept.statuses(), ["CONFIRMED"])

    def test_finished(self) -> None:
        """A message that the MOM has finished, and whose reply was discarded, is answered with its outcome."""
        self.swept.shoppers.order("ann", a=2)
        self.world.push(5)
        self.world.kill("orders")
        self.world.start("inventory")
        self.world.push(5)
        self.world.kill("mom")
        with self.swept.engines["mom"].begin() as connection:
            for table in ("lanes", "messages"):
                where = "lane" if table == "lanes" else "method LIKE '%ApplyOutcome' AND lane"
                gone = "SELECT lane FROM messages WHERE method LIKE '%ApplyOutcome'"
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE {where} IN ({gone})")
        self.world.kill("inventory")
        self.world.start("mom")
        self.world.start("orders")
        self.world.push(5)
        self.assertEqual(self.swept.statuses(), ["PENDING"])
        # The MOM knows the outcome without asking; but it looks only while its destination answers.
        self.world.start("inventory")
        self.swept.sweep()
        self.world.push(6)
        self.assertEqual(self.swept.statuses(), ["CONFIRMED"])
        self.assertEqual(books(self.swept.shoppers), [])

    def test_dead(self) -> None:
        """A reservation that the MOM has given up, and whose reply was discarded, is not asked for for ever: the order is
        rejected, and what it may have taken is given back. Put back and delivered after that it takes nothing."""
        self.swept.shoppers.order("ann", a=2)
        self.world.push(5)
        self.world.kill("mom")
        (message_id,) = self.swept.messages("/ReserveStock")
        with self.swept.engines["mom"].begin() as connection:
            kept = store.find(connection, message_id)
            assert kept is not None
            settling.finish(connection, kept.seq, DEAD, self.world.now())
        self.world.start("mom")
        self.world.start("inventory")
        self.swept.sweep()
        self.assertEqual(self.swept.offered(), [message_id])
        self.world.push(10)
        self.assertEqual((self.swept.statuses(), self.swept.offered()), (["REJECTED"], []))
        self.assertEqual(rows(self.swept.engines["orders"], "SELECT 1 FROM steps WHERE done_at IS NULL"), [])
        self.world.kill("mom")
        with self.swept.engines["mom"].begin() as connection:
            settling.revive(connection, message_id, self.world.now() + 10**9, self.world.now())
        self.world.start("mom")
        self.world.push(10)
        self.assertEqual(self.swept.statuses(), ["REJECTED"])
        self.assertEqual(books(self.swept.shoppers), [])

    def test_mom_without_memory(self) -> None:
        """Reservations and releases that went to a MOM which has lost its disk are asked for again."""
        for user in ("ann", "bob"):
            self.swept.shoppers.order(user, a=2)
        self.world.push(5)
        self.swept.shoppers.cancel(0)
        self.world.push(5)
        self.swept.replace("mom")
        self.world.start("inventory")
        self.world.push(30)
        self.assertEqual(self.swept.statuses(), ["CANCELLED", "PENDING"])
        self.swept.sweep()
        self.world.push(10)
        self.assertEqual(self.swept.statuses(), ["CANCELLED", "CONFIRMED"])
        self.assertEqual(books(self.swept.shoppers), [])
        self.swept.sweep()
        self.assertEqual(rows(self.swept.engines["orders"], "SELECT 1 FROM steps WHERE done_at IS NULL"), [])


class AnythingTests(SynchronousTestCase):
    """Every history, with sweeps in between."""

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.one_of(ACTIONS, SWEEPS), min_size=5, max_size=40))
    def test_in_the_end(self, actions: list[tuple[Any, ...]]) -> None:
        """The sweep loses nothing, doubles nothing, and leaves nothing stuck."""
        swept = Swept()
        try:
            for action in actions:
                if action[0] == "sweep":
                    swept.sweep()
                else:
                    act(swept.world, swept.shoppers, action)
            swept.shoppers.heal()
            swept.shoppers.check()
        except Exception as error:
            raise AssertionError(f"after {actions}: {error}") from error
        finally:
            swept.close()
            self.flushLoggedErrors()
