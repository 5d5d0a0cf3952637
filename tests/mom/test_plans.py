"""How the MOM's statements find what they are asked for."""

from typing import Any

from bookd.mom import forgetting, overview, settling, store, together
from bookd.mom.machine import Event, MessageState
from bookd.testing.faults import overhear
from tests.mom.room import (
    DAY,
    DEAD,
    DESTINATION,
    NOW,
    StoreTestCase,
    done,
    draft,
    number_id,
)


class PlanTests(StoreTestCase):
    """How the database finds what it is asked for: by an index, however much is stored."""

    def plans(self, work: Any, *args: Any, **kwargs: Any) -> list[str]:
        """The plans of the statements that read or change messages and lanes."""
        statements: list[tuple[str, Any]] = []

        with overhear(self.engine, lambda *statement: statements.append(statement)), self.engine.begin() as connection:
            work(connection, *args, **kwargs)
        found = []
        with self.engine.begin() as connection:
            for statement, parameters in statements:
                if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
                    rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
                    found.append("; ".join(row[3] for row in rows))
        return found

    def test_by_index(self) -> None:
        """No verb that calls and deliveries wait for reads a whole table or sorts one."""
        kept = [self.keep(number, lane) for number, lane in enumerate("aabbcd")]
        for work, args, kwargs in (
            (store.keep, (draft(9, "a"), NOW), {}),
            (together.keep_all, ([(draft(number, lane), NOW) for number, lane in enumerate("aef", 10)],), {}),
            (store.look, (number_id(9), DESTINATION, "a"), {}),
            (store.ready, (DESTINATION, NOW, 9), {}),
            (settling.postpone, (kept[0].seq, Event.FAILED, NOW, "", NOW), {}),
            (settling.finish, (kept[0].seq, done(), NOW), {}),
            (settling.finish, (kept[2].seq, DEAD, NOW), {"block_lane": True}),
            (forgetting.forget, (number_id(0),), {}),
            (forgetting.purge, (NOW + 1, 5), {}),
            (store.expired, (NOW + DAY, 5), {}),
        ):
            for plan in self.plans(work, *args, **kwargs):
                self.assertNotIn("SCAN messages", plan, work.__name__)
                self.assertNotIn("SCAN lanes", plan, work.__name__)
                if work is not store.ready:  # it sorts the few heads that it found
                    self.assertNotIn("TEMP B-TREE", plan, work.__name__)

    def test_next_of_a_lane(self) -> None:
        """The next message of a lane is found in the index of that lane, whatever waits in others."""
        kept = self.keep(1)
        self.keep(2)
        plans = self.plans(settling.finish, kept.seq, done(), NOW)
        self.assertTrue(any("messages_by_lane (destination=? AND lane=? AND state=?)" in plan for plan in plans), plans)
        self.assertFalse(any("messages_by_state" in plan for plan in plans), plans)

    def test_pages(self) -> None:
        """A page is read in the order of an index."""
        for subject, state, index in (
            ("ada", None, "messages_by_subject"),
            (None, MessageState.DEAD, "messages_by_state"),
        ):
            plan = self.plans(overview.page, subject, state, 9, 5)[0]
            self.assertIn(index, plan)
            self.assertNotIn("TEMP B-TREE", plan)
