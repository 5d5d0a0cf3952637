"""What a user may look like and who may change what. Pure functions of requests and rows.

Names are compared folded: two that differ in case only, or in the Unicode spelling of the same characters, are one name.
Passwords follow NIST SP 800-63B, section 3.1.1.2: a length, no rules about what they are composed of, and none that is on
the list of those that many people have.
"""

import re
from collections.abc import Iterable
from enum import Enum
from unicodedata import normalize

from attrs import frozen

from bookd.contract.checks import Checks
from bookd.errors import InvalidArgument, PermissionDenied
from bookd.users import common_passwords
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2

ADMIN = "admin"
# All there are, in the order in which a user's are listed.
ROLES = ("customer", "staff", ADMIN)
NEW_USER_ROLES = ("customer",)
FIRST_ADMINISTRATOR_ROLES = ("staff", ADMIN)

UPDATABLE = ("email", "full_name", "address", "roles")
FIXED = ("user_id", "username", "created_at", "updated_at")

MIN_PASSWORD, MAX_PASSWORD = 8, 1024
MAX_EMAIL = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets
MAX_LOCAL_PART = 64
MAX_FULL_NAME = 200
MAX_ADDRESS = 1000
MAX_ID = 64

_COMMON = common_passwords.load(MIN_PASSWORD)

_USERNAME = re.compile(r"[A-Za-z0-9._-]{3,64}")
_IDENTIFIER = re.compile(r"[!-~]{1,64}")
_DOMAIN_LABEL = re.compile(r"[^\W_]([\w-]{0,61}[^\W_])?")


@frozen
class NewUser:
    """A user that is about to be stored."""

    user_id: str
    username: str
    email: str
    full_name: str
    address: str
    roles: tuple[str, ...]
    password_hash: str


@frozen
class Change:
    """New values of a user's fields; None leaves a field as it is."""

    email: str | None = None
    full_name: str | None = None
    address: str | None = None
    roles: tuple[str, ...] | None = None


class Verdict(Enum):
    """What a refresh token that came is worth."""

    # The newest of its session, and in time: it is traded for another.
    GOOD = "good"
    # Never given out, or its session has ended.
    UNKNOWN = "unknown"
    # Its time is over.
    EXPIRED = "expired"
    # It was traded before, so two hold it and one of them stole it: its session ends.
    REUSED = "reused"


def judge(spent_at: int | None, expires_at: int, now: int) -> Verdict:
    """The verdict on a refresh token that is on record. One that was spent tells of a theft even after its time."""
    if spent_at is not None:
        return Verdict.REUSED
    return Verdict.GOOD if now < expires_at else Verdict.EXPIRED


def fold(text: str) -> str:
    """The form in which usernames and e-mail addresses are compared."""
    return normalize("NFKC", normalize("NFKC", text).casefold())


def is_username(text: str) -> bool:
    """Whether a user could have this name."""
    return _USERNAME.fullmatch(text) is not None


def is_common(password: str) -> bool:
    """Whether the password, however its letters are written, is on the list of those that attackers try first, or one
    character repeated."""
    folded = fold(password)
    return folded in _COMMON or len(set(folded)) == 1


def is_identifier(text: str) -> bool:
    """Whether a user could have this id; what could not is not looked for."""
    return _IDENTIFIER.fullmatch(text) is not None


def is_email(text: str) -> bool:
    """Whether mail could go there: `local@domain`, no spaces, a domain of several labels or this host's own.

    Only sending a mail tells more. Letters of all scripts may stand on both sides (RFC 6531).
    """
    local, at, domain = text.rpartition("@")
    if not at or not 1 <= len(local) <= MAX_LOCAL_PART or "@" in local:
        return False
    if not all(character.isprintable() and not character.isspace() for character in local):
        return False
    if local[0] == "." or local[-1] == "." or ".." in local:
        return False
    labels = domain.split(".")
    return (len(labels) > 1 or domain == "localhost") and all(map(_DOMAIN_LABEL.fullmatch, labels))


def check_registration(request: users_pb2.RegisterUserRequest) -> None:
    """Raise `InvalidArgument` with all that is wrong with the request."""
    checks = Checks()
    checks.require(
        is_username(request.username), "username", "must have 3 to 64 characters, each of them of A-Z a-z 0-9 - _ ."
    )
    _check_email(checks, request.email)
    _check_password(checks, "password", request.password, request.username)
    checks.text("full_name", request.full_name, 0, MAX_FULL_NAME)
    checks.text("address", request.address, 0, MAX_ADDRESS)
    checks.done()


def check_new_password(request: users_pb2.ChangePasswordRequest, username: str) -> None:
    """Raise `InvalidArgument` when the new password cannot be the password of `username`."""
    checks = Checks()
    _check_password(checks, "new_password", request.new_password, username)
    checks.done()


def change(request: users_pb2.UpdateUserRequest) -> Change:
    """What the request changes; raises `InvalidArgument` with all that is wrong with it.

    Without a mask it is the fields that have a value (AIP-134). An etag in the mask is the precondition, not a change.
    """
    user = request.user
    checks = Checks()
    paths = set(request.update_mask.paths) - {"etag"}
    if not request.update_mask.paths:
        paths = {path for path in UPDATABLE if getattr(user, path)}
    checks.require(bool(paths), "update_mask", f"must name a field to change: {', '.join(UPDATABLE)}")
    for path in sorted(paths - set(UPDATABLE)):
        known = path in FIXED
        field = path if known else "update_mask"
        checks.require(False, field, "cannot be changed" if known else "names a field that a user does not have")
    if "email" in paths:
        _check_email(checks, user.email)
    if "full_name" in paths:
        checks.text("full_name", user.full_name, 0, MAX_FULL_NAME)
    if "address" in paths:
        checks.text("address", user.address, 0, MAX_ADDRESS)
    if "roles" in paths:
        _check_roles(checks, user.roles)
    checks.done()
    return Change(
        email=user.email if "email" in paths else None,
        full_name=user.full_name if "full_name" in paths else None,
        address=user.address if "address" in paths else None,
        roles=in_order(user.roles) if "roles" in paths else None,
    )


def check_may_change(principal: policy_pb2.Principal | None, wanted: Change) -> None:
    """Raise `PermissionDenied` when the change is one that only an admin may make, and `principal` is none."""
    if wanted.roles is not None and (principal is None or ADMIN not in principal.roles):
        raise PermissionDenied("only an admin changes roles", reason="ROLE_MISSING")


def in_order(roles: Iterable[str]) -> tuple[str, ...]:
    """The roles, each once, in the order of `ROLES`."""
    present = set(roles)
    return tuple(role for role in ROLES if role in present)


def require(field: str, value: str) -> None:
    """Raise `InvalidArgument` when a field that must be there is empty."""
    if not value:
        raise InvalidArgument.field(field, "must not be empty")


def _check_email(checks: Checks, email: str) -> None:
    if checks.text("email", email, 1, MAX_EMAIL):
        checks.require(is_email(email), "email", "must be an e-mail address such as ana@example.org")


def _check_password(checks: Checks, field: str, password: str, username: str) -> None:
    fits = MIN_PASSWORD <= len(password) <= MAX_PASSWORD
    checks.require(fits, field, f"must have {MIN_PASSWORD} to {MAX_PASSWORD:,} characters")
    if fits:
        checks.require(fold(password) != fold(username), field, "must not be the username")
        checks.require(not is_common(password), field, "is one of the passwords that are tried first; choose another")


def _check_roles(checks: Checks, roles: Iterable[str]) -> None:
    named = list(roles)
    checks.require(bool(named), "roles", "must name one role at least")
    for index, role in enumerate(named[: len(ROLES) + 1]):
        checks.require(role in ROLES, f"roles[{index}]", f"must be one of {', '.join(ROLES)}")
    checks.require(len(named) == len(set(named)), "roles", "must name each role once")
