"""Faults of a database, at every point where one can strike.

A transaction passes points: before each of its statements, before its commit, and after its commit, when whoever asked
has not heard of it yet. `watch` tells of each point as it is passed. `Fault` strikes at the n-th of them, once: it keeps
a copy of the database's files, which is what a process that is killed there leaves on the disk, and raises. So one run
for each n shows both what becomes of a process that is killed there and of one that lives on after an error there.

    fault = Fault(n, path, copy)
    with watch(engine, fault):
        ...  # what is to be tested; `fault.struck` says where it was hit, None if it has less than n points

SQLite only: the copies are made of its file and its write-ahead log.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any

from sqlalchemy import Engine

# What SQLite adds to a file's name for what belongs to the file. The third, -shm, is made anew by whoever opens it.
_LOG = "-wal"


class Injected(OperationalError):
    """The error that a `Fault` raises. Nothing but the test has caused it."""


@contextmanager
def overhear(engine: Engine, hear: Callable[[str, Any], Any]) -> Iterator[None]:
    """Within the block, call `hear(text, values)` before each statement of the engine; it may raise. The values are as the
    driver gets them, a list of such for a statement that is run for each of several."""

    dialect: Any = engine.dialect
    verbs = ("do_execute", "do_executemany", "do_execute_no_params")

    def hearing(verb: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def do(cursor: Any, text: str, *values: Any, **more: Any) -> Any:
            hear(text, () if verb == "do_execute_no_params" else values[0])
            return run(cursor, text, *values, **more)

        return do

    for verb in verbs:  # all statements pass here, those of `bookd.storage.prepared` too
        setattr(dialect, verb, hearing(verb, getattr(dialect, verb)))
    try:
        yield
    finally:
        for verb in verbs:
            delattr(dialect, verb)


@contextmanager
def watch(engine: Engine, tell: Callable[[str], Any]) -> Iterator[None]:
    """Within the block, call `tell(where)` at each point that a transaction of the engine passes; it may raise."""

    dialect: Any = engine.dialect
    commit = dialect.do_commit

    def do_commit(connection: Any) -> None:
        tell("before the commit")
        commit(connection)
        tell("after the commit")

    dialect.do_commit = do_commit
    try:
        with overhear(engine, lambda text, _: tell(f"before {text}")):
            yield
    finally:
        del dialect.do_commit


class Fault:
    """Strikes at the `number`-th point, counted from 0. `path` is the database file; `copy` is where the file is put as
    a process that is killed there leaves it."""

    def __init__(self, number: int, path: Path, copy: Path) -> None:
        self.number = number
        self.struck: str | None = None
        self._left = number
        self._path = path
        self._copy = copy

    def __call__(self, where: str) -> None:
        """Pass a point."""
        self._left -= 1
        if self._left == -1:
            self.struck = where
            copy_files(self._path, self._copy)
            raise Injected(f"injected at point {self.number}, {where}")


def copy_files(path: Path, copy: Path) -> None:
    """Copy a SQLite database with its log as they lie on the disk, whoever has them open."""
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for ending in ("", _LOG):
        source, target = path.with_name(path.name + ending), copy.with_name(copy.name + ending)
        target.unlink(missing_ok=True)
        if source.exists():
            shutil.copyfile(source, target)
