"""Tests for `bookd.mom.router`: which calls are forwarded and which are kept, with a channel that the test answers."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock

from bookd.contract.call import fingerprint
from bookd.contract.status import detail
from bookd.errors import (
    BookdError,
    Cancelled,
    Code,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from bookd.mom import overview, settling, store
from bookd.mom.breaker import Breaker
from bookd.mom.destination import Destination
from bookd.mom.lanes import Lanes
from bookd.mom.machine import MessageState
from bookd.mom.router import SET_ASIDE, Router
from bookd.mom.spool import Spool
from bookd.testing.desk import ImmediateDesk
from bookd.wire.mom.v1.message_pb2 import Deferred as Told
from tests.mom.calls import context
from tests.mom.room import (
    CAREFULLY,
    DAY,
    DESTINATION,
    LOOK,
    NOW,
    POLICY,
    SECOND,
    SEND,
    StoreTestCase,
    done,
    draft,
    letter,
    number_id,
    post,
    receipt,
)

PATIENCE = 10.0


class SlowDesk(ImmediateDesk):
    """A desk whose writes are done when the test says so, in the order they were asked for."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.held: list[Callable[[], None]] | None = None
        self.fails: Exception | None = None

    def write(self, work: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run now, or when released."""
        if self.fails is not None:
            failed: Deferred[Any] = Deferred()
            failed.errback(self.fails)
            return failed
        if self.held is None:
            return super().write(work, *args, **kwargs)
        later: Deferred[Any] = Deferred()
        run = super().write
        self.held.append(lambda: run(work, *args, **kwargs).addBoth(later.callback) and None)
        return later

    def release(self) -> None:
        """Do what waits."""
        held, self.held = self.held or [], None
        for each in held:
            each()


class RouterTests(StoreTestCase):
    """A router before an empty store; the destination answers its health checks."""

    def setUp(self) -> None:
        """Wire it."""
        super().setUp()
        self.clock = Clock()
        self.clock.advance(NOW / 1e6)
        self.calls: list[tuple[bytes, float, dict[str, Any], Deferred[bytes]]] = []
        self.cancelled: list[Deferred[bytes]] = []
        self.broken = False
        self.breaker = Breaker("the post")
        self.desk = SlowDesk(self.engine)
        self.spool = Spool(self.desk, lambda: round(self.clock.seconds() * 1e6))
        self.lanes = Lanes()
        destination = Destination(DESTINATION, self, self.breaker)
        self.router = Router(
            self.clock, post(), {DESTINATION: destination}, self.spool, self.lanes, POLICY, patience=PATIENCE
        )
        self.breaker.serving()

    def tearDown(self) -> None:
        """No call leaves a turn or a timer behind."""
        self.assertEqual(len(self.lanes), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def unary_unary(self, path: str) -> Callable[..., Deferred[bytes]]:
        """The channel."""

        def call(request: bytes, timeout: float, metadata: Any) -> Deferred[bytes]:
            if self.broken:
                raise ZeroDivisionError
            answer: Deferred[bytes] = Deferred(self.cancelled.append)
            self.calls.append((request, timeout, dict(metadata), answer))
            return answer

        return call

    def call(self, number: int | None = 1, box: str = "box", path: str = SEND, **options: Any) -> Deferred[bytes]:
        """A call of the post."""
        raw = self.router.lookup(path)
        assert raw is not None
        message_id = None if number is None else number_id(number)
        request = letter(str(number), box)
        return maybeDeferred(raw.behaviour, request, context(message_id, "ada", "clerk", **options))

    def answer(self, index: int, result: BookdError | bytes) -> None:
        """Answer a call that was forwarded."""
        answer = self.calls[index][3]
        if isinstance(result, BookdError):
            answer.errback(result)
        else:
            answer.callback(result)

    def was_kept(self, calling: Deferred[bytes]) -> str:
        """Assert that a call was kept; its id."""
        told = detail(self.failureResultOf(calling, Unavailable).value, Told)
        assert told is not None
        message_id = told.operation.name.removeprefix("operations/")
        self.assertIsNotNone(self.do(store.find, message_id))
        return message_id

    def stored(self) -> int:
        """How many messages are stored."""
        return self.do(overview.count)

    def test_forwards(self) -> None:
        """Rule 3: a call whose lane is empty is forwarded, and nothing is written when it is answered."""
        calling = self.call()
        ((_, seconds, carried, _),) = self.calls
        self.assertAlmostEqual(seconds, 5.0 - SET_ASIDE)
        self.assertEqual(carried["bookd-message-id"], number_id(1))
        self.answer(0, receipt("fine"))
        self.assertEqual(self.successResultOf(calling), receipt("fine"))
        self.assertEqual(self.stored(), 0)

    def test_every_code(self) -> None:
        """Rules 3 and 4: which ends of a forwarded call go straight back, and which make it kept."""
        for number, kind in enumerate(BookdError.__subclasses__()):
            calling = self.call(number, str(number))
            self.answer(number, kind("because", reason="WHY"))
            if kind in (Unavailable, DeadlineExceeded, Cancelled):
                self.assertEqual(self.was_kept(calling), number_id(number))
                self.breaker.serving()
            else:
                self.assertEqual(self.failureResultOf(calling, kind).value.reason, "WHY")
                self.assertIsNone(self.do(store.find, number_id(number)))

    def test_cannot_be_made(self) -> None:
        """A call that cannot even be made fails, and leaves its lane to the next one."""
        self.broken = True
        self.failureResultOf(self.call(1), ZeroDivisionError)
        self.broken = False
        calling = self.call(2)
        self.answer(0, receipt("fine"))
        self.assertEqual(self.successResultOf(calling), receipt("fine"))

    def test_known(self) -> None:
        """Rule 1: an id that is known gets its outcome or its operation; nothing is forwarded."""
        raw = draft(1, "box", fingerprint=self.fingerprint(), request=letter("1", "box"))
        self.successResultOf(self.spool.keep(raw))
        self.assertEqual(self.was_kept(self.call()), number_id(1))
        self.do(settling.finish, self.found(number_id(1)).seq, done("fine"), NOW)
        self.assertEqual(self.successResultOf(self.call()), receipt("fine"))
        self.assertEqual(self.calls, [])

    def fingerprint(self) -> bytes:
        """Of the call that the others make."""
        return fingerprint(SEND, post().methods[SEND].request.FromString(letter("1", "box")))

    def test_known_for_another(self) -> None:
        """Rule 1: used for another request it is refused, forwarded or not."""
        self.successResultOf(self.spool.keep(draft(1)))
        error = self.failureResultOf(self.call(), InvalidArgument).value
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")

    def test_lane_holds_messages(self) -> None:
        """Rule 2: a call does not overtake what is kept of its lane; other lanes are free."""
        self.successResultOf(self.spool.keep(draft(7, "box")))
        self.assertEqual(self.was_kept(self.call()), number_id(1))
        self.assertEqual(self.calls, [])
        other = self.call(2, "other")
        self.answer(0, receipt())
        self.successResultOf(other)

    def test_down(self) -> None:
        """Rule 2: while the destination is down a deferrable call is kept, at once; others are refused, and never
        kept: reads, and calls without an id."""
        self.breaker.down("gone")
        self.assertEqual(self.was_kept(self.call()), number_id(1))
        for calling in (self.call(2, path=LOOK), self.call(None)):
            error = self.failureResultOf(calling, Unavailable).value
            self.assertEqual((error.reason, error.retry_after, error.details), ("DESTINATION_DOWN", 1.0, ()))
        self.assertEqual(self.stored(), 1)

    def test_doubt(self) -> None:
        """While it is not known whether the destination is there a call waits for the verdict."""
        self.breaker.doubt()
        first, second = self.call(1, "a"), self.call(2, "b")
        self.assertNoResult(first)
        self.breaker.serving()
        self.answer(0, receipt())
        self.answer(1, receipt())
        self.successResultOf(first)
        self.successResultOf(second)
        self.breaker.doubt()
        third = self.call(3, "c")
        self.breaker.down("gone")
        self.was_kept(third)

    def test_doubt_takes_too_long(self) -> None:
        """But not longer than its deadline allows: then it is kept."""
        self.breaker.doubt()
        calling = self.call(remaining=2.0)
        self.clock.advance(2.0 - SET_ASIDE)
        self.was_kept(calling)
        self.breaker.serving()

    def test_opens_under_a_call(self) -> None:
        """Rule 4: a call that is under way when the destination goes away is kept, and the forwarded one cancelled."""
        calling = self.call()
        self.breaker.down("gone")
        self.was_kept(calling)
        self.assertEqual(len(self.cancelled), 1)

    def test_one_of_a_lane_at_a_time(self) -> None:
        """Calls of one lane are forwarded one after another, those of others beside them."""
        first, second, third = self.call(1, "a"), self.call(2, "a"), self.call(3, "b")
        self.assertEqual(len(self.calls), 2)
        self.answer(0, receipt("1"))
        self.successResultOf(first)
        self.assertEqual(len(self.calls), 3)
        self.answer(2, receipt("2"))
        self.answer(1, receipt("3"))
        self.assertEqual(self.successResultOf(second), receipt("2"))
        self.assertEqual(self.successResultOf(third), receipt("3"))

    def test_queue_of_a_lane(self) -> None:
        """When the first of a lane has to be kept, those that wait behind it are kept behind it, in order."""
        calls = [self.call(number) for number in range(1, 6)]
        self.answer(0, Unavailable("nobody"))
        self.breaker.down("gone")
        self.assertEqual([self.was_kept(each) for each in calls], [number_id(number) for number in range(1, 6)])
        order = [each.message_id for each in self.do(overview.page, None, None, None, 9)[0]]
        self.assertEqual(order, [number_id(number) for number in range(5, 0, -1)])

    def test_waits_too_long_for_its_turn(self) -> None:
        """A call whose turn does not come in time is kept while the one before it is under way."""
        first, second = self.call(1), self.call(2, remaining=1.0)
        self.clock.advance(1.0 - SET_ASIDE)
        self.was_kept(second)
        self.answer(0, receipt())
        self.successResultOf(first)

    def test_no_deadline(self) -> None:
        """A deferrable call without a deadline is forwarded for as long as the MOM has patience; a read is not bounded."""
        calling = self.call(remaining=None)
        self.assertAlmostEqual(self.calls[0][1], PATIENCE - SET_ASIDE)
        reading = self.call(2, path=LOOK, remaining=None)
        self.assertIsNone(self.calls[1][1])
        self.answer(0, receipt())
        self.answer(1, receipt())
        self.successResultOf(calling)
        self.successResultOf(reading)

    def test_short_deadline(self) -> None:
        """Of a short deadline half is set aside."""
        calling = self.call(remaining=0.2)
        self.assertAlmostEqual(self.calls[0][1], 0.1)
        self.answer(0, DeadlineExceeded("too late"))
        self.was_kept(calling)

    def test_respond_async(self) -> None:
        """A caller that wants no waiting is not forwarded."""
        self.was_kept(self.call(bookd_respond_async="1"))
        self.assertEqual(self.calls, [])

    def test_told_only_when_on_disk(self) -> None:
        """Nobody is told before the message is on disk; the calls behind it are kept meanwhile."""
        self.desk.held = []
        self.breaker.down("gone")
        first, second = self.call(1), self.call(2)
        self.assertNoResult(first)
        self.assertNoResult(second)
        self.desk.release()
        self.assertEqual((self.was_kept(first), self.was_kept(second)), (number_id(1), number_id(2)))

    def test_disk_refuses(self) -> None:
        """When the disk refuses the answer is UNAVAILABLE without the detail that promises something."""
        self.desk.fails = Unavailable("the database refused", reason="STORAGE", retry_after=1.0)
        self.breaker.down("gone")
        error = self.failureResultOf(self.call(), Unavailable).value
        self.assertEqual((error.reason, error.details), ("STORAGE", ()))

    def test_caller_leaves_while_it_is_kept(self) -> None:
        """A caller that goes away does not undo the keeping."""
        self.desk.held = []
        self.breaker.down("gone")
        calling = self.call()
        calling.cancel()
        self.failureResultOf(calling, CancelledError)
        self.desk.release()
        self.assertEqual(self.stored(), 1)

    def test_caller_leaves_while_it_is_forwarded(self) -> None:
        """One that goes away before cancels its call, and makes room for the next of the lane."""
        first, second = self.call(1), self.call(2)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(len(self.cancelled), 1)
        self.answer(1, receipt())
        self.successResultOf(second)

    def test_caller_leaves_while_it_waits(self) -> None:
        """One that goes away while it waits for its turn leaves no trace."""
        first, second, third = self.call(1), self.call(2), self.call(3)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.answer(0, receipt())
        self.answer(1, receipt())
        self.successResultOf(first)
        self.successResultOf(third)
        self.assertEqual(len(self.calls), 2)

    def test_expiry(self) -> None:
        """A message expires when the policy of its rpc says, or else the default."""
        self.breaker.down("gone")
        self.was_kept(self.call(1))
        self.was_kept(self.call(2, path=CAREFULLY))
        self.assertEqual(self.found(number_id(1)).expire_at, NOW + DAY)
        self.assertEqual(self.found(number_id(2)).expire_at, NOW + 60 * SECOND)

    def test_lanes_of_calls(self) -> None:
        """The ordering key makes the lane, of whichever method; a call without one has a lane of its own."""
        self.breaker.down("gone")
        self.was_kept(self.call(1, "a"))
        self.was_kept(self.call(2, "a", path=CAREFULLY))
        self.was_kept(self.call(3, ""))
        self.was_kept(self.call(4, "x" * 5000))
        lanes = [self.found(number_id(number)).lane for number in range(1, 5)]
        self.assertEqual(lanes[:3], ["a", "a", number_id(3)])
        self.assertEqual(len(lanes[3]), 36)

    def test_what_is_kept(self) -> None:
        """All that the delivery needs is kept, and who owns the operation."""
        self.breaker.down("gone")
        self.was_kept(self.call(1, bookd_request_id="r", traceparent="t", x_secret="s"))
        kept = self.found(number_id(1))
        self.assertEqual(kept.metadata, {"bookd-request-id": "r", "traceparent": "t"})
        self.assertEqual((kept.subject, kept.request, kept.state), ("ada", letter("1", "box"), MessageState.QUEUED))
        self.assertIn(b"clerk", kept.principal)

    def test_poison_is_not_kept(self) -> None:
        """A failure that decides nothing goes back to the caller, who may repeat the call."""
        for number, kind in enumerate((Internal, ResourceExhausted)):
            calling = self.call(number, str(number))
            self.answer(number, kind("broken"))
            self.failureResultOf(calling, kind)
        self.assertEqual(self.stored(), 0)

    def test_store_is_asked_only_if_it_holds_anything(self) -> None:
        """While nothing is stored a call costs no look into the store."""
        self.successResultOf(Deferred.fromCoroutine(self.spool.count()))
        with self.engine.begin() as connection:
            connection.execute(text("ALTER TABLE lanes RENAME TO gone"))
        calling = self.call()
        self.answer(0, NotFound("no such box"))
        self.assertEqual(self.failureResultOf(calling, NotFound).value.code, Code.NOT_FOUND)
        with self.engine.begin() as connection:
            connection.execute(text("ALTER TABLE gone RENAME TO lanes"))
