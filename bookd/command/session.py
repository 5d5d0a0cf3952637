"""Who is logged in: tokens kept in a file that only this user can read, one file for each suite's address."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile

from attrs import asdict, frozen

from bookd.command.home import CommandError, Home
from bookd.command.init import make_folder


@frozen
class Tokens:
    """An open session."""

    user_id: str
    access_token: str
    refresh_token: str
    expires_at: float  # seconds since the epoch, by this machine's clock


def file_for(home: Home, url: str) -> Path:
    """Where the session with the suite at `url` is kept: in the home, or, when there is none, where this user's programs
    keep their state (XDG Base Directory Specification)."""
    if home.config_file.exists():
        folder = home.path / "client"
    else:
        folder = Path(os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")) / "bookd"
    return folder / f"session-{sha256(url.encode()).hexdigest()[:16]}.json"


class Session:
    """The tokens in use, and the file that outlives the process; without a file they are forgotten with it."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.tokens: Tokens | None = None
        self.read()

    def read(self) -> None:
        """Take over what another process wrote. What cannot be read counts as nobody logged in."""
        if self.path is None:
            return
        try:
            self.tokens = Tokens(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self.tokens = None

    def keep(self, tokens: Tokens | None) -> None:
        """Use these tokens from now on; None forgets the session."""
        self.tokens = tokens
        if self.path is None:
            return
        try:
            if tokens is None:
                self.path.unlink(missing_ok=True)
                return
            make_folder(self.path.parent)
            # mode 0600, and whole under its name or not at all
            with NamedTemporaryFile("w", dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as scratch:
                json.dump(asdict(tokens), scratch)
            Path(scratch.name).replace(self.path)
        except OSError as error:
            raise CommandError(f"cannot keep the session in {self.path}: {error.strerror}") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes of this user from using the refresh token meanwhile: it is good once."""
        if self.path is None or not self.path.parent.is_dir():
            yield
            return
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
