"""Certificates and private keys in files: read with a word on what is wrong with which of them, and looked at again later.

What is wrong while the old ones still serve is told once in the log of a process, however many look at the files. It is
told at the second look, a second after the first: whoever replaces a key and a certificate does so one after the other.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from twisted.logger import Logger

from bookd import pki

_HALF_WAY = 1.0


def read(path: Path, check: Callable[[bytes], object]) -> bytes:
    """The content of a file that passes a check. Raises ValueError that names the file and what is wrong with it."""
    try:
        content = path.read_bytes()
        check(content)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    return content


def read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """A certificate chain and its key. Raises ValueError as `read` does, and when they do not belong together."""
    chain, secret = read(certificate, pki.certificates), read(key, pki.private_key)
    if not pki.fits(chain, secret):
        raise ValueError(f"{key} holds a key that is not that of the certificate in {certificate}")
    return chain, secret


def stamp(*paths: Path) -> object:
    """Equal as long as no file was replaced. Raises OSError."""
    return [(status.st_mtime_ns, status.st_ino) for status in (path.stat() for path in paths)]


class Complaint:
    """Tells once what is wrong with a certificate and a key that were replaced, or with what else is read with them."""

    log = Logger()

    def __init__(self, certificate: Path, key: Path) -> None:
        self._paths = certificate, key
        self._seen: object = None
        self._since = 0.0
        self._told = False

    def spoilt(self, error: Exception) -> None:
        """The files cannot be used."""
        seen: object = None
        with suppress(OSError):
            seen = stamp(*self._paths)
        what, now = (str(error), seen), time.monotonic()
        if what != self._seen:
            self._seen, self._since, self._told = what, now, False
        elif not self._told and now - self._since >= _HALF_WAY:
            self._told = True
            self.log.warn("{error}; the certificate that was there before serves on", error=error)

    def good(self) -> None:
        """They can be used, or are what they were."""
        self._seen = None


@lru_cache(maxsize=256)
def complaint(certificate: Path, key: Path) -> Complaint:
    """The one that all share who look at these files."""
    return Complaint(certificate, key)
