"""Sessions that end before their time: each end is told of, and nothing slips in while a password changes."""

from typing import Any

from sqlalchemy import text
from twisted.internet.defer import Deferred

from bookd.errors import NotFound, PermissionDenied, ResourceExhausted, Unauthenticated
from bookd.users import store
from bookd.users.throttle import Limits
from bookd.wire.mom.v1.events_pb2 import PublishRequest
from bookd.wire.policy.v1 import policy_pb2
from bookd.wire.users.v1 import users_pb2
from bookd.wire.users.v1.events_pb2 import SessionsRevoked
from tests.users.test_servicer import KEY, NOW, UsersTestCase

ADMIN = policy_pb2.Principal(subject="boss", roles=["admin"])


class RevocationTests(UsersTestCase):
    """What is told of sessions that end."""

    def told(self) -> list[tuple[str, str, int]]:
        """Whose sessions have ended, which (empty: all), and when."""
        found = []
        with self.engine.connect() as connection:
            requests = connection.execute(text("SELECT request FROM outbox ORDER BY seq")).scalars().all()
        for request in requests:
            for event in PublishRequest.FromString(request).events:
                revoked = SessionsRevoked()
                if event.data.Unpack(revoked):
                    self.assertEqual(event.subject, revoked.user_id)
                    found.append((revoked.user_id, revoked.session_id, revoked.revoked_at.ToMicroseconds()))
        return found

    def sid(self, session: Any) -> str:
        """The id of a session, as its access token says."""
        with self.engine.connect() as connection:
            ids = connection.execute(text("SELECT session_id FROM sessions ORDER BY created_at, session_id")).scalars()
            return str(list(ids)[-1])

    def test_log_out(self) -> None:
        """The end of one session is told, once; the end of none is not."""
        user, session = self.register(), self.log_in()
        sid = self.sid(session)
        self.assertEqual(self.told(), [])
        for token in (session.refresh_token, session.refresh_token, "nothing"):
            self.ok("Revoke", users_pb2.RevokeRequest(refresh_token=token))
        self.assertEqual(self.told(), [(user.user_id, sid, NOW)])

    def test_log_out_everywhere(self) -> None:
        """All sessions of a user end together, whoever asks for it; those of others go on."""
        user, _ = self.register(), self.register("bob")
        sessions = [self.log_in(), self.log_in()]
        other = self.log_in("bob")
        self.ok("RevokeSessions", users_pb2.RevokeSessionsRequest(user_id=user.user_id), who=ADMIN)
        for session in sessions:
            self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        self.ok("Refresh", users_pb2.RefreshRequest(refresh_token=other.refresh_token))
        self.assertEqual(self.told(), [(user.user_id, "", NOW)])
        self.refused(NotFound, "RevokeSessions", users_pb2.RevokeSessionsRequest(user_id="nobody"))

    def test_reuse(self) -> None:
        """A refresh token that comes twice ends its session, which is told."""
        user, session = self.register(), self.log_in()
        sid = self.sid(session)
        self.ok("Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        for _ in range(2):
            self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        self.assertEqual(self.told(), [(user.user_id, sid, NOW)])

    def test_password(self) -> None:
        """A new password ends all sessions."""
        user, session = self.register(), self.log_in()
        request = users_pb2.ChangePasswordRequest(
            user_id=user.user_id, old_password="correct horse", new_password="battery staple"
        )
        self.ok("ChangePassword", request)
        self.assertEqual(self.told(), [(user.user_id, "", NOW)])
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))

    def test_roles(self) -> None:
        """Other roles end all sessions; the same roles again, or another address, do not."""
        user, session = self.register(), self.log_in()

        def update(**fields: Any) -> None:
            request = users_pb2.UpdateUserRequest(user=users_pb2.User(user_id=user.user_id, **fields))
            self.ok("UpdateUser", request, who=ADMIN)

        update(roles=["customer"], address="here")
        self.assertEqual(self.told(), [])
        update(roles=["customer", "staff"])
        self.assertEqual(self.told(), [(user.user_id, "", NOW)])
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))

    def test_deletion(self) -> None:
        """A deleted user's sessions end, once, though the call comes twice."""
        user = self.register()
        for _ in range(2):
            self.ok("DeleteUser", users_pb2.DeleteUserRequest(user_id=user.user_id), message_id=KEY)
        self.assertEqual(self.told(), [(user.user_id, "", NOW)])

    def test_password_that_changes_during_a_log_in(self) -> None:
        """A log-in whose password was compared before it changed opens no session."""
        user = self.register()
        with self.engine.begin() as connection:
            before = store.load(connection, user.user_id)
            store.set_password(connection, before, self.passwords.hash("battery staple"), NOW)
        with self.engine.begin() as connection:
            self.assertRaises(NotFound, store.open_session, connection, before, "s1", b"1" * 32, NOW + 1, NOW)

    def test_stale_hash(self) -> None:
        """A hash of older parameters is replaced at the next log-in, which succeeds."""
        user = self.register()
        self.passwords.stale = lambda stored: True  # type: ignore[method-assign]
        with self.engine.connect() as connection:
            before = store.load(connection, user.user_id).password_hash
        self.log_in()
        with self.engine.connect() as connection:
            self.assertNotEqual(store.load(connection, user.user_id).password_hash, before)


class ThrottlingTests(UsersTestCase):
    """Log-ins that fail too often."""

    def attempt(self, password: str, username: str = "ana", address: str = "192.0.2.1") -> Deferred[Any]:
        request = users_pb2.AuthenticateRequest(username=username, password=password)
        return self.call("Authenticate", request, address=address)

    def fail_often(self, **where: str) -> None:
        for _ in range(Limits().free):
            self.failureResultOf(self.attempt("wrong horse", **where), Unauthenticated)

    def test_guesser_waits(self) -> None:
        """After the free failures nothing is compared for a while, not even the right password, and it is said when to
        come again; the pause over, the owner is let in."""
        self.register()
        self.fail_often()
        before = self.passwords.verified
        error = self.failureResultOf(self.attempt("correct horse"), ResourceExhausted).value
        self.assertEqual((error.reason, error.retry_after), ("TOO_MANY_ATTEMPTS", 1.0))
        self.assertEqual(self.passwords.verified, before)
        self.time += 1_000_000
        self.successResultOf(self.attempt("correct horse"))

    def test_owner_elsewhere(self) -> None:
        """Who guesses from one address does not keep the owner out at another."""
        self.register()
        self.fail_often()
        self.successResultOf(self.attempt("correct horse", address="198.51.100.7"))

    def test_unknown_user(self) -> None:
        """A name that nobody has is throttled like any other, in the same words."""
        self.register()
        heard = []
        for username in ("ana", "nobody", "no name at all"):
            self.fail_often(username=username)
            error = self.failureResultOf(self.attempt("x", username=username), ResourceExhausted).value
            heard.append((error.message, error.reason, error.retry_after))
        self.assertEqual(len(set(heard)), 1, heard)

    def test_old_password(self) -> None:
        """The old password that a change of password asks for is no better oracle."""
        user = self.register()
        request = users_pb2.ChangePasswordRequest(
            user_id=user.user_id, old_password="wrong horse", new_password="battery staple"
        )
        for _ in range(Limits().free):
            self.refused(Unauthenticated, "ChangePassword", request)
        request.old_password = "correct horse"
        self.refused(ResourceExhausted, "ChangePassword", request)


class AuditTests(UsersTestCase):
    """What the audit log hears."""

    def test_who_did_what(self) -> None:
        """Log-ins, refusals, changes of roles and passwords, and ends of sessions, with who and where; no secret."""
        user = self.register()
        session = self.log_in()
        self.failureResultOf(
            self.call(
                "Authenticate", users_pb2.AuthenticateRequest(username="ana", password="wr0ng h0rse"), address="::1"
            )
        )
        self.failureResultOf(
            self.call("Authenticate", users_pb2.AuthenticateRequest(username="hunter2", password="wr0ng h0rse"))
        )
        update = users_pb2.UpdateUserRequest(user=users_pb2.User(user_id=user.user_id, roles=["staff"]))
        self.refused(PermissionDenied, "UpdateUser", update, who=policy_pb2.Principal(subject=user.user_id))
        self.ok("UpdateUser", update, who=ADMIN)
        self.refused(Unauthenticated, "Refresh", users_pb2.RefreshRequest(refresh_token=session.refresh_token))
        again = self.log_in()
        self.ok("Revoke", users_pb2.RevokeRequest(refresh_token=again.refresh_token))
        self.ok("RevokeSessions", users_pb2.RevokeSessionsRequest(user_id=user.user_id), who=ADMIN)
        self.ok("DeleteUser", users_pb2.DeleteUserRequest(user_id=user.user_id), who=ADMIN)
        self.assertEqual(
            [
                (line["action"], line["outcome"], line.get("subject", ""), line.get("reason", ""))
                for line in self.audited
            ],
            [
                ("log-in", "done", user.user_id, ""),
                ("log-in", "refused", "", "BAD_CREDENTIALS"),
                ("log-in", "refused", "", "BAD_CREDENTIALS"),
                ("change-roles", "refused", user.user_id, "ROLE_MISSING"),
                ("change-roles", "done", "boss", ""),
                ("refresh", "refused", "", "TOKEN_UNKNOWN"),
                ("log-in", "done", user.user_id, ""),
                ("log-out", "done", "", ""),
                ("end-sessions", "done", "boss", ""),
                ("delete-user", "done", "boss", ""),
            ],
        )
        self.assertEqual(self.audited[1]["target"], user.user_id)
        self.assertEqual(self.audited[1]["address"], "::1")
        self.assertEqual(self.audited[4]["roles"], "staff")
        heard = repr(self.audited)
        for secret in ("horse", "h0rse", "hunter2", session.access_token, session.refresh_token, again.refresh_token):
            self.assertNotIn(secret, heard)
