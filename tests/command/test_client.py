"""`bookd client`: every entry as a call, the subcommands as scripts use them, and the menu as a person does."""

import json
from io import StringIO
from typing import Any

from click.testing import CliRunner
from rich.console import Console
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from bookd.command.answer import Call
from bookd.command.client import client, perform, understood
from bookd.command.entries import ENTRIES, Entry, Field, Kind, items
from bookd.command.main import main
from bookd.command.menu import Menu
from bookd.command.session import Session, Tokens, file_for
from bookd.command.showing import clean, money, show
from tests.command.suite import Asked, Says, SuiteCase, problem, tokens

BOOK = {
    "book_id": "b1",
    "title": "Dune",
    "author": "Frank Herbert",
    "isbn": "9780441172719",
    "stock": 3,
    "price": {"currency_code": "USD", "units": "9", "nanos": 990_000_000},
}
ORDER = {
    "order_id": "o1",
    "user_id": "u1",
    "items": [{"book_id": "b1", "title": "Dune", "quantity": 2, "unit_price": BOOK["price"]}],
    "total_amount": {"currency_code": "USD", "units": "19", "nanos": 980_000_000},
    "status": "ORDER_STATUS_CONFIRMED",
    "created_at": "2026-11-24T03:22:29.683513Z",
}
KEPT = Says(202, {"name": "operations/x1", "done": False, "metadata": {"state": "MESSAGE_STATE_QUEUED"}})
TAKEN = {
    "type": "urn:bookd:problem:USER_EXISTS",
    "title": "Conflict",
    "status": 409,
    "detail": "username: is taken",
    "code": "ALREADY_EXISTS",
    "violations": [{"field": "username", "description": "is taken"}, {"field": "email", "description": "is taken"}],
}


def entry(name: str) -> Entry:
    """The entry of that name."""
    return next(each for each in ENTRIES if each.name == name)


class EntryTests(SynchronousTestCase):
    """The table."""

    def test_the_nine_come_first(self) -> None:
        """A customer's nine entries lead the menu; then come cancelling, the session and the staff's."""
        names = [each.name for each in ENTRIES]
        self.assertEqual(
            names[:9],
            [
                "get-book",
                "search-books",
                "register",
                "authenticate",
                "get-user",
                "update-user",
                "create-order",
                "get-order",
                "list-orders",
            ],
        )
        self.assertLessEqual(
            {"log-in", "cancel-order", "add-book", "change-book", "delete-book", "adjust-stock"}, set(names)
        )
        self.assertEqual(len(names), len(set(names)))

    def test_calls(self) -> None:
        """Each entry makes its call, with every value quoted and with what was left out absent."""
        for name, values, call in (
            ("get-book", {"book_id": "a/b?c"}, Call("GET", "/v1/books/a%2Fb%3Fc")),
            ("search-books", {}, Call("GET", "/v1/books")),
            (
                "search-books",
                {"query": "q", "page_size": 5},
                Call("GET", "/v1/books", query={"query": "q", "page_size": "5"}),
            ),
            ("get-user", {"user_id": "u"}, Call("GET", "/v1/users/u")),
            ("update-user", {"user_id": "u", "address": ""}, Call("PATCH", "/v1/users/u", {"address": ""})),
            ("create-order", {"items": [1]}, Call("POST", "/v1/orders", {"items": [1]})),
            ("get-order", {"order_id": "o"}, Call("GET", "/v1/orders/o")),
            (
                "list-orders",
                {"user_id": "u", "page_token": "t"},
                Call("GET", "/v1/users/u/orders", query={"page_token": "t"}),
            ),
            ("cancel-order", {"order_id": "o"}, Call("POST", "/v1/orders/o:cancel", {})),
            ("get-operation", {"operation": "operations/x"}, Call("GET", "/v1/operations/x")),
            ("delete-book", {"book_id": "b"}, Call("DELETE", "/v1/books/b")),
            (
                "adjust-stock",
                {"book_id": "b", "quantity_change": -3},
                Call("POST", "/v1/books/b:adjustStock", {"quantity_change": -3}),
            ),
            (
                "change-book",
                {"book_id": "b", "price": "9.99"},
                Call("PATCH", "/v1/books/b", {"price": BOOK["price"]}),
            ),
            (
                "add-book",
                {"title": "T", "author": "A", "price": "9.99", "currency": "usd", "stock": 0, "book_id": "b"},
                Call(
                    "POST",
                    "/v1/books",
                    {"title": "T", "author": "A", "stock": 0, "price": BOOK["price"]},
                    {"book_id": "b"},
                ),
            ),
        ):
            self.assertEqual(entry(name).call(values), call)

    def test_items(self) -> None:
        """Items are ids with quantities, one unless said, in several spellings."""
        self.assertEqual(items("a:2 b"), [{"book_id": "a", "quantity": 2}, {"book_id": "b", "quantity": 1}])
        self.assertEqual(items("a=2, b:0"), [{"book_id": "a", "quantity": 2}, {"book_id": "b", "quantity": 0}])
        for text in ("a:x", "a:-1", "ä", "a:1:2", "a/b"):
            self.assertRaises(ValueError, items, text)

    def test_understood(self) -> None:
        """A number and an amount are checked where they are typed."""
        self.assertEqual(understood(Field("n", "", Kind.NUMBER), "-3"), -3)
        self.assertEqual(understood(Field("p", "", Kind.AMOUNT), "1.50"), "1.50")
        for kind, text in ((Kind.NUMBER, "x"), (Kind.AMOUNT, "x"), (Kind.AMOUNT, "-1"), (Kind.ITEMS, "?")):
            self.assertRaises(ValueError, understood, Field("f", "", kind), text)


class ShowingTests(SynchronousTestCase):
    """What a person sees."""

    def shown(self, body: object, width: int = 100) -> str:
        """The body as it is printed."""
        out = StringIO()
        show(Console(file=out, width=width, highlight=False), body)
        return out.getvalue()

    def test_books(self) -> None:
        """A list has each book with what is needed to order it, the count, and where the next page is."""
        shown = self.shown({"books": [BOOK], "total_size": 1200, "next_page_token": "tok"})
        for part in (
            "Dune",
            "Frank Herbert",
            "b1",
            "9780441172719",
            "9.99 USD",
            "3 in stock",
            "1 of 1,200 books",
            "tok",
        ):
            self.assertIn(part, shown)

    def test_order(self) -> None:
        """An order has its status, total and lines; a list of orders a line each."""
        for part in ("o1", "confirmed", "19.98 USD", "Dune", "9.99 USD"):
            self.assertIn(part, self.shown(ORDER))
        for part in ("o1", "confirmed", "2026-11-24 03:22:29", "19.98 USD", "1 of 1 orders"):
            self.assertIn(part, self.shown({"orders": [ORDER], "total_size": 1}))

    def test_tokens_stay_hidden(self) -> None:
        """A session is shown without its tokens."""
        shown = self.shown(tokens().body)
        self.assertIn("u1", shown)
        self.assertNotIn("a1", shown)

    def test_operation(self) -> None:
        """An operation has its name and state, and its response or error when it is done."""
        self.assertIn("queued", self.shown(KEPT.body))
        self.assertIn("Dune", self.shown({"name": "operations/x", "done": True, "response": {"@type": "t", **BOOK}}))
        self.assertIn("sold out", self.shown({"name": "operations/x", "done": True, "error": {"message": "sold out"}}))

    def test_nothing(self) -> None:
        """An empty answer is told too."""
        self.assertEqual(self.shown({}), "Done.\n")

    def test_odd_answers(self) -> None:
        """Answers of another shape than ours are shown all the same."""
        for body in (
            {"books": []},
            {"orders": []},
            {"name": None},
            {"x": [1]},
            {"order_id": 1},
            {"book_id": None, "price": 3},
        ):
            self.assertTrue(self.shown(body))

    def test_no_control_sequences(self) -> None:
        """What others wrote cannot move the cursor, colour the screen or name a link; brackets are no markup."""
        shown = self.shown({"books": [{**BOOK, "title": "[red]T\x1b[2J\x9b\x07"}]})
        self.assertIn("[red]T\ufffd[2J", shown)
        self.assertNotIn("\x07", shown)
        self.assertEqual(clean("a\x1b]8;;x\x07b\r"), "a\ufffd]8;;x\ufffdb\ufffd")

    def test_money(self) -> None:
        """Amounts have two places at least, and thousands apart."""
        for units, nanos, said in (
            ("0", 0, "0.00 X"),
            ("1234567", 5_000_000, "1,234,567.005 X"),
            ("-1", -500_000_000, "-1.50 X"),
        ):
            self.assertEqual(money({"units": units, "nanos": nanos, "currency_code": "X"}), said)
        self.assertEqual((money(None), money({"units": "?"})), ("", "{'units': '?'}"))


class HelpTests(SynchronousTestCase):
    """What needs no suite."""

    def test_help(self) -> None:
        """Every entry has a help page, in a folder without a suite too, and none takes a password."""
        runner = CliRunner()
        for each in ENTRIES:
            result = runner.invoke(main, ["--home", "/nowhere", "client", each.name, "--help"])
            self.assertEqual(result.exit_code, 0, result.output)
            self.assertNotIn("--password ", result.output)
            self.assertIn("--json", result.output)

    def test_main_help(self) -> None:
        """The command lists its subcommands."""
        result = CliRunner().invoke(main, ["--help"])
        for name in ("init", "up", "ctl", "status", "import", "client"):
            self.assertIn(f"  {name} ", result.output)

    def test_no_home(self) -> None:
        """Without a suite and without --url, the line says how to make one."""
        result = CliRunner().invoke(main, ["--home", "/nowhere", "client", "search-books"])
        self.assertEqual(result.exit_code, 1)
        self.assertIn("init", result.output)

    def test_usage(self) -> None:
        """Values that make no sense are a matter of usage."""
        for arguments in (
            ["create-order", "?"],
            ["adjust-stock", "b", "x"],
            ["add-book", "--title", "T"],
            ["get-book"],
        ):
            self.assertEqual(CliRunner().invoke(client, arguments).exit_code, 2, arguments)


class ScriptTests(SuiteCase):
    """Subcommands in processes of their own."""

    def start(self, answers: Any) -> list[str]:
        """A suite and a home for it; how commands begin."""
        self.url = self.plays(answers)
        self.suite_home = self.home(self.url)
        return ["--home", str(self.suite_home.path), "client"]

    async def test_log_in_and_go_on(self) -> None:
        """A session is kept for the next command, with mode 0600; the password comes from standard input."""

        def answers(asked: Asked) -> Says:
            if asked.path == "/v1/sessions":
                return tokens()
            return Says(200, {"user_id": "u1", "username": "ana"}) if asked.token == "a1" else problem(401, "", "no")

        begin = self.start(answers)
        log_in = self.bookd(*begin, "log-in", "--username", "ana", "--password-stdin", "--json", stdin=b"s3cret\n")
        self.assertEqual(await log_in.status, 0, log_in.errors)
        self.assertEqual(json.loads(log_in.printed), {"user_id": "u1", "expires_in": 900})
        self.assertEqual(self.asked[0].body, {"username": "ana", "password": "s3cret"})
        self.assertEqual(file_for(self.suite_home, self.url).stat().st_mode & 0o777, 0o600)
        get_user = self.bookd(*begin, "get-user", "--json")
        self.assertEqual(await get_user.status, 0, get_user.errors)
        self.assertEqual((self.asked[1].path, json.loads(get_user.printed)["username"]), ("/v1/users/u1", "ana"))

    async def test_refusal_with_its_fields(self) -> None:
        """A refusal has status 1 and every field, for a person and as JSON for a script."""
        begin = [*self.start(lambda asked: Says(409, TAKEN)), "register", "--username", "a", "--email", "e"]
        person = self.bookd(*begin, BOOKD_PASSWORD="p")
        self.assertEqual((await person.status, person.printed), (1, ""))
        for part in ("409 Conflict", "USER_EXISTS", "username: is taken", "email: is taken"):
            self.assertIn(part, person.errors)
        script = self.bookd(*begin, "--json", BOOKD_PASSWORD="p")
        self.assertEqual((await script.status, json.loads(script.errors)), (1, TAKEN))

    async def test_accepted_for_later(self) -> None:
        """A 202 is said to be one, with its operation; a script gets the operation; --follow waits for the outcome."""
        done = Says(200, {"name": "operations/x1", "done": True, "response": {"@type": "t", **BOOK}})
        begin = self.start(lambda asked: KEPT if asked.verb == "PATCH" else done)
        change = [*begin, "change-book", "b1", "--title", "Dune"]
        person = self.bookd(*change)
        self.assertEqual(await person.status, 0, person.errors)
        self.assertIn("accepted, and kept", person.printed)
        self.assertIn("operations/x1", person.printed)
        script = self.bookd(*change, "--json", "--key", "k1")
        self.assertEqual((await script.status, json.loads(script.printed)), (0, KEPT.body))
        self.assertEqual(self.asked[-1].key, '"k1"')
        follow = self.bookd(*change, "--json", "--follow")
        self.assertEqual((await follow.status, json.loads(follow.printed)), (0, BOOK))
        later = self.bookd(*begin, "get-operation", "operations/x1", "--json")
        self.assertEqual((await later.status, json.loads(later.printed)), (0, done.body))

    async def test_service_that_is_down(self) -> None:
        """A 503 is one line that says when to try again."""
        begin = self.start(lambda asked: problem(503, "UNAVAILABLE", "inventory does not answer", retry_after="2"))
        ended = self.bookd(*begin, "get-book", "b1")
        self.assertEqual(await ended.status, 1)
        self.assertIn("inventory does not answer; try again in 2 s", ended.errors)
        self.assertEqual(ended.errors.count("\n"), 1)

    async def test_nobody_logged_in(self) -> None:
        """What is about oneself needs a session; the line says how to get one."""
        ended = self.bookd(*self.start(lambda asked: Says(200, {})), "list-orders")
        self.assertEqual(await ended.status, 1)
        self.assertIn("log-in", ended.errors)

    async def test_no_password_to_be_had(self) -> None:
        """Without a terminal, a variable or standard input there is no password, and no call."""
        ended = self.bookd(*self.start(lambda asked: Says(200, {})), "log-in", "--username", "a")
        self.assertEqual(await ended.status, 1)
        self.assertIn("BOOKD_PASSWORD", ended.errors)
        self.assertEqual(self.asked, [])

    async def test_suite_that_is_away(self) -> None:
        """A refused connection is one line."""
        home = str(self.home("https://localhost:1").path)
        ended = self.bookd("--home", home, "client", "search-books")
        self.assertEqual(await ended.status, 1)
        self.assertIn("cannot be reached", ended.errors)
        self.assertEqual(ended.errors.count("\n"), 1)


class MenuTests(SuiteCase):
    """The menu, with what a person types."""

    async def meet(self, answers: Any, *typed: str, session: Session | None = None) -> str:
        """What the menu shows to somebody who types these lines."""
        rest = self.rest(self.plays(answers), session)
        with CliRunner().isolation("".join(f"{line}\n" for line in typed)) as (_, _, both):
            await Menu(reactor, rest, perform, understood).stay()
            return both.getvalue().decode()

    def open(self) -> Session:
        """A session of somebody."""
        session = Session()
        session.tokens = Tokens("u1", "a1", "r1", 9e12)
        return session

    async def test_search_and_leave(self) -> None:
        """A number asks its questions, shows the answer, and asks again; what was left empty is not sent."""
        shown = await self.meet(lambda asked: Says(200, {"books": [BOOK], "total_size": 1}), "2", "dune", "0")
        self.assertIn("Dune", shown)
        self.assertEqual([asked.path for asked in self.asked], ["/v1/books?query=dune"])
        for each in ENTRIES:
            self.assertIn(each.about.partition(";")[0].rstrip("."), shown)

    async def test_pages_are_turned(self) -> None:
        """A list that goes on offers its next page, with the same question, until there is none or it is enough."""

        def answers(asked: Asked) -> Says:
            page = asked.path.partition("page_token=")[2] or "0"
            more = {} if page == "t2" else {"next_page_token": f"t{int(page[-1]) + 1}"}
            return Says(200, {"books": [BOOK], "total_size": 3, **more})

        await self.meet(answers, "2", "dune", "y", "y", "2", "", "n", "0")
        self.assertEqual(
            [asked.path.partition("?")[2] for asked in self.asked],
            ["query=dune", "query=dune&page_token=t1", "query=dune&page_token=t2", ""],
        )

    async def test_end_of_input_leaves(self) -> None:
        """Ctrl-D leaves, in the middle of a question too."""
        await self.meet(lambda asked: Says(200, {}))
        await self.meet(lambda asked: Says(200, {}), "get-book")
        self.assertEqual(self.asked, [])

    async def test_wrong_choice(self) -> None:
        """What is no entry is told, and the menu goes on."""
        self.assertIn("there is no '99'", await self.meet(lambda asked: Says(200, BOOK), "99", "x", "", "q"))

    async def test_questions_are_asked_again(self) -> None:
        """What is needed and what makes no sense is asked for again."""
        number = str([each.name for each in ENTRIES].index("adjust-stock") + 1)
        shown = await self.meet(lambda asked: Says(200, BOOK), number, "", "b1", "many", "-2", "0", session=self.open())
        self.assertIn("'many' is no whole number", shown)
        self.assertEqual(
            [(asked.path, asked.body) for asked in self.asked], [("/v1/books/b1:adjustStock", {"quantity_change": -2})]
        )

    async def test_log_in_then_order(self) -> None:
        """Somebody logs in and orders with the session; a 202 is told, and followed when wanted."""

        def answers(asked: Asked) -> Says:
            if asked.path == "/v1/sessions":
                return tokens()
            return KEPT if asked.verb == "POST" else Says(200, {"done": True, "response": {"@type": "t", **ORDER}})

        shown = await self.meet(answers, "log-in", "ana", "s3cret", "create-order", "b1:2", "", "y", "0")
        self.assertEqual([asked.path for asked in self.asked], ["/v1/sessions", "/v1/orders", "/v1/operations/x1"])
        self.assertEqual(self.asked[1].token, "a1")
        self.assertIn("kept until it can be done", shown)
        self.assertIn("confirmed", shown)
        self.assertNotIn("s3cret", shown)

    async def test_errors_leave_the_menu_standing(self) -> None:
        """A refusal with its fields, a missing session and a suite that goes away: each told, none ends the menu."""
        shown = await self.meet(lambda asked: Says(409, TAKEN), "5", "", "1", "b1", "0")
        self.assertIn("nobody is logged in", shown)
        self.assertIn("409 Conflict", shown)
        rest = self.rest("https://localhost:1")
        with CliRunner().isolation("1\nb1\n1\nb1\n0\n") as (_, _, both):
            await Menu(reactor, rest, perform, understood).stay()
            self.assertEqual(both.getvalue().decode().count("cannot be reached"), 2)
