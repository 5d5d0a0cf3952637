"""Leads a daemon's parts through every fault of their database, and checks what is promised.

A story is one thing that a daemon does, on a file that holds what an earlier run has left. It is told once without a
fault: so the state before and after it is known, and its answer. Then it is told again for each point at which the
database can fail, and each time

- the database holds the state before or the state after (or one of those that a story of several transactions has on
  the way), and nothing between them;
- if there was an answer, it is the right one, and the state is the one after;
- a process that lives on after the error, and one that is started after a kill at that point, both can be asked again
  under the same id: the answer is the right one, and the state is the one after, however often they are asked.

The state is all rows of all tables: what is asked of others (the outbox) and what was applied (the inbox) belong to it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shutil import copyfile
from tempfile import mkdtemp
from typing import Any

from attrs import frozen
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.context import Context
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from bookd.testing.faults import Fault, Injected, watch
from bookd.wire.policy.v1 import policy_pb2

NOW = 1_700_000_000_000_000

State = dict[str, list[tuple[Any, ...]]]


@frozen
class Story:
    """`start` makes the parts that one process has, which have a `close`; `prepare` does what went before; `act` is the
    thing itself, which answers."""

    package: str
    start: Callable[[Engine], Any]
    act: Callable[[Any], Any]
    prepare: Callable[[Any], Any] = lambda _: None
    # What else must hold of any state: raises if it does not.
    sound: Callable[[Engine], Any] = lambda _: None
    # In how many transactions it may write. None: in as many as it does when nothing fails.
    transactions: int | None = 1


class Broken(AssertionError):
    """A promise was not kept."""


@cache
def migrated(package: str) -> Path:
    """An empty database of a daemon."""
    path = Path(mkdtemp(prefix="bookd-faults-")) / "empty.sqlite"
    with opened(path) as engine:
        upgrade(engine, package)
    return path


@contextmanager
def opened(path: Path) -> Iterator[Engine]:
    """The database at `path`, without fsync: here processes die, not machines."""
    engine = open_engine(path)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF").close())
    try:
        yield engine
    finally:
        engine.dispose()


def everything(engine: Engine) -> State:
    """All rows of all tables, indexes of words included; not which numbers were given out and never used."""
    with engine.connect() as connection:
        names = connection.exec_driver_sql(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'sqlite_sequence' ORDER BY name"
        )
        return {
            name: sorted((tuple(row) for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"')), key=repr)
            for name in names.scalars()
        }


def state(path: Path, story: Story) -> State:
    """All that stands in the file, which must be sound."""
    with opened(path) as engine:
        story.sound(engine)
        return everything(engine)


def told(story: Story, path: Path) -> Any:
    """Act in a process of its own; the answer."""
    with opened(path) as engine:
        return acted(story, story.start(engine))


def acted(story: Story, daemon: Any) -> Any:
    try:
        return story.act(daemon)
    finally:
        daemon.close()


def different(was: State, expected: State) -> str:
    """What a table holds too much, and what it lacks."""
    lines = []
    for name in sorted(was.keys() | expected.keys()):
        surplus = [row for row in was.get(name, []) if row not in expected.get(name, [])]
        missing = [row for row in expected.get(name, []) if row not in was.get(name, [])]
        lines += [f"{name} has {row}" for row in surplus] + [f"{name} lacks {row}" for row in missing]
    return "; ".join(lines)


class Trial:
    """One story, led through all faults. `points` counts the faults that struck."""

    def __init__(self, story: Story, folder: Path, *, repeatable: bool = True) -> None:
        self.story = story
        self.points = 0
        self._folder = folder
        self._repeatable = repeatable
        folder.mkdir(parents=True)
        self._base = folder / "base.sqlite"
        copyfile(migrated(story.package), self._base)
        with opened(self._base) as engine:
            daemon = story.start(engine)
            story.prepare(daemon)
            daemon.close()
        self.before = state(self._base, story)
        whole = self._copy("whole")
        # The state before and after each commit: whatever else is found is a part of something.
        self._states = [self.before]
        with opened(whole) as engine, watch(engine, lambda where: self._passed(where, whole)):
            self.answer = acted(story, story.start(engine))
        self.after = state(whole, story)
        if story.transactions is not None:
            # What is done in more of them can be left half done; each state between them counts as a part.
            self._states = [self.before, self.after]
        if repeatable:
            self._again(whole, "without a fault")

    def run(self) -> "Trial":
        """Strike at each point. Raises `Broken`."""
        while self._strike(self.points):
            self.points += 1
        return self

    def _passed(self, where: str, path: Path) -> None:
        if where == "after the commit":
            self._states.append(state(path, self.story))

    def _strike(self, number: int) -> bool:
        path, killed = self._copy("living"), self._folder / "killed.sqlite"
        fault = Fault(number, path, killed)
        with opened(path) as engine:
            daemon = self.story.start(engine)
            try:
                answer = None
                with watch(engine, fault):
                    answer = self.story.act(daemon)
            except Exception as error:
                if fault.struck is None:
                    raise Broken(f"failed without a fault: {error!r}") from error
            else:
                self._expect(answer == self.answer, fault.struck, f"answered {answer!r} in place of {self.answer!r}")
                self._expect(everything(engine) == self.after, fault.struck, "was answered, but is not there")
            if fault.struck is None:
                daemon.close()
                return False
            self._whole(everything(engine), fault.struck, "a process that lives on")
            self._whole(state(killed, self.story), fault.struck, "a process that was killed")
            if self._repeatable:
                answer = acted(self.story, daemon)
                self._expect(answer == self.answer, fault.struck, f"the same process then answers {answer!r}")
            else:
                daemon.close()
        if self._repeatable:
            self._again(path, fault.struck, times=1)  # it was asked again already
            self._again(killed, fault.struck)
        return True

    def _whole(self, now: State, where: str, who: str) -> None:
        nearest = min(self._states, key=lambda each: len(different(now, each)))
        self._expect(now == nearest, where, f"{who} left a part: {different(now, nearest)}")

    def _again(self, path: Path, where: str, times: int = 2) -> None:
        for _ in range(times):
            answer = told(self.story, path)
            self._expect(
                answer == self.answer, where, f"asked again, it answers {answer!r} in place of {self.answer!r}"
            )
            now = state(path, self.story)
            self._expect(now == self.after, where, f"asked again, it leaves {different(now, self.after)}")

    def _expect(self, kept: bool, where: str | None, what: str) -> None:
        if not kept:
            raise Broken(f"{where}: {what}")

    def _copy(self, name: str) -> Path:
        path = self._folder / f"{name}.sqlite"
        for ending in ("", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        copyfile(self._base, path)
        return path


class FaultsTestCase(SynchronousTestCase):
    """A test that leads stories through all faults."""

    def every_fault(self, story: Story, *, repeatable: bool = True, least: int = 4) -> Trial:
        """Strike everywhere; there must have been at least so many points."""
        trial = Trial(story, Path(self.mktemp()), repeatable=repeatable).run()
        self.flushLoggedErrors(Injected, OperationalError)
        self.assertGreaterEqual(trial.points, least)
        return trial

    def found(self, story: Story) -> str:
        """The fault that the apparatus must find in a story."""
        broken = self.assertRaises(Broken, lambda: Trial(story, Path(self.mktemp())).run())
        self.flushLoggedErrors(Injected, OperationalError)
        return str(broken)


def result(deferred: Deferred[Any]) -> Any:
    """The result of a Deferred that has fired; its error is raised."""
    results: list[Any] = []
    failures: list[Any] = []
    deferred.addCallbacks(results.append, failures.append)
    if failures:
        raise failures[0].value
    (answer,) = results
    return answer


def called(servicer: Any, path: str, request: Any, message_id: str | None, subject: str = "ada") -> Any:
    """What a servicer answers a call with this message id."""
    context = Context(path, "mom", {}, _NoDeadline())
    context.principal = policy_pb2.Principal(subject=subject, roles=["customer", "admin"])
    context.message_id = message_id
    context.describe(request)
    return result(Deferred.fromCoroutine(getattr(servicer, path.rpartition("/")[2])(request, context)))


class _NoDeadline:
    def time_remaining(self) -> None:
        """The caller names no deadline."""


__all__ = ["NOW", "Broken", "FaultsTestCase", "Story", "Trial", "called", "opened", "result"]
