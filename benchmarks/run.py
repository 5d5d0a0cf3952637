"""Measures reads through all hops beside a peer that does the same: `python -m benchmarks.run`, or `make bench`.

GET /v1/books/{id} over HTTPS with a token, through gateway, MOM and inventory over mutual TLS, against FastAPI on uvicorn
and two grpc.aio processes with the same certificates, token and database (`benchmarks.peers.chain`). Both stand at the
same time; rounds alternate between them, and what is told is the median of each and their ratio, as machines are noisy.
An error in a round voids the run.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import stand
from benchmarks.stand import BenchError

SCALE = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def load(url: str, token: str, connections: int, seconds: int) -> dict[str, float]:
    """One round of wrk: requests a second, and the median and 99th percentile in milliseconds."""
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}",
        "--latency",
        "-H",
        f"Authorization: Bearer {token}",
        url,
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise BenchError(f"requests failed: {said}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    shares = dict(re.findall(r"^\s+(50|99)%\s+(\S+)$", said, re.MULTILINE))
    assert rate is not None, said
    return {"rate": float(rate[1]), **{f"p{share}": _milliseconds(text) for share, text in shares.items()}}


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * SCALE[unit]


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of connections."""
    rows = []
    with TemporaryDirectory(prefix="bookd-bench-") as name:
        folder = Path(name)
        with stand.suite(folder) as home, stand.chain(home, folder) as port:
            token, book = stand.log_in(home), stand.a_book(home)
            urls = {"bookd": f"{home.url()}/v1/books/{book}", "chain": f"https://localhost:{port}/v1/books/{book}"}
            for url in urls.values():
                load(url, token, 8, 1)  # both warm
            for connections in arguments.connections:
                rounds: dict[str, list[dict[str, float]]] = {"bookd": [], "chain": []}
                used = dict.fromkeys(stand.processor_seconds(home), 0.0)
                answered = 0.0
                for _ in range(arguments.rounds):
                    before = stand.processor_seconds(home)
                    rounds["bookd"].append(load(urls["bookd"], token, connections, arguments.seconds))
                    for daemon, seconds in stand.processor_seconds(home).items():
                        used[daemon] += seconds - before[daemon]
                    answered += rounds["bookd"][-1]["rate"] * arguments.seconds
                    rounds["chain"].append(load(urls["chain"], token, connections, arguments.seconds))
                medians = {
                    name: {key: statistics.median(each[key] for each in found) for key in found[0]}
                    for name, found in rounds.items()
                }
                rows.append(
                    {
                        "connections": connections,
                        **medians,
                        "ratio": medians["bookd"]["rate"] / medians["chain"]["rate"],
                        "processor_ms": {daemon: 1000 * seconds / answered for daemon, seconds in used.items()},
                    }
                )
                sys.stdout.write(line(rows[-1]) + "\n")
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    bookd, chain = row["bookd"], row["chain"]
    spent = ", ".join(f"{name} {each:.2f}" for name, each in sorted(row["processor_ms"].items()) if each >= 0.01)
    return (
        f"| {row['connections']} | {bookd['rate']:,.0f} | {bookd['p50']:.1f} / {bookd['p99']:.1f} "
        f"| {chain['rate']:,.0f} | {chain['p50']:.1f} / {chain['p99']:.1f} | {row['ratio']:.2f} | {spent} |"
    )


def main() -> None:
    """Measure, and write a table and, if asked, a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=5, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("there is no wrk: on Debian, apt-get install wrk")
    heads = ("connections", "bookd/s", "p50 / p99 ms", "peer/s", "p50 / p99 ms", "ratio", "processor ms a request")
    sys.stdout.write(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}\n")
    try:
        rows = measure(arguments)
    except BenchError as error:
        raise SystemExit(str(error)) from None
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
