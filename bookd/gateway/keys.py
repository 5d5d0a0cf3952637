"""Public keys that verify access tokens: JWK sets (RFC 7517), and the file that holds one.

The algorithm of a key is fixed when it is read (RFC 8725, section 3.1): it is what the key says of itself (`alg`), or else
the one that keys of its kind have here. A key that could be used with several is not used. Of an entry only the members
that make the public key are looked at: no certificate, no address, no private part.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jwt
from attrs import frozen
from twisted.logger import Logger

EDDSA = "EdDSA"
# Keys in a set, and characters of a key's name.
MOST_KEYS, LONGEST_KID = 100, 256
# Bits of an RSA key (RFC 7518, section 3.3), and how large its exponent may be: a huge one takes long to verify with.
_RSA_BITS, _RSA_EXPONENT = range(2048, 8193), 2**32
# What each algorithm needs: kind of key and curve, and the members of it.
_CURVE = ("kty", "crv", "x")
_POINT = ("kty", "crv", "x", "y")
_RSA = ("kty", "n", "e")
_KINDS: Mapping[str, tuple[tuple[str, str | None], Sequence[str]]] = {
    EDDSA: (("OKP", "Ed25519"), _CURVE),
    "ES256": (("EC", "P-256"), _POINT),
    "ES384": (("EC", "P-384"), _POINT),
    "ES512": (("EC", "P-521"), _POINT),
    **{f"{family}{bits}": (("RSA", None), _RSA) for family in ("RS", "PS") for bits in (256, 384, 512)},
}
# How often a file is looked at, in seconds.
_GLANCE = 1.0


@frozen(eq=False)
class Key:
    """A public key, and the one algorithm that it verifies."""

    algorithm: str
    public: Any


class Keys(Protocol):
    """Keys of one issuer by their `kid`."""

    def find(self, kid: str) -> Key | None:
        """The key named `kid`; None when there is none. Raises `Unavailable` when that cannot be known."""


def parse(data: bytes, algorithms: Sequence[str] = (EDDSA,)) -> dict[str, Key]:
    """The keys of a JWK set that verify one of `algorithms`, by their `kid`. Entries that are of no use are passed over;
    of two with one name the first counts. Raises ValueError when the text is no JWK set, or has no key of use."""
    try:
        entries = json.loads(data)["keys"]
        if not isinstance(entries, list) or len(entries) > MOST_KEYS:
            raise ValueError(f"`keys` is no list of {MOST_KEYS} at most")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a JWK set: {error}") from error
    found: dict[str, Key] = {}
    for entry in entries:
        kid = entry.get("kid") if isinstance(entry, dict) else None
        if isinstance(kid, str) and 0 < len(kid) <= LONGEST_KID and kid not in found:
            key = _key(entry, algorithms)
            if key is not None:
                found[kid] = key
    if not found:
        raise ValueError(f"no key in it that verifies {' or '.join(algorithms)}")
    return found


def _key(entry: Mapping[str, Any], algorithms: Sequence[str]) -> Key | None:
    """The key of an entry; None when it is of no use."""
    algorithm = _algorithm(entry, algorithms)
    uses = entry.get("key_ops", ["verify"])
    if algorithm is None or entry.get("use", "sig") != "sig" or not isinstance(uses, list) or "verify" not in uses:
        return None
    members = {name: entry.get(name) for name in _KINDS[algorithm][1]}
    if not all(isinstance(value, str) for value in members.values()):
        return None
    try:
        public = jwt.PyJWK(members, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError):
        return None
    if members["kty"] == "RSA" and (public.key_size not in _RSA_BITS or public.public_numbers().e > _RSA_EXPONENT):
        return None
    return Key(algorithm, public)


def _algorithm(entry: Mapping[str, Any], algorithms: Sequence[str]) -> str | None:
    """The one algorithm that the key can be meant for."""
    fitting = {name for name in algorithms if _KINDS[name][0] == (entry.get("kty"), entry.get("crv"))}
    if "alg" in entry:
        fitting = {name for name in fitting if name == entry["alg"]}
    return fitting.pop() if len(fitting) == 1 else None


class KeyFile:
    """The keys in a JWK set file. Raises OSError or ValueError when it cannot be read at first.

    The file is looked at once a second at most, and read again when it changed. One that cannot be read later leaves the
    keys as they were. `seconds` is any clock that only goes forward.
    """

    log = Logger()

    def __init__(self, path: Path, seconds: Callable[[], float], algorithms: Sequence[str] = (EDDSA,)) -> None:
        self._path = path
        self._seconds = seconds
        self._algorithms = algorithms
        self._looked = seconds()
        self._stamp = self._look()
        self._keys = self._read()

    def find(self, kid: str) -> Key | None:
        """The key named `kid`."""
        self._refresh()
        return self._keys.get(kid)

    def _refresh(self) -> None:
        now = self._seconds()
        if now - self._looked < _GLANCE:
            return
        self._looked = now
        try:
            stamp = self._look()
            if stamp != self._stamp:
                self._keys = self._read()
                self._stamp = stamp
        except (OSError, ValueError) as error:
            self.log.warn("the keys stay as they were: {error}", error=error)

    def _look(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> Mapping[str, Key]:
        try:
            return parse(self._path.read_bytes(), self._algorithms)
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from error
