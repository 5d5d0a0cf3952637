"""A wheel ships all that the suite needs, and works away from the checkout."""

import atexit
import os
import shutil
import sys
import zipfile
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

import bookd
from tests.command.suite import Ended

ROOT = Path(bookd.__file__).parents[1]
DAEMONS = ("bookd-gateway", "bookd-inventory", "bookd-mom", "bookd-orders", "bookd-users")
# What a wheel is made of; the rest of a checkout stays where it is.
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "bookd", "twisted")
# Runs a script of another package with the wheel in front of everything, and the checkout out of sight.
ELSEWHERE = """
import os, sys
os.chdir("/")
wheel, checkout, module, *arguments = sys.argv[1:]
sys.path[:] = [wheel, *(path for path in sys.path[1:] if path != checkout)]
sys.argv = [module, *arguments]
import bookd
assert bookd.__file__.startswith(wheel), bookd.__file__
__import__(module, fromlist=["main"]).__dict__[{"twisted.scripts.twistd": "run"}.get(module, "main")]()
"""


class Wheel:
    """A wheel of the checkout, unpacked; built when it is asked for first."""

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="bookd-wheel-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.names: frozenset[str] = frozenset()

    async def build(self) -> None:
        """Build it from a copy, since a build leaves its traces, and unpack it."""
        source = self.folder / "source"
        source.mkdir()
        for name in SOURCES:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "dropin.cache")
                shutil.copytree(ROOT / name, source / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, source)
        pip = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
        await run("-m", *pip, "--wheel-dir", str(self.folder), str(source))
        (wheel,) = self.folder.glob("bookd-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            self.names = frozenset(archive.namelist())
            archive.extractall(self.folder / "wheel")


@cache
def the_wheel() -> Wheel:
    """One for all tests."""
    return Wheel()


async def run(*arguments: str) -> str:
    """What Python prints with these arguments. A process that has gRPC loaded must not fork, so the reactor spawns."""
    ended = Ended()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    reactor.spawnProcess(ended, sys.executable, [sys.executable, *arguments], environment)  # type: ignore[attr-defined]
    status = await ended.status
    assert status == 0, ended.printed + ended.errors
    return ended.printed


class WheelTests(TestCase):
    """What is in the wheel, and what works from it."""

    timeout = 120

    async def setUp(self) -> None:
        """Build the wheel, if no other test has."""
        self.wheel = the_wheel()
        self.folder = self.wheel.folder
        if not self.wheel.names:
            await self.wheel.build()
        self.names = self.wheel.names

    async def run_elsewhere(self, module: str, *arguments: str) -> str:
        """What a command of the wheel prints, run in another folder."""
        return await run("-c", ELSEWHERE, str(self.folder / "wheel"), str(ROOT), module, *arguments)

    def test_ships_what_is_no_python(self) -> None:
        """The contract, the sample catalogue, the configuration's template and the mark of typed packages."""
        for name in (
            "bookd/wire/bookd.binpb",
            "bookd/command/sample.csv",
            "bookd/command/bookd.toml.in",
            "bookd/py.typed",
        ):
            self.assertIn(name, self.names)

    def test_ships_every_module(self) -> None:
        """Every module of the checkout, migrations and stubs of generated code included."""
        for pattern in ("*.py", "*.pyi"):
            for path in (ROOT / "bookd").rglob(pattern):
                self.assertIn(str(path.relative_to(ROOT)), self.names)
        self.assertTrue([name for name in self.names if "/migrations/versions/v0001" in name])

    def test_ships_nothing_else(self) -> None:
        """No tests, no other package, and of Twisted's own package nothing but the plugins."""
        others = {
            name for name in self.names if name.split("/")[0] not in ("bookd", "twisted") and ".dist-info/" not in name
        }
        self.assertEqual(others, set())
        self.assertEqual(
            {name for name in self.names if name.startswith("twisted/")}, {"twisted/plugins/bookd_plugins.py"}
        )

    def test_entry_point(self) -> None:
        """The command `bookd` is installed with the wheel."""
        (name,) = [name for name in self.names if name.endswith("entry_points.txt")]
        self.assertIn("bookd = bookd.command.main:main", (self.folder / "wheel" / name).read_text())

    async def test_twistd_lists_the_daemons(self) -> None:
        """`twistd --help` names all five, each with a sentence."""
        lines = (await self.run_elsewhere("twisted.scripts.twistd", "--help")).splitlines()
        for name in DAEMONS:
            (line,) = [line for line in lines if line.split()[:1] == [name]]
            self.assertGreater(len(line.split()), 3, line)

    async def test_daemons_say_what_they_take(self) -> None:
        """`twistd bookd-inventory --help` works from the wheel, which imports the whole daemon."""
        for name in DAEMONS:
            self.assertIn("--config", await self.run_elsewhere("twisted.scripts.twistd", name, "--help"))

    async def test_command_makes_a_home(self) -> None:
        """`bookd init` finds the template in the wheel."""
        home = self.folder / "home"
        await self.run_elsewhere("bookd.command.main", "--home", str(home), "init")
        self.assertIn("[gateway]", (home / "bookd.toml").read_text())
