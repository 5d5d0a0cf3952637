"""One run of a suite at a time, and an end to what a run that was killed left behind.

`bookd up` holds a lock on the home for as long as it lives, and the system lets go of it however it ends. Whoever has the
lock knows that any supervisor and any daemon of a supervisor in this home belong to nobody. A daemon that somebody
started by hand bears no mark of a supervisor, and is left alone.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event

import click

from bookd.command.home import CommandError, Home
from bookd.command.supervise import Supervisor

# How long what is left may take to end by itself before it is killed.
END_SECONDS = 9.5
_PAUSE = 0.05


@contextmanager
def only_one(home: Home) -> Iterator[None]:
    """Hold the home's lock. Raises `CommandError` when another run has it."""
    with (home.path / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                f"the suite in {home.path} runs already; end it with: bookd --home {home.path} ctl shutdown"
            ) from None
        yield


def end_leftovers(home: Home, stop: Event) -> None:
    """End the supervisor and the daemons of a run that was killed; returns early when `stop` is set. Only for who holds
    the lock."""
    left = leftovers(home)
    supervisor = Supervisor(home)
    answers = supervisor.answers()
    if not left and not answers:
        return
    click.echo("bookd: an earlier run was killed; ending what it left behind", err=True)
    if answers:
        with suppress(CommandError):  # it may have ended meanwhile
            supervisor.shutdown()
    else:
        _tell(left, signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    while (leftovers(home) or supervisor.answers()) and not stop.wait(_PAUSE):
        if time.monotonic() > deadline:
            _tell(leftovers(home), signal.SIGKILL)
            if time.monotonic() > deadline + 1.0:
                raise CommandError(f"a supervisor of an earlier run holds {home.socket} and does not end")


def leftovers(home: Home) -> list[int]:
    """Process ids of the supervisor of this home, and of the daemons that one started, as far as /proc tells."""
    found = []
    configuration = os.fsencode(home.config_file)
    supervisord = os.fsencode(home.path / "supervisord.conf")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            supervises = b"supervisor.supervisord" in arguments and supervisord in arguments
            serves = configuration in arguments and b"SUPERVISOR_ENABLED=1" in (folder / "environ").read_bytes().split(
                b"\0"
            )
        except OSError:  # it ended, or is somebody else's
            continue
        if supervises or serves:
            found.append(int(folder.name))
    return found


def kill_session(leader: int) -> None:
    """Kill all processes of the session, which a supervisord that did not end by itself left behind."""
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def _tell(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
