"""Orders, inventory and MOM together: whatever happens on the way, in the end everything that was promised is true."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from twisted.trial.unittest import SynchronousTestCase

from bookd.inventory.servicer import InventoryServicer
from bookd.storage.engine import open_engine
from tests.faults.room import migrated
from tests.faults.shoppers import BOOKS, USERS, Shoppers
from tests.faults.world import FATES, PROCESSES, World

ACTIONS = st.one_of(
    st.tuples(st.just("order"), st.sampled_from(USERS), st.integers(1, 6), st.integers(0, 6)),
    st.tuples(st.just("order"), st.sampled_from(USERS), st.integers(1, 3), st.integers(0, 3)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("adjust"), st.sampled_from(BOOKS), st.integers(1, 4)),
    st.tuples(st.just("again"), st.integers(0, 9)),
    st.tuples(st.just("weather"), st.lists(st.sampled_from(FATES), max_size=12)),
    st.tuples(st.just("push"), st.sampled_from([0.1, 0.5, 2.0, 8.0])),
    st.tuples(st.just("kill"), st.sampled_from(PROCESSES)),
    st.tuples(st.just("dies"), st.sampled_from(PROCESSES), st.sampled_from(["before", "after"])),
    st.tuples(st.just("start"), st.sampled_from(PROCESSES)),
)


def disk(package: str) -> Engine:
    """A migrated database in memory."""
    engine, empty = open_engine(":memory:"), open_engine(migrated(package))
    source, target = empty.raw_connection(), engine.raw_connection()
    source.driver_connection.backup(target.driver_connection)  # type: ignore[union-attr]
    source.close()
    target.close()
    empty.dispose()
    return engine


def act(world: World, shoppers: Shoppers, action: tuple[Any, ...]) -> None:
    """Let something happen."""
    match action:
        case ("order", user, some, more):
            shoppers.order(user, **({"a": some, "b": more} if more else {"a": some}))
        case ("cancel", which):
            shoppers.cancel(which)
        case ("adjust", book_id, change):
            shoppers.adjust(book_id, change)
        case ("again", which):
            shoppers.again(which)
        case ("weather", fates):
            world.fates.extend(fates)
        case ("push", seconds):
            world.push(seconds)
        case ("kill", name):
            world.kill(name)
        case ("dies", name, when):
            if world.is_up(name):
                world.running[name].dies = when
        case ("start", name):
            world.start(name)


def lead(world_class: type[World], actions: list[tuple[Any, ...]]) -> None:
    """One history, from empty databases to the check."""
    engines = {name: disk(f"bookd.{name}") for name in PROCESSES}
    try:
        world = world_class(engines)
        shoppers = Shoppers(world)
        shoppers.supply()
        world.push(0.5)
        for action in actions:
            act(world, shoppers, action)
        shoppers.heal()
        shoppers.check()
    finally:
        for engine in engines.values():
            engine.dispose()


class AnythingTests(SynchronousTestCase):
    """Every history."""

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(ACTIONS, min_size=5, max_size=40))
    def test_in_the_end(self, actions: list[tuple[Any, ...]]) -> None:
        """Nothing is lost, doubled, out of order or stuck."""
        try:
            lead(World, actions)
        except Exception as error:
            # trial does not show the notes by which hypothesis names the history.
            raise AssertionError(f"after {actions}: {error}") from error
        finally:
            self.flushLoggedErrors()


class LateTests(SynchronousTestCase):
    """What is told of a call that comes again when everything is over."""

    def test_refused(self) -> None:
        """A call that was refused has no effect when a copy of it, which the network held back, comes after that."""
        history: list[Any] = [
            ("weather", ["fine", "late"]),
            ("adjust", "a", -11),  # the MOM's call is held back for longer than the MOM waits, then it is refused
            ("push", 5.5),
            ("adjust", "a", 5),  # now there would be enough
            ("push", 3.0),
        ]
        lead(World, history)


class Forgetful(InventoryServicer):
    """An inventory without an inbox."""

    async def _write(self, context: Any, answer: Any, now: int, work: Any) -> Any:
        return await self._desk.write(work)

    _jot = _write


class WithoutInbox(World):
    """A world that does not remember what was applied."""

    inventory_class = Forgetful


class SelfTests(SynchronousTestCase):
    """The world finds what it is there for."""

    def test_without_inbox(self) -> None:
        """Stock that is changed twice by one message is found; with the inbox the same history is sound."""
        for fate in ("twice", "answer lost", "answer late"):
            # The first call is the client's to the MOM, the second the MOM's to the inventory.
            history: list[Any] = [("weather", ["fine", fate]), ("adjust", "a", 3), ("push", 0.5)]
            lead(World, history)
            self.assertIn("in place of", str(self.assertRaises(AssertionError, lead, WithoutInbox, history)))
