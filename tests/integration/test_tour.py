"""The README's tour, its lines run as they stand against a suite in another place."""

import json
import os
import re
from pathlib import Path
from typing import Any

from twisted.internet.utils import getProcessOutputAndValue

from tests.suite.running import SuiteTestCase

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[str]:
    """The tour's curl commands, lines that go on joined."""
    return [found[0].strip() for found in re.finditer(r"^    curl (?:.*\\\n)*.*$", README.read_text(), re.MULTILINE)]


class TourTests(SuiteTestCase):
    """README.md, "A short tour"."""

    async def curl(self, command: str, token: str, book: str) -> Any:
        """The JSON that a command prints. What another home, port and book make different is put in its place."""
        places = {"var/": f"{self.home}/", "localhost:8081": f"localhost:{self.ports['gateway']}", "…": book}
        for old, new in places.items():
            command = command.replace(old, new)
        shell = ["-c", command.replace("curl ", "curl --silent --show-error --fail-with-body ", 1)]
        said, errors, status = await getProcessOutputAndValue("/bin/sh", shell, {**os.environ, "TOKEN": token})
        self.assertEqual(status, 0, f"{command}\n{said!r}\n{errors!r}")
        return json.loads(said)

    async def test_tour(self) -> None:
        """Whoever types it in is registered, logged in, finds a book and has ordered it."""
        register, log_in, search, order = commands()
        book = await self.book(title="Cien años de soledad", author="Gabriel García Márquez")
        user = await self.curl(register, "", book)
        session = await self.curl(log_in, "", book)
        self.assertEqual(session["user_id"], user["user_id"])
        found = await self.curl(search, "", book)
        self.assertEqual([each["book_id"] for each in found["books"]], [book])
        made = await self.curl(order, session["access_token"], book)
        self.assertEqual((made["status"], made["shipping_address"]), ("ORDER_STATUS_CONFIRMED", "1 Main St"))
