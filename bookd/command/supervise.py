"""The supervisor of a suite: its configuration, what it says about the daemons, and `bookd ctl`.

supervisord runs the five daemons and starts one again that ends unasked. It listens on a UNIX socket that only this user
can reach. Daemons start all at once; they stop gateway first, then the MOM, then the services together, so that nobody
loses the one it is talking to.
"""

import os
import shlex
import sys
import sysconfig
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, cast

import click
from attrs import frozen
from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

from bookd.command import certs
from bookd.command.home import DAEMONS, CommandError, Home
from bookd.command.ports import listens, require_free

# Which group a daemon stops with, and how many seconds each may take before it is killed: 9 in all.
GROUPS = {"services": ("inventory", "orders", "users"), "mom": ("mom",), "gateway": ("gateway",)}
STOP_SECONDS = {"inventory": 2, "orders": 2, "users": 2, "mom": 3, "gateway": 4}
# How long a daemon may take from its start until it listens.
LISTEN_SECONDS = 30.0

SUPERVISORD = """\
; Written by `bookd up` at each start; changes are lost.
[supervisord]
nodaemon = true
silent = true
directory = {home}
logfile = {log}/supervisord.log
logfile_maxbytes = 5MB
logfile_backups = 2
pidfile = {home}/supervisord.pid
umask = 077
{user}
[unix_http_server]
file = {socket}
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
GROUP = """
[group:{name}]
programs = {programs}
priority = {priority}
"""
PROGRAM = """
[program:{name}]
command = {command}
directory = {home}
autorestart = true
startsecs = 1
startretries = 1000
stopsignal = TERM
stopwaitsecs = {stop_seconds}
killasgroup = true
redirect_stderr = true
stdout_logfile = {log}
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 5
"""


def configuration(home: Home) -> str:
    """The text of supervisord.conf for the daemons that the home's configuration has."""
    listeners = home.listeners()
    parts = [
        SUPERVISORD.format(
            home=literal(home.path),
            log=literal(home.log("x").parent),
            socket=literal(home.socket),
            # supervisord warns on every start when root did not say that it means it
            user="user = root\n" if os.getuid() == 0 else "",
        )
    ]
    for priority, (group, members) in enumerate(GROUPS.items()):
        names = [name for name in members if name in listeners]
        if not names:
            continue
        parts.append(GROUP.format(name=group, programs=",".join(names), priority=priority))
        parts += [
            PROGRAM.format(
                name=name,
                command=literal(shlex.join(daemon_command(home, name))),
                home=literal(home.path),
                stop_seconds=STOP_SECONDS[name],
                log=literal(home.log(name)),
            )
            for name in names
        ]
    return "".join(parts)


def literal(value: object) -> str:
    """`value` as supervisord's configuration takes it: percent signs doubled. Raises `CommandError` for a line break or
    a comment in a path."""
    text = str(value)
    if any(character in text for character in "\r\n") or " ;" in text:
        raise CommandError(f"{text!r} cannot stand in supervisord's configuration; choose another --home")
    return text.replace("%", "%%")


def daemon_command(home: Home, name: str) -> list[str]:
    """The command that runs one daemon in the foreground, under the same interpreter as this one."""
    twistd = Path(sysconfig.get_path("scripts")) / "twistd"
    start = [str(twistd)] if twistd.exists() else ["-c", "from twisted.scripts.twistd import run; run()"]
    return [sys.executable, *start, "-n", "--pidfile=", f"bookd-{name}", "--config", str(home.config_file)]


@frozen
class Process:
    """What the supervisor says about one daemon."""

    name: str
    group: str
    state: str  # STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN
    pid: int  # 0 when there is none
    since: int  # seconds since the epoch, of the last start or stop
    error: str  # why it could not be started


class Supervisor:
    """Speaks to the supervisor of a home. Every method raises `CommandError` when none answers."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._transport = SupervisorTransport(None, None, f"unix://{home.socket}")
        # the transport knows where to go; the address is never resolved
        self._remote = xmlrpc.client.ServerProxy("http://localhost", transport=self._transport)

    def _call(self, verb: str, *arguments: object) -> Any:
        try:
            return getattr(self._remote.supervisor, verb)(*arguments)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            self._transport.close()
            raise CommandError(f"no suite runs in {self.home.path}; start it with: {self._hint('up')}") from error
        except (OSError, HTTPException, xmlrpc.client.ProtocolError) as error:
            # the connection would go on refusing; the next call gets a new one
            self._transport.close()
            raise CommandError(f"the supervisor at {self.home.socket} does not answer: {error}") from error

    def _hint(self, subcommand: str) -> str:
        return f"bookd --home {shlex.quote(str(self.home.path))} {subcommand}"

    def answers(self) -> bool:
        """Whether a supervisor is there."""
        try:
            self._call("getState")
        except CommandError:
            return False
        except xmlrpc.client.Fault:  # it is there, and ending
            return True
        return True

    def processes(self) -> dict[str, Process]:
        """The daemons by name, in `DAEMONS` order. Raises `CommandError` when the suite is ending."""
        try:
            answer = self._call("getAllProcessInfo")
        except xmlrpc.client.Fault as fault:
            raise CommandError(f"the suite in {self.home.path} is ending") from fault
        found = {
            info["name"]: Process(
                name=info["name"],
                group=info["group"],
                state=info["statename"],
                pid=info["pid"],
                since=info["start"] if info["pid"] else info["stop"],
                error=info["spawnerr"],
            )
            for info in cast("list[dict[str, Any]]", answer)
        }
        return {name: found[name] for name in DAEMONS if name in found}

    def named(self, names: tuple[str, ...]) -> list[Process]:
        """The daemons of these names, all if there are none, in the order in which they start."""
        processes = self.processes()
        for name in names:
            if name not in processes:
                raise CommandError(f"this suite has no daemon {name!r}; it has {', '.join(processes)}")
        return [process for process in processes.values() if not names or process.name in names]

    def start(self, process: Process) -> None:
        """Start a daemon; `await_serving` waits for it. One that runs already is left alone."""
        self._change("startProcess", process, False, harmless="ALREADY_STARTED")

    def stop(self, process: Process) -> None:
        """Stop a daemon and wait until it is gone. One that is stopped already is left alone."""
        self._change("stopProcess", process, True, harmless="NOT_RUNNING")

    def signal(self, process: Process, name: str) -> None:
        """Send a signal (`HUP`, `STOP`, …) to a daemon."""
        try:
            self._call("signalProcess", f"{process.group}:{process.name}", name)
        except xmlrpc.client.Fault as fault:
            raise CommandError(f"{process.name} cannot get the signal {name}: {fault.faultString}") from fault

    def shutdown(self) -> None:
        """Tell the supervisor to stop all daemons and itself. Does not wait."""
        with suppress(xmlrpc.client.Fault):  # it is doing so already
            self._call("shutdown")

    def _change(self, verb: str, process: Process, wait: bool, *, harmless: str) -> None:
        try:
            self._call(verb, f"{process.group}:{process.name}", wait)
        except xmlrpc.client.Fault as fault:
            if not fault.faultString.startswith(harmless):
                raise CommandError(f"{process.name}: {fault.faultString}") from fault


def log_tail(home: Home, program: str, lines: int = 12) -> str:
    """The last lines of what a program wrote, indented."""
    try:
        with home.log(program).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 16_384))
            text = log.read().decode(errors="replace")
    except OSError as error:
        return f"  ({error.strerror})"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (it is empty)"


def await_serving(supervisor: Supervisor, names: Collection[str], stopped: Callable[[], bool] = lambda: False) -> None:
    """Wait until daemons that were started accept connections. Raises `CommandError` for the first that ended, with what
    it wrote last, and for the first that takes too long; returns early when `stopped` says so."""
    listeners = supervisor.home.listeners()
    deadline = time.monotonic() + LISTEN_SECONDS
    waiting = set(names)
    seen: dict[str, int] = {}
    while waiting and not stopped():
        processes = supervisor.processes()
        for name in sorted(waiting):
            pid = processes[name].pid
            # one that ends after a second has run, for the supervisor, and is on its way again at once
            again = pid and seen.setdefault(name, pid) != pid
            if again or processes[name].state in ("BACKOFF", "EXITED", "FATAL", "STOPPED"):
                raise CommandError(
                    f"{name} did not start; the end of {supervisor.home.log(name)}:\n{log_tail(supervisor.home, name)}"
                )
            if listens(*listeners[name]):
                waiting.remove(name)
            elif time.monotonic() > deadline:
                raise CommandError(f"{name} runs, but does not listen on port {listeners[name][1]} yet")
        time.sleep(0.05)


def tell(supervisor: Supervisor, processes: Sequence[Process]) -> None:
    """Print where daemons stand."""
    listeners, metrics = supervisor.home.listeners(), supervisor.home.metrics_ports()
    for process in processes:
        where = f"port {listeners[process.name][1]}" if process.name in listeners else ""
        where += f", metrics {metrics[process.name]}" if process.name in metrics else ""
        since = f"pid {process.pid}, up {int(time.time()) - process.since} s" if process.pid else process.error
        certificate = certs.remark(supervisor.home, process.name, datetime.now(UTC))
        click.echo(f"{process.name:<10} {process.state:<9} {where:<26} {since:<24} {certificate}".rstrip())


def each(act: Callable[[Process], None], processes: Iterable[Process]) -> None:
    """Do it to all of them; afterwards raise `CommandError` that says for which it could not be done."""
    faults = []
    for process in processes:
        try:
            act(process)
        except CommandError as error:
            faults.append(str(error))
    if faults:
        raise CommandError("\n".join(dict.fromkeys(faults)))


DAEMON = click.argument("daemons", nargs=-1, metavar="[DAEMON]...", type=click.Choice(DAEMONS))


@click.group()
def ctl() -> None:
    """Stop, start and look at the daemons of the suite that runs in the home."""


@ctl.command()
@DAEMON
@click.pass_obj
def start(home: Home, daemons: tuple[str, ...]) -> None:
    """Start daemons (all, if none is named) and wait until they serve."""
    supervisor = Supervisor(home)
    chosen = supervisor.named(daemons)
    require_free(home.ports([process.name for process in chosen if not process.pid]))
    each(supervisor.start, chosen)
    await_serving(supervisor, [process.name for process in chosen])
    click.echo(f"{' and '.join(process.name for process in chosen)}: started")


@ctl.command()
@DAEMON
@click.pass_obj
def stop(home: Home, daemons: tuple[str, ...]) -> None:
    """Stop daemons (all, if none is named) and wait until they are gone."""
    supervisor = Supervisor(home)

    def end(process: Process) -> None:
        supervisor.stop(process)
        click.echo(f"{process.name}: stopped")

    each(end, reversed(supervisor.named(daemons)))


@ctl.command()
@DAEMON
@click.pass_context
def restart(context: click.Context, daemons: tuple[str, ...]) -> None:
    """Stop daemons, then start them."""
    context.invoke(stop, daemons=daemons)
    context.invoke(start, daemons=daemons)


@ctl.command(name="signal")
@click.argument("name", metavar="SIGNAL")
@click.argument("daemon", type=click.Choice(DAEMONS))
@click.pass_obj
def send_signal(home: Home, name: str, daemon: str) -> None:
    """Send a signal (HUP, STOP, CONT, …) to a daemon."""
    supervisor = Supervisor(home)
    supervisor.signal(supervisor.named((daemon,))[0], name.upper().removeprefix("SIG"))


@ctl.command()
@click.pass_obj
def shutdown(home: Home) -> None:
    """End the whole suite, its supervisor included."""
    Supervisor(home).shutdown()


@click.command()
@DAEMON
@click.pass_obj
def status(home: Home, daemons: tuple[str, ...]) -> None:
    """Show where daemons stand (all, if none is named); ends with status 3 unless they run."""
    supervisor = Supervisor(home)
    chosen = supervisor.named(daemons)
    tell(supervisor, chosen)
    listeners = home.listeners()
    for process in chosen:
        # the supervisor calls a daemon STARTING for its first second, whether it serves or not
        serves = process.state == "STARTING" and listens(*listeners[process.name])
        if process.state != "RUNNING" and not serves:
            raise SystemExit(3)


ctl.add_command(status)
