"""Passwords as argon2id hashes (RFC 9106).

A hash takes a tenth of a second and 64 MiB on purpose, so `hash` and `verify` belong into a worker's thread. Whether a
user exists must not be seen from how long a log-in takes: without a hash to compare with, `verify` compares with one that
no password has.
"""

from base64 import b64encode
from secrets import token_bytes
from unicodedata import normalize

from argon2 import Parameters, PasswordHasher
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError
from argon2.profiles import RFC_9106_LOW_MEMORY

from bookd.errors import Unavailable
from bookd.users.rules import MAX_PASSWORD


class Passwords:
    """Hashes and verifies under one set of parameters; hashes made under others verify too, and count as stale."""

    def __init__(self, parameters: Parameters = RFC_9106_LOW_MEMORY) -> None:
        self._hasher = PasswordHasher.from_parameters(parameters)
        self._nobodys = _nobodys_hash(parameters)

    def hash(self, password: str) -> str:
        """The encoded hash of `password`, with a salt of its own."""
        try:
            return self._hasher.hash(_canonical(password))
        except HashingError as error:
            raise Unavailable("there is no memory to hash a password now", reason="BUSY", retry_after=1.0) from error

    def verify(self, stored: str | None, password: str) -> bool:
        """Whether `stored` is a hash of `password`. None, which is nobody's hash, takes as long and is False.

        Raises `argon2.exceptions.InvalidHashError` when `stored` is damaged.
        """
        try:
            matches = self._hasher.verify(self._nobodys if stored is None else stored, _canonical(password))
        except VerifyMismatchError:
            return False
        except VerificationError as error:
            raise Unavailable("there is no memory to verify a password now", reason="BUSY", retry_after=1.0) from error
        return matches and stored is not None

    def stale(self, stored: str) -> bool:
        """Whether `stored` was made under other parameters and should be made anew while the password is at hand."""
        return self._hasher.check_needs_rehash(stored)


def _canonical(password: str) -> str:
    # One that is too long is nobody's, and costs no more than the longest that could be somebody's.
    if len(password) > MAX_PASSWORD:
        password = ""
    # SP 800-63B: the same password typed on another keyboard may come as other code points.
    return normalize("NFKC", password)


def _nobodys_hash(parameters: Parameters) -> str:
    # Random bytes in place of a digest: nothing hashes to them, and none had to be hashed to make them.
    salt, digest = (
        b64encode(token_bytes(length)).rstrip(b"=").decode() for length in (parameters.salt_len, parameters.hash_len)
    )
    costs = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    return f"$argon2id$v={parameters.version}${costs}${salt}${digest}"
