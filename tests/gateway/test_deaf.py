"""Clients that ask and never read: what becomes of their connections."""

from collections.abc import AsyncIterator
from typing import Any

from bookd.gateway import streams
from tests.gateway.kites import SERVICE
from tests.gateway.serving import Call, GatewayTestCase, Raw

WATCH = SERVICE + "WatchWind"
PATH = b"/kites/v1/wind"


class DeafTests(GatewayTestCase):
    """Each connection is idle for half a second at most."""

    bounds = {"idle_timeout": 0.5}  # noqa: RUF012

    def setUp(self) -> None:
        super().setUp()
        self.patch(streams, "RECHECK", 0.05)
        self.blown = 0
        self.channel.answers[WATCH] = self.gusts

    async def gusts(self, call: Call) -> AsyncIterator[Any]:
        """A wind that never ends."""
        while True:
            self.blown += 1
            yield self.message("Gust", note="x" * 100_000)

    async def deaf(self, path: bytes, *more: bytes) -> Raw:
        """A client that has read the beginning of its answer, and reads no more."""
        client = await self.raw()
        head = b"".join(line + b"\r\n" for line in (b"GET " + path + b" HTTP/1.1", b"Host: localhost", *more, b""))
        client.transport.write(head)
        await self.until(lambda: client.received)
        client.transport.pauseProducing()
        return client

    async def test_stream(self) -> None:
        """A follower that does not read is given up after the idle time: its call ends, and its connection."""
        client = await self.deaf(PATH)
        await self.until(lambda: WATCH in self.channel.cancelled)
        await self.until(lambda: not self.site.connections)
        self.assertLess(self.blown, 250)
        client.transport.abortConnection()

    async def test_close(self) -> None:
        """A client that was told that the connection is closed, and does not close its end, is not waited for."""
        client = await self.raw(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await self.until(lambda: client.received)
        client.transport.pauseProducing()
        await self.until(lambda: not self.site.connections)
