"""What is secret is in no log, no error, no process list and no database; and keys that seal rotate while the MOM is killed."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.task import deferLater

from bookd.command.main import main
from bookd.mom import seals
from tests.integration.running import Answer, Person, SuiteTestCase


class SecretsTests(SuiteTestCase):
    """A suite whose files and processes somebody reads."""

    told: list[Answer]

    def holding(self, *words: str) -> list[str]:
        """The files of the home, and the processes, that hold one of the words."""
        files = [each for each in self.home.rglob("*") if each.is_file()]
        files += [each for each in Path("/proc").glob("[0-9]*/*") if each.name in ("cmdline", "environ")]
        found = []
        for path in files:
            try:
                content = path.read_bytes()
            except OSError:
                continue
            found += [f"{path}: {word}" for word in words if word.encode() in content]
        return found

    async def try_all(self, verb: str, path: str, *bodies: Any, who: Person | None = None) -> None:
        """Ask with each body, whatever becomes of it."""
        for body in bodies:
            self.told.append(await self.ask(verb, path, body, who))

    async def test_passwords_and_tokens(self) -> None:
        """A password, an access token and a refresh token go through every path, the good ones and the failing ones, and are
        nowhere afterwards, nor in an error."""
        old, new, name = f"marker-old-{uuid4().hex}", f"marker-new-{uuid4().hex}", f"m{uuid4().hex[:8]}"
        person = {"username": name, "email": f"{name}@example.org", "password": old}
        self.told = []
        await self.done("POST", "/v1/users", person)
        session = await self.done("POST", "/v1/sessions", {"username": name, "password": old})
        who = Person(session["user_id"], session["access_token"], name)
        change = f"/v1/users/{who.user_id}:changePassword"
        wrong = {"username": name, "password": new}
        await self.try_all(
            "POST", "/v1/users", person, {**person, "password": [old]}, {**person, old: "x"}, old.encode()
        )
        await self.try_all("POST", "/v1/sessions", wrong, {"username": old, "password": old}, {"password": {"a": old}})
        await self.try_all("POST", change, {"old_password": new, "new_password": old}, {"old_password": old}, who=who)
        await self.try_all("POST", "/v1/sessions:refresh", {"refresh_token": session["refresh_token"] + "x"})
        await self.done("POST", change, {"old_password": old, "new_password": new}, who)
        second = await self.done("POST", "/v1/sessions", {"username": name, "password": new})
        third = await self.done("POST", "/v1/sessions:refresh", {"refresh_token": second["refresh_token"]})
        await self.try_all("POST", "/v1/sessions:refresh", {"refresh_token": second["refresh_token"]})
        fourth = await self.done("POST", "/v1/sessions", {"username": name, "password": new})
        await self.take("users", "kill")
        await self.try_all("POST", "/v1/sessions", {"username": name, "password": new})
        await self.try_all("POST", change, {"old_password": new, "new_password": old}, who=who)
        await self.try_all("POST", "/v1/sessions:revoke", {"refresh_token": fourth["refresh_token"]})
        await self.take("mom", "kill")
        await self.try_all("POST", "/v1/sessions", {"username": name, "password": new})
        for daemon in ("users", "mom"):
            self.give_back(daemon)
        await self.ready()
        await self.done("POST", "/v1/sessions:revoke", {"refresh_token": fourth["refresh_token"]})
        words = [old, new]
        for each in (session, second, third, fourth):
            words += [each["access_token"], each["refresh_token"]]
        self.assertEqual(self.holding(*words), [])
        self.assertTrue(all(answer.status >= 400 for answer in self.told), [answer.status for answer in self.told])
        # The name of a field that is unknown is told to who has sent it, and so is no secret.
        texts = [str(answer.body) for answer in self.told if f"'{old}'" not in str(answer.body.get("violations"))]
        self.assertGreater(len(texts), 8)
        for text in texts:
            for word in words:
                self.assertNotIn(word, text)

    async def test_kept_calls(self) -> None:
        """What a kept call says, and what it was answered, is in none of the MOM's files, as long as it is there."""
        address = f"marker street {uuid4().hex}"
        await self.take("users", "stop")
        user = f"/v1/users/{uuid4()}"
        kept = await self.ask("PATCH", user, {"address": address}, self.admin)
        self.assertEqual(kept.status, 202)
        self.assertEqual(self.holding(address), [])
        await self.take("mom", "kill")
        self.assertEqual(self.holding(address), [])
        for daemon in ("mom", "users"):
            self.give_back(daemon)
        await self.ready()
        location = kept.header("Location")
        assert location is not None
        await self.until(lambda: self.operation_done(self.admin, location))
        self.assertEqual([each for each in self.holding(address) if "mom" in each], [])

    async def test_rotation_and_death(self) -> None:
        """Keys are rotated while calls are kept, and the MOM is killed in the middle of it, again and again: nothing that was
        accepted is lost, and the old keys can go when nothing needs them."""
        book = await self.book(stock=0)
        await self.take("inventory", "stop")
        locations = []
        for _ in range(4):
            result = CliRunner().invoke(
                main, ["--home", str(self.home), "keys", "rotate", "--sealing", "--signs-in", "2"]
            )
            self.assertEqual(result.exit_code, 0, result.output)
            for _ in range(5):
                answer = await self.ask("POST", f"/v1/books/{book}:adjustStock", {"quantity_change": 1}, self.admin)
                self.assertEqual(answer.status, 202, answer.body)
                locations.append(answer.header("Location"))
                await deferLater(reactor, 0.2)
            await self.take("mom", "kill")
            self.give_back("mom")
            await self.until(self.mom_answers)
        self.assertEqual(len(seals.load(self.home / "seals")), 5)
        self.give_back("inventory")
        await self.ready()
        for location in locations:
            assert location is not None
            await self.until(lambda location=location: self.operation_done(self.admin, location))
        self.assertEqual(await self.stock(book), 20)
        self.assertNotIn("cannot be opened", self.log_of("mom"))
        pruned = CliRunner().invoke(main, ["--home", str(self.home), "keys", "prune", "--sealing"])
        self.assertEqual(pruned.exit_code, 0, pruned.output)
        self.assertEqual(len(seals.load(self.home / "seals")), 5)

    async def mom_answers(self) -> bool:
        """Whether the MOM serves."""
        answer = await self.try_to_ask("GET", "/v1/queues", who=self.admin)
        return answer is not None and answer.status == 200
