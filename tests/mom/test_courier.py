"""Tests for `bookd.mom.courier`, with a channel whose calls the test answers, a real store, and a clock that is pushed."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from bookd.contract import metadata
from bookd.errors import (
    BY_CODE,
    BookdError,
    Cancelled,
    Code,
    DeadlineExceeded,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from bookd.mom import store
from bookd.mom.breaker import Breaker, BreakerState
from bookd.mom.courier import LONGEST_REFUSAL, RECOVERY, SLOW, Courier
from bookd.mom.destination import Destination
from bookd.mom.lanes import Lanes
from bookd.mom.machine import Event, MessageState
from bookd.mom.records import Draft, Kept, Outcome
from bookd.mom.spool import Spool
from bookd.testing.desk import ImmediateDesk
from bookd.wire.mom.v1 import message_pb2
from tests.mom.room import (
    CAREFULLY,
    DAY,
    DESTINATION,
    NOW,
    OTHER,
    POLICY,
    SECOND,
    TAKE,
    StoreTestCase,
    draft,
    number_id,
    post,
    read_letter,
    receipt,
)

DEADLINE, GRACE = 10.0, 1.0


class Channel:
    """A channel: `answer` answers a call, or it hangs in `open` under the number of its message."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, Any], float]] = []
        self.open: dict[int, Deferred[bytes]] = {}
        self.most = 0
        self.answer: Callable[[int], Deferred[bytes] | None] = lambda number: None

    def unary_unary(self, path: str) -> Callable[..., Deferred[bytes]]:
        """A callable, as of a real channel."""

        def call(request: bytes, timeout: float, metadata: Any) -> Deferred[bytes]:
            number = int(read_letter(request).text) if path != TAKE else -1
            self.calls.append((number, dict(metadata), timeout))
            answered = self.answer(number)
            if answered is not None:
                return answered
            assert number not in self.open
            self.open[number] = Deferred()
            self.most = max(self.most, len(self.open))
            return self.open[number]

        return call

    def numbers(self) -> list[int]:
        """Which messages were called for, in order."""
        return [number for number, _, _ in self.calls]


class CourierTestCase(StoreTestCase):
    """A courier before an empty store; its destination answers its health checks when the test says so."""

    concurrency = 8

    def setUp(self) -> None:
        """Start."""
        super().setUp()
        self.begin()

    def begin(self) -> None:
        """A new MOM over the same store."""
        self.clock = Clock()
        self.clock.advance(NOW / 1e6)
        self.channel = Channel()
        self.spool = Spool(ImmediateDesk(self.engine), self.now)
        self.lanes = Lanes()
        self.breaker = Breaker("the post")
        self.courier = Courier(
            self.clock,
            Destination(DESTINATION, self.channel, self.breaker),
            self.spool,
            self.lanes,
            post(),
            POLICY,
            fraction=lambda: 0.999,
            concurrency=self.concurrency,
            deadline=DEADLINE,
            grace=GRACE,
        )
        self.courier.startService()
        self.addCleanup(self.end)

    def end(self) -> None:
        """Stop; nothing is left behind."""
        if self.courier.running:
            stopping = self.courier.stopService()
            self.clock.advance(GRACE)
            self.successResultOf(stopping)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.spool.in_flight, set())

    def now(self) -> int:
        """Microseconds."""
        return round(self.clock.seconds() * 1e6)

    def take(self, number: int, lane: str = "lane", **changes: Any) -> Kept:
        """Keep a message through the spool, which tells the courier."""
        made: Draft = draft(number, lane, **changes)
        kept: Kept = self.successResultOf(self.spool.keep(made))
        return kept

    def answer(self, number: int, result: BookdError | bytes | None = None) -> None:
        """Answer the delivery of a message; a receipt unless something else is given."""
        call = self.channel.open.pop(number)
        if isinstance(result, BookdError):
            call.errback(result)
        else:
            call.callback(receipt() if result is None else result)

    def state(self, number: int) -> MessageState:
        """Where a message stands."""
        return self.found(number_id(number)).state


class DeliveryTests(CourierTestCase):
    """Messages that can be delivered."""

    def test_waits_for_the_breaker(self) -> None:
        """While it is not known that the destination answers nothing is delivered; then at once."""
        self.take(1)
        self.assertEqual(self.channel.calls, [])
        self.breaker.serving()
        self.assertEqual(self.channel.numbers(), [1])
        self.answer(1, receipt("fine"))
        found = self.found(number_id(1))
        self.assertEqual((found.state, found.response, found.attempts), (MessageState.SUCCEEDED, receipt("fine"), 0))

    def test_carries(self) -> None:
        """The id, the principal and what else came with the call go along, and the mark of a redelivery."""
        self.breaker.serving()
        self.take(1, principal=b"\n\x03ada", metadata={metadata.REQUEST_ID: "r1", metadata.TRACEPARENT: "t"})
        ((_, carried, seconds),) = self.channel.calls
        self.assertEqual(
            carried,
            {
                metadata.MESSAGE_ID: number_id(1),
                metadata.PRINCIPAL: b"\n\x03ada",
                metadata.REQUEST_ID: "r1",
                metadata.TRACEPARENT: "t",
                metadata.REDELIVERY: "1",
            },
        )
        self.assertEqual(seconds, DEADLINE)

    def test_one_of_a_lane_at_a_time(self) -> None:
        """The second of a lane goes when the first has its outcome, whichever that is."""
        self.breaker.serving()
        for number in range(3):
            self.take(number)
        self.assertEqual(self.channel.numbers(), [0])
        self.answer(0)
        self.assertEqual(self.channel.numbers(), [0, 1])
        self.answer(1, NotFound("no such box"))
        self.assertEqual(self.channel.numbers(), [0, 1, 2])
        self.assertIs(self.state(1), MessageState.FAILED)

    def test_lanes_do_not_wait(self) -> None:
        """A lane whose first message hangs costs the others nothing but a moment after the start."""
        self.breaker.serving()
        self.take(0, "slow")
        for number in range(1, 6):
            self.take(number, f"lane {number % 2}")
        self.clock.advance(SLOW)
        while set(self.channel.open) != {0}:
            self.answer(max(self.channel.open))
        self.assertEqual([self.state(number).name for number in range(6)], ["QUEUED"] + ["SUCCEEDED"] * 5)
        self.answer(0)

    def test_many_slow(self) -> None:
        """Several that hang leave room too, up to the limit."""
        self.breaker.serving()
        for number in range(20):
            self.take(number, str(number))
        for width in range(1, 9):
            self.assertGreaterEqual(len(self.channel.open), width)
            self.clock.advance(SLOW)
        self.assertEqual(len(self.channel.open), 8)

    def test_slow_start(self) -> None:
        """After an outage one lane is tried, then one more for each answer, up to the limit."""
        for number in range(40):
            self.take(number, str(number))
        self.breaker.serving()
        widths = [len(self.channel.open)]
        for _ in range(12):
            self.answer(min(self.channel.open))
            widths.append(len(self.channel.open))
        self.assertEqual(widths, [1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8, 8, 8])
        self.breaker.down("gone")
        self.assertEqual(len(self.channel.open), 8)  # the fake does not hear that they are cancelled
        self.channel.open.clear()
        self.breaker.serving()
        self.assertEqual(len(self.channel.open), 1)

    def test_disk_is_slow(self) -> None:
        """While outcomes wait for the disk the destination gets more, never more calls at a time than the limit, and
        nothing of a lane whose outcome waits."""
        held: list[Callable[[], Any]] = []
        write = self.spool.desk.write

        def later(work: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
            written: Deferred[Any] = Deferred()
            held.append(lambda: write(work, *args, **kwargs).addBoth(written.callback))
            return written

        for number in range(60):
            self.take(number, str(number % 30))
        self.patch(self.spool.desk, "write", later)
        self.breaker.serving()
        for _ in range(30):
            self.assertLessEqual(len(self.channel.open), self.concurrency)
            self.answer(min(self.channel.open))
        self.assertEqual(self.channel.open, {})
        self.assertEqual(len(held), 30)
        while held:
            held.pop(0)()
            self.assertLessEqual(len(self.channel.open), self.concurrency)
            if len(self.channel.open) == self.concurrency:
                self.answer(min(self.channel.open))
        self.assertEqual(sorted(self.channel.numbers())[:52], list(range(52)))
        while self.channel.open:
            self.answer(min(self.channel.open))
            while held:
                held.pop(0)()
        self.assertEqual(sorted(self.channel.numbers()), list(range(60)))

    def test_forwarding_has_precedence(self) -> None:
        """While a call of a lane is forwarded nothing of that lane is delivered; the courier hears when it may be."""
        self.breaker.serving()
        self.successResultOf(self.lanes.enter((DESTINATION, "lane")))
        self.lanes.forward((DESTINATION, "lane"))
        self.take(1)
        self.assertEqual(self.channel.calls, [])
        if self.lanes.leave((DESTINATION, "lane")):
            self.spool.arrived(DESTINATION)
        self.assertEqual(self.channel.numbers(), [1])
        self.answer(1)

    def test_expired(self) -> None:
        """A message whose time is over when its turn comes is a dead letter, undelivered."""
        self.take(1, expire_at=NOW + SECOND)
        self.clock.advance(2)
        self.breaker.serving()
        self.assertEqual(self.channel.calls, [])
        found = self.found(number_id(1))
        self.assertEqual((found.state, found.status_code), (MessageState.DEAD, Code.DEADLINE_EXCEEDED))
        self.assertEqual(found.attempts, 0)

    def test_left_by_an_earlier_run(self) -> None:
        """What an earlier MOM has left is delivered by the next."""
        self.take(1)
        self.end()
        self.begin()
        self.breaker.serving()
        self.assertEqual(self.channel.numbers(), [1])
        self.answer(1)


class FailureTests(CourierTestCase):
    """Messages that cannot be delivered, or not now."""

    def setUp(self) -> None:
        """The destination is there."""
        super().setUp()
        self.breaker.serving()

    def test_poison(self) -> None:
        """A message that the destination answers without deciding is tried again after pauses that grow; after its last
        attempt it is a dead letter with the last error, and its lane moves on."""
        self.take(1)
        self.take(2)
        for attempt, longest in ((1, 1.0), (2, 2.0)):
            self.answer(1, Internal("broken"))
            self.assertEqual(self.found(number_id(1)).attempts, attempt)
            self.clock.advance(longest * 0.99)
            self.assertEqual(self.channel.open, {})
            self.clock.advance(longest * 0.01)
            self.assertEqual(list(self.channel.open), [1])
        self.answer(1, Unknown("broken for good", reason="WHY"))
        found = self.found(number_id(1))
        self.assertEqual((found.state, found.status_code, found.attempts), (MessageState.DEAD, Code.UNKNOWN, 3))
        self.assertEqual(found.last_error, "UNKNOWN: broken for good")
        self.assertEqual(list(self.channel.open), [2])
        self.answer(2)

    def test_every_code(self) -> None:
        """What each status code does to a message of a destination that is well."""
        for number, (code, kind) in enumerate(BY_CODE.items()):
            self.take(number, str(number))
            self.answer(number, kind("because"))
            self.breaker.serving()
            found = self.found(number_id(number))
            if code in (Code.UNAVAILABLE, Code.CANCELLED):
                expected = (MessageState.QUEUED, 0, 1)
            elif code in (
                Code.UNKNOWN,
                Code.INTERNAL,
                Code.DATA_LOSS,
                Code.DEADLINE_EXCEEDED,
                Code.RESOURCE_EXHAUSTED,
            ):
                expected = (MessageState.QUEUED, 1, 0)
            else:
                expected = (MessageState.FAILED, 0, 0)
            self.assertEqual((found.state, found.attempts, found.refusals), expected, code.name)

    def test_neighbours(self) -> None:
        """A poisoned lane costs others nothing."""
        self.take(1, "a")
        self.answer(1, Internal("broken"))
        self.take(2, "b")
        self.answer(2)
        self.assertIs(self.state(2), MessageState.SUCCEEDED)

    def test_own_policy(self) -> None:
        """An rpc's own retry policy takes the place of the defaults."""
        self.take(1, method=CAREFULLY)
        self.answer(1, Internal("broken"))
        self.clock.advance(3.9)
        self.assertEqual(self.channel.open, {})
        self.clock.advance(0.1)
        self.answer(1, Internal("broken"))
        self.assertIs(self.state(1), MessageState.DEAD)

    def test_blocks(self) -> None:
        """Where the policy says so a dead letter keeps its lane blocked, for calls too, until it is discarded."""
        self.take(1, method=CAREFULLY)
        self.take(2)
        self.answer(1, Internal("broken"))
        self.clock.advance(4)
        self.answer(1, Internal("broken"))
        self.assertEqual(self.channel.open, {})
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.spool.look(draft(3))))[1])
        self.successResultOf(Deferred.fromCoroutine(self.spool.forget(number_id(1))))
        self.assertEqual(list(self.channel.open), [2])
        self.answer(2)

    def test_refused_by_a_healthy_destination(self) -> None:
        """A destination that is well and will not take a message gets it again after pauses that stay short, and that
        never counts as an attempt."""
        self.take(1)
        for _ in range(12):
            self.answer(1, Unavailable("too busy"))
            self.breaker.serving()
            self.clock.advance(LONGEST_REFUSAL / SECOND)
        found = self.found(number_id(1))
        self.assertEqual((found.attempts, found.refusals), (0, 12))
        self.answer(1)
        self.assertIs(self.state(1), MessageState.SUCCEEDED)

    def test_outage(self) -> None:
        """A day without the destination costs no attempt; when it is back all are delivered, in order."""
        self.take(1, expire_at=NOW + 3 * DAY)
        self.take(2, expire_at=NOW + 3 * DAY)
        self.answer(1, Unavailable("nobody"))
        self.breaker.down("gone")
        for _ in range(24):
            self.clock.advance(3600)
        found = self.found(number_id(1))
        self.assertEqual((found.state, found.attempts, found.refusals), (MessageState.QUEUED, 0, 0))
        self.breaker.serving()
        self.answer(1)
        self.answer(2)
        self.assertEqual(self.channel.numbers(), [1, 1, 2])

    def test_opens_under_a_delivery(self) -> None:
        """A delivery that is under way when the destination goes away is made again when it is back."""
        self.take(1)
        self.breaker.down("gone")
        self.assertEqual(self.spool.in_flight, set())
        self.channel.open.clear()
        self.breaker.serving()
        self.assertEqual(self.channel.numbers(), [1, 1])
        self.answer(1)

    def test_deadline_of_one_that_hangs(self) -> None:
        """A deadline that runs out because the destination is gone is no attempt."""
        self.take(1)
        self.breaker.state = BreakerState.HALF_OPEN
        self.answer(1, DeadlineExceeded("too late"))
        self.breaker.down("no answer")
        self.assertEqual(self.found(number_id(1)).attempts, 0)

    def test_too_large(self) -> None:
        """A message that is larger than the destination takes does not come back for ever."""
        self.take(1)
        for _ in range(3):
            self.answer(1, ResourceExhausted("larger than max"))
            self.clock.advance(10)
        self.assertIs(self.state(1), MessageState.DEAD)

    def test_disk_refuses(self) -> None:
        """When an outcome cannot be written the courier rests, and delivers again under the same id."""
        self.take(1)
        with self.engine.begin() as connection:
            connection.execute(
                text("CREATE TRIGGER full BEFORE UPDATE ON messages BEGIN SELECT RAISE(ROLLBACK, 'full'); END")
            )
        self.answer(1)
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        self.take(2, "other")
        self.assertEqual(self.channel.open, {})
        with self.engine.begin() as connection:
            connection.execute(text("DROP TRIGGER full"))
        self.clock.advance(RECOVERY)
        self.answer(1)
        self.answer(2)
        self.assertEqual([self.state(1), self.state(2)], [MessageState.SUCCEEDED] * 2)

    def test_queue_cannot_be_read(self) -> None:
        """When the store cannot be read the courier rests, and looks again."""
        with self.engine.begin() as connection:
            connection.execute(text("ALTER TABLE lanes RENAME TO gone"))
        self.courier.wake()
        self.assertEqual(len(self.flushLoggedErrors()), 1)
        with self.engine.begin() as connection:
            connection.execute(text("ALTER TABLE gone RENAME TO lanes"))
        self.take(1)
        self.clock.advance(RECOVERY)
        self.answer(1)

    def test_withdrawn(self) -> None:
        """A message that is withdrawn is not delivered; one that is being delivered cannot be."""
        self.take(1)
        self.take(2)
        kept = self.found(number_id(1))
        outcome = Outcome(Event.CANCELLED, Code.CANCELLED, status=b"s")
        self.assertFalse(self.successResultOf(Deferred.fromCoroutine(self.spool.withdraw(kept, outcome))))
        second = self.found(number_id(2))
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(self.spool.withdraw(second, outcome))))
        self.answer(1)
        self.assertEqual(self.channel.numbers(), [1])


class ReplyTests(CourierTestCase):
    """Outcomes that are told."""

    def told(self) -> message_pb2.Outcome:
        """The outcome in the reply that waits."""
        (kept,) = self.do(store.ready, OTHER, NOW + DAY, 9).messages
        self.assertEqual(kept.method, TAKE)
        request = post().methods[TAKE].request.FromString(kept.request)
        return message_pb2.Outcome.FromString(request.outcome.SerializeToString())

    def test_each_end(self) -> None:
        """A message that is answered, declined, or a dead letter tells so, once."""
        self.breaker.serving()
        self.take(1, reply_to=TAKE)
        self.answer(1, receipt("fine"))
        self.assertEqual((self.told().response, self.told().status.code), (receipt("fine"), 0))
        self.assertEqual(self.told().message_id, number_id(1))

    def test_declined(self) -> None:
        """So does one that was declined."""
        self.breaker.serving()
        self.take(1, reply_to=TAKE)
        self.answer(1, NotFound("no such box"))
        self.assertEqual((self.told().status.code, self.told().status.message), (Code.NOT_FOUND, "no such box"))

    def test_dead(self) -> None:
        """And a dead letter."""
        self.breaker.serving()
        self.take(1, reply_to=TAKE)
        for _ in range(3):
            self.answer(1, Internal("broken"))
            self.clock.advance(10)
        self.assertEqual(self.told().status.code, Code.INTERNAL)

    def test_expired(self) -> None:
        """And one that expired before its turn."""
        self.take(1, reply_to=TAKE, expire_at=NOW + 1)
        self.clock.advance(1)
        self.breaker.serving()
        self.assertEqual(self.told().status.code, Code.DEADLINE_EXCEEDED)

    def test_nobody_takes_it_any_more(self) -> None:
        """A method that is gone from the configuration is told nothing, and the message ends as it would."""
        self.breaker.serving()
        self.take(1, reply_to="/gone.Service/Take")
        self.answer(1)
        self.assertIs(self.state(1), MessageState.SUCCEEDED)


class StopTests(CourierTestCase):
    """A courier that stops."""

    def test_lets_deliveries_end(self) -> None:
        """A delivery that ends within the grace is written; no other begins."""
        self.breaker.serving()
        self.take(1)
        self.take(2)
        stopping = self.courier.stopService()
        self.assertNoResult(stopping)
        self.answer(1)
        self.successResultOf(stopping)
        self.assertIs(self.state(1), MessageState.SUCCEEDED)
        self.assertEqual(self.channel.numbers(), [1])

    def test_cuts_off(self) -> None:
        """A delivery that does not is cancelled, and its message is queued still."""
        self.breaker.serving()
        self.take(1)
        stopping = self.courier.stopService()
        self.clock.advance(GRACE)
        self.successResultOf(stopping)
        self.assertIs(self.state(1), MessageState.QUEUED)
        self.assertEqual(self.found(number_id(1)).attempts, 0)

    def test_cancelled_by_the_server(self) -> None:
        """A service that stops cuts off its calls with CANCELLED: that is no attempt."""
        self.breaker.serving()
        self.take(1)
        self.answer(1, Cancelled("the server stops"))
        self.breaker.down("gone")
        self.assertEqual(self.found(number_id(1)).attempts, 0)
        self.assertIs(self.state(1), MessageState.QUEUED)

    def test_timers_end(self) -> None:
        """A courier that waits for a message's time stops at once."""
        self.breaker.serving()
        self.take(1)
        self.answer(1, Internal("broken"))
        self.successResultOf(self.courier.stopService())
        self.clock.advance(100)
        self.assertEqual(self.channel.numbers(), [1])


ENDS = st.sampled_from(["ok", "ok", "ok", "final", "poison", "unavailable", "down", "up", "time", "restart"])


class AnyHistoryTests(CourierTestCase):
    """Whatever the destination does, in whatever order."""

    concurrency = 3

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.tuples(ENDS, st.integers(0, 9)), max_size=60)
    )
    def test_order_and_nothing_lost(self, kept: list[int], steps: list[tuple[str, int]]) -> None:
        """In each lane a message is delivered only when those before it have an outcome; never two of a lane at a time;
        and at last every message has one."""
        with self.engine.begin() as connection:
            connection.execute(text("DELETE FROM lanes"))
            connection.execute(text("DELETE FROM messages"))
            connection.execute(text("DELETE FROM queues"))
        lane_of = {}
        self.finished: set[int] = set()
        for number, lane in enumerate(kept):
            self.take(number, str(lane))
            lane_of[number] = lane
        for verb, choice in [*steps, *[("up", 0), ("time", 0), ("ok", 0)] * (4 * len(kept) + 4)]:
            self.step(verb, choice)
            under_way = [lane_of[number] for number in self.channel.open]
            self.assertEqual(len(under_way), len(set(under_way)))
            for number in self.channel.open:
                before = {each for each in lane_of if each < number and lane_of[each] == lane_of[number]}
                self.assertLessEqual(before, self.finished)
        self.assertEqual(self.finished, set(lane_of))
        self.assertEqual(self.do(store.ready, DESTINATION, NOW + DAY, 9).messages, ())
        self.end()
        self.begin()

    def step(self, verb: str, choice: int) -> None:
        """One thing that happens."""
        if verb == "up":
            self.breaker.serving()
        elif verb == "down":
            self.channel.open.clear()
            self.breaker.down("gone")
        elif verb == "time":
            self.clock.advance(11)
        elif verb == "restart":
            self.channel.open.clear()
            self.end()
            self.begin()
        elif self.channel.open:
            number = sorted(self.channel.open)[choice % len(self.channel.open)]
            result = {"final": NotFound("no"), "poison": Internal("broken"), "unavailable": Unavailable("busy")}.get(
                verb
            )
            self.answer(number, result)
        with self.engine.begin() as connection:
            found = connection.execute(text("SELECT message_id FROM messages WHERE state <> 1"))
            self.finished |= {UUID(each).int for each in found.scalars()}


class AtOnceTests(CourierTestCase):
    """A destination that answers before the call returns."""

    def test_failing_at_once(self) -> None:
        """One that refuses at once is not asked without end."""
        self.channel.answer = lambda number: fail(Unavailable("closed"))
        self.take(1)
        self.breaker.serving()
        self.assertEqual(len(self.channel.calls), 1)
