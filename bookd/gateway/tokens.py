"""Access tokens: whether one is genuine, and whom it speaks for.

A token is a JWT (RFC 7519) with a signature. What RFC 8725 warns of is decided before the signature is looked at: the
issuer is one of those that are known here, the key is the one of that issuer's that the token names by its `kid`, the
algorithm is that of the key and never the token's choice, keys and addresses that a token brings along (`jwk`, `jku`,
`x5c`) are not looked at, critical extensions (`crit`) are refused, since none is understood, and so is JSON that two readers
might read differently. What is left of RFC 9068, section 4, comes with the signature: issuer, audience, times.

No call to anybody: tokens are verified while the users daemon is down, and whoever else makes some.
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import jwt
from attrs import frozen

from bookd.errors import Unauthenticated
from bookd.gateway.issuers import Issuer, invalid
from bookd.gateway.keys import Key
from bookd.wire.policy.v1 import policy_pb2

# Clocks of two hosts are never quite the same.
LEEWAY = 2.0
# The users daemon's tokens have some 500 characters; a longer one than this is not even taken apart.
MAX_TOKEN = 8192
# Tokens that are remembered.
MOST_KNOWN = 4096
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")

# Whether tokens of a subject and of a session, issued at a time (microseconds), are void although they have not expired.
Revoked = Callable[[str, str, int], bool]


@frozen
class _Verified:
    """A genuine token. It holds from `begins` until `ends`, and was issued at `issued`, in microseconds since the epoch."""

    issuer: Issuer
    kid: str
    key: Key
    claims: Mapping[str, Any]
    principal: policy_pb2.Principal
    begins: float
    ends: float
    issued: int


class Tokens:
    """Verifies access tokens of several issuers. `now` answers microseconds since the epoch; `revoked` knows which tokens are
    void before their time."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        now: Callable[[], int],
        revoked: Revoked = lambda subject, session, issued: False,
    ) -> None:
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._now = now
        self._revoked = revoked
        # Genuine tokens that were seen last: verifying a signature costs as much as all else that is done with a request.
        self._known: OrderedDict[str, _Verified] = OrderedDict()

    def principal(self, authorization: str | None) -> policy_pb2.Principal | None:
        """Whom an `Authorization` header speaks for; None when there is none. Raises `Unauthenticated`, and `Unavailable`
        while the keys of the token's issuer are not known."""
        if authorization is None:
            return None
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise invalid("the Authorization header must be Bearer and an access token")
        known = self._verified(token.strip())
        if not known.begins <= self._now() < known.ends:
            self._check_times(known.issuer, known.claims)
        principal = known.principal
        if self._revoked(principal.subject, principal.session_id, known.issued):
            raise Unauthenticated("the session of the access token has ended", reason="TOKEN_REVOKED")
        return principal

    def _verified(self, token: str) -> "_Verified":
        """What a genuine token says, from memory if it was seen before and its key is still good. Its times and whether it
        was revoked are not looked at."""
        known = self._known.get(token)
        if known is not None and known.issuer.keys.find(known.kid) is known.key:
            self._known.move_to_end(token)
            return known
        known = self._known[token] = self._verify(token)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return known

    def _verify(self, token: str) -> "_Verified":
        parts = _COMPACT.fullmatch(token) if len(token) <= MAX_TOKEN else None
        if parts is None or not _canonical(parts[3]):
            raise invalid("the access token is no signed JWT")
        header, claimed = _object(parts[1]), _object(parts[2])
        named = claimed.get("iss")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise invalid("the access token is of an issuer that is not known here")
        kid, key = _key(issuer, header)
        claims = _claims(issuer, key, token)
        self._check_times(issuer, claims)
        return _Verified(
            issuer,
            kid,
            key,
            claims,
            issuer.identify(claims),
            begins=(max(claims.get("nbf", claims["iat"]), claims["iat"]) - LEEWAY) * 1e6,
            ends=(claims["exp"] + LEEWAY) * 1e6,
            issued=int(claims["iat"] * 1e6),
        )

    def _check_times(self, issuer: Issuer, claims: Mapping[str, Any]) -> None:
        expires, issued = claims["exp"], claims["iat"]
        begins = claims.get("nbf", issued)
        if not all(map(_is_time, (expires, begins, issued))):
            raise invalid("the times of the access token are no numbers")
        now = self._now() / 1e6
        if now >= expires + LEEWAY:
            raise Unauthenticated("the access token has expired", reason="TOKEN_EXPIRED")
        if now < max(begins, issued) - LEEWAY:
            raise invalid("the access token is not valid yet")
        if expires - issued > issuer.lifetime + LEEWAY:
            raise invalid("the access token was made for longer than is believed here")


def _key(issuer: Issuer, header: Mapping[str, Any]) -> tuple[str, Key]:
    """The key that the header names, if a token with this header can be one of the issuer's."""
    if "crit" in header or "b64" in header or "enc" in header or "zip" in header:
        raise invalid("the access token needs an extension that is not understood here")
    kind = header.get("typ", "")
    kind = kind.lower().removeprefix("application/") if isinstance(kind, str) else None
    if kind not in issuer.types or (kind == "" and "typ" in header):
        raise invalid("the token is no access token")
    kid = header.get("kid")
    key = issuer.keys.find(kid) if isinstance(kid, str) else None
    if not isinstance(kid, str) or key is None:
        raise invalid("the access token is signed with a key that is not known here")
    if header.get("alg") != key.algorithm:
        raise invalid("the access token is not signed with the algorithm of its key")
    return kid, key


def _claims(issuer: Issuer, key: Key, token: str) -> Mapping[str, Any]:
    """The claims of a token that the key signed. They are those that were read before: two readers could not have read them
    differently."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=[key.algorithm],
            issuer=issuer.name,
            audience=issuer.audience,
            # The times are compared by this module, with the clock that was given.
            options={"require": issuer.required, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise invalid("the access token is not valid here") from None
    return claims


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
        raise invalid("the access token is no signed JWT")
    return found


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member comes twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_time(value: object) -> bool:
    """Whether this is a NumericDate that the arithmetic of times can bear."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e12 if isinstance(value, int) else isfinite(value) and abs(value) < 1e12
