"""Measures a MOM that holds a great many messages: `python -m benchmarks.hoard --messages 1000000`.

Three times in one run, each with a database of its own: a MOM that holds nothing, one that holds a few messages, one that
holds all. Told are the time until it listens, how much memory it takes when it is at rest, how soon after the return of its
destination the first message arrives, how fast a bounded number is drained, and the most memory that takes. What counts are
the ratios: memory must not depend on how much waits.

The messages are written by the store's own functions, a few thousand a transaction. The destination is a process that
answers everything with an empty response. Resident memory is told with the part of it that is the process's own
(anonymous), for SQLite maps the file: pages of it that were read are resident as long as nobody else wants the room.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from benchmarks.stand import BenchError, free_offset
from bookd.command.home import Home
from bookd.command.init import make_home

SERVICE = "bookd.orders.v1.OrdersService"
METHOD = f"/{SERVICE}/CreateOrder"
# Messages that are written in one transaction, and that the destination answers between two of its reports.
BATCH, REPORT = 5000, 500
# Seconds to rest before memory is read, and between two readings.
REST, LOOK = 5.0, 0.2
PATIENCE = 120.0


def fill(database: Path, seals: Path | None, messages: int, lanes: int, size: int) -> float:
    """Write so many messages, in turn into so many lanes, with requests of so many bytes, sealed with the keys in `seals`;
    answers the seconds it took."""
    from bookd.mom import store
    from bookd.mom.records import Draft
    from bookd.mom.vault import Vault, guarded
    from bookd.storage.engine import open_engine

    engine = open_engine(database)
    if seals is not None:
        engine = guarded(engine, Vault(seals, time.monotonic, lambda: time.time_ns() // 1000))
    began = time.perf_counter()
    now = time.time_ns() // 1000
    for start in range(0, messages, BATCH):
        with engine.begin() as connection:
            for number in range(start, min(start + BATCH, messages)):
                made = Draft(
                    message_id=str(UUID(int=number + 1)),
                    destination=SERVICE,
                    lane=f"customer {number % lanes}",
                    method=METHOD,
                    request=os.urandom(size),
                    fingerprint=number.to_bytes(32, "big"),
                    principal=b"",
                    subject=f"customer {number % lanes}",
                    metadata={"bookd-request-id": f"hoard-{number}"},
                    reply_to=None,
                    expire_at=now + 7 * 86_400_000_000,
                )
                store.keep(connection, made, now)
    engine.dispose()
    return time.perf_counter() - began


def waiting(database: Path) -> int:
    """How many messages wait."""
    from bookd.mom import overview
    from bookd.storage.engine import open_engine

    engine = open_engine(database)
    with engine.connect() as connection:
        depth = overview.queue(connection, SERVICE).depth
    engine.dispose()
    return depth


def memory(pid: int) -> dict[str, float]:
    """Resident memory of a process in MiB, and the part of it that is its own."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        found[key] = value.strip()
    return {key: int(found[name].split()[0]) / 1024 for key, name in (("resident", "VmRSS"), ("own", "RssAnon"))}


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A process, ended afterwards."""
    with log.open("a") as file:
        process = subprocess.Popen(command, stderr=file, text=True, **({"stdout": file} | options))
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def until_listening(process: "subprocess.Popen[str]", host: str, port: int) -> float:
    """Seconds until somebody takes connections there."""
    began = time.perf_counter()
    while time.perf_counter() - began < PATIENCE:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return time.perf_counter() - began
        if process.poll() is not None:
            break
        time.sleep(0.005)
    raise BenchError("the MOM does not listen")


def stand(folder: Path, messages: int, drained: int, lanes: int, size: int) -> dict[str, Any]:
    """One MOM that holds so many messages, from its start until some are drained."""
    home = Home(folder / "var")
    make_home(home, port_offset=free_offset())
    table = home.load().mom
    assert table is not None
    twistd = str(Path(sys.executable).with_name("twistd"))
    mom_command = [twistd, "-n", "--pidfile=", "bookd-mom", "--config", str(home.config_file)]
    log, database = folder / "mom.log", home.path / table.database
    seals = None if table.sealing_keys is None else home.path / table.sealing_keys
    found: dict[str, Any] = {"messages": messages}
    with running(mom_command, log) as mom:  # it makes the tables
        until_listening(mom, table.grpc.host, table.grpc.port)
    if messages:
        found["filled in seconds"] = fill(database, seals, messages, min(lanes, messages), size)
        found["file in MiB"] = database.stat().st_size / 2**20
    with running(mom_command, log) as mom:
        found["listening after seconds"] = until_listening(mom, table.grpc.host, table.grpc.port)
        time.sleep(REST)
        found["at rest"] = memory(mom.pid)
        if messages:
            found.update(drain(home, mom.pid, folder / "sink.log", min(drained, messages)))
    if messages:
        found["left"] = waiting(database)
    return found


def drain(home: Home, pid: int, log: Path, drained: int) -> dict[str, Any]:
    """Let the destination come back until it has answered so many messages."""
    command = [sys.executable, "-m", "benchmarks.hoard", "--sink", str(home.path)]
    seen: list[dict[str, float]] = []
    report: dict[str, float] = {}
    first = 0.0
    with running(command, log, stdout=subprocess.PIPE) as sink:
        assert sink.stdout is not None
        os.set_blocking(sink.stdout.fileno(), False)
        until = time.monotonic() + PATIENCE + drained / 20
        while report.get("taken", 0) < drained:
            for line in sink.stdout:
                report = json.loads(line)
                first = first or report["seconds"]
            seen.append(memory(pid))
            if time.monotonic() > until or sink.poll() is not None:
                raise BenchError(f"only {report} of {drained} were drained; see {log}")
            time.sleep(LOOK)
    most = {key: max(each[key] for each in seen) for key in seen[0]}
    third = max(len(seen) // 3, 1)
    return {
        "first delivery after seconds": first,
        "drained a second": (report["taken"] - 1) / (report["seconds"] - first),
        "most": most,
        "own, last third to first": max(each["own"] for each in seen[-third:])
        / max(each["own"] for each in seen[:third]),
    }


def sink(folder: Path) -> None:
    """Be the destination. Says how many calls came, and how many seconds after the start of the listening."""
    from bookd.bridge import reactor as bridge

    bridge.install()
    from twisted.internet import reactor

    from bookd.bridge import tls
    from bookd.bridge.context import Context
    from bookd.bridge.methods import RawMethod
    from bookd.bridge.server import Server

    orders = Home(folder).load().orders
    assert orders is not None
    server = Server(orders.grpc.host, orders.grpc.port, tls.server_credentials(orders.grpc.identity, folder))
    taken, began = 0, 0.0

    async def answer(request: bytes, context: Context) -> bytes:
        nonlocal taken
        taken += 1
        if taken == 1 or taken % REPORT == 0:
            sys.stdout.write(json.dumps({"taken": taken, "seconds": time.perf_counter() - began}) + "\n")
            sys.stdout.flush()
        return b""

    def start() -> None:
        nonlocal began
        server.startService()
        server.started.addCallback(lambda _: listening())

    def listening() -> None:
        nonlocal began
        began = time.perf_counter()

    server.add_generic(lambda path: RawMethod(False, False, answer), [SERVICE])
    running_reactor: Any = reactor
    running_reactor.callWhenRunning(start)
    running_reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
    running_reactor.run()


def main() -> None:
    """Measure, and print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many the MOM holds")
    parser.add_argument("--few", type=int, default=20_000, help="how many the one holds that it is compared with")
    parser.add_argument("--drain", type=int, default=20_000, help="how many are delivered")
    parser.add_argument("--lanes", type=int, default=10_000, help="lanes that they are in")
    parser.add_argument("--size", type=int, default=200, help="bytes of a request")
    parser.add_argument("--folder", help="where to put the databases; a temporary folder otherwise")
    parser.add_argument("--sink", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sink:
        sink(Path(arguments.sink))
        return
    rows = []
    try:
        for messages in (0, min(arguments.few, arguments.messages), arguments.messages):
            with TemporaryDirectory(prefix="bookd-hoard-", dir=arguments.folder) as name:
                rows.append(stand(Path(name), messages, arguments.drain, arguments.lanes, arguments.size))
    except BenchError as error:
        sys.exit(f"hoard: {error}")
    empty, few, many = rows
    ratios = {
        "at rest to empty": {key: many["at rest"][key] / empty["at rest"][key] for key in empty["at rest"]},
        "most to few": {key: many["most"][key] / few["most"][key] for key in few["most"]},
        "listening to empty": many["listening after seconds"] / empty["listening after seconds"],
        "rate to few": many["drained a second"] / few["drained a second"],
    }
    found = {"load": os.getloadavg()[0], "empty": empty, "few": few, "many": many, "ratios": ratios}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
