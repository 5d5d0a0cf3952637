"""Tests for `bookd.mom.spool`: what is known without asking the store, and who is told what."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import CancelledError, Deferred

from bookd.errors import FailedPrecondition, InvalidArgument, NotFound
from bookd.mom import gathering, overview, settling, store
from bookd.mom import spool as module
from bookd.mom.machine import IllegalTransition, MessageState
from bookd.mom.rates import WINDOW
from bookd.mom.spool import Spool
from bookd.testing.desk import ImmediateDesk
from tests.mom.room import CANCELLED, DAY, DEAD, DESTINATION, NOW, OTHER, StoreTestCase, done, draft, number_id


class HeldDesk(ImmediateDesk):
    """A desk whose work is done, in order, when the test says so."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.held: list[Callable[[], Any]] = []
        self.reads = 0

    def _later(self, run: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        later: Deferred[Any] = Deferred()
        self.held.append(lambda: run().addBoth(later.callback))
        return later

    def write(self, work: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Run it when its turn comes."""
        run = super().write
        return self._later(lambda: run(work, *args, **kwargs))

    def read(self, work: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Likewise."""
        self.reads += 1
        run = super().read
        return self._later(lambda: run(work, *args, **kwargs))

    glance = read

    def next(self) -> None:
        """Do the next unit of work, if one waits."""
        if self.held:
            self.held.pop(0)()


class SpoolTestCase(StoreTestCase):
    """A spool over an empty store."""

    def setUp(self) -> None:
        """Wire it."""
        super().setUp()
        self.desk = HeldDesk(self.engine)
        self.spool = Spool(self.desk, lambda: NOW)
        self.arrivals: list[str] = []
        for name in (DESTINATION, OTHER):
            self.spool.on_arrival(name, lambda name=name: self.arrivals.append(name))  # type: ignore[misc]

    def begin(self, work: Any) -> Deferred[Any]:
        """A coroutine under way; its failure is of no interest."""
        return Deferred.fromCoroutine(work).addErrback(lambda failure: failure.value)

    def all(self) -> None:
        """Do all that waits."""
        while self.desk.held:
            self.desk.next()


class KnowledgeTests(SpoolTestCase):
    """What is known without asking."""

    def asks(self) -> bool:
        """Whether a call has to ask the store."""
        before = self.desk.reads
        looking = self.begin(self.spool.look(draft(99, "99")))
        self.all()
        self.successResultOf(looking)
        return self.desk.reads > before

    def test_before_it_is_counted(self) -> None:
        """Until the messages are counted the store is asked."""
        self.assertFalse(self.spool.is_counted)
        self.assertTrue(self.asks())
        self.begin(self.spool.count())
        self.all()
        self.assertTrue(self.spool.is_counted)
        self.assertFalse(self.asks())

    def test_many(self) -> None:
        """Many are not counted; when they have gone it is known again."""
        self.patch(module, "MANY", 3)
        for number in range(3):
            self.do(settling.finish, self.keep(number, str(number)).seq, done(), NOW)
        self.begin(self.spool.count())
        self.all()
        self.assertFalse(self.spool.is_counted)
        self.begin(self.spool.purge(NOW + DAY, 9))
        self.begin(self.spool.count())
        self.all()
        self.assertTrue(self.spool.is_counted)
        self.assertFalse(self.asks())

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["keep", "finish", "reply", "forget", "purge", "count", "fan out", "next", "next", "next"]
                ),
                st.integers(0, 5),
            ),
            max_size=40,
        )
    )
    def test_never_too_low(self, steps: list[tuple[str, int]]) -> None:
        """Whatever is written, removed and counted at the same time: when the spool believes that nothing is stored,
        nothing is."""
        self.desk = HeldDesk(self.engine)
        self.spool = Spool(self.desk, lambda: NOW)
        for verb, number in steps:
            if verb == "keep":
                self.spool.keep(draft(number, str(number))).addErrback(lambda failure: None)
            elif verb in ("finish", "reply"):
                kept = self.do(store.find, number_id(number))
                reply = draft(number + 10, "r") if verb == "reply" else None
                if kept is not None:
                    self.begin(self.spool.finish(kept, done(), reply=reply))
            elif verb == "forget":
                self.begin(self.spool.forget(number_id(number)))
            elif verb == "purge":
                self.begin(self.spool.purge(NOW + DAY, number))
            elif verb == "count":
                self.begin(self.spool.count())
            elif verb == "fan out":
                self.spool.fan_out(1, _fan_out, number).addErrback(lambda failure: None)
            else:
                self.desk.next()
            self.check()
        while self.desk.held:
            self.desk.next()
            self.check()
        with self.engine.begin() as connection:
            for table in ("lanes", "messages", "queues"):
                connection.exec_driver_sql(f"DELETE FROM {table}")

    def check(self) -> None:
        """Compare what the spool believes with what is stored."""
        known = self.spool._counted
        if known is not None and known + self.spool._more + self.spool._pending == 0:
            self.assertEqual(self.do(overview.count), 0)


def _fan_out(connection: Any, number: int, now: int) -> Any:
    kept, is_new = store.keep(connection, draft(number + 50, "f"), now)

    class Written:
        destinations = [kept.destination] if is_new else []

    return Written


class TellingTests(SpoolTestCase):
    """Who is told."""

    def test_arrivals(self) -> None:
        """A courier hears of a new message once it is on disk, and not of one that was there."""
        self.spool.keep(draft(1))
        self.assertEqual(self.arrivals, [])
        self.all()
        self.assertEqual(self.arrivals, [DESTINATION])
        self.spool.keep(draft(1))
        self.all()
        self.assertEqual(self.arrivals, [DESTINATION])

    def test_replies_arrive(self) -> None:
        """And of a reply."""
        self.begin(self.spool.finish(self.keep(1), done(), reply=draft(2, destination=OTHER)))
        self.all()
        self.assertEqual(self.arrivals, [OTHER])

    def test_rates(self) -> None:
        """What comes into a queue and what leaves it is counted once it is on disk: calls, replies, what is put back."""
        self.spool.keep(draft(1))
        self.assertEqual(self.rate(), (0, 0))
        self.all()
        self.spool.keep(draft(1))
        self.all()
        self.assertEqual(self.rate(), (1, 0))
        self.begin(self.spool.finish(self.found(number_id(1)), DEAD, reply=draft(2, destination=OTHER)))
        self.all()
        self.assertEqual((self.rate(), self.rate(OTHER)), ((1, 1), (1, 0)))
        self.begin(self.spool.revive(number_id(1), NOW + DAY))
        self.all()
        self.assertEqual(self.rate(), (2, 1))

    def rate(self, destination: str = DESTINATION) -> tuple[int, int]:
        """How many came and went in the last minute."""
        rate = self.spool.rates.of(destination)
        return round(rate.kept * WINDOW), round(rate.finished * WINDOW)

    def test_keeping(self) -> None:
        """A lane is being written to until the last of its writes is done, well or not."""
        lane = (DESTINATION, "lane")
        self.patch(gathering, "GROUP", 1)
        self.keep(3, "other")
        writes = [self.spool.keep(draft(1)), self.spool.keep(draft(2)), self.spool.keep(draft(3, subject="eve"))]
        self.assertTrue(self.spool.keeping(lane))
        self.desk.next()
        self.desk.next()
        self.assertTrue(self.spool.keeping(lane))
        self.desk.next()
        self.assertFalse(self.spool.keeping(lane))
        self.failureResultOf(writes[2], InvalidArgument)

    def test_gathering(self) -> None:
        """What comes before the writer begins is kept together; each is told what became of it, and a caller who has gone
        undoes nothing."""
        self.keep(3, "other")
        writes = [self.spool.keep(draft(number)) for number in range(1, 5)] + [self.spool.keep(draft(5, subject="eve"))]
        writes[1].cancel()
        self.failureResultOf(writes[1], CancelledError)
        self.assertEqual(len(self.desk.held), 1)
        self.all()
        kept = [self.successResultOf(writes[index]) for index in (0, 2, 3, 4)]
        self.assertEqual([each.message_id for each in kept], [number_id(number) for number in (1, 3, 4, 5)])
        self.assertLess(kept[0].seq, self.found(number_id(2)).seq)
        self.assertEqual((self.arrivals, self.rate()[0]), ([DESTINATION], 4))
        self.spool.keep(draft(6))
        self.assertEqual(len(self.desk.held), 1)

    def test_large_group(self) -> None:
        """A group is bounded: what comes then is the next one."""
        self.patch(gathering, "GROUP", 3)
        writes = [self.spool.keep(draft(number)) for number in range(7)]
        self.assertEqual(len(self.desk.held), 3)
        self.desk.next()
        self.assertEqual([write.called for write in writes], [True] * 3 + [False] * 4)
        self.all()
        self.assertEqual(self.heads(), [number_id(0)])

    def test_disk_refuses(self) -> None:
        """When the whole group is refused, all of it are told so, and what comes next is tried anew."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE messages RENAME TO gone")
        writes = [self.spool.keep(draft(number)) for number in range(3)]
        self.all()
        for write in writes:
            self.failureResultOf(write, OperationalError)
        self.assertFalse(self.spool.keeping((DESTINATION, "lane")))
        with self.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE gone RENAME TO messages")
        again = self.spool.keep(draft(1))
        self.all()
        self.successResultOf(again)

    def test_bug_without_a_caller(self) -> None:
        """What should not happen is logged, though nobody waits for it."""
        self.patch(store, "keep", lambda *_: 1 / 0)
        for number in range(2):
            self.spool.keep(draft(number)).addErrback(lambda failure: None)
        self.spool.keep(draft(1, subject="eve")).addErrback(lambda failure: None).cancel()
        with self.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE lanes RENAME TO gone")
        self.all()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_waiters(self) -> None:
        """Who waits for a message hears when it left the queue; who stopped waiting leaves nothing behind."""
        kept = self.keep(1)
        waiting, leaving = self.spool.finished(kept.message_id), self.spool.finished(kept.message_id)
        leaving.cancel()
        self.failureResultOf(leaving, CancelledError)
        self.begin(self.spool.finish(kept, done()))
        self.assertNoResult(waiting)
        self.all()
        self.successResultOf(waiting)
        alone = self.spool.finished(number_id(2))
        alone.cancel()
        self.failureResultOf(alone, CancelledError)
        self.assertEqual(self.spool._waiters, {})


class WithdrawTests(SpoolTestCase):
    """Messages that are taken out of the queue before they are delivered."""

    def test_withdraws(self) -> None:
        """From the call on it is not found by who looks for something to deliver, however the looks cross."""
        kept = self.keep(1)
        looking = self.begin(self.spool.ready(DESTINATION, 9, frozenset()))
        withdrawing = self.begin(self.spool.withdraw(kept, CANCELLED))
        self.assertTrue(self.spool.is_withdrawn(kept.seq))
        self.all()
        self.assertTrue(self.successResultOf(withdrawing))
        self.assertEqual(self.successResultOf(looking).messages, [])
        self.assertFalse(self.spool.is_withdrawn(kept.seq))
        self.assertIs(self.found(number_id(1)).state, MessageState.CANCELLED)

    def test_look_that_began_before(self) -> None:
        """A look that saw the message, but ends after it was withdrawn, does not offer it."""
        kept = self.keep(1)
        looking = self.begin(self.spool.ready(DESTINATION, 9, frozenset()))
        look = self.desk.held.pop()
        withdrawing = self.begin(self.spool.withdraw(kept, CANCELLED))
        self.desk.held.append(look)
        self.desk.next()
        self.assertTrue(self.successResultOf(withdrawing))
        self.desk.next()
        self.assertEqual(self.successResultOf(looking).messages, [])

    def test_in_flight(self) -> None:
        """One that is being delivered is left alone."""
        kept = self.keep(1)
        self.spool.in_flight.add(kept.seq)
        self.assertFalse(self.successResultOf(self.begin(self.spool.withdraw(kept, CANCELLED))))
        self.assertEqual(self.desk.held, [])

    def test_twice(self) -> None:
        """Only one of two succeeds; one that comes later is told that it is over."""
        kept = self.keep(1)
        first, second = (self.begin(self.spool.withdraw(kept, CANCELLED)) for _ in range(2))
        self.all()
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (True, False))
        third = self.begin(self.spool.withdraw(kept, CANCELLED))
        self.all()
        self.assertIsInstance(self.successResultOf(third), IllegalTransition)
        self.assertFalse(self.spool.is_withdrawn(kept.seq))


class OperatorsTests(SpoolTestCase):
    """What operators do."""

    def test_pause(self) -> None:
        """Paused once it is on disk; told to go on, the courier hears of it."""
        self.begin(self.spool.pause(DESTINATION))
        self.assertFalse(self.spool.is_paused(DESTINATION))
        self.all()
        self.assertTrue(self.spool.is_paused(DESTINATION))
        self.begin(self.spool.resume(DESTINATION))
        self.all()
        self.assertFalse(self.spool.is_paused(DESTINATION))
        self.assertEqual(self.arrivals, [DESTINATION])

    def test_forget(self) -> None:
        """What cannot be forgotten is told as the store has it, and the courier hears when a lane may move on."""
        self.keep(1)
        for number, kind in ((1, FailedPrecondition), (2, NotFound)):
            forgetting = self.begin(self.spool.forget(number_id(number)))
            self.all()
            self.assertIsInstance(self.successResultOf(forgetting), kind)
        self.assertEqual(self.arrivals, [])
