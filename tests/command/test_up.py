"""A whole suite under `bookd up`: it says when it is ready, and leaves no process behind however it ends."""

import json
import os
import shutil
import signal
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.request import Request, urlopen

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from bookd.command import leftover
from bookd.command.home import Home
from bookd.command.init import METRICS_PORTS, PORTS, make_home
from bookd.testing.ports import free_offset
from tests.command.suite import Ended

STOP_SECONDS = 10.0


class UpCase(TestCase):
    """A home on free ports."""

    timeout = 120

    def setUp(self) -> None:
        """Make the home; whatever runs in it at the end is killed."""
        self.folder = Path(mkdtemp(prefix="bookd-up-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.home = Home(self.folder / "var")
        make_home(self.home, port_offset=free_offset((*PORTS.values(), *METRICS_PORTS.values())))
        self.addCleanup(self.kill_all)

    def kill_all(self) -> None:
        """End what a failed test left."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[int]:
        """All processes of the home."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.fsencode(self.home.path) in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def bookd(self, *arguments: str, environment: Mapping[str, str] = os.environ) -> Ended:
        """Run the command on the home."""
        ended = Ended()
        variables = {**environment, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
        command = [sys.executable, "-m", "bookd.command.main", "--home", str(self.home.path), *arguments]
        ended.process = reactor.spawnProcess(ended, sys.executable, command, variables)  # type: ignore[attr-defined]
        return ended

    async def up(self) -> Ended:
        """A suite that is ready."""
        suite = self.bookd("up")
        await suite.says("bookd is ready: ")
        return suite

    async def end(self, suite: Ended, name: str) -> None:
        """End the suite with a signal, and see that it takes less than it may and leaves nothing."""
        started = time.monotonic()
        suite.process.signalProcess(name)
        self.assertEqual(await suite.status, 0, suite.errors)
        self.assertLess(time.monotonic() - started, STOP_SECONDS)
        self.assertEqual(self.processes(), [])

    def get(self, path: str, token: str = "") -> Any:
        """What the suite answers to a read."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}

        def ask() -> Any:
            context = ssl.create_default_context(cafile=self.home.ca)
            with urlopen(Request(self.home.url() + path, headers=headers), timeout=10, context=context) as answer:
                return json.load(answer)

        return deferToThread(ask)

    async def until_gone(self) -> None:
        """Wait until no process of the home is left."""
        while self.processes():
            await deferLater(reactor, 0.05)  # type: ignore[arg-type]


class UpTests(UpCase):
    """The life of a suite."""

    async def test_ready_stop_and_again(self) -> None:
        """It loads the sample once, says that it is ready, ends at Ctrl-C, and is ready again within 10 seconds."""
        suite = await self.up()
        self.assertIn(f"bookd is ready: {self.home.url()}\n", suite.printed)
        self.assertIn("loaded the sample catalogue: 42 books", suite.printed)
        self.assertEqual((await self.get("/v1/books?page_size=1"))["total_size"], 42)
        status = self.bookd("status")
        self.assertEqual(await status.status, 0, status.errors)
        self.assertEqual(status.printed.count("RUNNING"), 5)
        self.assertEqual(status.printed.count("certificate until 20"), 5)
        await self.end(suite, "INT")
        started = time.monotonic()
        suite = await self.up()
        self.assertLess(time.monotonic() - started, 10.0)
        self.assertNotIn("sample", suite.printed)
        self.assertEqual((await self.get("/v1/books?page_size=1"))["total_size"], 42)
        await self.end(suite, "TERM")

    async def test_hang_up_with_daemons_that_hang(self) -> None:
        """A closed terminal ends the suite in time even when a daemon is frozen and one has a slow client."""
        suite = await self.up()
        context = ssl.create_default_context(cafile=self.home.ca)
        port = self.home.listeners()["gateway"][1]
        client = context.wrap_socket(socket.create_connection(("localhost", port)), server_hostname="localhost")
        self.addCleanup(client.close)
        client.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        stop = self.bookd("ctl", "signal", "STOP", "inventory")
        self.assertEqual(await stop.status, 0, stop.errors)
        await self.end(suite, "HUP")

    async def test_port_that_is_taken(self) -> None:
        """One line that names port and daemon, a status other than 0, and nothing started."""
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            port = self.home.listeners()["mom"][1]
            other.bind(("127.0.0.1", port))
            other.listen()
            suite = self.bookd("up")
            self.assertEqual(await suite.status, 1)
        self.assertIn(f"port {port} (mom) is taken", suite.errors)
        self.assertEqual(suite.errors.count("\n"), 1)
        self.assertEqual((suite.printed, self.processes()), ("", []))

    async def test_second_run_beside_the_first(self) -> None:
        """The second says so and changes nothing; `ctl shutdown` ends the first."""
        suite = await self.up()
        second = self.bookd("up")
        self.assertEqual(await second.status, 1)
        self.assertIn("runs already", second.errors)
        self.assertEqual((await self.get("/readyz"))["status"], "ready")
        await self.bookd("ctl", "shutdown").status
        self.assertEqual(await suite.status, 0, suite.errors)
        self.assertEqual(self.processes(), [])

    async def test_run_that_was_killed(self) -> None:
        """After kill -9 of the command the suite ends by itself, and the next run waits for that and goes on."""
        suite = await self.up()
        suite.process.signalProcess("KILL")
        await suite.status
        await self.end(await self.up(), "INT")

    async def test_run_and_supervisor_that_were_killed(self) -> None:
        """Daemons that lost their supervisor too are ended by the next run, which says so."""
        suite = await self.up()
        supervisor = int((self.home.path / "supervisord.pid").read_text())
        os.kill(supervisor, signal.SIGKILL)
        suite.process.signalProcess("KILL")
        await suite.status
        self.assertEqual(len(leftover.leftovers(self.home)), 5)
        again = await self.up()
        self.assertIn("ending what it left behind", again.errors)
        await self.end(again, "INT")

    async def test_supervisor_that_was_killed(self) -> None:
        """The command says so, ends, and takes the daemons with it."""
        suite = await self.up()
        os.kill(int((self.home.path / "supervisord.pid").read_text()), signal.SIGKILL)
        self.assertEqual(await suite.status, 1)
        self.assertIn("supervisord ended unasked", suite.errors)
        await self.until_gone()

    async def test_spoilt_certificates(self) -> None:
        """Each file that cannot be used is told in a line before anything is started."""
        folder = self.home.path / "pki"
        (folder / "mom.pem").write_bytes(b"")
        shutil.copy(folder / "operator.key", folder / "users.key")
        (folder / "orders.key").unlink()
        ended = self.bookd("up")
        self.assertEqual((await ended.status, ended.printed), (1, ""))
        self.assertEqual(len(ended.errors.splitlines()), 3, ended.errors)
        for said in ("mom.pem is empty", "users.key holds a key that is not that of", "orders.key: No such file"):
            self.assertIn(said, ended.errors)
        (folder / "ca.pem").write_bytes(b"junk")
        ended = self.bookd("up")
        self.assertEqual(await ended.status, 1)
        self.assertEqual(ended.errors.count("ca.pem holds no certificate"), 1, ended.errors)
        self.assertNotIn("Traceback", ended.errors)

    async def test_daemon_that_cannot_start(self) -> None:
        """What the daemon wrote last is shown, the status is not 0, and the others are ended."""
        database = self.home.path / "data" / "orders.sqlite"
        database.touch(0o666)
        database.chmod(0o666)
        suite = self.bookd("up")
        self.assertEqual(await suite.status, 1)
        self.assertIn("orders did not start", suite.errors)
        self.assertIn("orders.sqlite", suite.errors)
        self.assertEqual(self.processes(), [])
