"""Answers the rpcs of UsersService."""

from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty
from sqlalchemy import Connection
from twisted.logger import Logger

from bookd.bridge.audit import Record, nothing
from bookd.bridge.context import Context
from bookd.bridge.crossing import shield
from bookd.bridge.desk import Desk
from bookd.bridge.workers import Workers
from bookd.contract import paging
from bookd.contract.call import Call, fingerprint
from bookd.contract.times import timestamp
from bookd.errors import BookdError, InvalidArgument, NotFound, Unauthenticated
from bookd.storage import inbox
from bookd.storage.announce import announce
from bookd.users import rules, sessions, store, tokens
from bookd.users.keyring import Keyring
from bookd.users.keys import jwks
from bookd.users.passwords import Passwords
from bookd.users.rules import Change, NewUser
from bookd.users.sessions import SOURCE, Sessions
from bookd.users.store import User
from bookd.wire.users.v1 import users_pb2, users_pb2_grpc
from bookd.wire.users.v1.events_pb2 import UserDeleted


class UsersServicer(users_pb2_grpc.UsersServiceServicer):
    """Users over a desk. Passwords are hashed by `workers`, sessions are opened and ended by `sessions`."""

    log = Logger()

    def __init__(
        self,
        desk: Desk,
        workers: Workers,
        sessions: Sessions,
        *,
        passwords: Passwords,
        keyring: Keyring,
        now: Callable[[], int],
        new_id: Callable[[], str],
        audit: Record = nothing,
    ) -> None:
        self._desk = desk
        self._workers = workers
        self._sessions = sessions
        self._passwords = passwords
        self._keyring = keyring
        self._now = now
        self._new_id = new_id
        self._audit = audit

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
        registered = await self._desk.write(_register, call, new, self._now())
        if registered.user_id != new.user_id:
            await self._check_repeated(registered.user_id, request, context)
        return registered

    async def _check_repeated(self, user_id: str, request: users_pb2.RegisterUserRequest, context: Context) -> None:
        """Refuse a repeated registration that has another password than the user; slowly, as log-ins are, lest passwords
        are guessed here. That of a user who is gone is not known any more."""
        try:
            user = await self._desk.read(store.load, user_id)
            await self._sessions.verify(request.username, user, request.password, context)
        except NotFound:
            return
        except Unauthenticated:
            raise InvalidArgument(
                f"message id {context.message_id} was used for another request", reason="IDEMPOTENCY_KEY_REUSED"
            ) from None

    async def Authenticate(self, request: users_pb2.AuthenticateRequest, context: Context) -> users_pb2.Session:
        """Open a session for whoever knows the password."""
        rules.require("username", request.username)
        rules.require("password", request.password)
        return await self._sessions.open(request.username, request.password, context)

    async def Refresh(self, request: users_pb2.RefreshRequest, context: Context) -> users_pb2.Session:
        """Trade a refresh token for a new pair."""
        rules.require("refresh_token", request.refresh_token)
        return await self._sessions.trade(request.refresh_token, context)

    async def Revoke(self, request: users_pb2.RevokeRequest, context: Context) -> Empty:
        """End a session."""
        rules.require("refresh_token", request.refresh_token)
        ended = await shield(self._desk.write(sessions.end, tokens.digest(request.refresh_token), self._now()))
        if ended is not None:
            self._record("log-out", context, target=ended.user.user_id, session=ended.session_id)
        return Empty()

    async def RevokeSessions(self, request: users_pb2.RevokeSessionsRequest, context: Context) -> Empty:
        """End all sessions of a user."""
        await shield(self._desk.write(sessions.end_all, request.user_id, self._now()))
        self._record("end-sessions", context, target=request.user_id)
        return Empty()

    async def ChangePassword(self, request: users_pb2.ChangePasswordRequest, context: Context) -> Empty:
        """Change a password and end all sessions of its user."""
        rules.require("old_password", request.old_password)
        user = await self._desk.read(store.load, request.user_id)
        rules.check_new_password(request, user.username)
        try:
            await self._sessions.verify(user.username, user, request.old_password, context)
        except BookdError as error:
            self._record("change-password", context, "refused", target=request.user_id, reason=error.reason)
            raise
        renewed = await self._workers.run(self._passwords.hash, request.new_password)
        await shield(self._desk.write(set_password, user, renewed, self._now()))
        self._record("change-password", context, target=request.user_id)
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
        try:
            rules.check_may_change(context.principal, wanted)
        except BookdError as error:
            self._record("change-roles", context, "refused", target=request.user.user_id, reason=error.reason)
            raise
        changed = await shield(self._desk.write(_update, context.call, request.user, wanted, self._now()))
        if wanted.roles is not None:
            self._record("change-roles", context, target=request.user.user_id, roles=" ".join(changed.roles))
        return changed

    async def DeleteUser(self, request: users_pb2.DeleteUserRequest, context: Context) -> Empty:
        """Delete a user and end its sessions."""
        answer = await shield(self._desk.write(_delete, context.call, request.user_id, self._now()))
        self._record("delete-user", context, target=request.user_id)
        return answer

    async def GetKeys(self, request: users_pb2.GetKeysRequest, context: Context) -> users_pb2.JsonWebKeySet:
        """The public keys."""
        keys = [users_pb2.JsonWebKey(**key) for key in jwks(self._keyring.all())["keys"]]
        return users_pb2.JsonWebKeySet(keys=keys)

    def _record(self, action: str, context: Context, outcome: str = "done", **about: str) -> None:
        principal = context.principal
        who = principal.subject if principal is not None else ""
        self._audit(action, outcome, subject=who, **about, **sessions.origin(context))


def to_message(user: User) -> users_pb2.User:
    """The user as bookd.users.v1.User."""
    return users_pb2.User(
        user_id=user.user_id,
        username=user.username,
        email=user.email,
        full_name=user.full_name,
        address=user.address,
        roles=user.roles,
        created_at=timestamp(user.created_at),
        updated_at=timestamp(user.updated_at),
        etag=user.etag,
    )


def _register(connection: Connection, call: Call, new: NewUser, now: int) -> users_pb2.User:
    def work(connection: Connection) -> users_pb2.User:
        return to_message(store.add(connection, new, now))

    return inbox.once(connection, call, users_pb2.User, now, work)


def _update(connection: Connection, call: Call, user: users_pb2.User, wanted: Change, now: int) -> users_pb2.User:
    def work(connection: Connection) -> users_pb2.User:
        before = store.load(connection, user.user_id)
        after = store.change(connection, user.user_id, wanted, user.etag, now)
        if after.roles != before.roles:
            sessions.end_all(connection, user.user_id, now)
        return to_message(after)

    return inbox.once(connection, call, users_pb2.User, now, work)


def _delete(connection: Connection, call: Call, user_id: str, now: int) -> Empty:
    def work(connection: Connection) -> Empty:
        store.remove(connection, user_id)
        announce(connection, SOURCE, UserDeleted(user_id=user_id), user_id, "1", now)
        sessions.tell(connection, user_id, now)
        return Empty()

    return inbox.once(connection, call, Empty, now, work)


def set_password(connection: Connection, user: User, password_hash: str, now: int) -> None:
    """Change the password of a user, end the sessions, and tell."""
    store.set_password(connection, user, password_hash, now)
    sessions.end_all(connection, user.user_id, now)
