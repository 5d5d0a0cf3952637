"""Rounds of load: wrk with `load.lua`, one thread, as many connections as asked. A round with an error is void.

What wrk sends is chosen from files in a folder, which `Ammunition` writes: tokens of many customers (an order waits for
the orders of the same customer that came before it), one token of staff, ids of books, words to search for.
"""

import json
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import quote_plus

from attrs import define, field, frozen

from benchmarks.stand import BenchError

SCRIPT = Path(__file__).with_name("load.lua")
# Kinds of load that only read, and how what others answer is counted.
READS = ("read", "one", "search", "plain")
COUNTED = {"order": ("confirmed",), "accept": ("kept",), "patch": ("changed",), "mixed": ("confirmed", "changed")}


@frozen
class Round:
    """What one round was answered: how many of what counts, in how many seconds, with which latency in milliseconds."""

    counted: int
    seconds: float
    p50: float
    p99: float
    # Orders that were stored, and not decided while the caller waited: no errors, and not counted.
    undecided: int = 0

    @property
    def rate(self) -> float:
        """A second."""
        return self.counted / self.seconds


@define
class Ammunition:
    """What is asked for, in files."""

    folder: Path
    # Rounds of writes, by the name that each put into all that it wrote.
    runs: list[str] = field(factory=list)

    def write(self, tokens: list[str], staff: str, books: list[str], queries: list[str]) -> None:
        """Write the files that the script reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [quote_plus(query) for query in queries]
        for name, values in {"tokens": tokens, "staff": [staff], "books": books, "queries": words}.items():
            (self.folder / name).write_text("".join(f"{value}\n" for value in values))

    def fire(self, kind: str, url: str, connections: int, seconds: int) -> Round:
        """One round. Raises `BenchError` for any error, and for any answer that is not the one that is looked for."""
        run = f"run{len(self.runs)}x{time.time_ns():x}"
        script = "order" if kind == "accept" else kind
        if kind not in READS:
            self.runs.append(run)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT), url]
        command += ["--", script, str(self.folder), run, str(time.time_ns() % 1_000_000)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
        try:
            said = json.loads(ended.stdout.rstrip().rpartition("\n")[2])
        except ValueError:
            raise BenchError(
                f"wrk ended with {ended.returncode}: {ended.stdout[-500:]} {ended.stderr[-500:]}"
            ) from None
        counted = said["requests"] if kind in READS else sum(said[name] for name in COUNTED[kind])
        if said["errors"] or said["other"] or counted + said["undecided"] != said["requests"]:
            raise BenchError(f"{kind} at {connections}: answers that were not looked for: {said}")
        return Round(counted, said["seconds"], said["p50"], said["p99"], said["undecided"])

    def acknowledged(self, run: str) -> list[str]:
        """What a round was told to be done or kept: the marks of orders, or names of operations."""
        path = self.folder / f"{run}.acknowledged"
        return path.read_text().split() if path.exists() else []


def require() -> None:
    """Raises `BenchError` where there is no wrk."""
    if shutil.which("wrk") is None:
        raise BenchError("there is no wrk: on Debian, apt-get install wrk")
