"""Registering, logging in, and what becomes of sessions."""

from itertools import count
from pathlib import Path
from typing import Any

import jwt
from argon2 import Parameters
from argon2.low_level import Type
from sqlalchemy import text
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.context import Context
from bookd.bridge.upkeep import Upkeep, removing
from bookd.errors import (
    Aborted,
    AlreadyExists,
    BookdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from bookd.testing.desk import ImmediateDesk
from bookd.testing.workers import ImmediateWorkers
from bookd.users import keys, store
from bookd.users.administrator import AdministratorError, ensure
from bookd.users.keyring import Keyring
from bookd.users.passwords import Passwords
from bookd.users.schema import metadata
from bookd.users.servicer import UsersServicer
from bookd.users.sessions import Sessions, Settings
from bookd.wire.mom.v1.events_pb2 import PublishRequest
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2
from bookd.wire.users.v1.events_pb2 import UserDeleted

NOW = 1_700_000_000_000_000
KEY = "0199c0de-1111-7000-8000-000000000001"
# As cheap as argon2id can be made.
CHEAP = Parameters(type=Type.ID, version=19, salt_len=8, hash_len=16, time_cost=1, memory_cost=8, parallelism=1)


class CountingPasswords(Passwords):
    """Counts verifications: what a log-in costs."""

    def __init__(self) -> None:
        super().__init__(CHEAP)
        self.verified = 0

    def verify(self, stored: str | None, password: str) -> bool:
        self.verified += 1
        return super().verify(stored, password)


class UsersTestCase(SynchronousTestCase):
    """A servicer on a database in memory."""

    def setUp(self) -> None:
        self.engine = open_engine(":memory:")
        upgrade(self.engine, "bookd.users")
        self.time = NOW
        self.passwords = CountingPasswords()
        self.key = keys.generate(NOW)
        numbers = count(1)
        self.desk: Any = ImmediateDesk(self.engine)
        workers: Any = ImmediateWorkers()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        keys.write(self.folder, self.key)
        self.clock = Clock()
        keyring = Keyring(self.folder, self.clock.seconds, lambda: self.time)
        self.audited: list[dict[str, str]] = []
        common: Any = {
            "desk": self.desk,
            "workers": workers,
            "passwords": self.passwords,
            "keyring": keyring,
            "now": lambda: self.time,
            "new_id": lambda: f"0199c0de-0000-7000-8000-{next(numbers):012d}",
            "audit": lambda action, outcome, **about: self.audited.append(
                {"action": action, "outcome": outcome, **about}
            ),
        }
        sessions = Sessions(settings=Settings("bookd", "bookd", 900.0, 3600.0), **common)
        self.servicer = UsersServicer(sessions=sessions, **common)

    def call(
        self, name: str, request: Any, *, who: Any = None, message_id: str | None = None, address: str = ""
    ) -> Deferred[Any]:
        context = Context(f"/bookd.users.v1.UsersService/{name}", "mom", {}, None)
        context.principal = who
        context.message_id = message_id
        context.client_address = address
        context.describe(request)
        return Deferred.fromCoroutine(getattr(self.servicer, name)(request, context))

    def ok(self, name: str, request: Any, **more: Any) -> Any:
        return self.successResultOf(self.call(name, request, **more))

    def refused(self, kind: type[BookdError], name: str, request: Any, **more: Any) -> Any:
        return self.failureResultOf(self.call(name, request, **more), kind).value

    def register(self, username: str = "ana", **fields: Any) -> Any:
        values = {"email": f"{username}@example.org", "password": "correct horse"} | fields
        return self.ok("RegisterUser", users_pb2.RegisterUserRequest(username=username, **values))

    def log_in(self, username: str = "ana", password: str = "correct horse") -> Any:
        return self.ok("Authenticate", users_pb2.AuthenticateRequest(username=username, password=password))

    def make_admin(self, username: str) -> Any:
        with self.engine.begin() as connection:
            query = "INSERT INTO user_roles SELECT user_id, 'admin' FROM users WHERE username = :name"
            connection.execute(text(query), {"name": username})
        return policy_pb2.Principal(subject="x", roles=["admin"])


class RegistrationTests(UsersTestCase):
    """RegisterUser."""

    def test_customer(self) -> None:
        """A new user is a customer and shows no password."""
        user = self.register(full_name="Ana", address="1 Main St")
        self.assertEqual((user.username, list(user.roles), user.address), ("ana", ["customer"], "1 Main St"))
        self.assertEqual(user.created_at.ToMicroseconds(), NOW)

    def test_taken(self) -> None:
        """A name or address that differs in case only is taken, and the answer names the field."""
        self.register()
        again = users_pb2.RegisterUserRequest(username="ANA", email="Ana@Example.org", password="correct horse")
        error = self.refused(AlreadyExists, "RegisterUser", again)
        self.assertEqual([v.field for v in error.violations], ["username", "email"])

    def test_wrong_requests(self) -> None:
        """Each fault is named by its field."""
        good = {"username": "ana", "email": "ana@example.org", "password": "correct horse"}
        wrong = {
            "username": ["", "an", "a" * 65, "ana\0", "an a", "\u0430na"],
            "email": ["", "ana", "@example.org", "ana@", "a na@example.org", "ana@example..org", "x" * 250 + "@e.org"],
            "password": ["", "short", "x" * 1025],
            "full_name": ["x" * 201, "a\0b"],
            "address": ["x" * 1001],
        }
        for field, values in wrong.items():
            for value in values:
                request = users_pb2.RegisterUserRequest(**(good | {field: value}))
                error = self.refused(InvalidArgument, "RegisterUser", request)
                self.assertEqual(error.violations[0].field, field, value)

    def test_same_id_again(self) -> None:
        """A repetition under the same id gets the same user; what is stored of it does not depend on the password."""
        request = users_pb2.RegisterUserRequest(username="ana", email="ana@example.org", password="correct horse")
        first = self.ok("RegisterUser", request, message_id=KEY)
        self.assertEqual(self.ok("RegisterUser", request, message_id=KEY), first)
        request.email = "other@example.org"
        error = self.refused(InvalidArgument, "RegisterUser", request, message_id=KEY)
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")

    def test_same_id_with_another_password(self) -> None:
        """A repetition that has another password is another request; who tries many is slowed down as at a log-in."""
        request = users_pb2.RegisterUserRequest(username="ana", email="ana@example.org", password="correct horse")
        first = self.ok("RegisterUser", request, message_id=KEY)
        other = users_pb2.RegisterUserRequest()
        other.CopyFrom(request)
        other.password = "another horse"
        error = self.refused(InvalidArgument, "RegisterUser", other, message_id=KEY)
        self.assertEqual(error.reason, "IDEMPOTENCY_KEY_REUSED")
        self.assertEqual(self.ok("RegisterUser", request, message_id=KEY), first)
        self.assertEqual(self.log_in().user_id, first.user_id)
        for _ in range(10):
            self.refused(InvalidArgument, "RegisterUser", other, message_id=KEY)
        self.refused(ResourceExhausted, "RegisterUser", other, message_id=KEY)

    def test_same_id_of_a_user_who_is_gone(self) -> None:
        """It is answered as it was; nobody is registered again."""
        request = users_pb2.RegisterUserRequest(username="ana", email="ana@example.org", password="correct horse")
        first = self.ok("RegisterUser", request, message_id=KEY)
        self.ok("DeleteUser", users_pb2.DeleteUserRequest(user_id=first.user_id))
        self.assertEqual(self.ok("RegisterUser", request, message_id=KEY), first)
        self.refused(Unauthenticated, "Authenticate", users_pb2.AuthenticateRequest(username="ana", password="x"))


class SessionTests(UsersTestCase):
    """Authenticate, Refresh, Revoke."""

    def test_access_token(self) -> None:
        """The access token is signed by the published key and says who, as what, and for how long."""
        user, session = self.register(), self.log_in("ANA")
        header = jwt.get_unverified_header(session.access_token)
        self.assertEqual((header["alg"], header["kid"]), ("EdDSA", self.key.kid))
        claims = jwt.decode(
            session.access_token,
            self.key.private.public_key(),
            ["EdDSA"],
            audience="bookd",
            issuer="bookd",
            options={"verify_exp": False},
        )
        self.assertEqual((claims["sub"], claims["roles"]), (user.user_id, ["customer"]))
        self.assertEqual(claims["exp"] - claims["iat"], 900)
        self.assertEqual((session.token_type, session.expires_in, session.user_id), ("Bearer", 900, user.user_id))
        published = self.ok("GetKeys", users_pb2.GetKeysRequest())
        self.assertEqual([key.kid for key in published.keys], [self.key.kid])

    def test_unknown_user_and_wrong_password_are_alike(self) -> None:
        """Both get the same answer after the same work."""
        self.register()
        heard = []
        for username, password in (("ana", "wrong horse"), ("bob", "wrong horse"), ("?!", "x"), ("ana", "y" * 5000)):
            before = self.passwords.verified
            request = users_pb2.AuthenticateRequest(username=username, password=password)
            error = self.refused(Unauthenticated, "Authenticate", request)
            heard.append((error.message, error.reason, self.passwords.verified - before))
        self.assertEqual(len(set(heard)), 1, heard)

    def test_rotation(self) -> None:
        """Each refresh token is good once; the second use ends the session."""
        self.register()
        first = self.log_in()
        second = self.ok("Refresh", users_pb2.RefreshRequest(refresh_token=first.refresh_token))
        self.assertNotEqual(first.refresh_token, second.refresh_token)
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=first.refresh_token))
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=second.refresh_token))

    def test_expiry(self) -> None:
        """A refresh token that is too old is refused, and its session is removed by the upkeep."""
        self.register()
        session = self.log_in()
        self.time += 3600 * 1_000_000
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        clock = Clock()
        upkeep = Upkeep(clock, {"sessions": removing(self.desk, store.purge, lambda: self.time)})
        upkeep.startService()
        upkeep.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])
        with self.engine.connect() as connection:
            self.assertEqual(connection.execute(text("SELECT count(*) FROM refresh_tokens")).scalar(), 0)

    def test_expiry_of_what_was_traded(self) -> None:
        """A session lives as long as its newest token, and is removed with all of them; in batches."""
        self.register()
        traded, sessions = self.log_in(), [self.log_in(), self.log_in()]
        self.time += 1800 * 1_000_000
        newest = self.ok("Refresh", users_pb2.RefreshRequest(refresh_token=traded.refresh_token))
        self.time += 1800 * 1_000_000

        def purged(limit: int) -> Any:
            return self.successResultOf(self.desk.write(store.purge, self.time, limit))

        self.assertEqual([purged(1), purged(9), purged(9)], [1, 1, 0])
        for session in sessions:
            self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        newest = self.ok("Refresh", users_pb2.RefreshRequest(refresh_token=newest.refresh_token))
        self.time += 3600 * 1_000_000
        self.assertEqual(purged(9), 1)
        with self.engine.connect() as connection:
            self.assertEqual(connection.execute(text("SELECT count(*) FROM refresh_tokens")).scalar(), 0)

    def test_revoke(self) -> None:
        """A revoked session cannot be refreshed; revoking twice, or nothing, is fine."""
        self.register()
        session = self.log_in()
        for token in (session.refresh_token, session.refresh_token, "nothing"):
            self.ok("Revoke", users_pb2.RevokeRequest(refresh_token=token))
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))

    def test_no_secret_in_the_database(self) -> None:
        """Neither the password nor a refresh token is stored as it is."""
        self.register()
        session = self.log_in()
        with self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            dump = "\n".join(driver.iterdump())
        self.assertNotIn("correct horse", dump)
        self.assertNotIn(session.refresh_token, dump)


class ChangeTests(UsersTestCase):
    """UpdateUser, ChangePassword, DeleteUser, ListUsers."""

    def update(self, user: Any, *paths: str, who: Any = None, **fields: Any) -> Deferred[Any]:
        request = users_pb2.UpdateUserRequest(user=users_pb2.User(user_id=user.user_id, **fields))
        request.update_mask.paths.extend(paths)
        return self.call("UpdateUser", request, who=who or policy_pb2.Principal(subject=user.user_id))

    def test_masked(self) -> None:
        """Only what the mask names is changed."""
        user = self.register(full_name="Ana", address="here")
        changed = self.successResultOf(self.update(user, "address", address="there", full_name="Bob"))
        self.assertEqual((changed.address, changed.full_name), ("there", "Ana"))
        self.assertNotEqual(changed.etag, user.etag)

    def test_fixed_fields(self) -> None:
        """What cannot be changed, or is not there, is named."""
        user = self.register()
        for path, field in (("username", "username"), ("user_id", "user_id"), ("shoe_size", "update_mask")):
            error = self.failureResultOf(self.update(user, path), InvalidArgument).value
            self.assertEqual(error.violations[0].field, field)

    def test_roles_are_for_admins(self) -> None:
        """A user does not make itself an admin; an admin makes one."""
        user = self.register()
        self.failureResultOf(self.update(user, "roles", roles=["admin"]), PermissionDenied)
        admin = policy_pb2.Principal(subject="x", roles=["admin"])
        changed = self.successResultOf(self.update(user, "roles", roles=["admin", "customer"], who=admin))
        self.assertEqual(list(changed.roles), ["customer", "admin"])

    def test_last_admin(self) -> None:
        """The last administrator neither loses the role nor is deleted."""
        user = self.register()
        admin = self.make_admin("ana")
        self.failureResultOf(self.update(user, "roles", roles=["customer"], who=admin), FailedPrecondition)
        self.refused(FailedPrecondition, "DeleteUser", users_pb2.DeleteUserRequest(user_id=user.user_id))

    def test_taken_email(self) -> None:
        """An address that is somebody else's is taken."""
        self.register("bob")
        user = self.register()
        error = self.failureResultOf(self.update(user, "email", email="BOB@example.org"), AlreadyExists).value
        self.assertEqual(error.violations[0].field, "email")

    def test_etag(self) -> None:
        """A change that was made for an older version is refused."""
        user = self.register()
        self.successResultOf(self.update(user, "address", address="a", etag=user.etag))
        self.failureResultOf(self.update(user, "address", address="b", etag=user.etag), Aborted)

    def test_password(self) -> None:
        """A new password needs the old one, and ends all sessions."""
        user = self.register()
        session = self.log_in()
        request = users_pb2.ChangePasswordRequest(
            user_id=user.user_id, old_password="wrong", new_password="battery staple"
        )
        self.refused(Unauthenticated, "ChangePassword", request)
        request.old_password = "correct horse"
        self.ok("ChangePassword", request)
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        self.log_in(password="battery staple")

    def test_delete(self) -> None:
        """A deleted user is gone with its sessions, its name is free, and the same call again under its id is the same."""
        user = self.register()
        session = self.log_in()
        for _ in range(2):
            self.ok("DeleteUser", users_pb2.DeleteUserRequest(user_id=user.user_id), message_id=KEY)
        self.refused(NotFound, "GetUser", users_pb2.GetUserRequest(user_id=user.user_id))
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        self.register()

    def test_deletion_is_told(self) -> None:
        """That a user is gone is told, once."""
        user = self.register()
        for _ in range(2):
            self.ok("DeleteUser", users_pb2.DeleteUserRequest(user_id=user.user_id), message_id=KEY)
        with self.engine.connect() as connection:
            request, _ = connection.exec_driver_sql("SELECT request FROM outbox ORDER BY seq").scalars().all()
        (event,) = PublishRequest.FromString(request).events
        told = UserDeleted()
        self.assertTrue(event.data.Unpack(told))
        self.assertEqual((told.user_id, event.subject), (user.user_id, user.user_id))

    def test_pages(self) -> None:
        """Pages neither repeat nor skip while users register and leave in between."""
        ids = [self.register(f"user{number}").user_id for number in range(5)]
        seen: list[str] = []
        token = ""
        while True:
            page = self.ok("ListUsers", users_pb2.ListUsersRequest(page_size=2, page_token=token))
            seen += [user.user_id for user in page.users]
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(seen, ids)
        self.assertEqual(page.total_size, 5)
        self.refused(InvalidArgument, "ListUsers", users_pb2.ListUsersRequest(page_token="forged"))
        self.refused(InvalidArgument, "ListUsers", users_pb2.ListUsersRequest(page_size=-1))


class AdministratorTests(UsersTestCase):
    """The first administrator."""

    def file(self, content: str) -> Path:
        path = Path(self.mktemp())
        path.write_text(content)
        return path

    def test_made_once(self) -> None:
        """Who the file names can log in, has the roles, and is not made twice."""
        path = self.file('{"username": "admin", "password": "a long password"}')
        for _ in range(2):
            self.assertTrue(ensure(self.engine, path, self.passwords, "u1", NOW))
        session = self.log_in("admin", "a long password")
        user = self.ok("GetUser", users_pb2.GetUserRequest(user_id=session.user_id))
        self.assertEqual(list(user.roles), ["staff", "admin"])

    def test_no_file(self) -> None:
        """Without the file there is no administrator, and that is said."""
        self.assertFalse(ensure(self.engine, Path(self.mktemp()), self.passwords, "u1", NOW))

    def test_bad_file(self) -> None:
        """A file that is no JSON, lacks a member, or names nobody is refused by its name."""
        for content in ("", "[]", '{"username": "admin"}', '{"username": "", "password": "long enough"}'):
            path = self.file(content)
            error = self.assertRaises(AdministratorError, ensure, self.engine, path, self.passwords, "u1", NOW)
            self.assertIn(str(path), str(error))


class SchemaTests(SynchronousTestCase):
    """The migrations and the schema say the same."""

    def test_upgraded_equals_fresh(self) -> None:
        """An upgraded database has the tables, columns and checks of a fresh one."""

        def dump(engine: Any) -> list[str]:
            query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
            with engine.connect() as connection:
                return sorted(" ".join(row[0].split()) for row in connection.execute(text(query)))

        upgraded, fresh = open_engine(":memory:"), open_engine(":memory:")
        upgrade(upgraded, "bookd.users")
        metadata.create_all(fresh)
        self.assertEqual(dump(upgraded), dump(fresh))
