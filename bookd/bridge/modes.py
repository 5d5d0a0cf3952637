"""Who else on the host could read a daemon's secrets or change what it believes: found out before it starts.

Whoever may write into a folder may put another file into the place of one there, so folders count too. The
configuration may be read by others, unless it holds the password of a database.
"""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

READ, WRITE = 0o077, 0o022


class Exposed(Exception):
    """Others on the host may do what they must not; the message names the file, its mode and the remedy."""


def require_private(config: Path, table: Any) -> None:
    """Raise `Exposed` for the first file or folder that a daemon's table of the configuration names, or for the file
    itself, if others may read or change it. What is not there is passed over: it is missed later, or made with the right
    mode."""
    home = config.resolve().parent
    database: str = getattr(table, "database", "")
    _require(config, READ if "://" in database and "@" in database else WRITE)
    _require(home, WRITE)
    for key in _keys(table):
        _require(home / key, READ)
        _require((home / key).parent, WRITE)
    for name in _believed(table):
        _require(home / name, WRITE)
        _require((home / name).parent, WRITE)
    for folder in (getattr(table, "keys", None), getattr(table, "sealing_keys", None)):
        if folder is not None:
            _require(home / folder, WRITE)
    if database and "://" not in database:
        for ending in ("", "-wal", "-shm"):
            _require(home / (database + ending), READ)
        _require((home / database).parent, WRITE)


def _identities(table: Any) -> Iterator[Any]:
    for identity in (
        getattr(table, "identity", None),
        getattr(table, "https", None),
        getattr(getattr(table, "grpc", None), "identity", None),
    ):
        if identity is not None:
            yield identity


def _keys(table: Any) -> Iterator[str]:
    for identity in _identities(table):
        yield identity.private_key
    # The first administrator's password.
    admin = getattr(table, "admin", None)
    if admin is not None:
        yield admin


def _believed(table: Any) -> Iterator[str]:
    """Files that say whom the daemon believes: authorities, and the keys of those who make tokens."""
    for identity in _identities(table):
        yield identity.ca
    jwks = getattr(table, "jwks", None)
    if jwks is not None:
        yield jwks
    for issuer in getattr(table, "issuers", ()):
        if issuer.ca is not None:
            yield issuer.ca
        if not issuer.jwks.startswith("https://"):
            yield issuer.jwks


def _require(path: Path, forbidden: int) -> None:
    try:
        status = path.stat()
    except OSError:
        return
    mode = stat.S_IMODE(status.st_mode)
    # In a folder with the sticky bit nobody replaces another's file.
    sticky = stat.S_ISDIR(status.st_mode) and mode & stat.S_ISVTX
    if mode & forbidden and not sticky:
        may = "read" if mode & 0o044 & forbidden else "change" if mode & WRITE else "use"
        remedy = "go-w" if forbidden == WRITE else "go="
        raise Exposed(f"{path}: others may {may} it (mode {mode:04o}); chmod {remedy} it")
