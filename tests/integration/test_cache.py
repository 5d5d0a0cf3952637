"""Answers that are given again by a real gateway, with another gateway beside it, while books are changed in every way."""

import re
from functools import partial

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from bookd.testing.ports import free_ports
from tests.chaos.daemons import Program, twistd
from tests.integration.running import SuiteTestCase

HIT, STALE = "bookd; hit", "bookd; hit; detail=stale-if-error"


class CacheTestCase(SuiteTestCase):
    """Each test has a suite whose gateway keeps answers."""

    fresh: float

    async def setUp(self) -> None:
        """Start the suite, and the gateway anew with a cache."""
        await super().setUp()
        await self.take("gateway", "stop")
        self.config.write_text(
            self.config.read_text().replace(
                "[gateway]\n", f"[gateway]\ncache_fresh = {self.fresh}\ncache_stale = 300.0\n", 1
            )
        )
        self.give_back("gateway")
        await self.ready()

    async def title(self, book_id: str) -> tuple[str, str | None]:
        """A book's title, and how the answer came to be."""
        answer = await self.ask("GET", f"/v1/books/{book_id}")
        self.assertEqual(answer.status, 200, answer.body)
        return answer.body["title"], answer.header("Cache-Status")

    async def warm(self, book_id: str) -> str:
        """Have a book's answer kept; answers its title."""

        async def hit() -> bool:
            return (await self.title(book_id))[1] == HIT

        await self.until(hit)
        return (await self.title(book_id))[0]

    async def is_called(self, book_id: str, title: str) -> bool:
        """Whether the book has this title by now."""
        return (await self.title(book_id))[0] == title


class FreshTests(CacheTestCase):
    """Answers that are fresh for a minute, so that only writes and events make them stale."""

    fresh = 60.0

    async def test_own_writes(self) -> None:
        """Each of a hundred changes shows in the very next read, while others read the same book all the time."""
        book_id = await self.book()
        reading = True

        async def others() -> int:
            count = 0
            while reading:
                await self.title(book_id)
                count += 1
            return count

        crowd = gatherResults([Deferred.fromCoroutine(others()) for _ in range(4)])
        for number in range(100):
            answer = await self.ask("PATCH", f"/v1/books/{book_id}", {"title": f"Title {number}"}, self.admin)
            self.assertEqual(answer.status, 200, answer.body)
            self.assertEqual((await self.title(book_id))[0], f"Title {number}")
        reading = False
        self.assertGreater(sum(await crowd), 100)

    async def test_other_gateway(self) -> None:
        """A change through another gateway shows when its event comes; stock that an order takes does not make a book's
        answer stale, and a client that insists sees it."""
        book_id = await self.book()
        settings = self.config.read_text()
        port, metrics = free_ports(2)
        other = self.home / "other.toml"
        head, _, rest = settings.partition("[gateway]\n")
        table, mark, tail = rest.partition("\n[mom]\n")
        table = re.sub(r"(?m)^port = \d+$", f"port = {port}", table, count=1)
        table = re.sub(r"(?m)^metrics_port = \d+$", f"metrics_port = {metrics}", table, count=1)
        other.write_text(head + '[gateway]\naccess = "log/other.jsonl"\n' + table + mark + tail)
        other.chmod(0o600)
        second = Program(reactor, "gateway", twistd("gateway", other), self.home / "other.log", self.died)
        second.start()
        self.addCleanup(second.stop)
        await self.warm(book_id)
        first, self.ports["gateway"] = self.ports["gateway"], port
        await self.ready()
        await self.ask("PATCH", f"/v1/books/{book_id}", {"title": "Elsewhere"}, self.admin)
        self.ports["gateway"] = first
        took = await self.until(partial(self.is_called, book_id, "Elsewhere"), 10)
        self.assertLess(took, 5)


class StaleTests(CacheTestCase):
    """Answers that are stale soon."""

    fresh = 0.3

    async def test_away(self) -> None:
        """While the inventory is away its last answers are given, but not to who insists, and nothing of before a write that
        is kept; that shows once it is done."""
        book_id = await self.book()
        title = await self.warm(book_id)
        await self.take("inventory", "kill")
        await deferLater(reactor, self.fresh)
        for _ in range(3):
            self.assertEqual(await self.title(book_id), (title, STALE))
        self.assert_problem(await self.ask("GET", f"/v1/books/{book_id}", headers={"Cache-Control": "no-cache"}), 503)
        kept = await self.ask("PATCH", f"/v1/books/{book_id}", {"title": "Kept"}, self.admin)
        self.assertEqual(kept.status, 202)
        self.assert_problem(await self.ask("GET", f"/v1/books/{book_id}"), 503)
        self.give_back("inventory")
        location = kept.header("Location")
        assert location is not None
        await self.until(partial(self.operation_done, self.admin, location))
        self.assertEqual((await self.title(book_id))[0], "Kept")
