"""Opens a database, so that what was committed is on the disk and what is half done is nowhere.

SQLite is the embedded default: write-ahead log, an fsync before each commit returns (synchronous=FULL), foreign keys
checked, the file readable by its owner only. Python's sqlite3 would begin transactions by itself, too late for
savepoints and for consistent reads; here the driver is in autocommit mode and this module says BEGIN:

- BEGIN IMMEDIATE, the default, takes the write lock at once, so that a transaction never finds half way through that
  somebody else wrote in between;
- BEGIN, for connections of `reading(engine)`, reads one consistent snapshot beside the writer, and refuses to write;
- nothing, for the one connection of `bookd.storage.point_reader`, which says BEGIN itself.

SQLite lets one writer in at a time. Whoever comes second waits up to `BUSY` seconds. A daemon has one writing thread
(`bookd.bridge.desk`), so that this only matters beside a backup or an operator's shell.

The values of a statement are in no error, as they may be secret. Any other database URL (`postgresql+psycopg://…`) goes to SQLAlchemy as it is, with its driver's own transactions.
"""

import os
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool, StaticPool

from bookd.storage.prepared import say

# Seconds that a transaction waits for another process's write lock.
BUSY = 10
# Connections that an engine keeps open: the writer, the readers, one for a backup.
POOL = 8

_MEMORY = ":memory:"
_READING = "bookd_reading"
_BY_HAND = "bookd_by_hand"

# Said to each new connection.
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS: its plain fsync leaves data in the drive's cache
    "PRAGMA foreign_keys = ON",
    # KiB a connection. What is not in it is mostly in the system's cache, at the price of a call; to map the file instead
    # saves a sixth of a look-up in a million books, and then it all counts as the daemon's memory.
    "PRAGMA cache_size = -4096",
    "PRAGMA temp_store = MEMORY",
    # Pages of the log until what is in it goes to where it belongs: pages that are changed again and again go there once.
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA journal_size_limit = 67108864",  # the log shrinks to this after a burst
)


def open_engine(database: str | Path) -> Engine:
    """The engine for a database URL, for the path of a SQLite file, or for ":memory:".

    A file that is not there is made with mode 0600; so is its folder, with 0700. A file or folder that is there keeps
    its mode. No connection is opened yet, so this is safe before a fork. ":memory:" is one connection that all share;
    it is for tests in one thread. Raises `ValueError` for a URL that cannot be used, and OSError for such a path.
    """
    url = _parse(str(database)) if "://" in str(database) else URL.create("sqlite", database=str(database))
    if url.get_backend_name() != "sqlite":
        return _open_server(url)
    url = url.set(drivername="sqlite+pysqlite")
    if not url.database or url.database == _MEMORY:
        engine = create_engine(
            url, hide_parameters=True, poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
    else:
        _make(Path(url.database))
        engine = create_engine(
            url,
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=POOL,
            connect_args={"check_same_thread": False, "timeout": BUSY},
        )
    event.listen(engine, "connect", _connected)
    event.listen(engine, "begin", _begin)
    return engine


def reading(engine: Engine) -> Engine:
    """The same database through connections that only read: each transaction sees one snapshot, a write fails."""
    return engine.execution_options(**{_READING: True})


def by_hand(engine: Engine) -> Engine:
    """The same SQLite database through connections that only read, and whose users say BEGIN themselves, each time."""
    return engine.execution_options(**{_READING: True, _BY_HAND: True})


def _parse(database: str) -> URL:
    try:
        return make_url(database)
    except ArgumentError:
        # Without the URL: what cannot be parsed may have a password anywhere.
        raise ValueError("the database URL cannot be read") from None


def _open_server(url: URL) -> Engine:
    try:
        return create_engine(url, hide_parameters=True, pool_size=POOL, pool_pre_ping=True)
    except (ArgumentError, ImportError) as error:
        raise ValueError(f"{url.render_as_string()}: {error}") from error


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives the mode of the database file to the log beside it.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _connected(connection: SqliteConnection, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma).close()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    only_reads = bool(options.get(_READING, False))
    # A pooled connection remembers what it was last used for; the pragma is said when that changes.
    if connection.info.get(_READING, False) != only_reads:
        say(connection, f"PRAGMA query_only = {'ON' if only_reads else 'OFF'}")
        connection.info[_READING] = only_reads
    if not options.get(_BY_HAND, False):
        say(connection, "BEGIN" if only_reads else "BEGIN IMMEDIATE")
