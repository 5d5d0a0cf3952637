"""How what is kept is sealed: the cipher, and its keys as they lie in their folder.

The cipher is XAES-256-GCM (C2SP): a random nonce of 192 bits, half of which derives the AES-256-GCM key of this one box
from the key in the file, the other half being that one's nonce. So nonces may be drawn at random for as long as anybody
likes: with AES-GCM alone one key would be used up after some billions of boxes, which a busy MOM fills in weeks. Whatever
is changed in a box, or in what it was bound to, is found out when it is opened.

A key is a file `<id>.key`: mode 0600, a line that says from when on it seals, and 32 bytes in base64. Its id is taken from
the key, so a file that bears another's name is found out. The newest whose time has come seals; the others open what was
sealed with them. Adding a file rotates the key, and removing one makes unreadable what was sealed with it, no more.
"""

import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

from attrs import field, frozen
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SIZE, NONCE = 32, 24
ENDING = ".key"
_FROM = "Seals from: "
_ONES = (1 << 128) - 1


class SealsError(Exception):
    """The keys cannot be used; the message names the file and says why."""


class Broken(Exception):
    """A box was changed, or belongs elsewhere, or was sealed with another key."""


@frozen
class Seal:
    """A key, its id, and from when on it seals (microseconds since the epoch)."""

    key_id: str
    since: int
    key: bytes = field(repr=False)


def generate(since: int) -> Seal:
    """A new key, which seals from `since` on."""
    key = os.urandom(SIZE)
    return Seal(key_id(key), since, key)


def key_id(key: bytes) -> str:
    """What a key is called: 16 hexadecimal digits."""
    return sha256(b"bookd sealing key\n" + key).hexdigest()[:16]


def close(key: bytes, content: bytes, bound: bytes, nonce: bytes | None = None) -> bytes:
    """A box that holds `content` and opens only for who knows `bound`; the nonce is drawn unless it is given."""
    nonce = os.urandom(NONCE) if nonce is None else nonce
    return nonce + AESGCM(_derivation(key).key(nonce[:12])).encrypt(nonce[12:], content, bound)


def open_(key: bytes, box: bytes, bound: bytes) -> bytes:
    """What is in a box. Raises `Broken`."""
    nonce = box[:NONCE]
    try:
        if len(nonce) == NONCE:
            return AESGCM(_derivation(key).key(nonce[:12])).decrypt(nonce[12:], box[NONCE:], bound)
    except (InvalidTag, ValueError):
        pass
    raise Broken("it was changed, or belongs elsewhere")


class _Derivation:
    """Derives the keys of boxes from one key: NIST SP 800-108 in counter mode with CMAC, of which one block each is needed;
    the names are those of C2SP. What is the same for all boxes is worked out once."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - whole blocks of CMAC
        left = int.from_bytes(self._encryptor.update(bytes(16)), "big")
        k1 = (left << 1 & _ONES) ^ (0x87 if left >> 127 else 0)
        self._first, self._second = (
            int.from_bytes(bytes((0, number)) + b"X\0" + bytes(12), "big") ^ k1 for number in (1, 2)
        )
        # Boxes are closed and opened in several threads.
        self._lock = Lock()

    def key(self, half: bytes) -> bytes:
        number = int.from_bytes(half, "big")
        blocks = (self._first ^ number) << 128 | (self._second ^ number)
        with self._lock:
            return self._encryptor.update(blocks.to_bytes(32, "big"))


_derivation = lru_cache(64)(_Derivation)


def sealing(seals: Mapping[str, Seal], now: int) -> Seal:
    """The key that seals at `now`: the newest whose time has come; the oldest while none's has."""
    in_order = sorted(seals.values(), key=lambda seal: (seal.since, seal.key_id))
    return next((seal for seal in reversed(in_order) if seal.since <= now), in_order[0])


def write(folder: Path, seal: Seal) -> Path:
    """Write the key to its file, for the owner's eyes only. Never overwrites: raises `FileExistsError`. Readers see no half
    of it."""
    path = folder / (seal.key_id + ENDING)
    since = datetime.fromtimestamp(seal.since / 1e6, UTC).isoformat(timespec="microseconds")
    with NamedTemporaryFile(dir=folder, prefix=".new-") as scratch:
        scratch.write(f"{_FROM}{since}\n".encode() + b64encode(seal.key) + b"\n")
        scratch.flush()
        os.fsync(scratch.fileno())
        os.link(scratch.name, path)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
    return path


def rotate(folder: Path, now: int, seals_in: float) -> Seal:
    """Add a key that seals from `seals_in` seconds after `now` on. Raises `SealsError` or OSError."""
    load(folder)
    fresh = generate(now + round(seals_in * 1e6))
    write(folder, fresh)
    return fresh


def load(folder: Path) -> dict[str, Seal]:
    """All keys in `folder`, by id. Raises `SealsError`."""
    try:
        paths = sorted(folder.glob("*" + ENDING))
        if not folder.is_dir():
            raise SealsError(f"{folder}: there is no such folder of sealing keys; `bookd init` makes one")
    except OSError as error:
        raise SealsError(f"{folder}: {error.strerror}") from error
    if not paths:
        raise SealsError(f"{folder}: holds no sealing key (*{ENDING}); `bookd init` makes one")
    found = map(_load, paths)
    return {seal.key_id: seal for seal in found}


def _load(path: Path) -> Seal:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
    except OSError as error:
        raise SealsError(f"{path}: {error.strerror}") from error
    if mode & 0o077:
        raise SealsError(f"{path}: others may read this key (mode {mode:04o}); chmod 600 it")
    try:
        first, second = data.decode("ascii").splitlines()
        since = datetime.fromisoformat(first.removeprefix(_FROM)).astimezone(UTC)
        key = b64decode(second, validate=True)
    except (ValueError, OverflowError) as error:
        raise SealsError(f"{path}: is no sealing key as `bookd init` makes them") from error
    if len(key) != SIZE:
        raise SealsError(f"{path}: holds {len(key)} bytes, and a key has {SIZE}")
    if path.name != key_id(key) + ENDING:
        raise SealsError(f"{path}: holds the key {key_id(key)}, so it should be called {key_id(key)}{ENDING}")
    return Seal(key_id(key), round(since.timestamp() * 1e6), key)
