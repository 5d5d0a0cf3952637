"""Short runs of the apparatus: over a sound suite, and over two that break a promise."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import TestCase

from tests.chaos.stage import environment


class Run(ProcessProtocol):
    """A run in a process of its own: what it said, and how it ended."""

    def __init__(self, *arguments: str) -> None:
        self.said = b""
        self.ended: Deferred[int] = Deferred()
        command = [sys.executable, "-m", "tests.chaos", *arguments]
        self._process: Any = reactor.spawnProcess(self, command[0], command, environment())  # type: ignore[attr-defined]

    def outReceived(self, data: bytes) -> None:
        """Keep it."""
        self.said += data

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        """Tell the status."""
        self.ended.callback(reason.value.exitCode if reason.value.exitCode is not None else -reason.value.signal)

    async def end(self) -> None:
        """Let nothing be left of it."""
        if not self.ended.called:
            os.kill(self._process.pid, signal.SIGTERM)
            await self.ended


class ChaosTests(TestCase):
    """The whole apparatus."""

    timeout = 150

    async def run_chaos(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        """A run: its exit status, its report, and what it printed."""
        folder = Path(mkdtemp(prefix="bookd-chaos-"))
        self.addCleanup(rmtree, folder, ignore_errors=True)
        run = Run("--folder", str(folder), "--keep", *arguments)
        self.addCleanup(lambda: Deferred.fromCoroutine(run.end()))
        status = await run.ended
        said = run.said.decode()
        self.assertTrue((folder / "report.json").exists(), said)
        self.assertEqual(processes(folder), [])
        return status, json.loads((folder / "report.json").read_text()), said

    async def test_sound(self) -> None:
        """A suite that is killed, frozen, cut off and starved for twenty seconds keeps all its promises."""
        status, report, said = await self.run_chaos("--seed", "7", "--seconds", "20", "--pace", "1")
        self.assertEqual((status, report["sound"]), (0, True), said)
        self.assertGreater(report["counts"]["acknowledged"], 100)
        self.assertGreaterEqual(len(report["faults"]), 10 - len(report["skipped"]))

    async def test_without_an_inbox(self) -> None:
        """Services that apply a message again when it comes again are found out."""
        status, report, said = await self.run_chaos(
            *("--seed", "3", "--seconds", "8", "--pace", "0.7", "--kinds", "freeze,silence,kill", "--rest", "15"),
            *("--sabotage", "forget"),
        )
        self.assertEqual((status, report["sound"]), (1, False), said)
        self.assertGreater(report["found"]["duplicated"], 0)

    async def test_answer_before_the_commit(self) -> None:
        """A MOM that answers before it has committed is found out; the seed and the folder are named."""
        status, report, said = await self.run_chaos(
            *("--seed", "4", "--seconds", "8", "--pace", "0.5", "--kinds", "kill", "--rest", "5"),
            *("--sabotage", "early"),
        )
        self.assertEqual((status, report["sound"]), (1, False), said)
        self.assertGreater(report["found"]["lost"], 0)
        self.assertRegex(said, re.compile(r"seed 4\b.*kept +/", re.DOTALL))


def processes(folder: Path) -> list[str]:
    """The commands of processes that were started for a run and are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found
