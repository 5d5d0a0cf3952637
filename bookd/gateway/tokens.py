"""Access tokens: whether one is genuine, and whom it speaks for.

A token is a JWT (RFC 7519) signed with Ed25519. What RFC 8725 warns of is decided before a signature is looked at: the
algorithm is that of the key and never the token's choice, the key is the one of the JWK set that the token names by its
`kid`, keys and addresses that a token brings along (`jwk`, `jku`, `x5c`) are not looked at, critical extensions (`crit`)
are refused, since none is understood, and so is JSON that two readers might read differently.

The keys are those of a JWK set file (RFC 7517), which is looked at again once a second at most and read again when it
changed, so a key is rotated by replacing the file. No call to anybody: tokens are verified while the users daemon is down.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import jwt
from attrs import frozen
from twisted.logger import Logger

from bookd.errors import Unauthenticated
from bookd.wire.policy.v1 import policy_pb2

ALGORITHM = "EdDSA"
_REQUIRED = ["iss", "aud", "exp", "nbf", "iat", "sub"]
_TYPES = (None, "jwt", "at+jwt")  # RFC 7519, section 5.1; RFC 9068, section 2.1
# Clocks of two hosts are never quite the same.
LEEWAY = 2.0
# The users daemon's tokens have some 500 characters; a longer one than this is not even taken apart.
MAX_TOKEN = 8192
MAX_ROLES, MAX_TEXT = 32, 256
# Tokens that are remembered.
MOST_KNOWN = 4096
# How often the file is looked at.
_GLANCE = 1.0
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

# Whether tokens of a subject and of a session, issued at a time (microseconds), are void although they have not expired.
Revoked = Callable[[str, str, int], bool]


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

    def find(self, kid: str) -> Any | None:
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


@frozen
class _Verified:
    """A genuine token."""

    kid: str
    key: Any
    claims: Mapping[str, Any]
    principal: policy_pb2.Principal


class Tokens:
    """Verifies access tokens of one issuer for one audience. `now` answers microseconds since the epoch; `revoked` knows
    which tokens are void before their time, and `lifetime` is how many seconds one may live, so that such knowledge need
    not be kept for ever."""

    def __init__(
        self,
        keys: Keys,
        issuer: str,
        audience: str,
        now: Callable[[], int],
        revoked: Revoked = lambda subject, session, issued: False,
        lifetime: float = 3600.0,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._now = now
        self._revoked = revoked
        self._lifetime = lifetime
        # Genuine tokens that were seen last: verifying a signature costs as much as all else that is done with a request.
        self._known: OrderedDict[str, _Verified] = OrderedDict()

    def principal(self, authorization: str | None) -> policy_pb2.Principal | None:
        """Whom an `Authorization` header speaks for; None when there is none. Raises `Unauthenticated`."""
        if authorization is None:
            return None
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _invalid("the Authorization header must be Bearer and an access token")
        known = self._verified(token.strip())
        self._check_times(known.claims)
        principal = known.principal
        if self._revoked(principal.subject, principal.session_id, int(known.claims["iat"] * 1e6)):
            raise Unauthenticated("the session of the access token has ended", reason="TOKEN_REVOKED")
        return principal

    def _verified(self, token: str) -> "_Verified":
        """What a genuine token says, from memory if it was seen before and its key is still good. Its times and whether it
        was revoked are not looked at."""
        known = self._known.get(token)
        if known is not None and self._keys.find(known.kid) is known.key:
            self._known.move_to_end(token)
            return known
        known = self._known[token] = self._verify(token)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return known

    def _verify(self, token: str) -> "_Verified":
        kid, key, claims = self._decode(token)
        roles, session = claims.get("roles", []), claims.get("sid", "")
        if not isinstance(roles, list) or len(roles) > MAX_ROLES or not all(map(_is_text, roles)):
            raise _invalid("the roles of the access token are not a list of strings")
        if not _is_text(session) or not _is_text(claims["sub"]) or not claims["sub"]:
            raise _invalid("the access token has no subject, or a session that is no string")
        self._check_times(claims)
        return _Verified(kid, key, claims, policy_pb2.Principal(subject=claims["sub"], roles=roles, session_id=session))

    def _decode(self, token: str) -> tuple[str, Any, dict[str, Any]]:
        """The name of the key, the key, and the claims of a token that it signed."""
        parts = _COMPACT.fullmatch(token) if len(token) <= MAX_TOKEN else None
        if parts is None or not _canonical(parts[3]):
            raise _invalid("the access token is no signed JWT")
        kid, key = self._key(_object(parts[1]))
        _object(parts[2])  # the claims, which are read again below: two readers must not read them differently
        try:
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
        return kid, key, claims

    def _key(self, header: Mapping[str, Any]) -> tuple[str, Any]:
        """The key that the header names, if a token with this header can be ours."""
        kind = header.get("typ")
        if header.get("alg") != ALGORITHM or (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
            raise _invalid(f"the access token is not signed with {ALGORITHM}, or is no access token")
        if "crit" in header or "b64" in header or "enc" in header or "zip" in header:
            raise _invalid("the access token needs an extension that is not understood here")
        kid = header.get("kid")
        key = self._keys.find(kid) if isinstance(kid, str) else None
        if not isinstance(kid, str) or key is None:
            raise _invalid("the access token is signed with a key that is not known here")
        return kid, key

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        expires, begins, issued = claims["exp"], claims["nbf"], claims["iat"]
        if not all(map(_is_time, (expires, begins, issued))):
            raise _invalid("the times of the access token are no numbers")
        now = self._now() / 1e6
        if now >= expires + LEEWAY:
            raise Unauthenticated("the access token has expired", reason="TOKEN_EXPIRED")
        if now < max(begins, issued) - LEEWAY:
            raise _invalid("the access token is not valid yet")
        if expires - issued > self._lifetime + LEEWAY:
            raise _invalid("the access token was made for longer than is believed here")


def _canonical(part: str) -> bool:
    """Whether a part is the one encoding of its bytes: the last character has bits that decoders pass over."""
    try:
        return urlsafe_b64encode(urlsafe_b64decode(part + "=" * (-len(part) % 4))).rstrip(b"=") == part.encode()
    except ValueError:
        return False


def _object(part: str) -> Mapping[str, Any]:
    """The JSON object of a part of a token. Raises `Unauthenticated` for what is none, names a member twice (RFC 7515,
    section 4), or has numbers that JSON does not have."""
    try:
        found = json.loads(
            urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _invalid("the access token is no signed JWT")
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member comes twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _is_time(value: object) -> bool:
    """Whether this is a NumericDate that the arithmetic of times can bear."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e12 if isinstance(value, int) else isfinite(value) and abs(value) < 1e12


def _invalid(message: str) -> Unauthenticated:
    return Unauthenticated(message, reason="TOKEN_INVALID")
