"""The courier while operators pause, discard and put back, on a disk that takes its time, in a MOM that is killed.

The desk does nothing by itself: the test says when a unit of work is committed, when a read looks, and, later, when each is
told of. So whatever may happen between these happens.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bookd.errors import Cancelled, Internal, NotFound, Unavailable
from bookd.mom import ledger, store
from bookd.mom.breaker import Breaker
from bookd.mom.courier import Courier
from bookd.mom.destination import Destination
from bookd.mom.lanes import Lanes
from bookd.mom.machine import Event, MessageState
from bookd.mom.operations import ended
from bookd.mom.spool import Spool
from bookd.testing.desk import ImmediateDesk
from tests.mom.room import CAREFULLY, DAY, DESTINATION, NOW, POLICY, SEND, draft, number_id, post
from tests.mom.test_courier import DEADLINE, GRACE, Channel, CourierTestCase

GONE = ended(Event.CANCELLED, Cancelled("cancelled"))
OVER = (MessageState.SUCCEEDED, MessageState.FAILED, MessageState.CANCELLED)


class SlowDesk:
    """A desk whose work is done when the test says so. Writes are committed in their order, and told of in it; so reads."""

    def __init__(self, engine: Engine) -> None:
        self._desk = ImmediateDesk(engine)
        self.waiting: dict[str, list[tuple[Callable[[], Any], Deferred[Any]]]] = {"write": [], "read": []}
        self.done: dict[str, list[tuple[Any, Deferred[Any]]]] = {"write": [], "read": []}

    def write(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Fires when the test says so."""
        return self._later("write", lambda: self._desk.write(work, *args, **kwargs))

    def read(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Likewise."""
        return self._later("read", lambda: self._desk.read(work, *args, **kwargs))

    def _later(self, kind: str, run: Callable[[], Any]) -> Deferred[Any]:
        told: Deferred[Any] = Deferred(lambda _: None)
        self.waiting[kind].append((run, told))
        return told

    def run(self, kind: str) -> None:
        """Do the first that waits; nobody is told yet."""
        if self.waiting[kind]:
            run, told = self.waiting[kind].pop(0)
            results: list[Any] = []
            run().addBoth(results.append)
            self.done[kind].append((results[0], told))

    def tell(self, kind: str) -> None:
        """Tell of the first that is done."""
        if self.done[kind]:
            result, told = self.done[kind].pop(0)
            if not told.called:
                told.callback(result)

    def settle(self) -> None:
        """Do all, and tell of it."""
        while any(self.waiting.values()) or any(self.done.values()):
            for kind in ("write", "read"):
                self.run(kind)
                self.tell(kind)


LANE, NUMBER = st.sampled_from("ab"), st.integers(0, 9)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), LANE, st.booleans()),
        st.tuples(st.sampled_from(["revive", "discard", "cancel", "die", "die"]), NUMBER),
        st.tuples(st.sampled_from(["ok", "ok", "ok", "final", "poison", "poison", "unavailable"]), NUMBER),
        st.tuples(st.sampled_from(["run", "run", "tell", "tell"]), st.sampled_from(["write", "read"])),
        st.tuples(st.sampled_from(["settle", "settle", "revive all", "pause", "resume", "down", "up", "time", "kill"])),
    ),
    min_size=5,
    max_size=70,
)


class OperatedTests(CourierTestCase):
    """Everything at once."""

    concurrency = 2

    def begin(self) -> None:
        """A new MOM over the same database."""
        self.clock = Clock()
        self.clock.advance(NOW / 1e6)
        self.channel = Channel()
        self.channel.answer = self.delivering
        self.desk = SlowDesk(self.engine)
        with self.engine.connect() as connection:
            paused = ledger.paused(connection)
        self.spool = Spool(self.desk, self.now, paused=paused)
        self.is_paused = bool(paused)
        self.breaker = Breaker("the post")
        self.courier = Courier(
            self.clock,
            Destination(DESTINATION, self.channel, self.breaker),
            self.spool,
            Lanes(),
            post(),
            POLICY,
            fraction=lambda: 0.5,
            concurrency=self.concurrency,
            deadline=DEADLINE,
            grace=GRACE,
        )
        self.courier.startService()
        self.breaker.serving()

    def end(self) -> None:
        """Stop; nothing is left behind."""
        for call in self.channel.open.values():
            call.addErrback(lambda _: None)
        stopping = self.courier.stopService()
        self.clock.advance(GRACE)
        self.desk.settle()
        self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def delivering(self, number: int) -> None:
        """A delivery begins: may it?"""
        if self.is_paused:
            self.faults.append(f"{number} was delivered to a queue that is paused")
        if number in self.withdrawn:
            self.faults.append(f"{number} was delivered after it was withdrawn")
        if number in self.died:  # it came back: in front of what was kept after it, but for what is under way
            return
        for other in range(number):
            if self.lane_of[other] != self.lane_of[number]:
                continue
            state = self.state_of(other)
            if state is None and other in self.acknowledged - self.discarded:
                self.faults.append(f"{other} is lost")
            elif state is MessageState.QUEUED and other not in self.died:
                self.faults.append(f"{number} was delivered before {other}")
            elif state is MessageState.DEAD and other in self.careful:
                self.faults.append(f"{number} was delivered though {other} blocks the lane")

    def step(self, verb: str, *more: Any) -> None:
        """One thing that happens."""
        if verb == "keep":
            lane, careful = more
            number = len(self.lane_of)
            self.lane_of[number] = lane
            if careful:
                self.careful.add(number)
            method = CAREFULLY if careful else SEND
            keeping = self.spool.keep(draft(number, lane, method=method, expire_at=NOW + 9 * DAY))
            keeping.addCallback(lambda _: self.acknowledged.add(number))
        elif verb in ("run", "tell"):
            getattr(self.desk, verb)(*more)
        elif verb == "settle":
            self.desk.settle()
        elif verb == "kill":
            self.channel.open.clear()
            self.begin()
        elif verb == "down":
            self.channel.open.clear()
            self.breaker.down("gone")
        elif verb == "up":
            self.breaker.serving()
        elif verb == "time":
            self.clock.advance(11)
        elif verb == "pause":
            pausing = Deferred.fromCoroutine(self.spool.pause(DESTINATION))
            pausing.addCallback(self.note_paused, self.spool, True)
        elif verb == "resume":
            self.is_paused = False  # from the moment in which it is asked
            Deferred.fromCoroutine(self.spool.resume(DESTINATION)).addCallback(self.note_paused, self.spool, False)
        elif verb == "revive all":
            letters = [(number_id(number), NOW + 9 * DAY) for number in sorted(self.died)]
            Deferred.fromCoroutine(self.spool.revive_all(letters))
        elif verb == "die":
            # All attempts at one, so that what stands behind it has its chance.
            for each in [("poison", more[0]), ("settle",), ("time",), ("settle",)] * POLICY.max_attempts:
                self.step(*each)
        elif verb in ("revive", "discard", "cancel"):
            self.operate(verb, *more)
        elif self.channel.open:
            number = sorted(self.channel.open)[more[0] % len(self.channel.open)]
            if verb == "poison":
                self.died.add(number)  # it may be
            errors = {"final": NotFound("no"), "poison": Internal("broken"), "unavailable": Unavailable("busy")}
            self.answer(number, errors.get(verb))

    def note_paused(self, _: None, spool: Spool, paused: bool) -> None:
        """A queue is paused, or is not any more, unless another MOM has taken over."""
        if spool is self.spool:
            self.is_paused = paused

    def operate(self, verb: str, number: int) -> None:
        """What is done to one message; much of it is refused."""
        if verb == "revive":
            work = self.spool.revive(number_id(number), NOW + 9 * DAY)
        elif verb == "discard":
            self.discarded.add(number)
            work = self.spool.forget(number_id(number), MessageState.DEAD)
        else:
            with self.engine.connect() as connection:
                kept = store.find(connection, number_id(number))
            if kept is None or kept.state is not MessageState.QUEUED or number in self.died:
                return
            if kept.seq in self.spool.in_flight:
                return
            self.withdrawn.add(number)
            withdrawing = Deferred.fromCoroutine(self.spool.withdraw(kept, GONE))
            withdrawing.addErrback(lambda _: None)
            return
        Deferred.fromCoroutine(work).addErrback(lambda failure: None)  # type: ignore[arg-type]

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(STEPS)
    def test_anything(self, steps: list[tuple[Any, ...]]) -> None:
        """What was acknowledged is never lost; each lane keeps its order, blocked lanes wait, paused queues rest, what was
        withdrawn stays so; and in the end all that is neither dead nor discarded has its outcome."""
        self.end()
        self.wipe()
        self.begin()
        for step in steps:
            self.step(*step)
            self.assertEqual(self.faults, [])
            if step[0] == "kill":
                self.withdrawn -= {number for number in self.withdrawn if self.state_of(number) not in OVER}
        self.step("settle")
        for verb in ["resume", *["up", "settle", "time", "settle", "revive all", "settle"] * 3]:
            self.step(verb)
        for _ in range(6 * len(self.lane_of) + 6):
            for verb in ("up", "settle", "ok", "settle", "time", "settle"):
                self.step(verb, *([0] if verb == "ok" else []))
        self.assertEqual(self.faults, [])
        for number in self.acknowledged - self.discarded:
            state = self.state_of(number)
            self.assertIsNotNone(state, f"{number} is lost")
            if state is not MessageState.DEAD:
                self.assertIn(state, OVER, f"{number} is stuck")
        self.do(lambda connection: None)  # which looks whether the lanes are sound

    def state_of(self, number: int) -> MessageState | None:
        """Where a message stands; None when it is not there."""
        with self.engine.connect() as connection:
            kept = store.find(connection, number_id(number))
        return None if kept is None else kept.state

    def wipe(self) -> None:
        """Begin anew."""
        self.lane_of: dict[int, str] = {}
        self.careful: set[int] = set()
        self.died: set[int] = set()
        self.discarded: set[int] = set()
        self.withdrawn: set[int] = set()
        self.acknowledged: set[int] = set()
        self.faults: list[str] = []
        with self.engine.begin() as connection:
            for table in ("lanes", "blockers", "messages", "queues"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
