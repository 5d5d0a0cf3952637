"""Tests for `bookd.bridge.relay`, on a fake desk, a fake channel and a clock that is pushed."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from google.longrunning.operations_pb2 import Operation
from sqlalchemy import Connection, MetaData
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge import relay
from bookd.bridge.relay import Relay
from bookd.contract import metadata
from bookd.errors import Cancelled, DeadlineExceeded, FailedPrecondition, Internal, NotFound, Unavailable, Violation
from bookd.storage import outbox
from bookd.storage.engine import open_engine
from bookd.storage.outbox import PUBLISH, Message, Trace
from bookd.testing.desk import ImmediateDesk
from bookd.testing.faults import watch
from bookd.wire.mom.v1 import message_pb2


def message(number: int, lane: str = "", **fields: Any) -> Message:
    """A message; a lane of its own unless one is named."""
    return Message(str(UUID(int=number)), lane or f"lane-{number}", f"/s/M{number}", b"request", **fields)


def kept() -> Unavailable:
    """What the MOM says when it has a call on disk."""
    return Unavailable("kept", details=[message_pb2.Deferred(operation=Operation(name="operations/1"))])


def event(number: int, subject: str = "", request: bytes = b"") -> Message:
    """A message that publishes an event; of a subject of its own unless one is named."""
    return Message(str(UUID(int=number)), f"event {subject or number}", PUBLISH, request or b"%d," % number)


class Refusal(Exception):
    """The database does not want to."""


class RelayTests(SynchronousTestCase):
    """A relay between an outbox and a channel whose calls the test answers."""

    def setUp(self) -> None:
        """Start a relay on an empty outbox."""
        tables = MetaData()
        self.table = outbox.define(tables)
        self.engine = open_engine(":memory:")
        self.addCleanup(self.engine.dispose)
        tables.create_all(self.engine)
        self.clock = Clock()
        self.desk = ImmediateDesk(self.engine)
        self.calls: list[tuple[int, bytes, float, dict[str, Any]]] = []
        self.answers: dict[int, Callable[[], Deferred[bytes]]] = {}
        self.open: dict[int, Deferred[bytes]] = {}
        self.applied: list[message_pb2.Outcome] = []
        self.told: list[str] = []
        self.heard: list[Any] = []
        self.failing = 0
        self.reads = 0
        self.relay = self.build()
        self.relay.startService()
        self.addCleanup(self.stop)

    def build(self) -> Relay:
        return Relay(self.clock, self.desk, self, now=self.now, apply=self.apply, told=self.hear, jitter=lambda: 1.0)

    def hear(self, lane: str, applied: Any) -> None:
        """The news."""
        self.told.append(lane)
        if applied is not None:
            self.heard.append(applied)

    def stop(self) -> None:
        """Stop; nothing is left behind."""
        self.successResultOf(self.relay.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def now(self) -> int:
        return round(self.clock.seconds() * 1e6)

    def unary_unary(self, method: str) -> Callable[..., Deferred[bytes]]:
        """The channel: a call is answered as `answers` says, or hangs in `open`."""
        number = 0 if method == PUBLISH else int(method.removeprefix("/s/M"))

        def call(request: bytes, timeout: float, metadata: Any) -> Deferred[bytes]:
            self.calls.append((number, request, timeout, dict(metadata)))
            if number in self.answers:
                return self.answers[number]()
            self.open[number] = Deferred()
            return self.open[number]

        return call

    def apply(self, connection: Connection, sent: Message, outcome: message_pb2.Outcome, now: int) -> str:
        """What the service makes of an outcome: notes it, in the transaction too."""
        if self.failing:
            self.failing -= 1
            raise Refusal
        self.applied.append(outcome)
        return f"made of {outcome.message_id[-1]}"

    def put(self, *messages: Message) -> None:
        """Commit messages."""

        def work(connection: Connection) -> None:
            for each in messages:
                outbox.put(connection, each, self.now())

        self.successResultOf(self.desk.write(work))
        self.turn()

    def answer(self, number: int) -> None:
        """Let a call that hangs succeed."""
        self.open[number].callback(b"")
        self.turn()

    def turn(self) -> None:
        """Let the reactor do what is due now."""
        self.clock.advance(0)

    def left(self) -> list[int]:
        """The messages in the outbox."""
        with self.engine.connect() as connection:
            return [UUID(row.message_id).int for row in connection.execute(self.table.select())]

    def numbers(self) -> list[int]:
        """The messages that were sent."""
        return [number for number, *_ in self.calls]

    def push(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.pump([0.05] * round(seconds / 0.05))

    def test_answered(self) -> None:
        """An answer is applied, the message is gone, and then it is told."""
        whole = message(1, principal=b"p", reply_to="/s/Reply", trace=Trace("request", "00-parent"))
        self.put(whole)
        (call,) = self.calls
        self.assertEqual(call[:3], (1, b"request", relay.DEADLINE))
        carried = {
            metadata.MESSAGE_ID: whole.message_id,
            metadata.PRINCIPAL: b"p",
            metadata.REPLY_TO: "/s/Reply",
            metadata.REQUEST_ID: "request",
            metadata.TRACEPARENT: "00-parent",
        }
        self.assertEqual(call[3], carried)
        self.assertEqual((self.left(), self.told), ([1], []))
        self.open[1].callback(b"response")
        expected = message_pb2.Outcome(message_id=whole.message_id, method="/s/M1", response=b"response")
        self.assertEqual((self.applied, self.left(), self.told), ([expected], [], ["lane-1"]))

    def test_only_what_is_there(self) -> None:
        """Nothing is carried that the message does not have."""
        self.put(message(1))
        self.assertEqual(list(self.calls[0][3]), [metadata.MESSAGE_ID])

    def test_final_error(self) -> None:
        """A final error is an outcome too, with its details."""
        error = FailedPrecondition("no", reason="WHY", violations=[Violation("f", "d")])
        self.answers[1] = lambda: fail(error)
        self.put(message(1))
        (outcome,) = self.applied
        self.assertEqual((outcome.status.code, outcome.status.message, len(outcome.status.details)), (9, "no", 2))
        self.assertEqual(self.left(), [])

    def test_kept(self) -> None:
        """What the MOM has kept is gone from here, is told, and has no outcome yet."""
        self.answers[1] = lambda: fail(kept())
        self.put(message(1))
        self.assertEqual((self.applied, self.left(), self.told), ([], [], ["lane-1"]))

    def test_given_up(self) -> None:
        """What the MOM had kept and has given up is answered with its error, whatever the code: it is not sent again."""
        for number, error in enumerate((Internal, DeadlineExceeded, Cancelled), 1):
            self.answers[number] = lambda error=error: fail(error("gone", details=[message_pb2.Outcome()]))
            self.put(message(number))
        self.push(10)
        self.assertEqual([each.status.code for each in self.applied], [13, 4, 1])
        self.assertEqual((self.left(), self.numbers()), ([], [1, 2, 3]))

    def test_asks_to_be_kept(self) -> None:
        """After some attempts that decided nothing the MOM is asked to keep the message, which is gone from here then."""
        self.answers[1] = lambda: fail(
            kept() if metadata.RESPOND_ASYNC in self.calls[-1][3] else Internal("the inventory is broken")
        )
        self.put(message(1))
        self.push(10)
        self.assertEqual(len(self.calls), relay.KEEP_AFTER + 1)
        self.assertEqual([metadata.RESPOND_ASYNC in call[3] for call in self.calls[-2:]], [False, True])
        self.assertEqual((self.applied, self.left()), ([], []))

    def test_no_decision(self) -> None:
        """Whatever is no decision leaves the message there; it is sent again with growing pauses, under the same id."""
        for number, error in enumerate((Unavailable("down"), DeadlineExceeded("late"), Internal("oops")), 1):
            self.answers[number] = lambda error=error: fail(error)
            self.put(message(number))
        self.push(10)
        self.assertEqual(sorted(self.left()), [1, 2, 3])
        ones = [call for call in self.calls if call[0] == 1]
        self.assertEqual(len({call[3][metadata.MESSAGE_ID] for call in ones}), 1)
        # 0, 0.1, 0.3, 0.7, 1.5, 3.1, 5.1, 7.1, 9.1 seconds
        self.assertEqual(len(ones), 9)
        self.assertEqual(self.applied, [])
        self.answers = {}
        self.push(2)
        for call in self.open.values():
            call.callback(b"")
        self.assertEqual(self.left(), [])

    def test_jitter(self) -> None:
        """Pauses differ, between half of the bound and the whole of it."""
        for jitter, pause in ((0.0, 0.05), (1.0, 0.1)):
            self.successResultOf(self.relay.stopService())
            self.relay = Relay(
                self.clock, self.desk, self, now=self.now, apply=self.apply, told=self.hear,
                jitter=lambda jitter=jitter: jitter,
            )  # fmt: skip
            self.relay.startService()
            self.answers[1] = lambda: fail(Unavailable("down"))
            self.put(message(1))
            with self.engine.connect() as connection:
                ready_at = connection.execute(self.table.select()).one().ready_at
            self.assertEqual(ready_at - self.now(), round(pause * 1e6))
            self.successResultOf(self.desk.write(outbox.remove, message(1).message_id))

    def test_lanes(self) -> None:
        """Messages of a lane are sent one after the other, those of others at the same time."""
        self.put(message(1, "a"), message(2, "a"), message(3, "b"))
        self.assertEqual(self.numbers(), [1, 3])
        self.answer(3)
        self.assertEqual(self.numbers(), [1, 3])
        self.answer(1)
        self.assertEqual(self.numbers(), [1, 3, 2])

    def test_failing_head(self) -> None:
        """A message that gets no answer holds up its lane and no other."""
        self.answers[1] = lambda: fail(Unavailable("down"))
        self.put(message(1, "a"), message(2, "a"), message(3, "b"))
        self.push(3)
        self.assertEqual(set(self.numbers()), {1, 3})
        self.answers[1] = lambda: succeed(b"")
        self.push(2)
        self.assertIn(2, self.numbers())

    def test_bound(self) -> None:
        """Not more are under way than the bound says, and the rest follows."""
        self.patch(relay, "CONCURRENCY", 3)
        self.put(*(message(number) for number in range(1, 8)))
        self.assertEqual(self.numbers(), [1, 2, 3])
        self.answer(2)
        self.assertEqual(self.numbers(), [1, 2, 3, 4])
        for number in (1, 3, 4, 5, 6, 7):
            self.answer(number)
        self.assertEqual(self.left(), [])

    def test_rests_while_calls_hang(self) -> None:
        """While calls are under way the outbox is not looked into over and over."""
        self.put(message(1), message(2, "lane-1"))
        statements: list[str] = []
        with watch(self.engine, statements.append):
            self.push(relay.LOOK_AGAIN + 1)
        self.assertTrue(any("SELECT" in each for each in statements))
        self.assertLessEqual(len([each for each in statements if "SELECT" in each]), 5)

    def test_put_meanwhile(self) -> None:
        """A message that an outcome puts is sent next, without anybody's waking."""

        def apply(connection: Connection, sent: Message, outcome: message_pb2.Outcome, now: int) -> None:
            if sent == message(1):
                outbox.put(connection, message(2, "lane-1"), now)

        self.patch(self.relay, "_apply", apply)
        self.put(message(1))
        self.answer(1)
        self.assertEqual((self.numbers(), self.left()), ([1, 2], [2]))

    def test_nobody_wakes(self) -> None:
        """What another process has put is found without waking, if not at once."""
        self.successResultOf(self.desk.write(outbox.put, message(1), self.now()))
        self.push(relay.LOOK_AGAIN + 0.1)
        self.assertEqual(self.numbers(), [1])

    def test_apply_fails(self) -> None:
        """When an outcome cannot be applied the message stays as it was, is logged, and is sent again after a pause."""
        self.failing = 2
        self.answers[1] = lambda: succeed(b"")
        self.put(message(1))
        self.assertEqual((self.numbers(), self.left()), ([1], [1]))
        self.push(relay.LONGEST_PAUSE - 0.1)
        self.assertEqual(self.numbers(), [1])
        self.push(relay.LONGEST_PAUSE + 0.2)
        self.assertEqual((self.numbers(), self.left(), len(self.applied)), ([1, 1, 1], [], 1))
        self.assertEqual(len(self.flushLoggedErrors(Refusal)), 2)

    def test_told_fails(self) -> None:
        """Who cannot take the news does not stop the relay."""

        def told(lane: str, applied: Any) -> None:
            raise Refusal

        self.patch(self.relay, "_told", told)
        self.answers[1] = self.answers[2] = lambda: succeed(b"")
        self.put(message(1))
        self.put(message(2))
        self.assertEqual(self.left(), [])
        self.assertEqual(len(self.flushLoggedErrors(Refusal)), 2)

    def test_sent_as_it_is(self) -> None:
        """While all is under way, what is put is sent without being looked for; the news says what was made of the answer."""
        self.put(message(1))
        self.answers[2] = lambda: succeed(b"")
        statements: list[str] = []
        with watch(self.engine, statements.append):
            self.put(message(2), message(3))
            self.answer(1)
        self.assertEqual((self.numbers(), self.left(), self.heard), ([1, 2, 3], [3], ["made of 2", "made of 1"]))
        self.assertFalse([each for each in statements if "SELECT" in each])

    def test_lanes_keep_their_order(self) -> None:
        """What was put behind others of its lane waits for them, whether they are under way, wait for another attempt, or are
        there from an earlier run; and what is to be sent later is sent later."""
        self.put(message(1, "a"), message(2, "a"))
        self.put(message(3, "a"))
        self.answers[2] = lambda: fail(Unavailable("down"))
        self.answer(1)
        self.put(message(4, "a"), message(5, "b"))
        self.assertEqual(self.numbers(), [1, 2, 5])
        self.answers.clear()
        self.push(0.15)
        self.assertEqual(self.numbers(), [1, 2, 5, 2])
        self.successResultOf(self.relay.stopService())
        self.relay.startService()
        self.put(message(6, "a"))
        self.successResultOf(self.desk.write(outbox.put, message(7, "c"), self.now(), self.now() + 1_000_000))
        self.put(message(8, "c"))
        self.assertEqual(sorted(self.numbers()[4:]), [2, 5])
        for number in (2, 3, 4, 6):
            self.answer(number)
        self.assertEqual(sorted(self.left()), [5, 7, 8])
        self.push(1)
        self.assertEqual(self.numbers()[-1], 7)
        self.answer(7)
        self.answer(8)
        self.assertEqual(self.left(), [5])

    def test_not_alone(self) -> None:
        """Where others write into the database too, what is put is looked for, as there may be more in its lane."""
        self.successResultOf(self.relay.stopService())
        self.desk.alone = False
        self.relay.startService()
        with self.engine.begin() as connection:  # somebody else
            outbox.put(connection, message(1, "a"), self.now())
        self.put(message(2, "a"), message(3, "b"))
        self.assertEqual(self.numbers(), [1, 3])

    def test_more_than_there_is_room_for(self) -> None:
        """What finds no room is sent once there is."""
        self.patch(relay, "CONCURRENCY", 2)
        self.put(message(1), message(2), message(3))
        self.put(message(4))
        self.assertEqual(self.numbers(), [1, 2])
        for number in (1, 2, 3, 4):
            self.answer(number)
        self.assertEqual((self.numbers(), self.left()), ([1, 2, 3, 4], []))
        self.put(message(5))
        self.assertEqual(self.numbers()[-1], 5)

    def test_outbox_cannot_be_read(self) -> None:
        """A database that fails for a while does not end the relay."""
        answers = iter([fail(Unavailable("the disk")), fail(Unavailable("the disk"))])
        glance = self.desk.glance
        self.desk.glance = lambda *args: next(answers, None) or glance(*args)  # type: ignore[assignment,method-assign]
        self.answers[1] = lambda: succeed(b"")
        self.successResultOf(self.relay.stopService())
        self.put(message(1))
        self.relay.startService()
        self.push(relay.LONGEST_PAUSE)
        self.assertEqual(self.left(), [1])
        self.push(2 * relay.LONGEST_PAUSE)
        self.assertEqual(self.left(), [])
        self.assertEqual(len(self.flushLoggedErrors(Unavailable)), 2)

    def test_stop_and_start(self) -> None:
        """Stopping cancels the calls under way and leaves their messages; starting sends them again."""
        self.put(message(1), message(2))
        stopped = self.relay.stopService()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((sorted(self.left()), self.applied), ([1, 2], []))
        self.push(10)
        self.assertEqual(self.numbers(), [1, 2])
        self.answers[1] = self.answers[2] = lambda: succeed(b"")
        self.relay.startService()
        self.assertEqual((self.numbers(), self.left()), ([1, 2, 1, 2], []))

    def test_stop_waits_for_the_commit(self) -> None:
        """An answer that has come is committed before stopService is done."""
        self.put(message(1))
        write, slow = self.desk.jot, Deferred()  # type: ignore[var-annotated]

        def late(*args: Any) -> Deferred[Any]:
            return slow.addCallback(lambda _: write(*args))

        self.desk.jot = late  # type: ignore[assignment,method-assign]
        self.answer(1)
        stopped = self.relay.stopService()
        self.assertNoResult(stopped)
        slow.callback(None)
        self.successResultOf(stopped)
        self.assertEqual((self.left(), len(self.applied)), ([], 1))

    def test_answered_twice(self) -> None:
        """A message that left the outbox while it was under way is applied all the same: who applies goes by the id."""
        self.put(message(1))
        self.successResultOf(self.desk.write(outbox.remove, message(1).message_id))
        self.answer(1)
        self.assertEqual(len(self.applied), 1)

    def test_kept_then_not_found(self) -> None:
        """Each kind of end in one lane leads on to the next message."""
        self.answers = {1: lambda: fail(kept()), 2: lambda: fail(NotFound("no")), 3: lambda: succeed(b"")}
        self.put(message(1, "a"), message(2, "a"), message(3, "a"))
        self.assertEqual((self.numbers(), self.left()), ([1, 2, 3], []))
        self.assertEqual([outcome.status.code for outcome in self.applied], [5, 0])

    def test_many(self) -> None:
        """A thousand messages that are answered at once do not exhaust the stack."""
        self.answers = {number: lambda: succeed(b"") for number in range(1, 1001)}
        self.put(*(message(number, "a" if number % 2 else "") for number in range(1, 1001)))
        self.assertEqual(self.left(), [])

    def published(self) -> list[bytes]:
        """The requests of the calls that published."""
        return [request for number, request, *_ in self.calls if number == 0]

    def test_published_together(self) -> None:
        """Events that are due go in one call, in their order; while it is under way the next gather, and calls go on."""
        self.put(event(1), event(2), message(3))
        self.assertEqual((self.published(), self.numbers()), ([b"1,2,"], [3, 0]))
        self.put(event(4), event(5), message(6))
        self.assertEqual((self.published(), self.numbers()), ([b"1,2,"], [3, 0, 6]))
        self.answer(0)
        self.push(relay.PACE)
        self.assertEqual((sorted(self.left()), self.published()), ([3, 4, 5, 6], [b"1,2,", b"4,5,"]))
        self.answer(0)
        self.assertEqual((sorted(self.left()), self.told), ([3, 6], ["event 1", "event 2", "event 4", "event 5"]))
        self.assertEqual(self.applied, [])

    def test_events_of_one_subject(self) -> None:
        """They are published in their order, in one call or one after the other."""
        self.put(event(1, "a"), event(2, "a"), event(3, "b"), event(4, "a"))
        self.put(event(5, "a"))
        self.answer(0)
        self.push(relay.PACE)
        self.answer(0)
        self.assertEqual((self.published(), self.left()), ([b"1,2,3,4,", b"5,"], []))

    def test_behind_one_that_failed(self) -> None:
        """An event is not published before one of its subject that has failed; others are."""
        answers = iter([Unavailable("down"), Unavailable("down"), None, None])
        self.answers[0] = lambda: succeed(b"") if (error := next(answers)) is None else fail(error)
        self.put(event(1, "a"))
        self.push(0.15)
        self.put(event(2, "a"), event(3, "b"))
        self.assertEqual(self.published(), [b"1,", b"1,", b"3,"])
        self.answers[0] = lambda: succeed(b"")
        self.push(1)
        self.assertEqual((self.published()[3:], self.left()), ([b"1,", b"2,"], []))

    def test_published_one_by_one(self) -> None:
        """When events cannot be published together each is sent by itself, after a pause, and gets its own answer."""
        answers = iter([NotFound("one is bad"), NotFound("this one"), None])
        self.answers[0] = lambda: succeed(b"") if (error := next(answers)) is None else fail(error)
        self.put(event(1), event(2))
        self.assertEqual((self.published(), sorted(self.left())), ([b"1,2,"], [1, 2]))
        self.push(0.2)
        self.assertEqual((self.published()[1:], self.left()), ([b"1,", b"2,"], []))
        self.assertEqual([each.status.code for each in self.applied], [5, 0])

    def test_published_while_the_mom_is_away(self) -> None:
        """Events wait for the MOM like all messages, and those that come meanwhile are tried together first."""
        self.answers[0] = lambda: fail(Unavailable("down"))
        self.put(event(1), event(2))
        self.push(3)
        self.put(event(3), event(4))
        self.assertEqual(self.published()[-1], b"3,4,")
        self.assertEqual(sorted(self.left()), [1, 2, 3, 4])
        self.answers[0] = lambda: succeed(b"")
        self.push(3)
        self.assertEqual(self.left(), [])

    def test_how_much_together(self) -> None:
        """One call has so many events, and so many bytes, at most; one that is larger goes alone."""
        self.patch(relay, "TOGETHER", 3)
        self.patch(relay, "TOGETHER_BYTES", 10)
        self.put(event(1), event(2), event(3), event(4), event(5, request=b"x" * 20), event(6))
        for _ in range(4):
            self.answer(0)
        self.assertEqual(self.published(), [b"1,2,3,", b"4,", b"x" * 20, b"6,"])
        self.assertEqual(self.left(), [])

    def test_events_do_not_take_the_room_of_calls(self) -> None:
        """However many events are under way together, as many calls are as at other times."""
        self.patch(relay, "CONCURRENCY", 3)
        self.put(event(1), event(2), event(3))
        self.put(*(message(number) for number in range(4, 8)))
        self.assertEqual(self.numbers(), [0, 4, 5, 6])

    def test_published_but_not_removed(self) -> None:
        """When the database does not take that they are published, they are published again: the MOM knows them."""
        write = self.desk.jot
        self.desk.jot = lambda *args: fail(Unavailable("the disk", reason="STORAGE"))  # type: ignore[assignment,method-assign]
        self.successResultOf(write(outbox.put, event(1), self.now()))
        self.turn()
        self.answer(0)
        self.desk.jot = write  # type: ignore[method-assign]
        self.push(relay.LONGEST_PAUSE - 0.1)
        self.assertEqual(len(self.calls), 1)
        self.push(0.2)
        self.answer(0)
        self.assertEqual((len(self.calls), self.left()), (2, []))
