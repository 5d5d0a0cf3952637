"""What supervisord is told, what it says, and `bookd ctl` on a suite that runs."""

import json
import os
from configparser import RawConfigParser
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from bookd.command.home import DAEMONS, CommandError, Home
from bookd.command.init import make_folder, make_home
from bookd.command.main import main
from bookd.command.supervise import STOP_SECONDS, Process, Supervisor, configuration, each, literal, log_tail
from bookd.command.up import STOP_SECONDS as ALL_STOP_SECONDS
from tests.command.suite import Ended
from tests.command.test_up import UpCase


class HomeCase(SynchronousTestCase):
    """A home in which nothing runs."""

    def setUp(self) -> None:
        """Make it."""
        self.home = Home(Path(self.mktemp()).absolute() / "home")
        make_home(self.home)

    def bookd(self, *arguments: str) -> Result:
        """Run the command."""
        return CliRunner().invoke(main, ["--home", str(self.home.path), *arguments])


class ConfigurationTests(HomeCase):
    """supervisord.conf."""

    def parsed(self) -> RawConfigParser:
        """The configuration as supervisord reads it."""
        found = RawConfigParser(inline_comment_prefixes=(";", "#"))
        found.read_string(configuration(self.home))
        return found

    def test_every_daemon(self) -> None:
        """Each daemon is a program with its command, its log, and a stop that leaves time for its calls."""
        parsed = self.parsed()
        settings = self.home.load()
        for name in DAEMONS:
            program = parsed[f"program:{name}"]
            self.assertIn(f"bookd-{name} --config {self.home.config_file}", program["command"])
            self.assertEqual((program["autorestart"], program["stopsignal"]), ("true", "TERM"))
            table = getattr(settings, name)
            grace = table.grace if name == "gateway" else table.grpc.grace
            self.assertGreater(int(program["stopwaitsecs"]), grace)

    def test_stops_in_order(self) -> None:
        """The gateway stops first, then the MOM, then the services together, in less time than Ctrl-C has."""
        parsed = self.parsed()
        priorities = {name: int(parsed[f"group:{name}"]["priority"]) for name in ("services", "mom", "gateway")}
        self.assertEqual(sorted(priorities, key=priorities.__getitem__), ["services", "mom", "gateway"])
        total = (
            STOP_SECONDS["gateway"]
            + STOP_SECONDS["mom"]
            + max(STOP_SECONDS[name] for name in ("inventory", "orders", "users"))
        )
        self.assertLessEqual(total, ALL_STOP_SECONDS)

    def test_others_cannot_reach_it(self) -> None:
        """The supervisor listens on a socket of this user's, and on no port."""
        parsed = self.parsed()
        self.assertEqual(parsed["unix_http_server"]["chmod"], "0700")
        self.assertNotIn("inet_http_server", parsed)

    def test_odd_homes(self) -> None:
        """Spaces, quotes and percent signs in the path reach supervisord as they are; a line break cannot."""
        home = Home(self.home.path.parent / "my 100% 'home'")
        make_home(home)
        parsed = RawConfigParser()
        parsed.read_string(configuration(home))
        self.assertEqual(parsed["supervisord"]["directory"].replace("%%", "%"), str(home.path))
        for path in ("/a\nb", "/a ;b"):
            self.assertRaises(CommandError, literal, path)

    def test_part_of_a_suite(self) -> None:
        """A host with one daemon gets that one only."""
        text = self.home.config_file.read_text()
        self.home.config_file.write_text(text[text.index("\n[users]") :])
        parsed = self.parsed()
        self.assertEqual([name for name in parsed.sections() if name.startswith("program:")], ["program:users"])


class NothingRunsTests(HomeCase):
    """A home in which nothing runs."""

    def test_no_supervisor(self) -> None:
        """Every verb says that nothing runs, and how to start it, with status 1."""
        for arguments in (
            ("status",),
            ("ctl", "status"),
            ("ctl", "stop"),
            ("ctl", "start", "mom"),
            ("ctl", "restart"),
            ("ctl", "signal", "HUP", "mom"),
            ("ctl", "shutdown"),
        ):
            result = self.bookd(*arguments)
            self.assertEqual(result.exit_code, 1, result.output)
            self.assertIn(f"no suite runs in {self.home.path}", result.output)
            self.assertIn(" up", result.output)

    def test_unknown_daemon(self) -> None:
        """A name that is no daemon's is a matter of usage."""
        self.assertEqual(self.bookd("ctl", "stop", "inventry").exit_code, 2)

    def test_stale_socket(self) -> None:
        """A socket that nobody listens on counts as nothing running."""
        make_folder(self.home.socket.parent)
        self.home.socket.touch()
        self.assertFalse(Supervisor(self.home).answers())

    def test_each(self) -> None:
        """What cannot be done to one is done to the others, and told in the end."""
        done: list[str] = []

        def act(process: Process) -> None:
            if process.name == "orders":
                raise CommandError("orders: no")
            done.append(process.name)

        three = [Process(name, "g", "RUNNING", 1, 0, "") for name in ("inventory", "orders", "users")]
        with self.assertRaisesRegex(CommandError, "^orders: no$"):
            each(act, three)
        self.assertEqual(done, ["inventory", "users"])

    def test_log_tail(self) -> None:
        """The end of a log is shown indented; a missing and an empty one are told."""
        self.assertIn("No such file", log_tail(self.home, "mom"))
        self.home.log("mom").touch()
        self.assertIn("empty", log_tail(self.home, "mom"))
        self.home.log("mom").write_bytes(b"\xff" + b"x" * 50_000 + b"\n" + b"".join(b"%d\n" % n for n in range(100)))
        self.assertEqual(log_tail(self.home, "mom", 2), "  98\n  99")


class CtlTests(UpCase):
    """The verbs, on a suite that runs."""

    async def ctl(self, *arguments: str) -> Ended:
        """A command that has succeeded."""
        ended = self.bookd(*arguments)
        self.assertEqual(await ended.status, 0, ended.errors)
        return ended

    def pids(self) -> dict[str, int]:
        """The daemons' process ids."""
        return {name: process.pid for name, process in Supervisor(self.home).processes().items()}

    async def test_stop_start_restart_signal(self) -> None:
        """Daemons stop and start one by one, twice does no harm, one that is killed comes back, a kept write goes on."""
        suite = await self.up()
        before = self.pids()
        self.assertEqual((await self.ctl("ctl", "stop", "inventory")).printed, "inventory: stopped\n")
        await self.ctl("ctl", "stop", "inventory")
        status = self.bookd("status")
        self.assertEqual(await status.status, 3)
        self.assertIn("inventory  STOPPED", status.printed)
        for name, port in Home(self.home.path).metrics_ports().items():
            self.assertRegex(status.printed, rf"(?m)^{name} .* port \d+, metrics {port} ")
        self.assertEqual((await self.ctl("ctl", "status", "users", "mom")).printed.count("RUNNING"), 2)
        await self.ctl("ctl", "start", "inventory")
        await self.ctl("ctl", "start", "inventory")
        await self.ctl("ctl", "restart", "mom")
        after = self.pids()
        self.assertEqual({name for name in DAEMONS if before[name] != after[name]}, {"inventory", "mom"})
        await self.ctl("ctl", "signal", "SIGKILL", "users")
        while self.pids()["users"] in (0, after["users"]):
            await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        await self.ctl("ctl", "start")
        self.assertEqual(await self.bookd("status").status, 0)
        self.assertEqual(await self.bookd("ctl", "signal", "NONSENSE", "users").status, 1)
        await self.end(suite, "INT")

    async def test_import_through_an_outage(self) -> None:
        """Books that come while the inventory is down are kept, and are all there in the end, once."""
        suite = await self.up()
        file = self.folder / "books.csv"
        file.write_text("title,author\n" + "".join(f"Title {n},Author {n}\n" for n in range(60)))
        await self.ctl("ctl", "stop", "inventory")
        loading = self.bookd("import", str(file), "--price", "5", "--stock", "1", "--in-flight", "20", "--json")
        while not (await self.queue_depth()):
            await deferLater(reactor, 0.1)  # type: ignore[arg-type]
        await self.ctl("ctl", "start", "inventory")
        self.assertEqual(await loading.status, 0, loading.errors)
        report = json.loads(loading.printed)
        self.assertEqual((report["created"], report["there"], report["kept"]), (60, 0, []))
        again = await self.ctl("import", str(file), "--price", "5", "--json")
        self.assertEqual(json.loads(again.printed)["there"], 60)
        self.assertEqual((await self.get("/v1/books?page_size=1"))["total_size"], 42 + 60)
        await self.end(suite, "INT")

    async def queue_depth(self) -> int:
        """How many messages the MOM keeps, as its administrator sees it."""
        environment = {**os.environ, "BOOKD_PASSWORD": self.home.administrator()["password"]}
        if not hasattr(self, "logged_in"):
            self.logged_in = self.bookd("client", "log-in", "--username", "admin", environment=environment)
            self.assertEqual(await self.logged_in.status, 0, self.logged_in.errors)
        token = json.loads(next((self.home.path / "client").glob("*.json")).read_text())["access_token"]
        answer = await self.get("/v1/queues", token)
        return sum(queue.get("depth", 0) for queue in answer["queues"])
