"""The audit log: who did what, one JSON object a line, in a file that is only ever added to.

What goes in is named by the caller, field by field: no request and no header goes in as a whole, so no password, token or
key can. A file that was moved away (by logrotate, say) is made anew. A line is handed to the system in one write, in the
order of what happened; it is not waited for until the disk has it.
"""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from twisted.application.service import Service
from twisted.logger import Logger

# A field that came from outside is cut off here.
LONGEST = 256


class Record(Protocol):
    """Writes a line: what was done, how it ended, and about whom."""

    def __call__(self, action: str, outcome: str, /, **about: str) -> None: ...


def nothing(action: str, outcome: str, /, **about: str) -> None:
    """Writes nothing, for daemons that keep no audit log."""


class AuditLog(Service):
    """The log of one daemon. `now` answers microseconds since the epoch. Raises OSError from startService when the file
    cannot be opened; a line that cannot be written later is an error in the daemon's own log, and the daemon goes on."""

    log = Logger()

    def __init__(self, path: Path, daemon: str, now: Callable[[], int]) -> None:
        self._path = path
        self._daemon = daemon
        self._now = now
        self._file = -1
        self._identity = (0, 0)

    def startService(self) -> None:
        """Open the file."""
        super().startService()
        self._open()

    def stopService(self) -> None:
        """Close it."""
        super().stopService()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __call__(self, action: str, outcome: str, /, **about: str) -> None:
        """Write a line. Fields that are empty are left out."""
        made = datetime.fromtimestamp(self._now() / 1e6, UTC).isoformat(timespec="milliseconds")
        fields = {"at": made, "daemon": self._daemon, "action": action, "outcome": outcome}
        fields |= {name: value[:LONGEST] for name, value in about.items() if value}
        line = (json.dumps(fields) + "\n").encode()
        try:
            if not self._in_place():
                self._open()
            os.write(self._file, line)
        except OSError as error:
            self.log.error("the audit log {path} lacks a line: {error}", path=str(self._path), error=error.strerror)

    def _open(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        status = os.fstat(self._file)
        self._identity = (status.st_dev, status.st_ino)

    def _in_place(self) -> bool:
        if self._file < 0:
            return False
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._identity
