"""What this machine gives at most: writing with a flush, committing with one, calling. `python -m benchmarks.limits`.

    write+fdatasync   so many bytes to the end of a file, each followed by a flush; one after the other
    SQLite commit     one row of so many bytes, WAL, synchronous=FULL, in a transaction of its own; one after the other
    grpc.aio          unary calls with mutual TLS, so many under way, answered with nothing at once

`benchmarks.accept` measures them in turns with what it compares.
"""

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from benchmarks.peers.load import arguments, keep_busy, served, tell
from benchmarks.wrk import Round
from bookd.command.home import Home
from bookd.testing import ports

METHOD = "/bench.Nothing/Take"


def one_by_one(step: Callable[[], object], seconds: float) -> Round:
    """`step` again and again."""
    took = []
    began = asked = time.perf_counter()
    while asked - began < seconds:
        step()
        answered = time.perf_counter()
        took.append((answered - asked) * 1000)
        asked = answered
    return Round(len(took), asked - began, statistics.median(took), statistics.quantiles(took, n=100)[98])


def flushed_writes(folder: Path, seconds: float, size: int) -> Round:
    """write and fdatasync."""
    content = os.urandom(size)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:

        def step() -> None:
            file.write(content)
            os.fdatasync(file.fileno())

        return one_by_one(step, seconds)


def commits(folder: Path, seconds: float, size: int) -> Round:
    """SQLite by itself."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        connection = sqlite3.connect(Path(name) / "limit.sqlite", isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE kept (seq INTEGER PRIMARY KEY, content BLOB)")
        content = os.urandom(size)
        try:
            return one_by_one(lambda: connection.execute("INSERT INTO kept (content) VALUES (?)", (content,)), seconds)
        finally:
            connection.close()


@contextmanager
def bare_server(home: Home, folder: Path) -> Iterator[int]:
    """grpc.aio that takes anything; answers its port."""
    port = ports.free_port()
    command = [sys.executable, "-m", "benchmarks.limits", "--home", str(home.path), "--port", str(port)]
    command += ["--in-flight", "0", "--seconds", "0", "--size", "0"]
    with served(command, port, folder / "bare.log"):
        yield port


async def serve(home: Path, port: int) -> None:
    """Be that server."""
    key, chain, ca = ((home / "pki" / each).read_bytes() for each in ("mom.key", "mom.pem", "ca.pem"))

    async def take(_request: bytes, _context: Any) -> bytes:
        return b""

    server = grpc.aio.server()
    methods = {"Take": grpc.unary_unary_rpc_method_handler(take)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Nothing", methods),))
    server.add_secure_port(
        f"localhost:{port}", grpc.ssl_server_credentials([(key, chain)], ca, require_client_auth=True)
    )
    await server.start()
    await server.wait_for_termination()


async def call(home: Path, port: int, in_flight: int, seconds: float, size: int) -> None:
    """One round of calls."""
    key, chain, ca = ((home / "pki" / each).read_bytes() for each in ("gateway.key", "gateway.pem", "ca.pem"))
    request = os.urandom(size)
    async with grpc.aio.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(ca, key, chain)) as channel:
        take = channel.unary_unary(METHOD)
        tell(await keep_busy(lambda _: take(request), in_flight, seconds))


def main() -> None:
    """One round of calls; or the server, when none are asked for."""
    import uvloop

    given = arguments(__doc__)
    if given.in_flight:
        uvloop.run(call(given.home, given.port, given.in_flight, given.seconds, given.size))
    else:
        uvloop.run(serve(given.home, given.port))


if __name__ == "__main__":
    main()
