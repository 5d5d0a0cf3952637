"""Answers the rpcs of UsersService."""

from collections.abc import Callable, Sequence

from attrs import frozen
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bookd.bridge.context import Context
from bookd.bridge.crossing import shield
from bookd.bridge.desk import Desk
from bookd.bridge.workers import Workers
from bookd.contract import paging
from bookd.contract.call import Call, fingerprint
from bookd.errors import NotFound, Unauthenticated
from bookd.storage import inbox
from bookd.storage.announce import announce
from bookd.users import rules, store, tokens
from bookd.users.keys import SigningKey, jwks
from bookd.users.passwords import Passwords
from bookd.users.rules import Change, NewUser, Verdict
from bookd.users.store import User
from bookd.wire.users.v1 import users_pb2, users_pb2_grpc
from bookd.wire.users.v1.events_pb2 import UserDeleted

SOURCE = "bookd.users.v1.UsersService"


@frozen
class Settings:
    """What tokens say and how long they last, in seconds."""

    issuer: str
    audience: str
    access_lifetime: float
    refresh_lifetime: float


class UsersServicer(users_pb2_grpc.UsersServiceServicer):
    """Users over a desk. Passwords are hashed by `workers`; the first of `keys` signs. `wake` tells the relay that there may
    be something to send."""

    log = Logger()

    def __init__(
        self,
        desk: Desk,
        workers: Workers,
        *,
        passwords: Passwords,
        keys: Sequence[SigningKey],
        settings: Settings,
        now: Callable[[], int],
        new_id: Callable[[], str],
        wake: Callable[[], None],
    ) -> None:
        self._desk = desk
        self._workers = workers
        self._passwords = passwords
        self._keys = keys
        self._settings = settings
        self._now = now
        self._new_id = new_id
        self._wake = wake

    async def RegisterUser(self, request: users_pb2.RegisterUserRequest, context: Context) -> users_pb2.User:
        """Register a customer."""
        rules.check_registration(request)
        # Nothing that is stored may be derived from the password by a fast hash, the inbox's fingerprint included.
        plain = users_pb2.RegisterUserRequest()
        plain.CopyFrom(request)
        plain.ClearField("password")
        call = Call(context.message_id, context.method, fingerprint(context.method, plain))
        new = NewUser(
            user_id=self._new_id(),
            username=request.username,
            email=request.email,
            full_name=request.full_name,
            address=request.address,
            roles=rules.NEW_USER_ROLES,
            password_hash=await self._workers.run(self._passwords.hash, request.password),
        )
        return await self._desk.write(_register, call, new, self._now())

    async def Authenticate(self, request: users_pb2.AuthenticateRequest, context: Context) -> users_pb2.Session:
        """Open a session for whoever knows the password."""
        rules.require("username", request.username)
        rules.require("password", request.password)
        user: User | None = None
        if rules.is_username(request.username):
            user = await self._desk.read(store.by_username, request.username)
        stored = user.password_hash if user is not None else None
        if not await self._workers.run(self._passwords.verify, stored, request.password) or user is None:
            raise Unauthenticated("wrong username or password", reason="BAD_CREDENTIALS")
        now = self._now()
        if self._passwords.stale(user.password_hash):
            renewed = await self._workers.run(self._passwords.hash, request.password)
            await self._desk.write(store.renew_hash, user.user_id, user.password_hash, renewed)
        session_id, token = self._new_id(), tokens.refresh()
        try:
            user = await self._desk.write(
                store.open_session, user.user_id, session_id, tokens.digest(token), self._refresh_expiry(now), now
            )
        except NotFound:
            raise Unauthenticated("wrong username or password", reason="BAD_CREDENTIALS") from None
        return self._session(user, session_id, token, now)

    async def Refresh(self, request: users_pb2.RefreshRequest, context: Context) -> users_pb2.Session:
        """Trade a refresh token for a new pair."""
        rules.require("refresh_token", request.refresh_token)
        now, token = self._now(), tokens.refresh()
        verdict, opened = await self._desk.write(
            store.trade, tokens.digest(request.refresh_token), tokens.digest(token), self._refresh_expiry(now), now
        )
        if opened is None:
            if verdict is Verdict.REUSED:
                self.log.warn("a refresh token came twice; its session has ended")
            raise Unauthenticated("the refresh token is not good any more", reason="REFRESH_TOKEN_INVALID")
        return self._session(opened.user, opened.session_id, token, now)

    async def Revoke(self, request: users_pb2.RevokeRequest, context: Context) -> Empty:
        """End a session."""
        rules.require("refresh_token", request.refresh_token)
        await self._desk.write(store.revoke, tokens.digest(request.refresh_token))
        return Empty()

    async def ChangePassword(self, request: users_pb2.ChangePasswordRequest, context: Context) -> Empty:
        """Change a password and end all sessions of its user."""
        rules.require("old_password", request.old_password)
        user = await self._desk.read(store.load, request.user_id)
        rules.check_new_password(request, user.username)
        if not await self._workers.run(self._passwords.verify, user.password_hash, request.old_password):
            raise Unauthenticated("wrong password", reason="BAD_CREDENTIALS")
        renewed = await self._workers.run(self._passwords.hash, request.new_password)
        await self._desk.write(store.set_password, request.user_id, renewed, self._now())
        return Empty()

    async def GetUser(self, request: users_pb2.GetUserRequest, context: Context) -> users_pb2.User:
        """One user."""
        return to_message(await self._desk.read(store.load, request.user_id))

    async def ListUsers(self, request: users_pb2.ListUsersRequest, context: Context) -> users_pb2.ListUsersResponse:
        """A page of users, in the order in which they registered."""
        position = paging.decode(request.page_token, "users", int)
        after = int(position[0]) if position is not None else 0
        found, onward, total = await self._desk.read(store.page, after, paging.size(request.page_size))
        return users_pb2.ListUsersResponse(
            users=[to_message(user) for user in found],
            next_page_token=paging.encode([onward], "users") if onward is not None else "",
            total_size=total,
        )

    async def UpdateUser(self, request: users_pb2.UpdateUserRequest, context: Context) -> users_pb2.User:
        """Change the fields that the mask names."""
        wanted = rules.change(request)
        rules.check_may_change(context.principal, wanted)
        return await self._desk.write(_update, context.call, request.user, wanted, self._now())

    async def DeleteUser(self, request: users_pb2.DeleteUserRequest, context: Context) -> Empty:
        """Delete a user and end its sessions."""

        def committed(answer: Empty) -> Empty:
            self._wake()
            return answer

        deleting: Deferred[Empty] = self._desk.write(_delete, context.call, request.user_id, self._now())
        # Whether or not the caller still waits, it is to be told.
        return await shield(deleting.addCallback(committed))

    async def GetKeys(self, request: users_pb2.GetKeysRequest, context: Context) -> users_pb2.JsonWebKeySet:
        """The public keys."""
        keys = [users_pb2.JsonWebKey(**key) for key in jwks(self._keys)["keys"]]
        return users_pb2.JsonWebKeySet(keys=keys)

    def _refresh_expiry(self, now: int) -> int:
        return now + round(self._settings.refresh_lifetime * 1e6)

    def _session(self, user: User, session_id: str, refresh_token: str, now: int) -> users_pb2.Session:
        access_token = tokens.access(
            self._keys[0],
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


def to_message(user: User) -> users_pb2.User:
    """The user as bookd.users.v1.User."""
    return users_pb2.User(
        user_id=user.user_id,
        username=user.username,
        email=user.email,
        full_name=user.full_name,
        address=user.address,
        roles=user.roles,
        created_at=_timestamp(user.created_at),
        updated_at=_timestamp(user.updated_at),
        etag=user.etag,
    )


def _timestamp(microseconds: int) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(microseconds)
    return made


def _register(connection: Connection, call: Call, new: NewUser, now: int) -> users_pb2.User:
    def work(connection: Connection) -> users_pb2.User:
        return to_message(store.add(connection, new, now))

    return inbox.once(connection, call, users_pb2.User, now, work)


def _update(connection: Connection, call: Call, user: users_pb2.User, wanted: Change, now: int) -> users_pb2.User:
    def work(connection: Connection) -> users_pb2.User:
        return to_message(store.change(connection, user.user_id, wanted, user.etag, now))

    return inbox.once(connection, call, users_pb2.User, now, work)


def _delete(connection: Connection, call: Call, user_id: str, now: int) -> Empty:
    def work(connection: Connection) -> Empty:
        store.remove(connection, user_id)
        announce(connection, SOURCE, UserDeleted(user_id=user_id), user_id, "1", now)
        return Empty()

    return inbox.once(connection, call, Empty, now, work)
