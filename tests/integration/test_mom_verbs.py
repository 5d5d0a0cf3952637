"""`bookd mom` before a real suite: an operator finds a poisoned message, mends what broke it, and puts it back."""

import json
import sqlite3
import sys
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue

from tests.chaos.stage import environment
from tests.integration.running import SuiteTestCase

INVENTORY = "bookd.inventory.v1.InventoryService"


class VerbsTests(SuiteTestCase):
    """An operator at a terminal."""

    def write_settings(self) -> None:
        """Poison is found soon."""
        settings = self.config.read_text()
        quick = "[mom]\nmax_attempts = 3\ninitial_backoff = 0.05\nmax_backoff = 0.2"
        self.assertEqual(settings.count("[mom]\n"), 1)
        self.config.write_text(settings.replace("[mom]\n", quick + "\n"))

    async def mom(self, *arguments: str) -> Any:
        """What a verb prints as JSON."""
        said, errors, status = await self.run_mom(*arguments, "--json")
        self.assertEqual(status, 0, errors)
        return json.loads(said)

    async def run_mom(self, *arguments: str) -> tuple[str, str, int]:
        """What a verb prints, says of errors, and ends with."""
        command = ["-m", "bookd.command.main", "--home", str(self.home), "mom", "--url", self.url, *arguments]
        said, errors, status = await getProcessOutputAndValue(sys.executable, command, environment(), reactor=reactor)
        return said.decode(), errors.decode(), status

    @property
    def url(self) -> str:
        """Where the suite is."""
        return f"https://localhost:{self.ports['gateway']}"

    def inventory(self, statement: str) -> None:
        """Change the inventory's database behind its back."""
        with sqlite3.connect(self.home / "data" / "inventory" / "inventory.sqlite", timeout=10) as database:
            database.execute(statement)
        database.close()

    async def change(self, book_id: str, title: str) -> str:
        """Rename a book while its queue is paused; where the operation is."""
        answer = await self.ask("PATCH", f"/v1/books/{book_id}", {"title": title}, self.admin)
        self.assertEqual(answer.status, 202, answer.body)
        location = answer.header("Location")
        assert location is not None
        return location

    async def letters(self) -> list[Any]:
        """The dead letters."""
        found: list[Any] = (await self.mom("dead", "list", "--queue", "inventory"))["dead_letters"]
        return found

    async def test_poison(self) -> None:
        """A message that its service cannot take becomes a dead letter after its attempts; its neighbours in other lanes are
        delivered meanwhile. Put back once the service is mended, it is done, once."""
        await self.take("mom", "stop")
        self.write_settings()
        self.give_back("mom")
        await self.ready()
        bad, good = await self.book(), await self.book()
        self.assertEqual((await self.mom("pause", "inventory"))["destination"], INVENTORY)
        self.inventory(
            "CREATE TRIGGER poison BEFORE UPDATE ON books WHEN NEW.title = 'Poison'"
            " BEGIN SELECT RAISE(ABORT, 'the inventory is broken'); END"
        )
        poisoned = await self.change(bad, "Poison")
        neighbour = await self.change(good, "Remedy")
        queue = await self.mom("queues", "inventory")
        self.assertEqual((queue["depth"], queue["lanes"]), (2, 2))
        self.assertGreater(queue["kept_per_second"], 0)
        waiting = (await self.mom("operations", "--state", "queued"))["operations"]
        self.assertEqual(
            {each["name"] for each in waiting}, {each.removeprefix("/v1/") for each in (poisoned, neighbour)}
        )
        await self.mom("resume", "inventory")
        await self.until(partial(self.operation_done, self.admin, neighbour))
        await self.until(self.letters)
        (letter,) = await self.letters()
        self.assertEqual(letter["attempts"], 3)
        message_id = letter["message_id"]
        self.assertEqual(poisoned, f"/v1/operations/{message_id}")
        shown = await self.mom("dead", "show", message_id)
        self.assertEqual(shown["request"]["book"]["title"], "Poison")
        said, _, status = await self.run_mom("dead", "list")
        self.assertEqual(status, 0)
        self.assertIn(message_id, said)
        self.assertIn("UpdateBook", said)
        self.assertEqual((await self.done("GET", f"/v1/books/{good}"))["title"], "Remedy")
        self.inventory("DROP TRIGGER poison")
        self.assertEqual((await self.mom("dead", "retry", message_id))["retried"], 1)
        await self.until(partial(self.operation_done, self.admin, poisoned))
        operation = await self.done("GET", poisoned, who=self.admin)
        self.assertEqual(operation["response"]["title"], "Poison")
        self.assertEqual((await self.done("GET", f"/v1/books/{bad}"))["title"], "Poison")
        self.assertEqual(await self.letters(), [])
        _, errors, status = await self.run_mom("dead", "retry", message_id)
        self.assertEqual(status, 1)
        self.assertIn("DEAD_LETTER_UNKNOWN", errors)
