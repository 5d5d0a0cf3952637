"""`bookd backup` and `bookd restore`: the databases of a suite as they are at one moment, copied while it runs.

Copies of different moments do not fit together, in whatever order they are made: if the orders' is the older one, the
inventory holds stock for orders that nobody knows; if it is the newer one, there are confirmed orders without stock; and
the MOM has delivered what its receiver's copy does not have. So the moment is the same for all. The backup takes the write
locks of all the databases, begins to read each, and gives the locks back. That takes milliseconds, in which writers wait
as they wait for each other. From then on it reads what was there at that moment, while the daemons write on.

No commit of any daemon lies between the copies. So together they are what a power failure at that moment would have left,
and that is what the daemons are made to go on from: what was answered is there, what was under way is asked for again
under its id.

A backup is a folder that appears under its name complete, flushed, or not at all. A restore makes a home that was not
there, likewise.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any, Final

import click
import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from bookd import config
from bookd.command.home import CommandError, Home
from bookd.storage.engine import open_engine, reading

# The daemons that have a database.
DATABASES: Final = ("users", "orders", "inventory", "mom")
# What a restored home can be without, as `bookd init` makes it anew.
SECRETS: Final = ("pki", "keys", "seals", "secrets")
# The configuration, and the note that the sample catalogue was loaded, lest `bookd up` load it again.
OTHERS: Final = ("bookd.toml", "data/sample.json")
MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
# Pages that are copied at a time, and bytes that are read at a time.
PAGES, CHUNK = 256, 1 << 20
# How long to wait for one write lock, in milliseconds, how often to try to get all of them, and the seconds in between.
PATIENCE, TRIES, PAUSE = 500, 20, 0.05
MEBIBYTE: Final = 1 << 20


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a backup: `path` within it, `home` where it belongs in a home."""

    path: str
    home: str
    size: int
    sha256: str
    # Of a database: its daemon, and the revision of its schema.
    daemon: str = ""
    revision: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds, and the time that it is of."""

    format: int
    bookd: str
    made_at: str
    files: list[Entry]


class Copying:
    """Copies the databases of one suite into a folder, which is there. `rate` is in mebibytes a second; `sleep` is called
    with seconds."""

    def __init__(
        self,
        databases: Sequence[tuple[str, Engine]],
        folder: Path,
        *,
        rate: float = 64.0,
        sleep: Callable[[float], Any] = time.sleep,
    ) -> None:
        self._databases = databases
        self._folder = folder
        self._pause = PAGES * 4096 / (rate * MEBIBYTE)
        self._sleep = sleep
        self.made: dict[str, tuple[Path, str]] = {}  # file and revision, by daemon

    def steps(self) -> Iterator[str]:
        """Fix the moment, then copy one database after the other; yields the name of each before it is copied."""
        with ExitStack() as reading_all:
            for name, connection in self._at_one_moment(reading_all):
                yield name
                path = self._folder / f"{name}.sqlite"
                self.made[name] = (path, _revision(connection))
                self._copy(connection, path)
        for path, _ in self.made.values():
            _settle(path)

    def _at_one_moment(self, reading_all: ExitStack) -> list[tuple[str, Connection]]:
        for number in range(TRIES):
            if number:
                self._sleep(PAUSE)
            with ExitStack() as locks:
                try:
                    for _, engine in self._databases:
                        locks.enter_context(_locked(engine))
                except OperationalError as error:
                    if "locked" not in str(error.orig):
                        raise
                    continue
                found = []
                for name, engine in self._databases:
                    connection = reading_all.enter_context(_transaction(reading(engine)))
                    _revision(connection)  # the first read is what fixes the snapshot
                    found.append((name, connection))
                return found
        raise CommandError("no backup was made: there is no moment in which no daemon is writing; try again")

    def _copy(self, connection: Connection, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        source = connection.connection.driver_connection
        assert isinstance(source, SqliteConnection)
        target = SqliteConnection(path)
        try:
            target.execute("PRAGMA synchronous = OFF")  # all of it is flushed at the end
            # While the reading transaction is open, no write makes SQLite begin the copy again.
            source.backup(target, pages=PAGES, progress=self._after_some_pages)
        finally:
            target.close()

    def _after_some_pages(self, _status: int, remaining: int, _total: int) -> None:
        if remaining:
            self._sleep(self._pause)


@contextmanager
def _locked(engine: Engine) -> Iterator[None]:
    """Nobody writes within the block. Raises `OperationalError` if somebody else does for long."""
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, SqliteConnection)
        driver.execute(f"PRAGMA busy_timeout = {PATIENCE}")
        with connection.begin() as locking:
            yield
            locking.rollback()


def _revision(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection, connection.begin():
        yield connection


def _settle(path: Path) -> None:
    """Make a copy one file, check it, and flush it."""
    connection = SqliteConnection(path)
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
        faults = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    finally:
        connection.close()
    if faults != ["ok"]:
        raise CommandError(f"the copy {path.name} is damaged, and so is what it was made of: {'; '.join(faults)}")
    flush(path)


def flush(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_file(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file to a new one that only this user can read, flushed; its size and SHA-256."""
    for parent in reversed(target.parents):
        parent.mkdir(mode=0o700, exist_ok=True)
    digest, size = sha256(), 0
    descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with source.open("rb") as reader, os.fdopen(descriptor, "wb") as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return size, digest.hexdigest()


def measure(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    with path.open("rb") as reader:
        digest, size = sha256(), 0
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `folder` when the block ends well; else nothing is left."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield scratch
        for inner in [each for each in scratch.rglob("*") if each.is_dir()]:
            flush(inner)
        flush(scratch)
        scratch.rename(folder)  # fails if there is something in a folder of that name
        flush(folder.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def tables(settings: config.Config) -> dict[str, str]:
    """The database of each daemon that is configured,."""
    found = {name: getattr(settings, name) for name in DATABASES}
    return {name: table.database for name, table in found.items() if table is not None}


def make(home: Home, folder: Path, *, secrets: bool, rate: float) -> Manifest:
    """Back up `home` into `folder`, which must not be there. Raises `CommandError`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(f"{folder} is there already")
    names = tables(home.load())
    for name, database in names.items():
        if "://" in database:
            raise CommandError(
                f"the database of {name} is no file; see docs/operations.md for how to back up a server's"
            )
        if not (home.path / database).is_file():
            raise CommandError(f"{home.path / database} is not there; has the suite ever been started?")
    with _engines(home, names) as engines, appearing(folder) as scratch:
        copying = Copying(engines, scratch, rate=rate)
        steps = copying.steps()
        next(steps, None)
        made_at = datetime.now(UTC).isoformat()
        for _ in steps:
            pass
        entries = [
            Entry(path.name, names[name], *measure(path), name, revision)
            for name, (path, revision) in copying.made.items()
        ]
        for each in _others(home.path, secrets=secrets):
            path = f"home/{each}"
            entries.append(Entry(path, each, *copy_file(home.path / each, scratch / path)))
        manifest = Manifest(FORMAT, version("bookd"), made_at, entries)
        _write(scratch / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return manifest


@contextmanager
def _engines(home: Home, names: dict[str, str]) -> Iterator[list[tuple[str, Engine]]]:
    engines = [(name, open_engine(home.path / database)) for name, database in names.items()]
    try:
        yield engines
    finally:
        for _, engine in engines:
            engine.dispose()


def _others(home: Path, *, secrets: bool) -> list[str]:
    """The files of a home that a backup holds beside the databases."""
    found = [name for name in OTHERS if (home / name).is_file()]
    for name in SECRETS if secrets else ():
        found += sorted(str(each.relative_to(home)) for each in (home / name).rglob("*") if each.is_file())
    return found


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as writer:
        writer.write(content)
        writer.flush()
        os.fsync(writer.fileno())


def read_manifest(folder: Path) -> Manifest:
    """What the backup in `folder` holds. Raises `CommandError` for what is none, or one of a later version."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise CommandError(f"{folder} holds no backup: {error}") from error
    if manifest.format != FORMAT:
        raise CommandError(f"{folder} has format {manifest.format}; this version reads format {FORMAT}")
    for entry in manifest.files:
        for path in (entry.path, entry.home):
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise CommandError(f"{path} lies outside of the home; copy the files of {folder} by hand")
    return manifest


def put_back(home: Home, folder: Path) -> Manifest:
    """Make `home`, which must not be there or be empty, of the backup in `folder`. Raises `CommandError`."""
    if home.path.exists() and (not home.path.is_dir() or any(home.path.iterdir())):
        raise CommandError(f"{home.path} is not empty, and nothing is ever overwritten")
    manifest = read_manifest(folder)
    with appearing(home.path) as scratch:
        for entry in manifest.files:
            try:
                found = copy_file(folder / entry.path, scratch / entry.home)
            except OSError as error:
                raise CommandError(f"{error.filename}: {error.strerror}") from error
            if found != (entry.size, entry.sha256):
                raise CommandError(f"{folder / entry.path} is not what was backed up: its SHA-256 differs")
    return manifest


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--with-secrets", is_flag=True, help="The private keys, certificates and the administrator's password too."
)
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 100_000),
    default=64.0,
    show_default=True,
    metavar="MIB",
    help="Mebibytes to copy in a second at most, so that the daemons have the disk too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@click.pass_obj
def backup(home: Home, folder: Path, with_secrets: bool, rate: float, as_json: bool) -> None:
    """Copy the suite's databases into FOLDER, while it runs.

    FOLDER must not be there. It appears complete or not at all. The databases hold password hashes and customers' data:
    FOLDER can be read by you alone.
    """
    try:
        manifest = make(home, folder.absolute(), secrets=with_secrets, rate=rate)
    except (OSError, SQLAlchemyError) as error:
        raise CommandError(f"no backup was made: {getattr(error, 'orig', None) or error}") from error
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(manifest), indent=2))
        return
    for entry in manifest.files:
        if entry.daemon:
            click.echo(f"{entry.path:<18} {entry.size / MEBIBYTE:10.1f} MiB")
    click.echo(f"The backup is in {folder.absolute()}, as of {manifest.made_at}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.pass_obj
def restore(home: Home, folder: Path) -> None:
    """Make a home of the backup in FOLDER.

    The home must not be there, or be empty: nothing is ever overwritten. Every file is checked against its SHA-256.
    """
    try:
        manifest = put_back(home, folder.absolute())
    except OSError as error:
        raise CommandError(f"nothing was restored: {error}") from error
    click.echo(f"{home.path} is as {folder.absolute()} has it, of {manifest.made_at}")
    if not (home.path / "seals").exists():
        click.echo(f"What the MOM has kept opens with the keys of before only: put them into {home.path / 'seals'}")
    if not (home.path / "pki").exists():
        click.echo(f"Certificates and keys are made anew by: bookd --home {home.path} init")
        click.echo(
            "Passwords are those of before; the one that init writes into secrets/admin.json is not the administrator's"
        )
