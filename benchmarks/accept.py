"""Measures how fast the MOM keeps calls to a service that is down, beside what others use: `python -m benchmarks.accept`.

Each call is on the disk, flushed, before it is acknowledged, and sealed, over mutual TLS. Beside it, in turns: NATS JetStream
with `sync_interval: always`, which promises the same, and as it comes, which does not; a quorum queue of RabbitMQ with
confirms; and what the machine gives at most (`benchmarks.limits`). All of them with mutual TLS, the same size of message, a
new id for each, one server process and one client process, both on the same cores. Afterwards the MOM's database must
hold all that was acknowledged.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import limits, stage
from benchmarks.hoard import waiting
from benchmarks.peers import jetstream, rabbitmq
from benchmarks.peers.load import fire, served
from benchmarks.stand import BenchError, new_home
from benchmarks.wrk import Round
from bookd.command.home import Home

MOM, ALWAYS, DEFAULT = "bookd MOM", "JetStream, sync always", "JetStream, default"
RABBIT, GRPC = "RabbitMQ quorum queue", "limit: grpc.aio"
COMMIT, WRITE = "limit: SQLite commit", "limit: write+fdatasync"
# Of JetStream with sync always, where many are under way.
WANTED = 1.0
Fire = Callable[[int], Round]


def stand(stack: ExitStack, folder: Path, seconds: float, size: int, only: list[str]) -> tuple[Home, dict[str, Fire]]:
    """What is measured, running."""
    home = new_home(folder)
    table = home.load().mom
    assert table is not None
    twistd = str(Path(sys.executable).with_name("twistd"))
    command = [twistd, "-n", "--pidfile=", "bookd-mom", "--config", str(home.config_file)]
    stack.enter_context(served(command, table.grpc.port, folder / "mom.log"))

    def of(module: str, port: int) -> Fire:
        return lambda in_flight: fire(module, home.path, port, in_flight, seconds, size)

    subjects = {MOM: of("benchmarks.peers.caller", table.grpc.port)}
    for name, always in ((ALWAYS, True), (DEFAULT, False)):
        if name in only:
            port = stack.enter_context(jetstream.server(home, folder / f"nats-{always}", always=always))
            subjects[name] = of("benchmarks.peers.jetstream", port)
    if RABBIT in only and not rabbitmq.lacking():
        port = stack.enter_context(rabbitmq.server(home, folder / "rabbitmq"))
        subjects[RABBIT] = of("benchmarks.peers.rabbitmq", port)
    if GRPC in only:
        subjects[GRPC] = of("benchmarks.limits", stack.enter_context(limits.bare_server(home, folder)))
    if COMMIT in only:
        subjects[COMMIT] = lambda _: limits.commits(folder, seconds, size)
    if WRITE in only:
        subjects[WRITE] = lambda _: limits.flushed_writes(folder, seconds, size)
    return home, subjects


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rounds. Raises `BenchError` when something went wrong, or was acknowledged and is not there."""
    turns = stage.Turns(given.lock)
    rows: list[dict[str, Any]] = []
    acknowledged = 0
    with TemporaryDirectory(prefix="bookd-accept-", dir=given.folder) as name, ExitStack() as stack:
        home, subjects = stand(stack, Path(name), given.seconds, given.size, given.only)
        time.sleep(2.0)
        for in_flight in given.in_flight:
            rounds: dict[str, list[Round]] = {subject: [] for subject in subjects}
            for _ in range(given.rounds):
                for subject, one in subjects.items():
                    if in_flight > 1 and subject in (COMMIT, WRITE):
                        continue
                    with turns.turn():
                        rounds[subject].append(one(in_flight))
            acknowledged += sum(each.counted for each in rounds[MOM])
            fresh = [_row(subject, in_flight, found) for subject, found in rounds.items() if found]
            rows += fresh
            for row in fresh:
                sys.stdout.write(_line(row, rows) + "\n")
                sys.stdout.flush()
        turns.release()
        held = waiting(home.path / "data" / "mom.sqlite")
        if held < acknowledged:
            raise BenchError(f"{acknowledged} calls were acknowledged, and {held} are kept")
    return {"rows": rows, "acknowledged": acknowledged, "kept": held, "load": os.getloadavg()[0]}


def _row(subject: str, in_flight: int, found: list[Round]) -> dict[str, Any]:
    return {
        "subject": subject,
        "in flight": in_flight,
        "rate": statistics.median(each.rate for each in found),
        "p50": statistics.median(each.p50 for each in found),
        "p99": statistics.median(each.p99 for each in found),
        "rates": [round(each.rate) for each in found],
    }


def _line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    mom = next(each["rate"] for each in rows if (each["subject"], each["in flight"]) == (MOM, row["in flight"]))
    return (
        f"| {row['in flight']} | {row['subject']} | {row['rate']:,.0f} | {row['p50']:.2f} / {row['p99']:.2f} "
        f"| {mom / row['rate']:.2f} |"
    )


def markdown(found: dict[str, Any]) -> str:
    """The table."""
    about, rows = found["about"], found["rows"]
    rounds = f"{about['rounds']} rounds of {about['seconds']:g} s in turns, medians"
    said = [
        f"{about['cores']} cores; {rounds}; {about['size']} bytes; {about['version']}",
        "",
        "| in flight | what | a second | p50 / p99 ms | MOM to it |",
        "| --- | --- | --- | --- | --- |",
        *(_line(row, rows) for row in rows),
        "",
        *about["lacking"],
    ]
    return "\n".join(said) + "\n"


def main() -> None:
    """Measure, and write a table and a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everybody = [ALWAYS, DEFAULT, RABBIT, GRPC, COMMIT, WRITE]
    parser.add_argument("--only", nargs="*", default=everybody, choices=everybody, help="beside the MOM")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--size", type=int, default=200, help="bytes of a message")
    parser.add_argument("--folder", help="where all files are; a temporary folder otherwise")
    parser.add_argument("--lock", type=Path, help="hold a lock (flock) on this file while a round runs")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    given = parser.parse_args()
    lacking = rabbitmq.lacking()
    about = {
        "version": stage.version(),
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "rounds": given.rounds,
        "seconds": given.seconds,
        "size": given.size,
        "lacking": [f"RabbitMQ was not measured: {lacking}"] if lacking else [],
    }
    try:
        found = {"about": about, **measure(given)}
    except BenchError as error:
        raise SystemExit(f"the run is void: {error}") from None
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "accept.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.out / "accept.md").write_text(markdown(found))
    sys.stdout.write("\n" + markdown(found))


if __name__ == "__main__":
    main()
