"""The real catalogue, 10,000 books with their blemishes: imported, imported again, searched and paged."""

import json
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest

from tests.chaos.stage import environment
from tests.integration.running import SuiteTestCase

BOOKS = Path(__file__).parents[3] / "shared" / "data" / "goodbooks-10k" / "books.csv"


class CatalogueTests(SuiteTestCase):
    """What the README promises of an import."""

    timeout = 240

    async def setUp(self) -> None:
        """Start the suite, if there is a catalogue."""
        if not BOOKS.exists():
            raise SkipTest(f"the real catalogue is not at {BOOKS}")
        await super().setUp()

    async def load(self) -> dict[str, object]:
        """Run the import; answers its report."""
        arguments = ["-m", "bookd.command.main", "--home", str(self.home), "import", str(BOOKS)]
        arguments += ["--stock", "100", "--price", "15.99", "--json"]
        out, error, status = await getProcessOutputAndValue(  # spawns without forking: no folder is given
            sys.executable, arguments, environment(), reactor=reactor
        )
        self.assertEqual(status, 0, error.decode())
        report: dict[str, object] = json.loads(out)
        return report

    async def titles(self, query: str) -> list[str]:
        """The titles that a search finds, best first."""
        return [each["title"] for each in (await self.done("GET", f"/v1/books?query={query}"))["books"]]

    async def test_everything(self) -> None:
        """All rows come in; the second time nothing does; searches find what they should; pages meet."""
        first, second = await self.load(), await self.load()
        self.assertEqual((first["created"], first["there"]), (10_000, 0), first)
        self.assertEqual((second["created"], second["there"]), (0, 10_000), second)
        marquez = (await self.done("GET", "/v1/books?query=garcia+marquez"))["books"]
        self.assertGreater(len(marquez), 5)
        self.assertTrue(all("Gabriel García Márquez" in each["author"] for each in marquez))
        series = await self.titles("harry+potter")
        self.assertTrue(all("Harry Potter" in title for title in series[:7]), series)
        (found,) = (await self.done("GET", "/v1/books?query=9780439554930"))["books"]
        self.assertEqual((found["isbn"], found["stock"], found["price"]["units"]), ("9780439554930", 100, "15"))
        seen: list[str] = []
        token = ""
        while True:
            page = await self.done("GET", f"/v1/books?page_size=1000&page_token={token}")
            seen += [each["book_id"] for each in page["books"]]
            token = page["next_page_token"]
            if not token:
                break
        self.assertEqual((len(seen), len(set(seen)), page["total_size"]), (10_000, 10_000, 10_000))
