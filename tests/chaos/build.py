"""A test build of a daemon: twistd, with something of the daemon replaced before it starts.

`python -m tests.chaos.build -n … bookd-mom --config …`. Two environment variables, which nothing else reads, say what
is replaced:

- BOOKD_CHAOS_CLOCK names a file that holds by how many microseconds the daemon's clock is wrong, as eight bytes;
- BOOKD_CHAOS_SABOTAGE breaks a promise, so that the apparatus can be seen to find that:
  `forget` has services apply a message that comes again; `early` has the MOM answer before it commits.
"""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor

reactor.install()

import mmap
import os
import struct
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.scripts.twistd import run

from bookd.bridge.commits import Commits, Unit

# Seconds between an early answer and its commit.
EARLY = 0.5


def clock(path: str) -> Callable[[], int]:
    """The wall clock in microseconds, wrong by what the file says."""
    with open(path, "rb") as file:
        wrong = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)

    def now() -> int:
        offset: int = struct.unpack("<q", wrong)[0]
        return time.time_ns() // 1000 + offset

    return now


def forget() -> None:
    """Switch the inbox off."""
    from bookd.storage import inbox

    def once(connection: Connection, _call: object, _kind: object, _now: int, work: Callable[[Connection], Any]) -> Any:
        return work(connection)

    inbox.once = once  # type: ignore[assignment]


def early() -> None:
    """Tell first, and commit then."""
    from twisted.internet import reactor as running

    run_units, commit = Commits.run, Commits.commit

    def told(self: Commits, units: Iterable[Unit]) -> None:
        group = list(units)
        run_units(self, group)
        for unit in group:
            # What is told after the commit goes to nobody.
            early, unit.deferred = unit.deferred, Deferred().addErrback(lambda _: None)
            running.callFromThread(early.callback, unit.result)  # type: ignore[attr-defined]

    def committed(self: Commits) -> None:
        time.sleep(EARLY)
        commit(self)

    Commits.run, Commits.commit = told, committed  # type: ignore[method-assign]


def main() -> None:
    """Replace what is to be replaced, and be twistd."""
    wrong = os.environ.get("BOOKD_CHAOS_CLOCK")
    if wrong:
        name = next(argument for argument in sys.argv if argument.startswith("bookd-")).removeprefix("bookd-")
        tap: Any = import_module(f"bookd.{name}.tap")
        tap.now = clock(wrong)
    match os.environ.get("BOOKD_CHAOS_SABOTAGE"):
        case "forget":
            forget()
        case "early":
            early()
    sys.argv[0] = "twistd"
    run()


if __name__ == "__main__":
    main()
