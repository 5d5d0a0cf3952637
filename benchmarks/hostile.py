"""Measures what others feel of an attack: `python -m benchmarks.hostile`, or `make hostile-bench`.

Readers ask for a book, a few at a time, before an attack and while it lasts; told is the 99th percentile of both, and their
ratio. The attackers are a process of their own, on the same machine.

heads      1,000 connections that send a header now and then and never finish; each is made again when it was closed
bodies     the same with bodies
log-ins    200 log-ins in flight, with wrong passwords, each followed by the next as soon as it is answered
"""

import argparse
import asyncio
import json
import multiprocessing
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from benchmarks import stand

READERS = 4
# Seconds between two requests of a reader.
PAUSE = 0.02
HELD = 1000
IN_FLIGHT = 200
GET = "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = (
    "POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
)


class Client:
    """A connection of an HTTPS client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, url: str, ca: str) -> "Client":
        """Connect to the gateway at `url`."""
        context = ssl.create_default_context(cafile=ca)
        return cls(*await asyncio.open_connection("localhost", urlsplit(url).port, ssl=context))

    async def answer(self) -> int:
        """The status of the next answer, which is read to its end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
        await self.reader.readexactly(length)
        return int(head[9:12])

    async def ask(self, request: str) -> int:
        """Ask, and wait for the answer."""
        self.writer.write(request.encode())
        return await self.answer()


async def read(url: str, ca: str, path: str, seconds: float) -> list[float]:
    """How long each read took, in milliseconds, in order of size."""
    took: list[float] = []

    async def one() -> None:
        client = await Client.connect(url, ca)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            status = await client.ask(GET.format(path=path))
            took.append((time.perf_counter() - began) * 1000)
            if status != 200:
                raise stand.BenchError(f"a reader was answered {status}")
            await asyncio.sleep(PAUSE)
        client.writer.close()

    await asyncio.gather(*(one() for _ in range(READERS)))
    return sorted(took)


async def heads(url: str, ca: str, heard: Counter[str]) -> None:
    """Hold one connection with a head."""
    await _drip(url, ca, heard, "GET / HTTP/1.1\r\nHost: localhost\r\n", "X-A: b\r\n")


async def bodies(url: str, ca: str, heard: Counter[str]) -> None:
    """Hold one connection with a body."""
    await _drip(url, ca, heard, POST.format(size=100_000), " ")


async def _drip(url: str, ca: str, heard: Counter[str], head: str, drop: str) -> None:
    client = await Client.connect(url, ca)
    heard["connections"] += 1
    client.writer.write(head.encode())
    answer = asyncio.ensure_future(client.answer())
    while not answer.done():
        await asyncio.wait([answer], timeout=1.0)
        client.writer.write(drop.encode())
    client.writer.close()
    heard[str(await answer)] += 1


async def log_ins(url: str, ca: str, heard: Counter[str]) -> None:
    """Log in again and again on one connection."""
    client = await Client.connect(url, ca)
    while True:
        number = sum(heard.values())
        body = json.dumps({"username": ("admin", f"nobody{number}")[number % 2], "password": f"guess {number}"})
        heard[str(await client.ask(POST.format(size=len(body)) + body))] += 1


ATTACKS: dict[str, tuple[Callable[[str, str, Counter[str]], Awaitable[None]], int, int]] = {
    "heads": (heads, HELD, 60),
    "bodies": (bodies, HELD, 60),
    "log-ins": (log_ins, IN_FLIGHT, 30),
}


def attack(name: str, url: str, ca: str, many: int, seconds: float, queue: Any) -> None:
    """What the attackers' process does; it tells when all are there, and in the end what they were answered."""
    heard: Counter[str] = Counter()

    async def again() -> None:
        while True:
            try:
                await ATTACKS[name][0](url, ca, heard)
            except (OSError, EOFError, asyncio.IncompleteReadError):
                heard["closed"] += 1

    async def run() -> None:
        going = []
        for _ in range(many):
            going.append(asyncio.ensure_future(again()))
            await asyncio.sleep(0.003)  # they do not come all in one moment
        queue.put("there")
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*going), seconds)

    asyncio.run(run())
    queue.put(dict(heard))


def measure(name: str, url: str, ca: str, path: str, many: int, seconds: float) -> dict[str, Any]:
    """A row of the table."""
    before = asyncio.run(read(url, ca, path, 10))
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    attackers = context.Process(target=attack, args=(name, url, ca, many, seconds, queue))
    attackers.start()
    try:
        queue.get(timeout=120)
        during = asyncio.run(read(url, ca, path, seconds - 1))
        heard = queue.get(timeout=120)
    finally:
        attackers.terminate()
        attackers.join()
    return {
        "attack": name,
        "before": {share: percentile(before, share) for share in (50, 99)},
        "during": {share: percentile(during, share) for share in (50, 99)},
        "ratio": percentile(during, 99) / percentile(before, 99),
        "reads": len(during),
        "heard": heard,
    }


def percentile(values: list[float], share: int) -> float:
    """Of values in order."""
    return values[min(len(values) * share // 100, len(values) - 1)]


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    shown = [f"{row[when][50]:.1f} / {row[when][99]:.1f}" for when in ("before", "during")]
    heard = ", ".join(f"{number:,} {what}" for what, number in sorted(row["heard"].items()))
    return f"| {row['attack']} | {shown[0]} | {shown[1]} | {row['ratio']:.2f} | {heard} |"


def main() -> None:
    """Measure, and write a table and, if asked, a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--seconds", type=float, help="of each attack, for a short look")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    arguments = parser.parse_args()
    columns = ("attack", "before, p50 / p99 ms", "during", "ratio of p99", "what the attackers were answered")
    sys.stdout.write(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}\n")
    rows = []
    try:
        with TemporaryDirectory(prefix="bookd-bench-") as folder, stand.suite(Path(folder)) as home:
            path = f"/v1/books/{stand.a_book(home)}"
            for name in arguments.attack:
                _, many, seconds = ATTACKS[name]
                rows.append(measure(name, home.url(), str(home.ca), path, many, arguments.seconds or seconds))
                sys.stdout.write(line(rows[-1]) + "\n")
                sys.stdout.flush()
    except stand.BenchError as error:
        raise SystemExit(str(error)) from None
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
