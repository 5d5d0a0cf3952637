"""`bookd import` against a suite that the test plays, and in a process of its own."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet.defer import ensureDeferred

from bookd.command.answer import Refusal
from bookd.command.catalogue import Defaults, read
from bookd.command.loading import Loading, Report, import_file
from bookd.command.main import main
from tests.command.suite import CREDENTIALS, Asked, Says, SuiteCase, problem, tokens

HEAD = "title,author,isbn\n"
TAKEN = problem(409, "ALREADY_EXISTS", "book_id: is taken", "BOOK_ID_TAKEN")


class Shelf:
    """The books that a suite has, and what it does about new ones."""

    def __init__(self) -> None:
        self.books: dict[str, Any] = {}
        self.instead: Callable[[Asked], Says | None] = lambda asked: None
        self.in_flight = 0

    def __call__(self, asked: Asked) -> Says:
        """Answer a request."""
        if asked.path == "/v1/sessions":
            return tokens() if asked.body == CREDENTIALS else problem(401, "UNAUTHENTICATED", "wrong name or password")
        instead = self.instead(asked)
        if instead is not None:
            return instead
        book_id = asked.path.partition("book_id=")[2]
        if book_id in self.books:
            return TAKEN
        self.books[book_id] = asked.body
        return Says(201, {**asked.body, "book_id": book_id})


class LoadingCase(SuiteCase):
    """A shelf and a file."""

    def setUp(self) -> None:
        """Empty ones."""
        super().setUp()
        self.shelf = Shelf()
        self.file = self.folder / "books.csv"

    def write(self, count: int, *more: str) -> None:
        """Fill the file with so many books, and lines of one's own."""
        self.file.write_text(
            HEAD + "".join(f"T{n},A{n},\n" for n in range(count)) + "".join(f"{line}\n" for line in more)
        )


class LoadTests(LoadingCase):
    """The loading itself."""

    async def load(self, in_flight: int = 4, patience: float = 20.0, **options: Any) -> Report:
        """Load the file into the shelf."""
        report = Report()
        rest = self.rest(self.plays(self.shelf), credentials=CREDENTIALS, patience=patience, connections=in_flight)
        lines = read(self.file, Defaults(3, Decimal(1)))
        await Loading(rest, lines, in_flight, options.get("follow", 5.0), report).everything()
        return report

    async def test_second_run_creates_nothing(self) -> None:
        """All books are created by the first run, and found there by the second."""
        self.write(30)
        first, second = await self.load(), await self.load()
        self.assertEqual((first.rows, first.created, first.there), (30, 30, 0))
        self.assertEqual((second.rows, second.created, second.there), (30, 0, 30))
        self.assertEqual(len(self.shelf.books), 30)

    async def test_report(self) -> None:
        """Every row is accounted for: created, repaired, repeated, or refused with its line and the field at fault."""
        self.write(1, "T0,A0,", "R,A,439023483", ",A,", "W,A,12345", "X,A,")
        fault = {"violations": [{"field": "book.title", "description": "is odd"}], "code": "INVALID_ARGUMENT"}
        self.shelf.instead = lambda asked: Says(400, fault) if asked.body["title"] == "X" else None
        report = (await self.load()).body()
        self.assertEqual((report["rows"], report["created"], report["there"]), (6, 3, 0))
        self.assertEqual(report["repeated"], [{"line": 3, "earlier": 2}])
        self.assertEqual(report["repaired"], [{"line": 4, "isbn": "9780439023481", "how": "from the ISBN-10"}])
        self.assertEqual(report["without_isbn"], [{"line": 6, "why": "beyond repair"}])
        self.assertEqual(
            report["refused"], [{"line": 5, "reason": "has no title"}, {"line": 7, "reason": "book.title: is odd"}]
        )

    async def test_accepted_for_later_is_followed(self) -> None:
        """A 202 counts as created when its operation is done, and as refused when that was refused."""
        self.write(2)
        outcomes = {
            "o0": {"done": True, "response": {"book_id": "b"}},
            "o1": {"done": True, "error": {"code": 9, "message": "no"}},
        }

        def instead(asked: Asked) -> Says:
            if asked.verb == "GET":
                return Says(200, outcomes[asked.path.rpartition("/")[2]])
            return Says(202, {"name": f"operations/o{asked.body['title'][1:]}", "done": False})

        self.shelf.instead = instead
        report = await self.load()
        self.assertEqual((report.created, [each["line"] for each in report.refused]), (1, [3]))

    async def test_accepted_but_not_done(self) -> None:
        """An operation that is not done when patience ends is named, and counts as kept."""
        self.write(1)
        self.shelf.instead = lambda asked: Says(
            200 if asked.verb == "GET" else 202, {"name": "operations/o", "done": False}
        )
        report = await self.load(follow=0.1)
        self.assertEqual((report.created, report.kept), (0, [{"line": 2, "operation": "operations/o"}]))
        self.assertIn("operations/o", report.summary())

    async def test_busy_suite(self) -> None:
        """429 and 503 are waited out; no book is lost or sent under two keys."""
        self.write(10)
        turned_away: set[str] = set()

        def instead(asked: Asked) -> Says | None:
            if asked.key is None or asked.key in turned_away:
                return None
            turned_away.add(asked.key)
            return problem(503, "UNAVAILABLE", "later", retry_after="0")

        self.shelf.instead = instead
        report = await self.load(in_flight=10)
        self.assertEqual((report.created, len(self.shelf.books), len(turned_away)), (10, 10, 10))

    async def test_user_who_may_not(self) -> None:
        """The first 403 ends the run; nothing more is sent than was in flight."""
        self.write(100)
        self.shelf.instead = lambda asked: problem(
            403, "PERMISSION_DENIED", "CreateBook is not for you", "ROLE_MISSING"
        )
        refusal = await self.assertFailure(ensureDeferred(self.load()), Refusal)
        self.assertEqual(refusal.status, 403)
        self.assertLess(len(self.asked), 12)


class CommandTests(LoadingCase):
    """The command as a person types it."""

    async def test_load_and_load_again(self) -> None:
        """It prints a report, as JSON when asked for; a second run creates nothing; refused rows make status 3."""
        self.write(5, ",A,")
        home = str(self.home(self.plays(self.shelf)).path)
        first = self.bookd("--home", home, "import", str(self.file), "--price", "1.50", "--stock", "7")
        self.assertEqual(await first.status, 3, first.errors)
        self.assertIn("5 books created, 0 there already", first.printed)
        self.assertIn("line 7: has no title", first.printed)
        second = self.bookd("--home", home, "import", str(self.file), "--price", "1.50", "--json")
        self.assertEqual(await second.status, 3, second.errors)
        report = json.loads(second.printed)
        self.assertEqual((report["created"], report["there"], len(report["refused"])), (0, 5, 1))
        (book, *_) = self.shelf.books.values()
        self.assertEqual((book["stock"], book["price"]["units"], book["price"]["nanos"]), (7, "1", 500_000_000))

    async def test_wrong_password(self) -> None:
        """Somebody else's name with a wrong password: one clear line, and no book sent."""
        self.write(5)
        home = str(self.home(self.plays(self.shelf)).path)
        ended = self.bookd(
            "--home",
            home,
            "import",
            str(self.file),
            "--price",
            "1",
            "--username",
            "eve",
            "--password-stdin",
            stdin=b"x\n",
        )
        self.assertEqual(await ended.status, 1)
        self.assertIn("wrong name or password", ended.errors)
        self.assertNotIn("Traceback", ended.errors)
        self.assertEqual(self.shelf.books, {})

    async def test_suite_that_is_not_there(self) -> None:
        """A refused connection: one clear line after patience has ended."""
        self.write(5)
        home = str(self.home("https://localhost:1").path)
        ended = self.bookd("--home", home, "import", str(self.file), "--price", "1", "--patience", "0")
        self.assertEqual(await ended.status, 1)
        self.assertIn("cannot be reached", ended.errors)
        self.assertNotIn("Traceback", ended.errors)

    def invoke(self, *arguments: str | Path) -> Result:
        """Run the command up to where it would need the reactor."""
        home = self.folder / "home"
        if not home.exists():
            self.home("https://localhost:1")
        return CliRunner().invoke(main, ["--home", str(home), "import", *map(str, arguments)])

    def test_files_that_are_no_catalogue(self) -> None:
        """Each gets one clear line and status 1 before anything is sent."""
        latin = self.folder / "latin.csv"
        latin.write_bytes("title,author\nÄ,B\n".encode("latin-1"))
        columns = self.folder / "columns.csv"
        columns.write_text("a,b\n1,2\n")
        empty = self.folder / "empty.csv"
        empty.touch()
        long = self.folder / "long.csv"
        with long.open("wb") as file:
            file.truncate(1 << 30)
        for file_, said in (
            (latin, "--encoding"),
            (columns, "has no column title"),
            (empty, "holds nothing"),
            (long, "more than 1,048,576 characters"),
            (self.folder, "is no file"),
            (Path("/dev/zero"), "is no file"),
            (self.folder / "missing.csv", "No such file"),
        ):
            result = self.invoke(file_, "--price", "1")
            self.assertEqual(result.exit_code, 1, result.output)
            self.assertIn(said, result.output)
            self.assertEqual(result.output.strip().count("\n"), 0, result.output)

    def test_options_that_make_no_sense(self) -> None:
        """A price, a stock or a number of requests that is none is refused as a matter of usage."""
        self.write(1)
        for option in (
            ("--price", "x"),
            ("--price", "-1"),
            ("--price", "1e99"),
            ("--stock", "-1", "--price", "1"),
            ("--in-flight", "0", "--price", "1"),
        ):
            self.assertEqual(self.invoke(self.file, *option).exit_code, 2, option)

    def test_no_administrator(self) -> None:
        """A home without the administrator's file says which options take its place."""
        self.write(1)
        home = self.home("https://localhost:1")
        home.admin.unlink()
        self.assertIn("--username", self.invoke(self.file, "--price", "1").output)

    def test_help(self) -> None:
        """The help tells what each option is for."""
        self.assertIn("--in-flight", CliRunner().invoke(import_file, ["--help"]).output)
