"""Access tokens: whether one is genuine, and whom it speaks for.

A token is a JWT (RFC 7519) signed with Ed25519. The algorithm is fixed here and never taken from the token. The keys are
those of a JWK set file (RFC 7517), which is looked at again once a second at most and read again when it changed, so a
key is rotated by replacing the file. No call to anybody: tokens are verified while the users daemon is down.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
from twisted.logger import Logger

from bookd.errors import Unauthenticated
from bookd.wire.policy.v1 import policy_pb2

ALGORITHM = "EdDSA"
_REQUIRED = ["iss", "aud", "exp", "nbf", "sub"]
# Clocks of two hosts are never quite the same.
LEEWAY = 2.0
# How often the file is looked at.
_GLANCE = 1.0


class Keys:
    """The public keys in a JWK set file, by their `kid`. Raises OSError or ValueError when it cannot be read at first.

    A file that cannot be read later leaves the keys as they were. `seconds` is any clock that only goes forward.
    """

    log = Logger()

    def __init__(self, path: Path, seconds: Callable[[], float]) -> None:
        self._path = path
        self._seconds = seconds
        self._looked = seconds()
        self._stamp = self._look()
        self._keys = self._read()

    def find(self, kid: str | None) -> Any | None:
        """The key named `kid`; without a name the only key, if there is but one."""
        self._refresh()
        if kid is not None:
            return self._keys.get(kid)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

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

    def _read(self) -> Mapping[str, Any]:
        try:
            entries = json.loads(self._path.read_bytes())["keys"]
            usable = [entry for entry in entries if entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519"]
            found = {str(entry.get("kid", "")): jwt.PyJWK(entry, ALGORITHM).key for entry in usable}
        except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
            raise ValueError(f"{self._path}: not a JWK set: {error}") from error
        if not found:
            raise ValueError(f"{self._path}: no Ed25519 key in it")
        return found


class Tokens:
    """Verifies access tokens of one issuer for one audience. `now` answers microseconds since the epoch."""

    def __init__(self, keys: Keys, issuer: str, audience: str, now: Callable[[], int]) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._now = now

    def principal(self, authorization: str | None) -> policy_pb2.Principal | None:
        """Whom an `Authorization` header speaks for; None when there is none. Raises `Unauthenticated`."""
        if authorization is None:
            return None
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _invalid("the Authorization header must be Bearer and an access token")
        claims = self._verified(token.strip())
        roles, session = claims.get("roles", []), claims.get("sid", "")
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise _invalid("the roles of the access token are not a list of strings")
        if not isinstance(session, str) or not claims["sub"]:
            raise _invalid("the access token has no subject, or a session that is no string")
        return policy_pb2.Principal(subject=claims["sub"], roles=roles, session_id=session)

    def _verified(self, token: str) -> dict[str, Any]:
        try:
            key = self._keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise _invalid("the access token is signed with a key that is not known here")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                # The times are compared below, with the clock that was given.
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _invalid("the access token is not valid here") from None
        self._check_times(claims)
        return claims

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        expires, begins = claims["exp"], claims["nbf"]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expires, begins)):
            raise _invalid("the times of the access token are no numbers")
        now = self._now() / 1e6
        if now >= expires + LEEWAY:
            raise Unauthenticated("the access token has expired", reason="TOKEN_EXPIRED")
        if now < begins - LEEWAY:
            raise _invalid("the access token is not valid yet")


def _invalid(message: str) -> Unauthenticated:
    return Unauthenticated(message, reason="TOKEN_INVALID")
