"""Who makes access tokens: the users daemon, and issuers elsewhere that the configuration names.

An issuer's word counts for what the configuration lets it say, and no more. A principal of an issuer elsewhere is
`NAME~SUBJECT`: the issuer's name in the configuration, and its own name for whom it speaks of. No id that the users daemon
makes has a `~`, and no two issuers have one name, so that nobody can be taken for somebody of another issuer. Its roles
are those that the configuration gives for what it claims; what is not mapped is nothing. It has no session here: its
tokens cannot be ended before their time (docs/security.md).
"""

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from attrs import frozen

from bookd.config import Issuer as Table
from bookd.errors import Unauthenticated
from bookd.gateway.keys import Keys
from bookd.wire.policy.v1 import policy_pb2

MARK = "~"
MAX_ROLES, MAX_TEXT = 32, 256
# What services have room for as the id of a user.
LONGEST_SUBJECT = 64
# Subjects that are kept as they are; of others, and of long ones, a digest is.
_PLAIN = re.compile(r"[A-Za-z0-9._|@-]+")
# A token that is bound to a key (RFC 8705, RFC 9449) is good with a proof only, which is not asked for here; and what
# only ID tokens (OpenID Connect Core, section 3.1.3.6) and security events (RFC 8417) have is in no access token.
_NOT_OURS = ("cnf", "at_hash", "c_hash", "events")

Claims = Mapping[str, Any]


@frozen(eq=False)
class Issuer:
    """One issuer: its name (`iss`), whom its tokens must be for (`aud`), its keys, the claims that must be there, the types
    of token (`typ`, in lower case; empty for none), how many seconds a token may live, and whom its claims speak for."""

    name: str
    audience: str
    keys: Keys
    required: list[str]
    types: frozenset[str]
    lifetime: float
    identify: Callable[[Claims], policy_pb2.Principal]


def users(keys: Keys, name: str, audience: str, lifetime: float = 3600.0) -> Issuer:
    """The users daemon."""
    required = ["iss", "aud", "exp", "nbf", "iat", "sub"]
    # RFC 7519, section 5.1; RFC 9068, section 2.1
    return Issuer(name, audience, keys, required, frozenset(("", "jwt", "at+jwt")), lifetime, _user)


def elsewhere(table: Table, keys: Keys) -> Issuer:
    """An issuer that the configuration names."""

    def identify(claims: Claims) -> policy_pb2.Principal:
        for name in _NOT_OURS:
            if name in claims:
                raise invalid(f"a token with {name!r} is not taken here")
        return policy_pb2.Principal(subject=_named(table.name, claims["sub"]), roles=_mapped(table, claims))

    required = ["iss", "aud", "exp", "iat", "sub"]
    return Issuer(table.issuer, table.audience, keys, required, frozenset(table.types), table.token_lifetime, identify)


def invalid(message: str) -> Unauthenticated:
    """The error of a token that is not valid."""
    return Unauthenticated(message, reason="TOKEN_INVALID")


def _user(claims: Claims) -> policy_pb2.Principal:
    roles, session, subject = claims.get("roles", []), claims.get("sid", ""), claims["sub"]
    if not isinstance(roles, list) or len(roles) > MAX_ROLES or not all(map(_is_text, roles)):
        raise invalid("the roles of the access token are not a list of strings")
    if not _is_text(session) or not _is_text(subject) or not subject or MARK in subject:
        raise invalid("the access token has no subject, or a session that is no string")
    return policy_pb2.Principal(subject=subject, roles=roles, session_id=session)


def _named(issuer: str, subject: object) -> str:
    """The id of a principal. Two subjects never have the same: what is kept has no mark, a digest has one before it."""
    if not isinstance(subject, str) or not subject or len(subject) > MAX_TEXT:
        raise invalid("the access token has no subject")
    plain = f"{issuer}{MARK}{subject}"
    if _PLAIN.fullmatch(subject) and len(plain) <= LONGEST_SUBJECT:
        return plain
    digest = urlsafe_b64encode(sha256(subject.encode("utf-8", "surrogatepass")).digest()).rstrip(b"=").decode()
    return f"{issuer}{MARK}{MARK}{digest}"


def _mapped(table: Table, claims: Claims) -> list[str]:
    """The roles that the configuration gives for what the token claims."""
    claimed = _claimed(table.roles_claim, claims)
    return sorted({*table.everybody, *(role for each in claimed for role in table.roles.get(each, ()))})


def _claimed(path: Sequence[str], claims: Claims) -> list[str]:
    """What the member at `path` lists; nothing when it is not there."""
    found: Any = claims if path else []
    for name in path:
        if not isinstance(found, Mapping):
            raise invalid(f"{name!r} of the access token is in nothing that has members")
        if name not in found:
            return []
        found = found[name]
    if isinstance(found, str):
        found = found.split(" ")  # as `scope` is (RFC 8693, section 4.2)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise invalid(f"{path[-1]!r} of the access token is no list of strings")
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT
