"""What is measured, running: a suite under `bookd up` and the peers, each on free ports, in a temporary home."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
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
def suite(folder: Path, made: Path | None = None) -> Iterator[Home]:
    """A suite in a home in `folder`: with the databases in `made` (`benchmarks.maker`), else with the sample catalogue."""
    home = new_home(folder, made)
    with running(home):
        yield home


def new_home(folder: Path, made: Path | None = None) -> Home:
    """A home that was not started yet."""
    home = Home(folder / "var")
    make_home(home, port_offset=free_offset())
    if made is not None:
        for database in made.glob("*.sqlite"):
            shutil.copy(database, home.path / "data")
        (home.path / "data" / "sample.json").write_text('{"created": 0}')  # it shall not be loaded
    return home


@contextmanager
def running(home: Home) -> Iterator[float]:
    """The suite of a home under `bookd up`; answers how many seconds that took."""
    command = [sys.executable, "-m", "bookd.command.main", "--home", str(home.path), "up"]
    began = time.perf_counter()
    path = home.path / "up.log"
    with path.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as up:
        try:
            _await(lambda: b"is ready" in path.read_bytes(), up, path)
            yield time.perf_counter() - began
        finally:
            up.terminate()
            up.wait(20)


def control(home: Home, verb: str, daemon: str) -> None:
    """`bookd ctl`: stop or start a daemon, and wait until it is so."""
    command = [sys.executable, "-m", "bookd.command.main", "--home", str(home.path), "ctl", verb, daemon]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_TO_START)
    if ended.returncode:
        raise BenchError(f"{daemon}: {ended.stdout}{ended.stderr}")


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


@contextmanager
def plain(home: Home, folder: Path, body: bytes) -> Iterator[int]:
    """Klein over TLS that answers everything with `body`; answers its port."""
    port = ports.free_port()
    command = [sys.executable, "-m", "benchmarks.peers.plain", "--home", str(home.path), "--port", str(port)]
    path = folder / "plain.log"
    with path.open("wb") as log, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log) as server:
        try:
            assert server.stdin is not None
            server.stdin.write(body)
            server.stdin.close()
            _await(lambda: _listens(port), server, path)
            yield port
        finally:
            server.terminate()
            server.wait(10)


@contextmanager
def caching(home: Home, folder: Path) -> Iterator[int]:
    """Another gateway of the suite, which gives answers of the catalogue again for a second; answers its port.

    All load comes from one address, and is more than one may ask for: it is counted as ever, against a higher rate."""
    port, metrics = ports.free_ports(2)
    head, _, rest = home.config_file.read_text().partition("[gateway]\n")
    rest = re.sub(r"(?m)^port = \d+$", f"port = {port}", rest, count=1)
    rest = re.sub(r"(?m)^metrics_port = \d+$", f"metrics_port = {metrics}", rest, count=1)
    config, path = home.path / "caching.toml", folder / "caching.log"
    config.touch(0o600)
    config.write_text(
        f'{head}[gateway]\ncache_fresh = 1.0\naddress_rate = 1000000.0\naccess = "log/caching.jsonl"\n{rest}'
    )
    command = [
        str(Path(sys.executable).with_name("twistd")),
        "-n",
        "--pidfile=",
        "bookd-gateway",
        "--config",
        str(config),
    ]
    with path.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as gateway:
        try:
            _await(lambda: _listens(port), gateway, path)
            yield port
        finally:
            gateway.terminate()
            gateway.wait(20)


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
        time.sleep(0.02)
