"""`bookd up`: the whole suite in the foreground.

Makes the home if there is none, starts supervisord, waits until all five daemons serve, loads the sample catalogue once,
says that it is ready, and stays. Ctrl-C, SIGTERM and SIGHUP end all five in order and leave no process; so does the end
of this process in any other way, where the system can tell supervisord of it (Linux).
"""

import ctypes
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from threading import Event
from types import FrameType
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from bookd.command import supervise
from bookd.command.home import CommandError, Home
from bookd.command.identities import require_usable
from bookd.command.init import make_folder, make_home
from bookd.command.leftover import end_leftovers, kill_session, only_one
from bookd.command.ports import require_free
from bookd.command.supervise import Supervisor, await_serving

# How long the gateway and the services may take from listening to answering.
READY_SECONDS = 30.0
# Ctrl-C ends everything within 10 seconds: supervisord has this long, then what is left of the suite is killed.
STOP_SECONDS = 9.5
PAUSE = 0.05
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Stopped(Exception):
    """Somebody asked for the end while the suite was starting."""


@contextmanager
def stop_signals() -> Iterator[Event]:
    """An event that the signals that end a program set."""
    stop = Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def supervisord(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisord for the home, which starts the daemons; at the end all of them are gone."""
    make_folder(home.log("supervisord").parent)
    make_folder(home.socket.parent)
    if home.socket.parent.stat().st_uid != os.getuid():
        raise CommandError(f"{home.socket.parent} belongs to somebody else")
    file = home.path / "supervisord.conf"
    file.write_text(supervise.configuration(home), encoding="utf-8")
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)]
    with home.log("supervisord-output").open("wb") as output:
        process = child(command, output, output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            click.echo("bookd: the suite did not stop in time; killing what is left of it", err=True)
            process.kill()
            process.wait()
        kill_session(process.pid)


def child(command: list[str], output: int | IO[bytes], errors: int | IO[bytes]) -> subprocess.Popen[bytes]:
    """Run `command` in a session of its own, so that Ctrl-C at the terminal reaches this process only, which then stops
    everything in order. The child gets SIGTERM when this process ends, however that happens (Linux)."""
    tie = None
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl

        def tie() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
        preexec_fn=tie,  # noqa: PLW1509 - this process has one thread
    )


class Suite:
    """A suite that is starting; every wait ends with `Stopped` when somebody asks for the end."""

    def __init__(self, home: Home, process: subprocess.Popen[bytes], stop: Event) -> None:
        self.home = home
        self.process = process
        self.stop = stop
        self.supervisor = Supervisor(home)
        self.url = home.url()
        try:
            self._trust = ssl.create_default_context(cafile=home.ca)
        except OSError as error:  # a damaged file is one too
            raise CommandError(f"{home.ca}: no authority that can be used: {error.strerror or error}") from error

    def ready(self) -> None:
        """Wait until every daemon serves. Raises `CommandError` that says which does not."""
        while not self.supervisor.answers():
            self._pause("supervisord")
        await_serving(self.supervisor, list(self.supervisor.processes()), self.stop.is_set)
        deadline = time.monotonic() + READY_SECONDS
        # one read of each service's, all the way through the gateway and the MOM
        for path in ("/readyz", "/v1/books?page_size=1", "/.well-known/jwks.json"):
            while (answer := self._status(path)) != 200:
                self._pause(f"{self.url}{path} (last answer: {answer})", deadline)

    def load_sample(self) -> None:
        """Load the sample catalogue, unless this home has had it."""
        marker = self.home.path / "data" / "sample.json"
        if marker.exists():
            return
        unfinished = marker.with_suffix(".part")
        with as_file(files("bookd.command") / "sample.csv") as sample:
            command = [sys.executable, "-m", "bookd.command.main", "--home", str(self.home.path), "import"]
            command += [str(sample), "--stock", "20", "--price", "9.99", "--report", str(unfinished)]
            loading = child(command, subprocess.DEVNULL, subprocess.PIPE)
            try:
                while loading.poll() is None:
                    self._pause("the sample catalogue")
            finally:
                loading.kill()
                errors = loading.communicate()[1].decode(errors="replace").strip()
        if loading.returncode == 0:
            unfinished.rename(marker)
            click.echo(f"loaded the sample catalogue: {json.loads(marker.read_text())['created']} books")
        else:
            click.echo(f"bookd: the sample catalogue was not loaded: {errors}", err=True)

    def stay(self) -> None:
        """Wait for the end: that somebody asks for it here, or tells the supervisor. Raises `CommandError` when the
        supervisor fails."""
        while not self.stop.wait(0.5):
            status = self.process.poll()
            if status == 0:
                return
            if status is not None:
                raise CommandError(f"supervisord ended unasked; see {self.home.log('supervisord')}")

    def _pause(self, awaited: str, deadline: float | None = None) -> None:
        if self.process.poll() is not None:
            tail = supervise.log_tail(self.home, "supervisord-output")
            raise CommandError(f"supervisord ended with status {self.process.returncode}:\n{tail}")
        if deadline is not None and time.monotonic() > deadline:
            raise CommandError(f"gave up waiting for {awaited}; the logs are in {self.home.log('x').parent}")
        if self.stop.wait(PAUSE):
            raise Stopped

    def _status(self, path: str) -> int | str:
        try:
            with urlopen(Request(self.url + path), timeout=2.0, context=self._trust) as answer:  # noqa: S310 - https
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, OSError) as error:
            return str(error)


def run(home: Home, stop: Event) -> None:
    """Run the suite of `home` until `stop` is set."""
    make_folder(home.path)
    with only_one(home):
        if not home.config_file.exists():
            make_home(home)
            click.echo(f"made {home.path}; the administrator's name and password are in {home.admin}")
        require_usable(home)
        wanted = home.ports()
        end_leftovers(home, stop)
        if stop.is_set():
            return
        require_free(wanted)
        with supervisord(home) as process:
            suite = Suite(home, process, stop)
            try:
                suite.ready()
                suite.load_sample()
                click.echo(f"bookd is ready: {suite.url}")
                suite.stay()
            except Stopped:
                pass
            click.echo("bookd is stopping")


@click.command()
@click.pass_obj
def up(home: Home) -> None:
    """Run the whole suite in the foreground; Ctrl-C ends it. Makes the home first, if there is none."""
    with stop_signals() as stop:
        run(home, stop)
