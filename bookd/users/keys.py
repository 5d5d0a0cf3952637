"""The Ed25519 keys that sign access tokens.

Each is a file `<kid>.pem` in one folder: PKCS#8, mode 0600, and above it a line that says when it was made. The kid is the
key's RFC 7638 thumbprint, so a file that bears another key's name is found out. The newest signs. The others are published
still, so that tokens they signed stay good: adding a file rotates the key, and removing one, a token's lifetime later,
retires it.
"""

import os
import stat
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from json import dumps
from pathlib import Path

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
    """A private key, its id, and when it was made (microseconds since the epoch)."""

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
    """Write the key to its file in `folder`, for the owner's eyes only. Never overwrites: raises `FileExistsError`."""
    path = folder / f"{key.kid}.pem"
    made = datetime.fromtimestamp(key.created_at / 1_000_000, UTC).isoformat(timespec="microseconds")
    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(f"{_CREATED}{made}\n".encode() + pem)
        file.flush()
        os.fsync(file.fileno())
    return path


def publish(folder: Path, keys: Iterable[SigningKey]) -> Path:
    """Write the public JWK set of `keys` to `jwks.json` in `folder`. A reader sees the old file or the new one."""
    path = folder / JWKS
    fresh = folder / f".{JWKS}.new"
    with fresh.open("w", encoding="utf-8") as file:
        file.write(dumps(jwks(keys), indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return path


def load(folder: Path) -> Sequence[SigningKey]:
    """All keys in `folder`, the one that signs first. Raises `KeysError`."""
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
