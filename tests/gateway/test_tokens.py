"""Whether a token is genuine, and whom it speaks for."""

import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import Unauthenticated
from bookd.gateway import tokens
from bookd.gateway.issuers import Issuer, users
from bookd.gateway.keys import KeyFile
from bookd.gateway.tokens import LEEWAY, Tokens
from bookd.wire.policy.v1 import policy_pb2
from tests.gateway.serving import KEY, jwk, token

NOW = 1_800_000_000


class TokensTests(SynchronousTestCase):
    """Tokens against a key file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.write(jwk(KEY, "k1"))
        self.clock = Clock()
        self.now = NOW * 1_000_000
        self.tokens = Tokens([self.users()], lambda: self.now)

    def users(self) -> Issuer:
        """The issuer whose keys are in the file."""
        return users(KeyFile(self.path, self.clock.seconds), "bookd", "bookd")

    def write(self, *keys: dict[str, Any]) -> None:
        """Replace the key file, as a rotation does."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"keys": list(keys)}))
        os.replace(fresh, self.path)

    def token(self, *arguments: Any, **claims: Any) -> str:
        return token(*arguments, **{"iat": NOW, "nbf": NOW, "exp": NOW + 900, **claims})

    def refused(self, text: str, reason: str = "TOKEN_INVALID") -> None:
        with self.assertRaises(Unauthenticated) as caught:
            self.tokens.principal(text)
        self.assertEqual(caught.exception.reason, reason)

    def test_genuine(self) -> None:
        """A genuine token speaks for its subject, with its roles and its session; the scheme's case does not matter."""
        expected = policy_pb2.Principal(subject="ada", roles=["staff", "admin"], session_id="s1")
        for scheme in ("Bearer", "bearer", "BEARER"):
            given = f"{scheme} {self.token('ada', ('staff', 'admin'))}"
            self.assertEqual(self.tokens.principal(given), expected)

    def test_none(self) -> None:
        """No header is nobody."""
        self.assertIsNone(self.tokens.principal(None))

    def test_no_token(self) -> None:
        """A header that is no bearer token is refused."""
        for text in (
            "",
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            "Bearer a.b",
            "Bearer a.b.c",
            "Bearer ä",
            "Bearer " + "." * 9999,
        ):
            self.refused(text)

    def test_required_claims(self) -> None:
        """Each of iss, aud, exp, nbf, iat and sub must be there."""
        for claim in ("iss", "aud", "exp", "nbf", "iat", "sub"):
            self.refused("Bearer " + self.token(**{claim: None}) if claim != "sub" else "Bearer " + self.token(None))

    def test_wrong_claims(self) -> None:
        """Claims of another value or type are refused."""
        for claims in (
            {"iss": "other"},
            {"aud": "other"},
            {"exp": "soon"},
            {"nbf": "soon"},
            {"roles": "admin"},
            {"roles": [1]},
            {"sid": 7},
        ):
            self.refused("Bearer " + self.token(**claims))
        self.refused("Bearer " + self.token(""))

    def test_times(self) -> None:
        """A token is good from nbf until exp, give or take the leeway."""
        given = "Bearer " + self.token()
        for offset in (-LEEWAY, 0, 899, 900 + LEEWAY - 0.1):
            self.now = int((NOW + offset) * 1e6)
            self.assertIsNotNone(self.tokens.principal(given))
        self.now = int((NOW + 900 + LEEWAY) * 1e6)
        self.refused(given, "TOKEN_EXPIRED")
        self.now = int((NOW - LEEWAY - 0.1) * 1e6)
        self.refused(given)

    def test_other_key(self) -> None:
        """A signature by another key under the same name is refused, and so is a name that nobody knows."""
        self.refused("Bearer " + self.token(key=Ed25519PrivateKey.generate()))
        self.refused("Bearer " + self.token(kid="k2"))

    def test_algorithm_is_fixed(self) -> None:
        """The token has no say in the algorithm: not none, and not HMAC with the public key as its secret."""
        public = jwk(KEY, "k1")["x"]
        self.refused("Bearer " + self.token(key=public.encode().ljust(64)))
        head, claims, _ = self.token().split(".")
        self.refused(f"Bearer eyJhbGciOiJub25lIn0.{claims}.")
        self.refused(f"Bearer {head}.{claims}.")

    def test_without_kid(self) -> None:
        """A token that names no key is refused, even while there is but one."""
        self.refused("Bearer " + self.token(kid=None))

    def test_revoked(self) -> None:
        """A token that is void before its time is refused, and whoever decides that is told whose it is."""
        asked = []

        def revoked(*about: Any) -> bool:
            asked.append(about)
            return len(asked) > 1

        self.tokens = Tokens([self.users()], lambda: self.now, revoked)
        given = "Bearer " + self.token("ada", iat=NOW - 0.5)
        self.assertIsNotNone(self.tokens.principal(given))
        self.refused(given, "TOKEN_REVOKED")
        self.assertEqual(asked, [("ada", "s1", NOW * 1_000_000 - 500_000)] * 2)

    def test_rotation(self) -> None:
        """A new key is known within a second of its file; one that is gone is not believed any more."""
        key = Ed25519PrivateKey.generate()
        given = "Bearer " + self.token(key=key, kid="k2")
        self.write(jwk(key, "k2"))
        self.refused(given)
        self.clock.advance(1)
        self.assertIsNotNone(self.tokens.principal(given))
        self.refused("Bearer " + self.token())

    def test_remembered(self) -> None:
        """A token that was seen before is verified again when the keys were read again: one whose key is gone, or is another
        one under the same name, is refused. No more tokens are remembered than there is room for."""
        given = "Bearer " + self.token()
        for keys, good in (
            ([jwk(KEY, "k1"), jwk(Ed25519PrivateKey.generate(), "k2")], True),
            ([jwk(Ed25519PrivateKey.generate(), "k1")], False),
            ([jwk(KEY, "k1")], True),
            ([jwk(KEY, "k3")], False),
        ):
            self.write(*keys)
            self.clock.advance(1)
            if good:
                self.assertEqual(self.tokens.principal(given), self.tokens.principal(given))
            else:
                self.refused(given)
        self.write(jwk(KEY, "k1"))
        self.clock.advance(1)
        self.patch(tokens, "MOST_KNOWN", 3)
        for number in range(10):
            self.assertIsNotNone(self.tokens.principal("Bearer " + self.token(f"user{number}")))
        self.assertEqual(len(self.tokens._known), 3)

    def test_times_of_what_is_remembered(self) -> None:
        """The times of a token that was seen before are looked at each time, with the clocks' difference, to either side."""
        given = "Bearer " + self.token()
        self.assertIsNotNone(self.tokens.principal(given))
        for seconds, reason in ((-2.0, ""), (-2.01, "TOKEN_INVALID"), (901.99, ""), (902.0, "TOKEN_EXPIRED")):
            self.now = round((NOW + seconds) * 1e6)
            if reason:
                self.refused(given, reason)
            else:
                self.assertIsNotNone(self.tokens.principal(given), seconds)

    def test_broken_file(self) -> None:
        """A file that cannot be read leaves the keys as they were."""
        for damage in (lambda: self.path.write_text("{"), self.path.unlink):
            damage()
            self.clock.advance(1)
            self.assertIsNotNone(self.tokens.principal("Bearer " + self.token()))

    def test_broken_file_at_start(self) -> None:
        """At start it is an error that names the file."""
        for text in (
            "{",
            "[]",
            '{"keys": []}',
            '{"keys": [{"kty": "RSA"}]}',
            '{"keys": [{"kty":"OKP","crv":"Ed25519"}]}',
        ):
            self.path.write_text(text)
            with self.assertRaisesRegex(ValueError, self.path.name):
                KeyFile(self.path, self.clock.seconds)
