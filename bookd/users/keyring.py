"""The signing keys as they lie in their folder now: a key that is added or removed needs no restart.

The folder is looked at again once a second at most. A key signs from the time in its first line on, so one may be laid
there, and its public half published, a little before it is used.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.logger import Logger

from bookd.users import keys
from bookd.users.keys import KeysError, SigningKey

_GLANCE = 1.0


class Keyring:
    """The keys of `folder`. Raises `KeysError` when they cannot be used at first; a folder that cannot be used later
    leaves them as they were. `seconds` is any clock that only goes forward, `now` answers microseconds since the epoch."""

    log = Logger()

    def __init__(self, folder: Path, seconds: Callable[[], float], now: Callable[[], int]) -> None:
        self._folder = folder
        self._seconds = seconds
        self._now = now
        self._looked = seconds()
        self._stamp = self._look()
        self._keys = keys.load(folder)

    def all(self) -> Sequence[SigningKey]:
        """All keys, the newest first."""
        self._refresh()
        return self._keys

    def signing(self) -> SigningKey:
        """The key that signs now: the newest whose time has come."""
        return keys.signing(self.all(), self._now())

    def _refresh(self) -> None:
        now = self._seconds()
        if now - self._looked < _GLANCE:
            return
        self._looked = now
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._keys = keys.load(self._folder)
                self._stamp = stamp
                self.log.info("signing keys: {kids}", kids=", ".join(key.kid for key in self._keys))
        except (OSError, KeysError) as error:
            self.log.warn("the signing keys stay as they were: {error}", error=error)

    def _look(self) -> list[tuple[str, int, int]]:
        found = []
        for path in sorted(self._folder.glob("*.pem")):
            status = path.stat()
            found.append((path.name, status.st_mtime_ns, status.st_ino))
        return found
