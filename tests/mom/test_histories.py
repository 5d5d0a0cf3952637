"""Whatever happens to messages in whatever order: the rows that sum them up stay true."""

from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select

from bookd.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from bookd.mom import forgetting, settling, store
from bookd.mom.machine import Event, IllegalTransition
from bookd.mom.schema import blockers, lanes, messages, queues
from bookd.testing.faults import overhear
from tests.mom.room import (
    CANCELLED,
    DAY,
    DEAD,
    DECLINED,
    DESTINATION,
    NOW,
    StoreTestCase,
    done,
    draft,
    number_id,
    unsound,
)


class Refusal(Exception):
    """The database does not want to."""


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            # What begins is there twice, so that something is under way.
            [
                "keep",
                "keep",
                "block",
                "done",
                "declined",
                "dead",
                "cancel",
                "failed",
                "refused",
                "forget",
                "revive",
                "purge",
            ]
        ),
        st.integers(0, 7),
        st.sampled_from("abc"),
    ),
    max_size=40,
)


class Model:
    """What is told of lanes, without a database: a message may be delivered when all before it in its lane are over, and
    none of these is a dead letter that blocks."""

    def __init__(self) -> None:
        self.lanes: dict[int, str] = {}  # of messages by their numbers, in the order in which they were kept
        self.states: dict[int, str] = {}

    def take(self, verb: str, number: int, lane: str) -> None:
        """A step that was not refused."""
        if verb == "keep" and number not in self.states:
            self.lanes[number], self.states[number] = lane, "waits"
        elif verb == "revive":
            self.states[number] = "waits"
        elif verb == "forget":
            del self.states[number], self.lanes[number]
        elif number in self.states and verb in ("done", "declined", "cancel", "dead", "block"):
            self.states[number] = {"dead": "dead", "block": "blocks"}.get(verb, "done")

    def purge(self, left: set[int]) -> None:
        """What is over may be gone; the rest must not be."""
        for number in self.states.keys() - left:
            assert self.states[number] == "done"
            del self.states[number], self.lanes[number]

    def heads(self) -> dict[str, int]:
        """Of each lane that has one the message that may be delivered."""
        found: dict[str, int] = {}
        for number, lane in self.lanes.items():
            if self.states[number] == "waits":
                found.setdefault(lane, number)
            elif self.states[number] == "blocks":
                found.setdefault(lane, -1)
        return {lane: number for lane, number in found.items() if number >= 0}


class AnyHistoryTests(StoreTestCase):
    """Whatever happens in whatever order."""

    @settings(max_examples=60, deadline=None)
    @given(STEPS)
    def test_lanes_stay_sound(self, steps: list[tuple[str, int, str]]) -> None:
        """After each step every lane has its first message; whatever a step refuses it leaves as it was; and those
        messages are offered, and no others, that a model of lanes without a database would offer."""
        model = Model()
        with self.engine.connect() as connection, connection.begin() as transaction:
            for step in steps:
                before = _whole(connection)
                savepoint = connection.begin_nested()
                try:
                    _take(connection, *step)
                    savepoint.commit()
                    model.take(*step)
                except (IllegalTransition, NotFound, FailedPrecondition, InvalidArgument):
                    savepoint.rollback()
                    self.assertEqual(_whole(connection), before)
                self.assertEqual(unsound(connection), [])
                model.purge({number for number in range(8) if store.find(connection, number_id(number)) is not None})
                heads = store.ready(connection, DESTINATION, NOW + DAY, 99).messages
                self.assertEqual(
                    {kept.lane: UUID(kept.message_id).int for kept in heads if kept.lane != "r"}, model.heads()
                )
            transaction.rollback()

    @settings(max_examples=25, deadline=None)
    @given(STEPS, st.integers(0, 6))
    def test_fails_at_any_statement(self, steps: list[tuple[str, int, str]], nth: int) -> None:
        """A step whose n-th statement fails has done nothing, for any n."""
        countdown = [-1]

        def refuse(*_: Any) -> None:
            countdown[0] -= 1
            if countdown[0] == -1:
                raise Refusal

        try:
            with overhear(self.engine, refuse):
                for step in steps:
                    before = self.do(_whole)
                    try:
                        with self.engine.begin() as connection:
                            countdown[0] = nth
                            _take(connection, *step)
                            countdown[0] = -1
                    except (Refusal, IllegalTransition, NotFound, FailedPrecondition, InvalidArgument):
                        countdown[0] = -1
                        self.assertEqual(self.do(_whole), before)
                    countdown[0] = -1
                    self.do(lambda connection: None)
        finally:
            with self.engine.begin() as connection:
                connection.execute(lanes.delete())
                connection.execute(blockers.delete())
                connection.execute(messages.delete())
                connection.execute(queues.delete())


def _take(connection: Connection, verb: str, number: int, lane: str) -> None:
    if verb == "keep":
        store.keep(connection, draft(number, lane), NOW + number)
        return
    if verb == "purge":
        forgetting.purge(connection, NOW + number, 2)
        return
    if verb == "forget":
        forgetting.forget(connection, number_id(number))
        return
    if verb == "revive":
        settling.revive(connection, number_id(number), NOW + DAY, NOW)
        return
    kept = store.find(connection, number_id(number))
    if kept is None:
        return
    if verb in ("failed", "refused"):
        what = Event.FAILED if verb == "failed" else Event.POSTPONED
        settling.postpone(connection, kept.seq, what, NOW + number, "again", NOW)
        return
    outcome = {"done": done(), "declined": DECLINED, "cancel": CANCELLED}.get(verb, DEAD)
    settling.finish(
        connection,
        kept.seq,
        outcome,
        NOW,
        block_lane=verb == "block",
        reply=draft(number + 100, "r") if lane == "c" else None,
    )


def _whole(connection: Connection) -> list[Any]:
    return [
        tuple(row)
        for table in (messages, lanes, blockers, queues)
        for row in connection.execute(select(table).order_by(*table.primary_key.columns))
    ]
