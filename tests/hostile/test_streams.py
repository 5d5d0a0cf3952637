"""Followers of `GET /v1/events` that do not read, on a whole suite: what they cost the gateway and the MOM, and who else
is served meanwhile."""

import re
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic, sleep
from urllib.request import urlopen
from uuid import uuid4

from bookd.bridge.channel import Channel
from bookd.bridge.tls import Files
from bookd.config import Identity
from bookd.wire.inventory.v1.events_pb2 import BookChanged
from bookd.wire.mom.v1.events_pb2 import PublishRequest, PublishResponse
from tests.hostile.test_grpc import memory
from tests.hostile.test_https import HOST, MB, HttpsTestCase
from tests.hostile.tls import read, send

PUBLISH = "/bookd.mom.v1.EventService/Publish"
# Followers that do not read, the events that they do not read, and bytes of each: 8 MB for each follower.
DEAF, EVENTS, SIZE = 40, 2_000, 4_000
# What all of them may cost a daemon while they are there.
HELD = 80 * MB
# Seconds after which the gateway gives a client up.
IDLE = 5.0


class DeafTests(HttpsTestCase):
    """The gateway has little patience."""

    async def setUp(self) -> None:
        """Start the suite, and the gateway anew."""
        await super().setUp()
        await self.take("gateway", "stop")
        text = self.config.read_text()
        self.config.write_text(text.replace("[gateway]\n", f"[gateway]\nidle_timeout = {IDLE}\n", 1))
        self.metrics_port = tomllib.loads(text)["gateway"]["metrics_port"]
        self.give_back("gateway")
        await self.ready()

    async def publish(self) -> None:
        """Have the events published, by the inventory."""
        files = Files(Identity(certificate="pki/inventory.pem", private_key="pki/inventory.key"), self.home)
        channel = Channel([f"127.0.0.1:{self.ports['mom']}"], files, name="mom")
        channel.startService()
        try:
            for _ in range(EVENTS // 100):
                request = PublishRequest()
                for _ in range(100):
                    data = BookChanged()
                    data.book.book_id = str(uuid4())
                    data.book.title = "x" * SIZE
                    event = request.events.add(
                        id=str(uuid4()), source="test", specversion="1.0", type="bookd.inventory.v1.BookChanged"
                    )
                    event.time.GetCurrentTime()
                    event.data.Pack(data)
                answer = await channel.unary_unary(PUBLISH)(request.SerializeToString(), timeout=30)
                self.assertEqual(len(PublishResponse.FromString(answer).sequences), 100)
        finally:
            await channel.stopService()

    async def test_deaf(self) -> None:
        """They cost little and are given up; others read books, and follow, as ever."""
        await self.publish()
        pids = {name: self.programs[name].pid or 0 for name in ("gateway", "mom")}
        before = {name: memory(pid) for name, pid in pids.items()}
        peak = dict(before)

        def look() -> None:
            for name, pid in pids.items():
                peak[name] = max(peak[name], memory(pid))

        await self.during(lambda: self.follow(look))
        for name in pids:
            self.assertLess(peak[name] - before[name], HELD, name)
        self.assertEqual({name: self.programs[name].pid for name in pids}, pids)
        self.assertNotIn("Traceback", self.log_of("mom"))

    def follow(self, look: Callable[[], None]) -> None:
        """Let followers not read until they are given up; meanwhile one reads all."""
        ask = b"GET /v1/events?after=0 HTTP/1.1\r\n" + HOST + b"Authorization: Bearer " + self.admin.token.encode()
        with ExitStack() as stack:
            deaf = [stack.enter_context(self.connect(receives=4096)) for _ in range(DEAF)]
            for number, client in enumerate(deaf):
                send(client, ask + (b"\r\nAccept: text/event-stream" if number % 2 else b"") + b"\r\n\r\n")
            with self.connect() as client:
                send(client, ask + b"\r\n\r\n")
                lines = client.makefile("rb")
                for number in range(EVENTS):
                    while b"BookChanged" not in (line := lines.readline()):
                        self.assertTrue(line, number)
                    if not number % 100:
                        look()
            until = monotonic() + 60
            while self.open() > DEAF // 2:
                self.assertLess(monotonic(), until, "they are not given up")
                look()
                sleep(0.1)
            for client in deaf[: DEAF // 2]:
                self.assertLess(len(read(client)), 1 * MB)

    def open(self) -> int:
        """How many connections the gateway has."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            found = re.search(r"^bookd_http_connections (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found is not None
        return int(float(found[1]))
