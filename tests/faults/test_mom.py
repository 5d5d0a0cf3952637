"""The MOM under every fault of its database: keeping, delivering, replying, publishing, and what its desk commits together."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bookd.bridge.desk import Desk
from bookd.errors import BookdError
from bookd.mom import journal, overview
from bookd.mom.broker import Broker
from bookd.mom.machine import Event, IllegalTransition
from bookd.mom.records import Kept
from bookd.mom.replies import reply
from bookd.mom.spool import Spool
from bookd.testing.desk import ImmediateDesk
from bookd.testing.faults import Fault, Injected, watch
from bookd.wire.mom.v1 import event_pb2
from bookd.wire.users.v1.events_pb2 import UserDeleted
from tests.faults.room import NOW, FaultsTestCase, Story, migrated, opened, result
from tests.mom.room import POLICY, SECOND, TAKE, done, draft, ended, number_id, post, unsound


class Process:
    """What one process of the MOM has of its messages."""

    def __init__(self, engine: Engine) -> None:
        self.desk = self.make_desk(engine)
        self.spool = Spool(self.desk, lambda: NOW)
        self.broker = Broker(post(), self.spool, POLICY)

    def make_desk(self, engine: Engine) -> Any:
        """A desk that works at once."""
        return ImmediateDesk(engine)

    def do(self, work: Any) -> Any:
        """The result of a coroutine or a Deferred."""
        return result(work if isinstance(work, Deferred) else Deferred.fromCoroutine(work))

    def keep(self, number: int, **changes: Any) -> str:
        """Keep a message; answers its id and state, as its caller is told."""
        kept: Kept = self.do(self.spool.keep(draft(number, **changes)))
        return f"{kept.message_id} {kept.state.name}"

    def messages(self) -> list[Kept]:
        """All messages."""
        found: list[Kept] = self.do(self.desk.read(overview.page, None, None, None, 100))[0]
        return found

    def there(self) -> set[str]:
        """The ids of all messages."""
        return {kept.message_id for kept in self.messages()}

    def found(self, number: int) -> Kept:
        """A message that is there."""
        kept = self.do(self.spool.find(number_id(number)))
        assert kept is not None
        return kept

    def finish(self, number: int, block: bool = False) -> str:
        """Write a message's outcome, with the reply, as the courier does; once it is written, that is the answer."""
        kept = self.found(number)
        outcome = ended(Event.GIVEN_UP, BookdError("broken")) if block else done()
        told = reply(post(), POLICY, kept, outcome, NOW)
        with contextlib.suppress(IllegalTransition):  # an earlier run has written it
            self.do(self.spool.finish(kept, outcome, reply=told, block_lane=block))
        return self.found(number).state.name

    def close(self) -> None:
        """The process ends."""


def sound(engine: Engine) -> None:
    """Raise if a lane's row does not say what waits in it."""
    with engine.connect() as connection:
        assert unsound(connection) == [], unsound(connection)


class MomTestCase(FaultsTestCase):
    """Stories of the MOM."""

    def story(
        self, act: Callable[[Any], Any], prepare: Callable[[Any], Any] = lambda _: None, start: Any = Process
    ) -> Story:
        """A story of the MOM's database."""
        return Story("bookd.mom", start, act, prepare, sound)


def two(process: Process) -> None:
    """Two messages of one lane, the first of which wants a reply, and one of another."""
    process.keep(1, reply_to=TAKE)
    process.keep(2)
    process.keep(3, lane="other")


class MessageTests(MomTestCase):
    """The life of a message."""

    def test_keep(self) -> None:
        """A message is there with its lane, or neither; the same id again finds it."""
        self.every_fault(self.story(lambda process: process.keep(1)))

    def test_keep_behind(self) -> None:
        """A message goes to the end of its lane."""
        self.every_fault(self.story(lambda process: process.keep(4), two))

    def test_finish(self) -> None:
        """Outcome, reply and the advance of the lane are one."""
        trial = self.every_fault(self.story(lambda process: process.finish(1), two))
        self.assertEqual(len(trial.after["messages"]), 4)

    def test_finish_last(self) -> None:
        """A lane that is done leaves nothing."""
        self.every_fault(self.story(lambda process: process.finish(3), two))

    def test_finish_and_block(self) -> None:
        """A dead letter that blocks its lane does so in the transaction that makes it one."""
        self.every_fault(self.story(lambda process: process.finish(1, block=True), two))

    def test_postpone(self) -> None:
        """An attempt counts with the pause after it. It is not asked for twice: the courier delivers again instead."""

        def act(process: Process) -> None:
            process.do(process.spool.postpone(process.found(1), Event.FAILED, NOW + SECOND, "broken"))

        self.every_fault(self.story(act, two), repeatable=False)

    def test_forget(self) -> None:
        """A finished message that blocks its lane goes with the block."""

        def prepare(process: Process) -> None:
            two(process)
            process.finish(1, block=True)

        self.every_fault(
            self.story(lambda process: process.do(process.spool.forget(number_id(1))), prepare), repeatable=False
        )

    def test_purge(self) -> None:
        """A batch of finished messages goes, or none of it."""

        def prepare(process: Process) -> None:
            two(process)
            for number in (1, 2, 3):
                process.finish(number)

        self.every_fault(
            self.story(lambda process: process.do(process.spool.purge(NOW + 1, 2)), prepare), repeatable=False
        )


def gone(user_id: str) -> event_pb2.Event:
    """An event that a service subscribes to."""
    data: Message = UserDeleted(user_id=user_id)
    made = event_pb2.Event(
        id=f"UserDeleted/{user_id}",
        source="test",
        specversion="1.0",
        type=data.DESCRIPTOR.full_name,
        subject=user_id,
    )
    made.time.FromMicroseconds(NOW)
    made.data.Pack(data, deterministic=True)
    return made


class EventTests(MomTestCase):
    """Publishing, and what subscribers have taken."""

    def test_publish(self) -> None:
        """Events are in the journal with a message to each subscriber, or not at all; once, however often they come."""
        trial = self.every_fault(
            self.story(lambda process: process.do(process.broker.publish([gone("ada"), gone("bob")])).seqs)
        )
        self.assertEqual((len(trial.after["events"]), len(trial.after["messages"])), (2, 2))

    def test_subscription(self) -> None:
        """A place in the journal never goes back."""

        def prepare(process: Process) -> None:
            process.do(process.broker.publish([gone("ada"), gone("bob")]))
            wanted = journal.Filter()
            process.do(process.desk.write(lambda c: journal.subscribe(c, "p", "n", wanted, from_oldest=True, now=NOW)))

        def act(process: Process) -> int:
            process.do(process.desk.write(journal.acknowledge, "p", "n", 2, NOW))
            standing = process.do(process.desk.read(journal.find, "p", "n"))
            return int(standing.cursor)

        self.every_fault(self.story(act, prepare))


class HeldWorkers:
    """Workers that work when they are told to."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Deferred[Any], Callable[[], Any]]] = []

    def run(self, work: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Note the work."""
        deferred: Deferred[Any] = Deferred()
        self._waiting.append((deferred, lambda: work(*args)))
        return deferred

    def release(self) -> None:
        """Work until there is nothing more to do."""
        while self._waiting:
            deferred, work = self._waiting.pop(0)
            try:
                answer = work()
            except Exception:
                deferred.errback()
            else:
                deferred.callback(answer)


class Together(Process):
    """A process whose desk commits units together, as the real one does, whose threads are played here."""

    second = draft(2, request=b"other", fingerprint=b"?" * 32)

    def make_desk(self, engine: Engine) -> Any:
        self.clock = Clock()
        desk = Desk(self.clock, engine)
        self.workers: Any = HeldWorkers()
        desk._writer = desk._readers = self.workers
        desk.running = 1
        return desk

    def do(self, work: Any) -> Any:
        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        self.turn()
        return result(deferred)

    def turn(self) -> None:
        """Let the desk do what it was asked for."""
        self.workers.release()
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
            self.workers.release()

    def ask(self) -> list[str]:
        """Ask for three things at once; answers the message ids and reasons that came."""
        answers: list[Any] = [None] * 3
        for number, each in enumerate((draft(1), self.second, draft(3))):
            self.spool.keep(each).addBoth(lambda answer, number=number: answers.__setitem__(number, answer))
        self.turn()
        return [
            answer.message_id if isinstance(answer, Kept) else getattr(answer.value, "reason", "") for answer in answers
        ]


class AsOne(Together):
    """A process in which all three are in order."""

    second = draft(4)


IDS = [number_id(number) for number in (1, 2, 3, 4)]
# What the three are answered.
RIGHT: dict[type[Together], list[str]] = {
    Together: [number_id(1), "IDEMPOTENCY_KEY_REUSED", number_id(3)],
    AsOne: [number_id(1), number_id(4), number_id(3)],
}


class GroupTests(MomTestCase):
    """Units that are committed together."""

    def test_together(self) -> None:
        """Of three units in one transaction one is refused. Whatever fails, what was answered is there, the refused one
        leaves nothing, no lane is half open, and asking again, after an error or a kill, has each effect once."""
        self.assertGreater(self.strike(Together), 15)

    def test_as_one(self) -> None:
        """The same of three that go in with the same statements."""
        self.assertGreater(self.strike(AsOne), 9)

    def strike(self, kind: type[Together]) -> int:
        """Fail at each point; how many there are."""
        right = RIGHT[kind]
        there = sorted({*right, IDS[1]} & set(IDS))
        struck: str | None = ""
        number = -1
        while struck is not None:
            number += 1
            folder = Path(self.mktemp())
            folder.mkdir()
            path, killed = copyfile(migrated("bookd.mom"), folder / "living.sqlite"), folder / "killed.sqlite"
            with opened(path) as engine:
                process = kind(engine)
                process.keep(2)
                fault = Fault(number, path, killed)
                with watch(engine, fault):
                    heard = process.ask()
                self.assertLessEqual(set(heard) & set(IDS), process.there())
                struck = fault.struck
                self.assertEqual(process.ask(), right)
                self.look(engine, there)
            if struck is not None:
                # Nothing failed by itself when the copy was made: all of the group are there, or none.
                with opened(killed) as engine:
                    sound(engine)
                    process = kind(engine)
                    self.assertIn(process.there(), ({IDS[1]}, set(there)))
                    self.assertEqual(process.ask(), right)
                    self.look(engine, there)
        self.flushLoggedErrors(Injected, OperationalError)
        return number

    def look(self, engine: Engine, there: list[str]) -> None:
        """All messages are there once."""
        sound(engine)
        ids = [kept.message_id for kept in Process(engine).messages()]
        self.assertEqual(sorted(ids), there)
