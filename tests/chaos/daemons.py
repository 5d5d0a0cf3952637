"""The daemons of a run as processes that can be killed, stopped, frozen and started again."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.chaos.stage import environment

# Seconds after SIGTERM until SIGKILL: more than any daemon's grace.
PATIENCE = 10.0


class _Life(ProcessProtocol):
    """One process. `ended` fires with its exit status, or minus the signal that ended it."""

    def __init__(self) -> None:
        self.ended: Deferred[int] = Deferred()

    def processEnded(self, reason: Failure) -> None:
        """Tell how it ended."""
        value: Any = reason.value
        self.ended.callback(value.exitCode if value.exitCode is not None else -value.signal)


class Program:
    """A program that writes into `log`, started any number of times. `died` is told the status when it ended and
    nobody had asked it to."""

    def __init__(
        self,
        reactor: Any,
        name: str,
        command: Sequence[str],
        log: Path,
        died: Callable[[str, int], None],
        **variables: str,
    ) -> None:
        self.name = name
        self._reactor = reactor
        self._command = list(command)
        self._log = log
        self._died = died
        self._variables = variables
        self._life: _Life | None = None
        self._process: Any = None
        self._asked = False

    @property
    def pid(self) -> int | None:
        """Of the process, while it lives."""
        return None if self._life is None else int(self._process.pid)

    def start(self) -> None:
        """Start it, unless it lives."""
        if self._life is not None:
            return
        self._asked = False
        life = self._life = _Life()
        with self._log.open("ab") as log:
            self._process = self._reactor.spawnProcess(
                life,
                self._command[0],
                self._command,
                environment(**self._variables),
                childFDs={0: "w", 1: log.fileno(), 2: log.fileno()},
            )
        life.ended.addCallback(self._over)

    def signal(self, number: int) -> None:
        """Send a signal, if it lives."""
        if self._life is not None:
            with suppress(ProcessExitedAlready, ProcessLookupError):
                os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """End it at once."""
        self._asked = True
        self.signal(signal.SIGKILL)
        await self._end()

    async def stop(self) -> bool:
        """End it as a supervisor does; False if it had to be killed."""
        self._asked = True
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        late: list[int] = []

        def insist() -> None:
            late.append(1)
            self.signal(signal.SIGKILL)

        timer = self._reactor.callLater(PATIENCE, insist)
        await self._end()
        if timer.active():
            timer.cancel()
        return not late

    async def _end(self) -> None:
        if self._life is None:
            return
        told: Deferred[None] = Deferred()

        def tell(status: int) -> int:
            told.callback(None)
            return status

        self._life.ended.addCallback(tell)
        await told

    def _over(self, status: int) -> int:
        self._life = None
        if not self._asked:
            self._died(self.name, status)
        return status


def twistd(name: str, config: Path, *, build: bool = False) -> list[str]:
    """The command that runs a daemon; with `build` the test build of it (`tests.chaos.build`)."""
    start = ["-m", "tests.chaos.build"] if build else [str(Path(sys.executable).with_name("twistd"))]
    return [sys.executable, *start, "-n", "--pidfile=", f"bookd-{name}", "--config", str(config)]
