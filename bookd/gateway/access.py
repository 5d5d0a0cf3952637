"""The access log: one JSON object a line for each request that has ended, answered or not.

Lines gather for a moment and are written together: a line by itself would cost more than many a request. So a daemon that is
killed takes the lines of its last moment with it; one that is stopped does not. What must not get lost is in the audit log
(`bookd.bridge.audit`). The file is moved aside when it is large, and only so many of those are kept; one that somebody else
moved away (logrotate, say) is made anew.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.logfile import LogFile

# Seconds for which lines gather, and the bytes with which they do not wait any longer.
GATHERED, FULL = 0.2, 64 * 1024


class Record(Protocol):
    """Notes a request that has ended. `subject` is who asked, `seconds` how long it took."""

    def __call__(
        self, method: str, route: str, status: int, seconds: float, request: str, subject: str, address: str, /
    ) -> None: ...


def nothing(method: str, route: str, status: int, seconds: float, request: str, subject: str, address: str, /) -> None:
    """Notes nothing, for gateways that keep no access log."""


class _Line(msgspec.Struct, omit_defaults=True):
    at: datetime
    method: str
    route: str
    status: int
    milliseconds: float
    request: str
    subject: str = ""
    address: str = ""


class AccessLog(Service):
    """The log. `now` answers microseconds since the epoch; `largest` is in bytes, and `kept` is how many full files stay
    beside the one that is written. Raises OSError from startService when the file cannot be opened; lines that cannot be
    written later are counted in the daemon's own log, and the daemon goes on."""

    log = Logger()

    def __init__(self, path: Path, largest: int, kept: int, now: Callable[[], int], reactor: Any) -> None:
        self._path = path
        self._largest = largest
        self._kept = kept
        self._now = now
        self._reactor = reactor
        self._encode = msgspec.json.Encoder().encode
        self._file: _File | None = None
        self._lines: list[bytes] = []
        self._bytes = 0
        self._timer: Any = None
        self._lost = 0

    def startService(self) -> None:
        """Open the file."""
        super().startService()
        self._open()

    def stopService(self) -> None:
        """Write what has gathered, and close the file."""
        super().stopService()
        self._write()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __call__(
        self, method: str, route: str, status: int, seconds: float, request: str, subject: str, address: str, /
    ) -> None:
        """Note a request. What is empty is left out."""
        at = datetime.fromtimestamp(self._now() // 1000 / 1000, UTC)
        line = self._encode(_Line(at, method, route, status, round(seconds * 1000, 2), request, subject, address))
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= FULL or not self.running:
            self._write()
        elif self._timer is None:
            self._timer = self._reactor.callLater(GATHERED, self._write)

    def _write(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        lines, self._lines, self._bytes = self._lines, [], 0
        if not lines:
            return
        try:
            if self._file is None or not self._file.in_place():
                self._open()
            assert self._file is not None
            self._file.write(b"\n".join(lines) + b"\n")
        except OSError as error:
            if not self._lost:
                self.log.error("the access log {path} lacks lines: {why}", path=str(self._path), why=error.strerror)
            self._lost += len(lines)
        else:
            if self._lost:
                self.log.warn("the access log {path} lacks {n} lines", path=str(self._path), n=self._lost)
                self._lost = 0

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = _File(
            self._path.name,
            str(self._path.parent),
            rotateLength=self._largest,
            maxRotatedFiles=self._kept,
            defaultMode=0o600,
        )


class _File(LogFile):
    def in_place(self) -> bool:
        """Whether what is written still goes into the file of that name."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except (
            FileNotFoundError,
            ValueError,
        ):  # moved away; closed, when it could not be opened after it was moved aside
            return False
