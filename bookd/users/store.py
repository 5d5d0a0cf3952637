"""The users and their sessions in the database."""

from collections.abc import Sequence

from attrs import frozen
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from bookd.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, Violation
from bookd.users.rules import ADMIN, Change, NewUser, Verdict, fold, in_order, judge
from bookd.users.schema import refresh_tokens, sessions, user_roles, users


@frozen
class User:
    """A user as it is stored. Times are microseconds since the epoch, UTC; `version` counts the changes from 1."""

    seq: int
    user_id: str
    username: str
    email: str
    full_name: str
    address: str
    password_hash: str
    version: int
    created_at: int
    updated_at: int
    roles: tuple[str, ...]

    @property
    def etag(self) -> str:
        """The entity tag (RFC 9110), quotes included."""
        return f'"{self.seq}-{self.version}"'


@frozen
class Opened:
    """A session, and whose it is."""

    session_id: str
    user: User


_COLUMNS = [column for column in users.c if not column.name.endswith("_folded")]


def add(connection: Connection, new: NewUser, now: int) -> User:
    """Store a new user. Raises `AlreadyExists` naming the field whose value is taken."""
    taken = [
        Violation(column.name.removesuffix("_folded"), "is taken")
        for column, value in ((users.c.username_folded, new.username), (users.c.email_folded, new.email))
        if connection.execute(select(users.c.seq).where(column == fold(value))).first() is not None
    ]
    if taken:
        raise AlreadyExists(f"{taken[0].field}: {taken[0].description}", violations=taken, reason="USER_EXISTS")
    connection.execute(
        insert(users).values(
            user_id=new.user_id,
            username=new.username,
            username_folded=fold(new.username),
            email=new.email,
            email_folded=fold(new.email),
            full_name=new.full_name,
            address=new.address,
            password_hash=new.password_hash,
            version=1,
            created_at=now,
            updated_at=now,
        )
    )
    _set_roles(connection, new.user_id, new.roles)
    return load(connection, new.user_id)


def load(connection: Connection, user_id: str) -> User:
    """The user. Raises `NotFound`."""
    found = _users(connection, select(*_COLUMNS).where(users.c.user_id == user_id))
    if not found:
        raise NotFound(f"there is no user {user_id!r}", reason="USER_NOT_FOUND")
    return found[0]


def by_username(connection: Connection, username: str) -> User | None:
    """The user with this name, however its letters are written."""
    found = _users(connection, select(*_COLUMNS).where(users.c.username_folded == fold(username)))
    return found[0] if found else None


def page(connection: Connection, after: int, size: int) -> tuple[list[User], int | None, int]:
    """At most `size` users that registered after the one with seq `after`, the seq to go on from (None on the last
    page), and how many there are in all."""
    total: int = connection.execute(select(func.count()).select_from(users)).scalar_one()
    found = _users(connection, select(*_COLUMNS).where(users.c.seq > after).order_by(users.c.seq).limit(size + 1))
    return found[:size], found[size - 1].seq if len(found) > size else None, total


def change(connection: Connection, user_id: str, wanted: Change, etag: str, now: int) -> User:
    """Apply a change. Raises `NotFound`; `Aborted` when `etag` is given and is not the user's; `AlreadyExists` for an
    e-mail address that is taken; `FailedPrecondition` when nobody would be an admin any more."""
    user = load(connection, user_id)
    if etag and etag != user.etag:
        raise Aborted("the user has changed meanwhile", reason="ETAG_MISMATCH")
    values: dict[str, object] = {"version": user.version + 1, "updated_at": now}
    for name in ("full_name", "address", "email"):
        value = getattr(wanted, name)
        if value is not None:
            values[name] = value
    if wanted.email is not None:
        values["email_folded"] = fold(wanted.email)
    try:
        connection.execute(update(users).where(users.c.user_id == user_id).values(**values))
    except IntegrityError:
        violation = Violation("email", "is taken")
        raise AlreadyExists("email: is taken", violations=[violation], reason="USER_EXISTS") from None
    if wanted.roles is not None:
        if ADMIN not in wanted.roles:
            _keep_an_admin(connection, user)
        _set_roles(connection, user_id, wanted.roles)
    return load(connection, user_id)


def set_password(connection: Connection, user: User, password_hash: str, now: int) -> None:
    """Change a password. Raises `NotFound`, and `Aborted` when it is not any more the one that `user` has."""
    if load(connection, user.user_id).password_hash != user.password_hash:
        raise Aborted("the password has changed meanwhile", reason="PASSWORD_CHANGED")
    connection.execute(
        update(users)
        .where(users.c.user_id == user.user_id)
        .values(password_hash=password_hash, version=users.c.version + 1, updated_at=now)
    )


def renew_hash(connection: Connection, user_id: str, stale: str, password_hash: str) -> None:
    """Replace a hash that was made under older parameters, if it is still the user's."""
    connection.execute(
        update(users)
        .where(users.c.user_id == user_id, users.c.password_hash == stale)
        .values(password_hash=password_hash)
    )


def remove(connection: Connection, user_id: str) -> None:
    """Delete a user with its sessions. Raises `NotFound`, and `FailedPrecondition` for the last admin."""
    user = load(connection, user_id)
    _keep_an_admin(connection, user)
    connection.execute(delete(users).where(users.c.user_id == user_id))


def has_admin(connection: Connection) -> bool:
    """Whether anybody is an admin."""
    return connection.execute(select(user_roles.c.user_id).where(user_roles.c.role == ADMIN)).first() is not None


def open_session(
    connection: Connection, known: User, session_id: str, digest: bytes, expires_at: int, now: int
) -> User:
    """Open a session with its first refresh token. Raises `NotFound` for a user that was deleted meanwhile, or whose
    password is not any more the one that was compared."""
    user = load(connection, known.user_id)
    if user.password_hash != known.password_hash:
        raise NotFound("the password has changed meanwhile", reason="PASSWORD_CHANGED")
    connection.execute(insert(sessions).values(session_id=session_id, user_id=user.user_id, created_at=now))
    connection.execute(insert(refresh_tokens).values(digest=digest, session_id=session_id, expires_at=expires_at))
    return user


def end_sessions(connection: Connection, user_id: str) -> None:
    """End all sessions of a user. Raises `NotFound`."""
    load(connection, user_id)
    connection.execute(delete(sessions).where(sessions.c.user_id == user_id))


def trade(
    connection: Connection, digest: bytes, fresh: bytes, expires_at: int, now: int
) -> tuple[Verdict, Opened | None]:
    """Trade a refresh token for the one whose digest is `fresh`. The session of a token that was traded before ends.

    Answers the verdict in place of raising it: what a reuse does to the session has to be committed. The session is
    None when there is none to the token.
    """
    row = connection.execute(
        select(refresh_tokens, sessions.c.user_id)
        .join(sessions, sessions.c.session_id == refresh_tokens.c.session_id)
        .where(refresh_tokens.c.digest == digest)
    ).first()
    if row is None:
        return Verdict.UNKNOWN, None
    verdict = judge(row.spent_at, row.expires_at, now)
    if verdict is Verdict.REUSED:
        connection.execute(delete(sessions).where(sessions.c.session_id == row.session_id))
    opened = Opened(row.session_id, load(connection, row.user_id))
    if verdict is not Verdict.GOOD:
        return verdict, opened
    connection.execute(update(refresh_tokens).where(refresh_tokens.c.digest == digest).values(spent_at=now))
    connection.execute(insert(refresh_tokens).values(digest=fresh, session_id=row.session_id, expires_at=expires_at))
    return verdict, opened


def revoke(connection: Connection, digest: bytes) -> Opened | None:
    """End the session of a refresh token, and answer what it was; None when there is none."""
    row = connection.execute(select(sessions).join(refresh_tokens).where(refresh_tokens.c.digest == digest)).first()
    if row is None:
        return None
    connection.execute(delete(sessions).where(sessions.c.session_id == row.session_id))
    return Opened(row.session_id, load(connection, row.user_id))


def purge(connection: Connection, now: int, limit: int) -> int:
    """Remove at most `limit` sessions that nobody can continue, as their newest refresh tokens have expired; answers how
    many."""
    over = (
        select(refresh_tokens.c.session_id)
        .where(refresh_tokens.c.expires_at <= now, refresh_tokens.c.spent_at.is_(None))
        .order_by(refresh_tokens.c.expires_at)
        .limit(limit)
    )
    ids = connection.execute(over).scalars().all()
    return connection.execute(delete(sessions).where(sessions.c.session_id.in_(ids))).rowcount if ids else 0


def _keep_an_admin(connection: Connection, user: User) -> None:
    if ADMIN not in user.roles:
        return
    others = select(user_roles.c.user_id).where(user_roles.c.role == ADMIN, user_roles.c.user_id != user.user_id)
    if connection.execute(others).first() is None:
        raise FailedPrecondition("this is the last administrator", reason="LAST_ADMIN")


def _set_roles(connection: Connection, user_id: str, roles: Sequence[str]) -> None:
    connection.execute(delete(user_roles).where(user_roles.c.user_id == user_id))
    connection.execute(insert(user_roles), [{"user_id": user_id, "role": role} for role in roles])


def _users(connection: Connection, query: object) -> list[User]:
    rows = connection.execute(query).mappings().all()  # type: ignore[call-overload]
    roles: dict[str, list[str]] = {}
    ids = [row["user_id"] for row in rows]
    for user_id, role in connection.execute(select(user_roles).where(user_roles.c.user_id.in_(ids))):
        roles.setdefault(user_id, []).append(role)
    return [User(**row, roles=in_order(roles.get(row["user_id"], ()))) for row in rows]
