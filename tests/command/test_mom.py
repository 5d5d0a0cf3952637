"""`bookd mom` in processes of its own, against a suite that the test plays."""

import json
from typing import Any

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from bookd.command.main import main
from tests.command.suite import BROKEN, CREDENTIALS, Answers, Asked, Says, SuiteCase, problem, tokens
from tests.command.test_mom_tables import LETTER, OPERATION, QUEUE

ORDERS, BOOKS = "bookd.orders.v1.OrdersService", "bookd.inventory.v1.InventoryService"
QUEUES = {"queues": [{**QUEUE, "destination": BOOKS}, {**QUEUE, "destination": ORDERS}]}
ID, OTHER_ID = "019ab000-0000-7000-8000-000000000001", "019ab000-0000-7000-8000-000000000002"
THIRD_ID = "019ab000-0000-7000-8000-000000000003"


class UsageTests(SynchronousTestCase):
    """What needs no suite."""

    def test_help(self) -> None:
        """Every verb has a help page, and a program can read what it prints."""
        for verb in (
            ["queues"],
            ["pause"],
            ["resume"],
            ["operations"],
            *(["dead", each] for each in ("list", "show", "retry", "discard")),
        ):
            result = CliRunner().invoke(main, ["--home", "/nowhere", "mom", *verb, "--help"])
            self.assertEqual(result.exit_code, 0, result.output)
            self.assertIn("--json", result.output)

    def test_usage(self) -> None:
        """What makes no sense is a matter of usage, and asks nobody."""
        for arguments in (
            ["pause"],
            ["operations", "--state", "lost"],
            ["operations", "--limit", "0"],
            ["dead", "show", "x"],
            ["dead", "show", f"queues/{ID}"],
            ["dead", "retry"],
            ["dead", "retry", ID, "--all"],
            ["dead", "retry", ID, "--queue", "orders"],
            ["dead", "discard", "--yes"],
        ):
            result = CliRunner().invoke(main, ["--home", "/nowhere", "mom", *arguments])
            self.assertEqual(result.exit_code, 2, (arguments, result.output))

    def test_no_home(self) -> None:
        """Without a suite, the line says how to make one."""
        result = CliRunner().invoke(main, ["--home", "/nowhere", "mom", "queues"])
        self.assertEqual(result.exit_code, 1)
        self.assertIn("init", result.output)


class MomTests(SuiteCase):
    """The verbs."""

    def start(self, answers: Answers) -> list[str]:
        """A suite with an administrator, and a home for it; how commands begin."""

        def all_answers(asked: Asked) -> Any:
            if asked.path == "/v1/sessions":
                return tokens() if asked.body == CREDENTIALS else problem(401, "UNAUTHENTICATED", "no")
            if asked.path == "/v1/sessions:revoke":
                return Says(200, {})
            return answers(asked) if asked.token == "a1" else problem(401, "UNAUTHENTICATED", "who?")

        return ["--home", str(self.home(self.plays(all_answers)).path), "mom"]

    async def printed(self, *arguments: str, **options: Any) -> str:
        """What a command prints that must do what it is told."""
        ended = self.bookd(*arguments, **options)
        self.assertEqual(await ended.status, 0, ended.errors)
        return ended.printed

    def told(self) -> list[tuple[str, str, Any]]:
        """What was asked of the suite beside the session."""
        return [(each.verb, each.path, each.body) for each in self.asked if not each.path.startswith("/v1/sessions")]

    async def test_queues(self) -> None:
        """All queues are asked for as the home's administrator, whose session ends with the command."""
        begin = self.start(lambda asked: Says(200, QUEUES))
        found = await self.printed(*begin, "queues")
        self.assertIn(ORDERS, found)
        self.assertIn("12,345", found)
        self.assertEqual(self.told(), [("GET", "/v1/queues", None)])
        self.assertEqual((self.asked[-1].path, self.asked[-1].body), ("/v1/sessions:revoke", {"refresh_token": "r1"}))
        self.assertEqual(json.loads(await self.printed(*begin, "queues", "--json")), QUEUES)

    async def test_one_queue(self) -> None:
        """A queue is named by its service or by a word of it; a word of several, or of none, is refused with the names."""
        begin = self.start(
            lambda asked: Says(200, QUEUES if asked.path == "/v1/queues" else {**QUEUE, "destination": ORDERS})
        )
        for word in ("orders", ORDERS):
            self.assertIn("2,000,000 messages", await self.printed(*begin, "queues", word))
            self.assertEqual(self.told()[-1], ("GET", f"/v1/queues/{ORDERS}", None))
        await self.printed(*begin, "pause", "orders")
        self.assertEqual(self.told()[-1], ("POST", f"/v1/queues/{ORDERS}:pause", {}))
        await self.printed(*begin, "resume", "orders", "--json")
        self.assertEqual(self.told()[-1], ("POST", f"/v1/queues/{ORDERS}:resume", {}))
        for word in ("bookd", "order", "../users"):
            ended = self.bookd(*begin, "pause", word)
            self.assertEqual(await ended.status, 1)
            self.assertIn(ORDERS, ended.errors)

    async def test_operations(self) -> None:
        """Operations are asked for by state, page by page, up to the limit."""

        def answers(asked: Asked) -> Says:
            if "page_token" in asked.path:
                return Says(200, {"operations": [OPERATION], "total_size": 1200})
            return Says(200, {"operations": [OPERATION] * 1000, "next_page_token": "t", "total_size": 1200})

        begin = self.start(answers)
        found = json.loads(await self.printed(*begin, "operations", "--state", "dead", "--limit", "1001", "--json"))
        self.assertEqual((len(found["operations"]), found["total_size"]), (1001, 1200))
        paths = [path for _, path, _ in self.told()]
        first = "/v1/operations?state=MESSAGE_STATE_DEAD&page_size="
        self.assertEqual(paths, [f"{first}1000", f"{first}1&page_token=t"])
        self.assertIn("3 of 1,200 operations", await self.printed(*begin, "operations", "--limit", "3"))

    async def test_dead_letters(self) -> None:
        """Dead letters are listed, of one queue too, shown, put back by id and all at once, and discarded."""
        letters = {"dead_letters": [LETTER], "total_size": 1}

        def answers(asked: Asked) -> Says:
            if asked.path == "/v1/queues":
                return Says(200, QUEUES)
            if asked.verb == "DELETE":
                return Says(204)
            if asked.path.endswith("deadletters:retry"):
                return Says(200, {"retried": 1234})
            if asked.verb == "POST":
                return Says(200, OPERATION)
            return Says(200, letters if asked.path.startswith("/v1/deadletters?") else LETTER)

        begin = [*self.start(answers), "dead"]
        self.assertIn("broken to pieces", await self.printed(*begin, "list"))
        self.assertEqual(json.loads(await self.printed(*begin, "list", "--queue", "orders", "--json")), letters)
        self.assertIn(f"destination={ORDERS}", self.told()[-1][1])
        self.assertIn('"title": "Dune"', await self.printed(*begin, "show", f"operations/{ID}"))
        self.assertEqual(json.loads(await self.printed(*begin, "show", ID.upper(), "--json")), LETTER)
        self.assertEqual(self.told()[-1], ("GET", f"/v1/deadletters/{ID}", None))
        self.assertEqual(await self.printed(*begin, "retry", "--all"), "put back: 1,234\n")
        self.assertEqual(self.told()[-1], ("POST", "/v1/deadletters:retry", {}))
        await self.printed(*begin, "retry", "--all", "--queue", "orders")
        self.assertEqual(self.told()[-1], ("POST", "/v1/deadletters:retry", {"destination": ORDERS}))
        found = json.loads(await self.printed(*begin, "retry", ID, OTHER_ID, "--json"))
        self.assertEqual(found, {"retried": 2, "operations": [OPERATION, OPERATION]})
        self.assertEqual(self.told()[-1], ("POST", f"/v1/deadletters/{OTHER_ID}:retry", {}))
        self.assertEqual(await self.printed(*begin, "discard", ID, "--yes"), "discarded: 1\n")
        self.assertEqual(self.told()[-1], ("DELETE", f"/v1/deadletters/{ID}", None))

    async def test_discard_asks(self) -> None:
        """Nothing is discarded unless that is meant."""
        begin = [*self.start(lambda asked: Says(204)), "dead", "discard", ID]
        for stdin in (b"", b"n\n", b"\n"):
            ended = self.bookd(*begin, stdin=stdin)
            self.assertEqual((await ended.status, ended.printed), (1, ""))
        self.assertEqual(self.asked, [])
        await self.printed(*begin, stdin=b"y\n")
        self.assertEqual(self.told(), [("DELETE", f"/v1/deadletters/{ID}", None)])

    async def test_refusals(self) -> None:
        """A refusal is one line with its reason and status 1, and JSON for a program; no answer is said to be none."""
        gone = problem(404, "NOT_FOUND", "there is no such letter", "DEAD_LETTER_UNKNOWN")
        begin = self.start(lambda asked: BROKEN if asked.path.startswith("/v1/queues") else gone)
        person = self.bookd(*begin, "pause", "orders")
        self.assertEqual((await person.status, person.printed), (1, ""))
        program = self.bookd(*begin, "dead", "show", ID, "--json")
        self.assertEqual((await program.status, json.loads(program.errors)), (1, gone.body))
        away = self.bookd(*begin, "queues")
        self.assertEqual(await away.status, 1)
        self.assertIn("broke the connection", away.errors)
        self.assertNotIn("Traceback", person.errors + program.errors + away.errors)

    async def test_several(self) -> None:
        """Those behind one that is refused are tried too; each is told, and the status says that not all was done."""
        gone = problem(404, "NOT_FOUND", "there is no such letter", "DEAD_LETTER_UNKNOWN")
        good = {"POST": Says(200, OPERATION), "DELETE": Says(204)}
        begin = [*self.start(lambda asked: gone if ID in asked.path else good[asked.verb]), "dead"]
        for verb, what in ((["retry"], "put back"), (["discard", "--yes"], "discarded")):
            self.asked.clear()
            person = self.bookd(*begin, *verb, ID, OTHER_ID, ID, THIRD_ID)
            self.assertEqual(await person.status, 1, verb)
            self.assertEqual(person.printed, f"{OTHER_ID}: {what}\n{THIRD_ID}: {what}\n{what}: 2\n")
            self.assertEqual(person.errors.count(ID), 1)
            self.assertIn("DEAD_LETTER_UNKNOWN", person.errors)
            self.assertEqual(
                [each for _, path, _ in self.told() for each in (ID, OTHER_ID, THIRD_ID) if each in path],
                [ID, OTHER_ID, THIRD_ID],
            )
        program = self.bookd(*begin, "retry", ID, OTHER_ID, "--json")
        self.assertEqual(await program.status, 1)
        failed = [{"message_id": ID, "problem": gone.body}]
        self.assertEqual(json.loads(program.printed), {"retried": 1, "operations": [OPERATION], "failed": failed})

    async def test_going_on_makes_no_sense(self) -> None:
        """Who may not, or is not answered, is not told so for each of them."""
        no = problem(403, "PERMISSION_DENIED", "admins only")
        answers: dict[str, Any] = {}
        begin = self.start(lambda asked: answers.get(asked.path.rpartition("/")[2], no))
        begin += ["dead", "discard", "--yes", ID, OTHER_ID, THIRD_ID]
        alone = self.bookd(*begin)
        self.assertEqual((await alone.status, alone.printed), (1, ""))
        self.assertEqual(alone.errors.count("admins only"), 1)
        self.asked.clear()
        answers.update({ID: Says(204), OTHER_ID: BROKEN})
        halfway = self.bookd(*begin)
        self.assertEqual((await halfway.status, halfway.printed), (1, f"{ID}: discarded\ndiscarded: 1\n"))
        self.assertEqual([halfway.errors.count(each) for each in (ID, OTHER_ID, THIRD_ID)], [0, 1, 1])
        self.assertNotIn(THIRD_ID, str(self.told()))

    async def test_another_administrator(self) -> None:
        """Somebody else may be named, with a password that is no argument; a wrong one is refused."""
        begin = self.start(lambda asked: Says(200, QUEUES))
        named = [*begin, "--username", "admin", "--password-stdin", "queues"]
        await self.printed(*named, stdin=b"secret\n")
        wrong = self.bookd(*named, stdin=b"guess\n")
        self.assertEqual(await wrong.status, 1)
        self.assertIn("401", wrong.errors)
        await self.printed(*begin, "--username", "admin", "queues", BOOKD_PASSWORD="secret")
