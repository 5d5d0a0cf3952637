"""The two tokens of a session.

An access token is a short-lived JWT (RFC 7519), signed with EdDSA (RFC 8037): whoever has the public keys verifies it alone,
and it can be called back before it expires only where `SessionsRevoked` is heard. A refresh token is 256 random bits that mean nothing to anybody; the store
knows its SHA-256 only, so a stolen database opens no session.
"""

from collections.abc import Sequence
from hashlib import sha256
from secrets import token_urlsafe

import jwt

from bookd.users.keys import SigningKey

MICROSECONDS = 1_000_000


def access(
    key: SigningKey,
    *,
    issuer: str,
    audience: str,
    subject: str,
    roles: Sequence[str],
    session_id: str,
    token_id: str,
    now: int,
    lifetime: float,
) -> str:
    """An access token: made at `now` (microseconds), good for `lifetime` seconds."""
    issued = now // MICROSECONDS
    # A log-in within the second of a revocation is not meant by it, so `iat` has fractions (RFC 7519, NumericDate).
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "roles": list(roles),
        "sid": session_id,
        "iat": now / MICROSECONDS,
        "nbf": issued,
        "exp": issued + int(lifetime),
        "jti": token_id,
    }
    return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.kid})


def refresh() -> str:
    """A new refresh token, 43 characters of base64url."""
    return token_urlsafe(32)


def digest(token: str) -> bytes:
    """What is stored of a refresh token. It has 256 bits of its own, so a plain hash is enough."""
    return sha256(token.encode()).digest()
