"""Reads through all hops: of books, beside FastAPI and grpc.aio with the same hops and beside bare Klein; searches; and
what the hops add to a bare call."""

import json
import subprocess
import sys

from benchmarks import people, stand
from benchmarks.stage import Stage
from benchmarks.stand import BenchError
from benchmarks.wrk import Round

CONNECTIONS = (1, 32, 128)
SEARCHES = (1, 32)


def read(stage: Stage) -> None:
    """`GET /v1/books/{id}`: any of many books without a cache, and always the same one with."""
    book = f"/v1/books/{stand.a_book(stage.home)}"
    body = people.a_body(stage.home, book)
    with (
        stand.chain(stage.home, stage.folder) as chain,
        stand.plain(stage.home, stage.folder, body) as plain,
        stand.caching(stage.home, stage.folder) as caching,
    ):
        for connections in stage.options.connections or CONNECTIONS:
            subjects = {
                "bookd": stage.fire("read", connections),
                "FastAPI, grpc.aio": stage.fire("read", connections, f"https://localhost:{chain}"),
                "bookd, one book, cached": stage.fire("one", connections, f"https://localhost:{caching}"),
                "bare Klein": stage.fire("plain", connections, f"https://localhost:{plain}"),
            }
            stage.alternate("read", connections, subjects, request_bytes=0, response_bytes=len(body))
            wanted = 1.0 if connections == 1 else 2.0
            stage.figures.ratio("read", "bookd", "FastAPI, grpc.aio", connections, wanted)
            stage.figures.ratio("read", "bookd, one book, cached", "bare Klein", connections, 0.7)


def search(stage: Stage) -> None:
    """`GET /v1/books?query=…`: two words, a page of 20."""
    query = (stage.ammunition.folder / "queries").read_text().splitlines()[0]
    body = people.a_body(stage.home, f"/v1/books?page_size=20&query={query}")
    for connections in stage.options.connections or SEARCHES:
        subjects = {"read": stage.fire("read", connections), "search": stage.fire("search", connections)}
        stage.alternate("search", connections, subjects, request_bytes=0, response_bytes=len(body))
        stage.figures.ratio("search", "search", "read", connections)


def hop(stage: Stage) -> None:
    """One connection: the read over HTTPS beside the same call made to the inventory itself, over mutual TLS."""
    book = stand.a_book(stage.home)

    def direct() -> Round:
        command = [sys.executable, "-m", "benchmarks.peers.direct", "--home", str(stage.home.path), "--book", book]
        command += ["--seconds", str(stage.options.seconds)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if ended.returncode:
            raise BenchError(f"the bare call: {ended.stderr[-500:]}")
        return Round(**json.loads(ended.stdout))

    stage.alternate("hop", 1, {"bare gRPC call": direct, "through all hops": stage.fire("read", 1)})
    bare, hops = (stage.figures.row("hop", name, 1) for name in ("bare gRPC call", "through all hops"))
    added = hops["p50"] - bare["p50"]
    stage.figures.fact("hop", "ms that the chain adds at the median", added, "≤ 3 ms", added <= 3.0)
