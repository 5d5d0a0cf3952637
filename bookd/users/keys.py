"""The Ed25519 keys that sign access tokens.

Each is a file `<kid>.pem` in one folder: PKCS#8, mode 0600, and above it a line that says from when on it signs. The kid is
the key's RFC 7638 thumbprint, so a file that bears another key's name is found out. The newest whose time has come signs.
The others are published still, so that tokens they signed stay good: adding a file rotates the key, and removing one, a
token's lifetime after the next one began to sign, retires it.

A rotation publishes the new key first, and lets it sign a little later, when every gateway has read of it. Each step leaves
the folder usable, wherever it is interrupted, and one of `rotate` and `prune` is at work at a time.
"""

import os
import stat
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fcntl import LOCK_EX, flock
from hashlib import sha256
from itertools import pairwise
from json import dumps
from pathlib import Path
from tempfile import NamedTemporaryFile

from attrs import field, frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

JWKS = "jwks.json"
_CREATED = "Created: "


class KeysError(Exception):
    """The signing keys cannot be used; the message names the file and says why."""


@frozen
class SigningKey:
    """A private key, its id, and from when on it signs (microseconds since the epoch)."""

    kid: str
    created_at: int
    private: Ed25519PrivateKey = field(repr=False)


def generate(now: int) -> SigningKey:
    """A new key, made at `now`."""
    private = Ed25519PrivateKey.generate()
    return SigningKey(thumbprint(_public(private)), now, private)


def thumbprint(x: str) -> str:
    """The RFC 7638 thumbprint of the Ed25519 public key `x` (base64url): its required members, sorted, without spaces."""
    return _base64url(sha256(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode()).digest())


def signing(keys: Sequence[SigningKey], now: int) -> SigningKey:
    """The one of the keys, newest first, that signs at `now`; the oldest while none's time has come."""
    return next((key for key in keys if key.created_at <= now), keys[-1])


def rotate(folder: Path, now: int, signs_in: float) -> SigningKey:
    """Add a key that signs from `signs_in` seconds after `now` on. Raises `KeysError` or OSError."""
    with _alone(folder):
        fresh = generate(now + round(signs_in * 1e6))
        publish(folder, [*load(folder), fresh])
        write(folder, fresh)
    return fresh


def prune(folder: Path, now: int, lifetime: float) -> Sequence[SigningKey]:
    """Remove the keys whose tokens, good for `lifetime` seconds, are all over at `now`; answers which. Raises `KeysError`
    or OSError."""
    with _alone(folder):
        found = load(folder)
        over = [old for new, old in pairwise(found) if new.created_at + round(lifetime * 1e6) <= now]
        for key in over:
            (folder / f"{key.kid}.pem").unlink()
        # Also when there was nothing to remove: it may hold the public half of a key that was never written.
        publish(folder, [key for key in found if key not in over])
    return over


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until nobody else changes the keys in `folder`, and hold others off."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeysError(f"{folder}: {error.strerror}") from error
    try:
        flock(held, LOCK_EX)
        yield
    finally:
        os.close(held)


def newest_first(keys: Iterable[SigningKey]) -> tuple[SigningKey, ...]:
    """The keys in the order in which they are published: the one that signs comes first."""
    return tuple(sorted(keys, key=lambda key: (key.created_at, key.kid), reverse=True))


def jwks(keys: Iterable[SigningKey]) -> dict[str, list[dict[str, str]]]:
    """The public JWK set (RFC 7517, RFC 8037), ready for JSON."""
    return {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": _public(key.private),
                "kid": key.kid,
                "use": "sig",
                "alg": "EdDSA",
            }
            for key in newest_first(keys)
        ]
    }


def write(folder: Path, key: SigningKey) -> Path:
    """Write the key to its file in `folder`, for the owner's eyes only. Never overwrites: raises `FileExistsError`.
    Readers see no half of it."""
    path = folder / f"{key.kid}.pem"
    made = datetime.fromtimestamp(key.created_at / 1_000_000, UTC).isoformat(timespec="microseconds")
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with _scratch(folder, f"{_CREATED}{made}\n".encode() + pem) as scratch:
        os.link(scratch, path)
    _settle(folder)
    return path


def publish(folder: Path, keys: Iterable[SigningKey]) -> Path:
    """Write the public JWK set of `keys` to `jwks.json` in `folder`. A reader sees the old file or the new one."""
    path = folder / JWKS
    with _scratch(folder, dumps(jwks(keys), indent=2).encode() + b"\n") as scratch:
        scratch.replace(path)
    _settle(folder)
    return path


@contextmanager
def _scratch(folder: Path, content: bytes) -> Iterator[Path]:
    """A file of mode 0600 with this content, on disk, under a name that nobody looks for."""
    with NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
        path = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Let the names in `folder` be on disk."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def load(folder: Path) -> Sequence[SigningKey]:
    """All keys in `folder`, the newest first. Raises `KeysError`."""
    try:
        paths = sorted(folder.glob("*.pem"))
        if not folder.is_dir():
            raise KeysError(f"{folder}: there is no such folder of signing keys; `bookd init` makes one")
    except OSError as error:
        raise KeysError(f"{folder}: {error.strerror}") from error
    if not paths:
        raise KeysError(f"{folder}: holds no signing key (*.pem); `bookd init` makes one")
    return newest_first(map(_load, paths))


def _load(path: Path) -> SigningKey:
    try:
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise KeysError(f"{path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeysError(f"{path}: others may read this private key (mode {stat.S_IMODE(mode):04o}); chmod 600 it")
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeysError(f"{path}: is not a private key in PEM, or is encrypted") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeysError(f"{path}: is not an Ed25519 key")
    kid = thumbprint(_public(private))
    if path.stem != kid:
        raise KeysError(f"{path}: holds the key {kid}, so it should be called {kid}.pem")
    return SigningKey(kid, _created_at(path, data), private)


def _created_at(path: Path, data: bytes) -> int:
    # A key of another tool's making has no such line; then the file's own time is the best guess.
    line = data.split(b"\n", 1)[0].decode(errors="replace")
    if not line.startswith(_CREATED):
        return path.stat().st_mtime_ns // 1000
    try:
        made = datetime.fromisoformat(line.removeprefix(_CREATED).strip())
    except ValueError as error:
        raise KeysError(f"{path}: its first line does not say when the key was made") from error
    return round(made.astimezone(UTC).timestamp() * 1_000_000)


def _public(private: Ed25519PrivateKey) -> str:
    return _base64url(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
