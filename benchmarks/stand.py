"""What is measured, running: a suite under `bookd up` and the peers, each on free ports, in a temporary home."""

import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

from bookd.command.home import Home
from bookd.command.init import METRICS_PORTS, PORTS, make_home
from bookd.testing import ports

SECONDS_TO_START = 60


class BenchError(Exception):
    """It cannot be measured; the message says why."""


def free_offset() -> int:
    """An offset at which all ports of a suite are free."""
    return ports.free_offset((*PORTS.values(), *METRICS_PORTS.values()))


@contextmanager
def suite(folder: Path) -> Iterator[Home]:
    """A suite with the sample catalogue, in a home in `folder`."""
    home = Home(folder / "var")
    make_home(home, port_offset=free_offset())
    command = [sys.executable, "-m", "bookd.command.main", "--home", str(home.path), "up"]
    with (folder / "up.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as up:
        try:
            _await(lambda: b"is ready" in (folder / "up.log").read_bytes(), up, folder / "up.log")
            yield home
        finally:
            up.terminate()
            up.wait(20)


@contextmanager
def chain(home: Home, folder: Path) -> Iterator[int]:
    """FastAPI, grpc.aio, grpc.aio over the suite's own database; answers the port of its gateway."""
    inventory, middle, gateway = chosen = ports.free_ports(3)
    roles = [
        ["inventory", "--port", str(inventory), "--database", str(home.path / "data" / "inventory.sqlite")],
        ["middle", "--port", str(middle), "--next", str(inventory)],
        ["gateway", "--port", str(gateway), "--next", str(middle)],
    ]
    environment = {**os.environ, "GRPC_VERBOSITY": "NONE"}
    with (folder / "chain.log").open("wb") as log:
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.peers.chain", *role, "--home", str(home.path)],
                stdout=log,
                stderr=log,
                env=environment,
            )
            for role in roles
        ]
        try:
            for port in chosen:
                _await(lambda port=port: _listens(port), running[0], folder / "chain.log")  # type: ignore[misc]
            yield gateway
        finally:
            for each in running:
                each.terminate()
            for each in running:
                each.wait(10)


def log_in(home: Home) -> str:
    """An access token of the administrator."""
    body = (home.path / "secrets" / "admin.json").read_bytes()
    request = Request(home.url() + "/v1/sessions", data=body, headers={"Content-Type": "application/json"})
    with urlopen(request, context=ssl.create_default_context(cafile=home.ca), timeout=10) as answer:
        token: str = json.load(answer)["access_token"]
        return token


def a_book(home: Home) -> str:
    """The id of a book."""
    with urlopen(
        home.url() + "/v1/books?page_size=1", context=ssl.create_default_context(cafile=home.ca), timeout=10
    ) as answer:
        book_id: str = json.load(answer)["books"][0]["book_id"]
        return book_id


def processor_seconds(home: Home) -> Mapping[str, float]:
    """The processor time that each daemon of the suite has used."""
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        daemon = re.search(r"\0bookd-([a-z]+)\0", command)
        if daemon is not None and str(home.path) in command:
            found[daemon[1]] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("localhost", port), 1).close()
    except OSError:
        return False
    return True


def _await(condition: object, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while not condition():  # type: ignore[operator]
        if process.poll() is not None or time.monotonic() > until:
            raise BenchError(f"it did not start: {log.read_text()[-2000:]}")
        time.sleep(0.1)
