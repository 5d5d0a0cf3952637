"""Tests for `bookd backup` and `bookd restore`: whole, private, of one moment each, and fit to go on from together."""

import json
import os
import sqlite3
import stat
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

from click.testing import CliRunner, Result
from sqlalchemy import Engine
from twisted.trial.unittest import SynchronousTestCase

from bookd.command import backup
from bookd.command.backup import DATABASES, Copying
from bookd.command.home import Home
from bookd.command.init import make_home
from bookd.command.main import main
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from tests.faults.room import migrated, opened
from tests.faults.shoppers import Shoppers
from tests.faults.world import PROCESSES, World


class BackupCase(SynchronousTestCase):
    """A home whose daemons have run once."""

    def setUp(self) -> None:
        """Make it."""
        self.folder = Path(self.mktemp()).absolute()
        self.home = Home(self.folder / "home")
        make_home(self.home)
        for name in DATABASES:
            engine = open_engine(self.database(name))
            upgrade(engine, f"bookd.{name}")
            engine.dispose()

    def database(self, name: str) -> Path:
        """The file of a daemon's database."""
        return self.home.path / "data" / f"{name}.sqlite"

    def run_command(self, *arguments: str, home: Path | None = None) -> Result:
        """Run a command of bookd."""
        return CliRunner().invoke(main, ["--home", str(home or self.home.path), *arguments])

    def backed_up(self, *arguments: str) -> Path:
        """A backup."""
        target = self.folder / "backup"
        result = self.run_command("backup", str(target), *arguments)
        self.assertEqual(result.exit_code, 0, result.output)
        return target

    def leftovers(self) -> list[str]:
        """What stands in the folder beside the home."""
        return sorted(each.name for each in self.folder.iterdir() if each != self.home.path)


class CommandTests(BackupCase):
    """What the commands make, and what they refuse."""

    def test_whole(self) -> None:
        """A backup has each database as one file, the configuration, and a manifest with their sums; no secrets."""
        target = self.backed_up()
        files = sorted(str(each.relative_to(target)) for each in target.rglob("*") if each.is_file())
        self.assertEqual(files, sorted([*(f"{name}.sqlite" for name in DATABASES), "home/bookd.toml", "manifest.json"]))
        manifest = backup.read_manifest(target)
        self.assertEqual([entry.daemon for entry in manifest.files if entry.daemon], list(DATABASES))
        for entry in manifest.files:
            self.assertEqual(backup.measure(target / entry.path), (entry.size, entry.sha256))
            self.assertEqual(bool(entry.revision), bool(entry.daemon))
        self.assertEqual(self.leftovers(), ["backup"])

    def test_private(self) -> None:
        """Nobody else can read any of it."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        target = self.backed_up("--with-secrets")
        for each in [target, *target.rglob("*")]:
            self.assertEqual(stat.S_IMODE(each.stat().st_mode), 0o700 if each.is_dir() else 0o600, each)

    def test_secrets(self) -> None:
        """Keys, certificates and the administrator come along when that is asked for, and go back."""
        target = self.backed_up("--with-secrets")
        new = self.folder / "new"
        self.assertEqual(self.run_command("restore", str(target), home=new).exit_code, 0)
        for name in ("pki/ca.key", "secrets/admin.json", "keys/jwks.json", "bookd.toml"):
            self.assertEqual((new / name).read_bytes(), (self.home.path / name).read_bytes())

    def test_restored(self) -> None:
        """A restored home has what was there; init adds what is missing; then it can be backed up again."""
        with sqlite3.connect(self.database("users")) as connection:
            connection.execute(
                "INSERT INTO outbox VALUES (1, ?, 'l', 'm', '', '', '', '', '', 0, 0, '', 0)", ("u" * 36,)
            )
        (self.home.path / "data" / "sample.json").write_text("{}")
        target = self.backed_up()
        new = self.folder / "new"
        result = self.run_command("restore", str(target), home=new)
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("init", result.output)
        self.assertTrue((new / "data" / "sample.json").exists())
        with sqlite3.connect(new / "data" / "users.sqlite") as connection:
            self.assertEqual(connection.execute("SELECT message_id FROM outbox").fetchall(), [("u" * 36,)])
        for each in [new, *new.rglob("*")]:
            self.assertEqual(stat.S_IMODE(each.stat().st_mode), 0o700 if each.is_dir() else 0o600, each)
        self.assertEqual(self.run_command("init", home=new).exit_code, 0)
        again = self.run_command("backup", str(self.folder / "again"), home=new)
        self.assertEqual(again.exit_code, 0, again.output)

    def test_json(self) -> None:
        """The manifest can be had as JSON."""
        result = self.run_command("backup", str(self.folder / "backup"), "--json")
        self.assertEqual(json.loads(result.output)["format"], backup.FORMAT)

    def test_never_overwrites(self) -> None:
        """Neither a folder nor a home that holds anything is touched."""
        target = self.backed_up()
        self.assertIn("is there already", self.run_command("backup", str(target)).output)
        before = {path: path.read_bytes() for path in self.home.path.rglob("*") if path.is_file()}
        result = self.run_command("restore", str(target))
        self.assertNotEqual(result.exit_code, 0)
        self.assertIn("is not empty", result.output)
        self.assertEqual({path: path.read_bytes() for path in self.home.path.rglob("*") if path.is_file()}, before)

    def test_changed_backup(self) -> None:
        """A byte that changed is found, and then nothing is restored."""
        target = self.backed_up()
        with (target / "orders.sqlite").open("r+b") as file:
            file.seek(5000)
            file.write(b"!")
        result = self.run_command("restore", str(target), home=self.folder / "new")
        self.assertNotEqual(result.exit_code, 0)
        self.assertIn("orders.sqlite is not what was backed up", result.output)
        self.assertEqual(self.leftovers(), ["backup"])

    def test_missing_file(self) -> None:
        """So is a file that is not there."""
        target = self.backed_up()
        (target / "mom.sqlite").unlink()
        result = self.run_command("restore", str(target), home=self.folder / "new")
        self.assertNotEqual(result.exit_code, 0)
        self.assertEqual(self.leftovers(), ["backup"])

    def test_hostile_manifest(self) -> None:
        """A manifest cannot make restore write outside of the home."""
        target = self.backed_up()
        text = (target / "manifest.json").read_text()
        for path in ("../../evil", "/tmp/evil"):
            (target / "manifest.json").write_text(text.replace('"data/orders.sqlite"', json.dumps(path)))
            result = self.run_command("restore", str(target), home=self.folder / "new")
            self.assertNotEqual(result.exit_code, 0)
            self.assertIn("outside of the home", result.output)
        self.assertEqual(self.leftovers(), ["backup"])

    def test_no_backup(self) -> None:
        """What is no backup, or of a later format, is refused in one line."""
        result = self.run_command("restore", str(self.home.path), home=self.folder / "new")
        self.assertIn("holds no backup", result.output)
        target = self.backed_up()
        text = (target / "manifest.json").read_text().replace('"format": 1', '"format": 2')
        (target / "manifest.json").write_text(text)
        self.assertIn("format 2", self.run_command("restore", str(target), home=self.folder / "new").output)

    def test_damaged_database(self) -> None:
        """A database that is damaged makes no backup, and leaves no half of one."""
        with self.database("orders").open("r+b") as file:
            file.seek(4096 * 3)
            file.write(b"\xff" * 4096 * 3)
        result = self.run_command("backup", str(self.folder / "backup"))
        self.assertNotEqual(result.exit_code, 0)
        self.assertEqual(self.leftovers(), [])

    def test_never_started(self) -> None:
        """A suite without databases is told so."""
        self.database("mom").unlink()
        result = self.run_command("backup", str(self.folder / "backup"))
        self.assertIn("is not there", result.output)

    def test_database_server(self) -> None:
        """A database of a server is its own tools' business."""
        text = self.home.config_file.read_text().replace(
            "[orders]", '[orders]\ndatabase = "postgresql+psycopg://u:secret@h/d"'
        )
        self.home.config_file.write_text(text)
        result = self.run_command("backup", str(self.folder / "backup"))
        self.assertIn("is no file", result.output)
        self.assertNotIn("secret", result.output)


def write(path: Path, number: int) -> None:
    """One transaction of two rows that belong together."""
    with sqlite3.connect(path, timeout=10) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for half in "ab":
            connection.execute(
                "INSERT INTO outbox (message_id, lane, method, request, principal, reply_to, request_id, traceparent,"
                " attempts, ready_at, last_error, created_at) VALUES (?, ?, 'm', ?, '', '', '', '', 0, 0, '', 0)",
                (f"{half}{number:035}", f"{number}", os.urandom(3000)),
            )


class HammerTests(BackupCase):
    """Backups while somebody writes."""

    def halves(self, path: Path) -> tuple[int, int]:
        """How many rows of either kind."""
        with sqlite3.connect(path) as connection:
            return connection.execute(
                "SELECT sum(message_id LIKE 'a%'), sum(message_id LIKE 'b%') FROM outbox"
            ).fetchone()

    def test_between_pages(self) -> None:
        """Writes between any two pages do not show in the copy, nor make it begin again."""
        path = self.database("users")
        for number in range(1000):
            write(path, number)
        written = 1000

        def sleep(seconds: float) -> None:
            nonlocal written
            self.assertGreater(seconds, 0)
            write(path, written)
            written += 1

        engine = open_engine(path)
        self.addCleanup(engine.dispose)
        target = self.folder / "copy"
        target.mkdir()
        for _ in Copying([("users", engine)], target, sleep=sleep).steps():
            pass
        self.assertGreater(written, 1003)
        self.assertEqual(self.halves(target / "users.sqlite"), (1000, 1000))
        self.assertEqual(self.halves(path), (written, written))

    def test_hammered(self) -> None:
        """A thread that writes without a pause is not held up, and what it had written before the backup is there."""
        path = self.database("orders")
        for number in range(300):
            write(path, number)
        stop, count = Event(), [300]

        def hammer() -> None:
            while not stop.is_set():
                write(path, count[0])
                count[0] += 1

        thread = Thread(target=hammer)
        thread.start()
        try:
            while count[0] < 310:
                stop.wait(0.001)
            before = count[0]
            target = self.backed_up("--rate", "4")
            after = count[0]
        finally:
            stop.set()
            thread.join()
        first, second = self.halves(target / "orders.sqlite")
        self.assertEqual(first, second)
        self.assertGreaterEqual(first, before)
        self.assertGreater(after, before)
        new = self.folder / "new"
        self.assertEqual(self.run_command("restore", str(target), home=new).exit_code, 0)
        self.assertEqual(self.halves(new / "data" / "orders.sqlite"), (first, second))


def history(random: Random, shoppers: Shoppers, world: World) -> None:
    """Some traffic in bad weather."""
    for _ in range(random.randint(2, 8)):
        match random.choice(["order", "order", "cancel", "adjust", "again", "weather", "push", "restart"]):
            case "order":
                shoppers.order(random.choice(["ada", "bob"]), a=random.randint(1, 2), b=random.randint(1, 2))
            case "cancel":
                shoppers.cancel(random.randint(0, 9))
            case "adjust":
                shoppers.adjust(random.choice("ab"), random.choice([1, 2, 3]))
            case "again":
                shoppers.again(random.randint(0, 9))
            case "weather":
                fates = ["fine", "lost", "answer lost", "twice", "late", "answer late"]
                world.fates.extend(random.choices(fates, k=6))
            case "push":
                world.push(random.choice([0.1, 0.5, 2.0, 8.0]))
            case "restart":
                name = random.choice(PROCESSES)
                world.kill(name)
                world.push(0.3)
                world.start(name)
    world.push(0.2)


class BusyTests(BackupCase):
    """Backups that cannot have their moment."""

    def test_locked(self) -> None:
        """A daemon that holds its lock for ever makes the backup fail, in one line; the others' locks are given back."""
        self.patch(backup, "PATIENCE", 1)
        self.patch(backup, "PAUSE", 0.001)
        with sqlite3.connect(self.database("mom")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            result = self.run_command("backup", str(self.folder / "backup"))
            self.assertNotEqual(result.exit_code, 0)
            self.assertIn("no moment", result.output)
            self.assertEqual(self.leftovers(), [])
            for name in ("users", "orders", "inventory"):
                write(self.database(name), 1)

    def test_locked_for_a_while(self) -> None:
        """A daemon that holds its lock for a while makes it wait."""
        self.patch(backup, "PATIENCE", 1)
        engine = open_engine(self.database("mom"))
        self.addCleanup(engine.dispose)
        target = self.folder / "copies"
        target.mkdir()
        connection = sqlite3.connect(self.database("mom"))
        self.addCleanup(connection.close)
        connection.execute("BEGIN IMMEDIATE")
        copying = Copying([("mom", engine)], target, sleep=lambda _: connection.rollback())
        self.assertEqual(list(copying.steps()), ["mom"])


class TogetherTests(SynchronousTestCase):
    """Databases that were copied one after the other, while orders, inventory and MOM were at work."""

    def copied(self, seed: int, order: tuple[str, ...] = PROCESSES, *, at_one_moment: bool = True) -> Shoppers:
        """A world with traffic before, between and after the copies; answers its clients in the world of the copies,
        with what they had been told before the first copy was begun."""
        random = Random(seed)
        folder = Path(self.mktemp())
        folder.mkdir()
        engines: dict[str, Engine] = {}
        for name in PROCESSES:
            path = folder / f"{name}.sqlite"
            path.write_bytes(migrated(f"bookd.{name}").read_bytes())
            engines[name] = self.enterContext(opened(path))
        world = World(engines)
        shoppers = Shoppers(world)
        shoppers.supply()
        world.push(0.5)
        for _ in range(3):
            history(random, shoppers, world)
        # What a client knows now must be true in the copies. What it does not know it goes on asking for.
        known = [wish.copy() for wish in shoppers.wishes]
        target = folder / "copies"
        target.mkdir()
        databases = [(name, engines[name]) for name in order]
        for some in [databases] if at_one_moment else [[each] for each in databases]:
            for _ in Copying(some, target).steps():
                history(random, shoppers, world)
        history(random, shoppers, world)
        copies = {name: self.enterContext(opened(target / f"{name}.sqlite")) for name in PROCESSES}
        # Ids that this world has given out are those of other orders there.
        there = World(copies, first_id=10_000, start=world.clock.seconds())
        later = [wish for wish in shoppers.wishes if wish.number >= len(known)]
        clients = Shoppers(there, wishes=[*known, *(wish.forgotten() for wish in later)])
        clients.accepted = shoppers.accepted
        clients.heal()
        return clients

    def test_restored(self) -> None:
        """Whatever a client had been told before the backup is true after it was restored, whatever else happened; all
        can go on asking under the same ids; nothing is twice, nothing is stuck, and the books balance."""
        for seed in range(25):
            self.copied(seed).check()
        self.flushLoggedErrors()

    def test_not_at_one_moment(self) -> None:
        """Copies of different moments do not fit, in whatever order they are made: this test would see it."""
        for order in (("mom", "orders", "inventory"), ("orders", "inventory", "mom"), ("inventory", "mom", "orders")):
            self.assertTrue(any(self.ends_badly(seed, order) for seed in range(60)), order)
        self.flushLoggedErrors()

    def ends_badly(self, seed: int, order: tuple[str, ...]) -> bool:
        """Whether a promise is broken."""
        try:
            self.copied(seed, order, at_one_moment=False).check()
        except AssertionError:
            return True
        return False

    def enterContext(self, manager: Any) -> Any:
        """Enter, and leave after the test."""
        entered = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return entered
