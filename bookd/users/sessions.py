"""Opens, continues and ends sessions.

A session that ends before its time is told of (`SessionsRevoked`) in the transaction that ends it, so that the gateways
refuse its access tokens.
"""

from collections.abc import Callable

from attrs import frozen
from sqlalchemy import Connection

from bookd.bridge.audit import Record, nothing
from bookd.bridge.context import Context
from bookd.bridge.desk import Desk
from bookd.bridge.workers import Workers
from bookd.contract.times import timestamp
from bookd.errors import BookdError, NotFound, Unauthenticated
from bookd.storage.announce import announce
from bookd.users import rules, store, tokens
from bookd.users.keyring import Keyring
from bookd.users.passwords import Passwords
from bookd.users.rules import Verdict
from bookd.users.store import Opened, User
from bookd.users.throttle import Throttle
from bookd.wire.users.v1 import users_pb2
from bookd.wire.users.v1.events_pb2 import SessionsRevoked

SOURCE = "bookd.users.v1.UsersService"


@frozen
class Settings:
    """What tokens say and how long they last, in seconds."""

    issuer: str
    audience: str
    access_lifetime: float
    refresh_lifetime: float


class Sessions:
    """Sessions over a desk. Passwords are compared by `workers`, and not at all while `throttle` refuses."""

    def __init__(
        self,
        desk: Desk,
        workers: Workers,
        *,
        passwords: Passwords,
        keyring: Keyring,
        settings: Settings,
        now: Callable[[], int],
        new_id: Callable[[], str],
        throttle: Throttle | None = None,
        audit: Record = nothing,
    ) -> None:
        self._desk = desk
        self._workers = workers
        self._passwords = passwords
        self._keyring = keyring
        self._settings = settings
        self._now = now
        self._new_id = new_id
        self._throttle = throttle or Throttle()
        self._audit = audit

    async def open(self, username: str, password: str, context: Context) -> users_pb2.Session:
        """A session for whoever knows the password. Raises `Unauthenticated`, or `ResourceExhausted` when too many did
        not."""
        user: User | None = None
        if rules.is_username(username):
            user = await self._desk.read(store.by_username, username)
        try:
            await self.verify(username, user, password, context)
            assert user is not None
            if self._passwords.stale(user.password_hash):
                renewed = await self._workers.run(self._passwords.hash, password)
                await self._desk.write(store.renew_hash, user.user_id, user.password_hash, renewed)
                user = await self._desk.read(store.load, user.user_id)
            now, session_id, token = self._now(), self._new_id(), tokens.refresh()
            digest, expiry = tokens.digest(token), self._refresh_expiry(now)
            user = await self._desk.write(store.open_session, user, session_id, digest, expiry, now)
        except NotFound:
            raise _wrong() from None
        except BookdError as error:
            # A name that nobody has may be a password that was typed into the wrong field.
            about = {"target": user.user_id} if user is not None else {}
            self._audit("log-in", "refused", reason=error.reason, **about, **origin(context))
            raise
        self._audit("log-in", "done", subject=user.user_id, session=session_id, **origin(context))
        return self._session(user, session_id, token, now)

    async def verify(self, username: str, user: User | None, password: str, context: Context) -> None:
        """Raise `Unauthenticated` unless this is the user's password; None is nobody, whose password takes as long.

        Raises `ResourceExhausted` while there were too many failures, or when too many wait.
        """
        account = rules.fold(username) if rules.is_username(username) else ""
        attempt = self._throttle.begin(account, context.client_address, self._now())
        try:
            stored = user.password_hash if user is not None else None
            right = await self._workers.run(self._passwords.verify, stored, password)
        except BaseException:
            self._throttle.abandoned(attempt)
            raise
        if not right:
            self._throttle.failed(attempt, self._now())
            raise _wrong()
        self._throttle.succeeded(attempt)

    async def trade(self, refresh_token: str, context: Context) -> users_pb2.Session:
        """Continue a session. Raises `Unauthenticated`; a token that was traded before ends its session."""
        now, token = self._now(), tokens.refresh()
        verdict, opened = await self._desk.write(
            _trade, tokens.digest(refresh_token), tokens.digest(token), self._refresh_expiry(now), now
        )
        if verdict is not Verdict.GOOD or opened is None:
            about = {"target": opened.user.user_id, "session": opened.session_id} if opened is not None else {}
            self._audit("refresh", "refused", reason=f"TOKEN_{verdict.name}", **about, **origin(context))
            raise Unauthenticated("the refresh token is not good any more", reason="REFRESH_TOKEN_INVALID")
        return self._session(opened.user, opened.session_id, token, now)

    def _refresh_expiry(self, now: int) -> int:
        return now + round(self._settings.refresh_lifetime * 1e6)

    def _session(self, user: User, session_id: str, refresh_token: str, now: int) -> users_pb2.Session:
        access_token = tokens.access(
            self._keyring.signing(),
            issuer=self._settings.issuer,
            audience=self._settings.audience,
            subject=user.user_id,
            roles=user.roles,
            session_id=session_id,
            token_id=self._new_id(),
            now=now,
            lifetime=self._settings.access_lifetime,
        )
        return users_pb2.Session(
            access_token=access_token,
            refresh_token=refresh_token,
            token_type="Bearer",  # noqa: S106 - RFC 6749's word, no secret
            expires_in=int(self._settings.access_lifetime),
            user_id=user.user_id,
        )


def origin(context: Context) -> dict[str, str]:
    """Where a call came from, for the audit log."""
    return {"address": context.client_address, "request": context.request_id, "peer": context.peer}


def end(connection: Connection, digest: bytes, now: int) -> Opened | None:
    """End the session of a refresh token, and tell; None when there was none."""
    ended = store.revoke(connection, digest)
    if ended is not None:
        tell(connection, ended.user.user_id, now, ended.session_id)
    return ended


def end_all(connection: Connection, user_id: str, now: int) -> None:
    """End all sessions of a user, and tell."""
    store.end_sessions(connection, user_id)
    tell(connection, user_id, now)


def tell(connection: Connection, user_id: str, now: int, session_id: str = "") -> None:
    """Tell that a session has ended, or all of a user."""
    event = SessionsRevoked(user_id=user_id, session_id=session_id, revoked_at=timestamp(now))
    announce(connection, SOURCE, event, user_id, session_id or str(now), now)


def _trade(
    connection: Connection, digest: bytes, fresh: bytes, expires_at: int, now: int
) -> tuple[Verdict, Opened | None]:
    verdict, opened = store.trade(connection, digest, fresh, expires_at, now)
    if verdict is Verdict.REUSED and opened is not None:
        tell(connection, opened.user.user_id, now, opened.session_id)
    return verdict, opened


def _wrong() -> Unauthenticated:
    return Unauthenticated("wrong username or password", reason="BAD_CREDENTIALS")
