"""Measures bookd as it ships, through its front door: `python -m benchmarks.run`, or `make bench`.

A suite under `bookd up` with 10,000 books, on free ports, in a temporary home: HTTPS with a token, mutual TLS between the
daemons, everything durable, all limits and logs on. wrk asks; `benchmarks/scenarios` says for what. What is compared stands
at the same time and is measured in turns, and what is told is the median of the rounds and its ratio to another's, as
machines are noisy. An error voids the run; so does an order that was acknowledged and is not there afterwards.

    make bench ARGS="--only read orders --connections 32 --rounds 5"
"""

import argparse
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import report, stage, wrk
from benchmarks.scenarios import flames, growth, reads, resources, writes
from benchmarks.stage import Figures, Options, Stage, Turns
from benchmarks.stand import BenchError

# With a suite that all of them share, in this order; and on their own.
SHARED: dict[str, Callable[[Stage], None]] = {
    "hop": reads.hop,
    "read": reads.read,
    "search": reads.search,
    "patch": writes.patch,
    "orders": writes.orders,
    "accept": writes.accept,
    "mixed": writes.mixed,
    "memory": resources.loaded,
    "flames": flames.flames,
}
ALONE: dict[str, Callable[[Path, Options, Turns, Figures], None]] = {
    "starts": resources.starts,
    "growth": growth.growth,
}
SIZES = (1_000, 10_000, 100_000)


def measure(names: list[str], options: Options, figures: Figures) -> None:
    """Run the scenarios of these names."""
    turns = Turns(options.lock)
    try:
        for name, scenario in ALONE.items():
            if name in names:
                with TemporaryDirectory(prefix="bookd-bench-") as folder:
                    scenario(Path(folder), options, turns, figures)
        shared = [name for name in SHARED if name in names]
        if not shared:
            return
        with (
            TemporaryDirectory(prefix="bookd-bench-") as folder,
            stage.stage(Path(folder), options, turns, figures) as one,
        ):
            for name in shared:
                told = len(figures.rows)
                SHARED[name](one)
                for row in figures.rows[told:]:
                    sys.stdout.write(f"{row['scenario']}: {report.line(row)}\n")
                    sys.stdout.flush()
    finally:
        turns.release()


def main() -> None:
    """Measure, and write a table, a JSON file and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*ALONE, *SHARED], help="these scenarios and no other")
    parser.add_argument("--seconds", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[], help="instead of each scenario's own")
    parser.add_argument("--minutes", type=float, default=0.5, help="of load, for memory")
    parser.add_argument("--books", type=int, default=10_000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="books and orders, for growth")
    parser.add_argument("--catalogue", type=Path, help="CSV file of books to name them after; else the shipped sample")
    parser.add_argument("--made", type=Path, help="keep databases with books and orders there, for the next run")
    parser.add_argument("--lock", type=Path, help="hold a lock (flock) on this file while a round runs")
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench"), help="the folder for tables, figures and plots"
    )
    arguments = parser.parse_args()
    options = Options(
        arguments.rounds,
        arguments.seconds,
        tuple(arguments.connections),
        arguments.books,
        tuple(arguments.sizes),
        arguments.catalogue,
        arguments.made,
        arguments.lock,
        arguments.minutes,
        arguments.out,
    )
    figures = Figures()
    about = {
        "version": stage.version(),
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "processes": "five daemons, one process each, and wrk with one thread, on the same machine",
    }
    try:
        wrk.require()
        measure(arguments.only or [*ALONE, *SHARED], options, figures)
    except BenchError as error:
        raise SystemExit(f"the run is void: {error}") from None
    report.write(arguments.out, figures, about)
    sys.stdout.write("\n" + report.markdown(figures, about))


if __name__ == "__main__":
    main()
