"""What all who are measured share: a server for as long as it is needed, and so many calls under way for so many seconds."""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stand import SECONDS_TO_START, BenchError
from benchmarks.wrk import Round

# Seconds before it counts: connections are made, files grow, caches fill.
WARM = 1.0


async def keep_busy(call: Callable[[int], Awaitable[object]], in_flight: int, seconds: float) -> Round:
    """`call(number)` again and again, by so many at once; what ends within the time is counted."""
    took: list[float] = []
    begin = time.perf_counter() + WARM
    end = begin + seconds

    async def one(number: int) -> None:
        while (asked := time.perf_counter()) < end:
            await call(number)
            if begin <= asked and (answered := time.perf_counter()) <= end:
                took.append((answered - asked) * 1000)

    await asyncio.gather(*(one(number) for number in range(in_flight)))
    return Round(len(took), seconds, statistics.median(took), statistics.quantiles(took, n=100)[98])


def tell(found: Round) -> None:
    """Print a round, for who started this process."""
    said = {"counted": found.counted, "seconds": found.seconds, "p50": found.p50, "p99": found.p99}
    sys.stdout.write(json.dumps(said) + "\n")


def arguments(description: str | None) -> Namespace:
    """What a client is told on its command line."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--size", type=int, required=True)
    return parser.parse_args()


def fire(module: str, home: Path, port: int, in_flight: int, seconds: float, size: int) -> Round:
    """One round by a client in a process of its own. Raises `BenchError` when that fails."""
    command = [sys.executable, "-m", module, "--home", str(home), "--port", str(port), "--in-flight", str(in_flight)]
    command += ["--seconds", str(seconds), "--size", str(size)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if ended.returncode:
        raise BenchError(f"{module} at {in_flight}: {ended.stdout[-500:]}{ended.stderr[-1500:]}")
    return Round(**json.loads(ended.stdout))


@contextmanager
def served(command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """A server from when it takes connections on `port`; ended afterwards. Answers its process id."""
    with log.open("ab") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        try:
            until = time.monotonic() + SECONDS_TO_START
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise BenchError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
                time.sleep(0.02)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), 1).close()
    except OSError:
        return False
    return True
