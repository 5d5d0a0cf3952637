"""Tokens that were forged: each class that RFC 8725 and RFC 7515 warn of is refused.

Each is made of a genuine one, and differs from it in what its row says; the genuine one is let in, so no row is refused
for another reason than its own. Where the forger would need the signing key, the token is signed with it: it must be
refused all the same.
"""

import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.config import Issuer as IssuerTable
from bookd.errors import Unauthenticated
from bookd.gateway.issuers import LONGEST_SUBJECT, elsewhere, users
from bookd.gateway.keys import KeyFile
from bookd.gateway.tokens import MAX_TOKEN, Tokens
from tests.gateway.serving import KEY, jwk
from tests.gateway.test_keys import ec_jwk, rsa_jwk

NOW = 1_800_000_000
HEADER = {"alg": "EdDSA", "typ": "JWT", "kid": "k1"}
CLAIMS = {
    "iss": "bookd",
    "aud": "bookd",
    "sub": "ada",
    "roles": ["admin"],
    "sid": "s1",
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 900,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
STRANGER = Ed25519PrivateKey.generate()

Sign = Callable[[bytes], bytes]


def part(content: Any) -> str:
    """One part of a token: JSON, unless it is bytes already."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Any = HEADER, claims: Any = CLAIMS, sign: Sign = KEY.sign) -> str:
    """A token of these parts."""
    signed = f"{part(header)}.{part(claims)}"
    return f"{signed}.{part(sign(signed.encode()))}"


def hs256(secret: bytes) -> Sign:
    """A signature of HMAC with this secret."""
    return lambda data: hmac.digest(secret, data, "sha256")


def rs256(data: bytes) -> bytes:
    """A signature with some RSA key."""
    return rsa.generate_private_key(65537, 2048).sign(data, PKCS1v15(), SHA256())


def es256(data: bytes) -> bytes:
    """A signature with some key on P-256."""
    return ec.generate_private_key(ec.SECP256R1()).sign(data, ec.ECDSA(SHA256()))


def each(*values: Any) -> tuple[Any, ...]:
    """Values of all kinds."""
    return values


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    """The members but one."""
    return {key: value for key, value in members.items() if key != name}


def twice(members: dict[str, Any], name: str, value: Any, *, first: bool) -> bytes:
    """JSON in which a member comes twice: with its own value, and with another."""
    pairs = [*members.items(), (name, value)]
    if first:
        pairs.reverse()
    return b"{" + b",".join(f"{json.dumps(key)}:{json.dumps(each)}".encode() for key, each in pairs) + b"}"


PUBLIC = KEY.public_key()
PUBLIC_RAW = PUBLIC.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
PUBLIC_PEM = PUBLIC.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
GENUINE = forged()
HEAD, BODY, SIGNATURE = GENUINE.split(".")


class ForgedTokensTests(SynchronousTestCase):
    """One row for each kind of forgery."""

    rows: ClassVar[dict[str, list[str]]] = {
        "no signature": [
            f"{HEAD}.{BODY}.",
            f"{HEAD}.{BODY}",
            *(forged({**HEADER, "alg": name}, sign=lambda _: b"") for name in ("none", "None", "NONE", "nOnE", "")),
            *(f"{part({'alg': name, 'typ': 'JWT'})}.{BODY}." for name in ("none", "NONE")),
            *(forged({**HEADER, "alg": name}) for name in ("none", None, 0, [], ["EdDSA"], {"EdDSA": 1})),
            forged(without(HEADER, "alg")),
        ],
        "the public key as the secret of HMAC": [
            forged({**HEADER, "alg": "HS256"}, sign=hs256(secret))
            for secret in (PUBLIC_RAW, PUBLIC_PEM, json.dumps(jwk(KEY, "k1")).encode(), b"", b"secret")
        ],
        "another algorithm": [
            forged({**HEADER, "alg": "RS256"}, sign=rs256),
            forged({**HEADER, "alg": "PS256"}, sign=rs256),
            forged({**HEADER, "alg": "ES256"}, sign=es256),
            forged({**HEADER, "alg": "ES256"}, sign=lambda _: bytes(64)),  # both numbers zero
            *(forged({**HEADER, "alg": name}) for name in ("RS256", "ES256", "HS256", "eddsa", "EdDSA ", "Ed25519")),
        ],
        "another key": [
            forged(sign=STRANGER.sign),
            forged({**HEADER, "kid": "k2"}, sign=STRANGER.sign),
            forged({**HEADER, "kid": "k2"}),
            forged(without(HEADER, "kid")),
            *(
                forged({**HEADER, "kid": kid})
                for kid in ("", "K1", "k1\0", "../k1", "/dev/null", "k1' OR 1=1", 1, None, ["k1"], {"k1": 1}, True)
            ),
        ],
        "a key that the token brings along": [
            forged({**HEADER, **extra}, sign=STRANGER.sign)
            for extra in each(
                {"jwk": jwk(STRANGER, "k1")},
                {"jwk": jwk(STRANGER, "k2"), "kid": "k2"},
                {"jku": "https://attacker.example/jwks.json"},
                {"x5u": "https://attacker.example/cert.pem"},
                {"x5c": [part(b"no certificate")]},
                {"x5t": part(b"0" * 20)},
            )
        ],
        "a signature of something else": [
            f"{HEAD}.{part({**CLAIMS, 'sub': 'eve'})}.{SIGNATURE}",
            f"{part({**HEADER, 'x': 1})}.{BODY}.{SIGNATURE}",
            f"{HEAD}.{BODY}.{SIGNATURE[:-4]}",
            f"{HEAD}.{BODY}.{SIGNATURE}{SIGNATURE}",
            f"{HEAD}.{BODY}.{part(bytes(64))}",
            f"{HEAD}.{BODY}.{'A' * 86}",
        ],
        "critical extensions": [
            forged({**HEADER, **extra})
            for extra in each(
                {"crit": ["exp"], "exp": NOW},
                {"crit": ["b64"], "b64": False},
                {"crit": []},
                {"crit": None},
                {"crit": "b64"},
                {"b64": False},
                {"b64": True},
                {"zip": "DEF"},
                {"enc": "A256GCM"},
            )
        ],
        "another kind of token": [
            forged({**HEADER, "typ": kind})
            for kind in each("JWE", "logout+jwt", "dpop+jwt", "JOSE", "", 1, ["JWT"], {})
        ],
        "another issuer or audience": [
            *(
                forged(claims={**CLAIMS, "iss": issuer})
                for issuer in ("other", "bookd ", "BOOKD", "", None, ["bookd"], {"bookd": 1}, 0, "https://bookd")
            ),
            *(
                forged(claims={**CLAIMS, "aud": audience})
                for audience in ("other", "bookd ", "BOOKD", "", None, [], ["other"], {"bookd": 1}, 0, [["bookd"]], [0])
            ),
        ],
        "claims that are missing": [
            forged(claims=without(CLAIMS, name)) for name in CLAIMS if name not in {"roles", "sid"}
        ],
        "times": [
            *(forged(claims={**CLAIMS, "iat": issued}) for issued in (NOW + 60, NOW + 10**9)),
            *(forged(claims={**CLAIMS, "exp": expires}) for expires in (NOW + 10**5, NOW + 10**11)),  # for too long
            *(forged(claims={**CLAIMS, "nbf": begins}) for begins in (NOW + 60, NOW + 10**9)),
            *(
                forged(claims={**CLAIMS, name: value})
                for name in ("exp", "nbf", "iat")
                for value in each(str(NOW), "", None, True, [NOW], {}, 10**400, -(10**400), 1e308, "1e9")
            ),
            *(
                forged(claims=json.dumps({**CLAIMS, name: 0}).replace(f'"{name}": 0', f'"{name}": {value}').encode())
                for name in ("exp", "nbf", "iat")
                for value in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000)
            ),
        ],
        "who and as what": [
            *(forged(claims={**CLAIMS, "sub": who}) for who in ("", None, 1, ["ada"], {"ada": 1}, "a" * 300)),
            forged(claims={**CLAIMS, "sub": "partner~ada"}),  # as if another issuer knew her
            *(forged(claims={**CLAIMS, "roles": roles}) for roles in ("admin", None, {"admin": 1}, [1], [["admin"]])),
            forged(claims={**CLAIMS, "roles": ["staff"] * 33}),
            forged(claims={**CLAIMS, "roles": ["a" * 300]}),
            *(forged(claims={**CLAIMS, "sid": sid}) for sid in each(None, 1, [], "s" * 300)),
        ],
        "members that come twice": [
            *(
                forged(twice(HEADER, "alg", other, first=first))
                for other in ("none", "HS256")
                for first in (True, False)
            ),
            *(forged(twice(HEADER, "kid", "k2", first=first)) for first in (True, False)),
            *(
                forged(claims=twice(CLAIMS, name, other, first=first))
                for name, other in (("sub", "eve"), ("roles", []), ("exp", NOW + 10**6), ("aud", "other"))
                for first in (True, False)
            ),
            forged(claims=json.dumps(CLAIMS)[:-1].encode() + b', "more": {"a": 1, "a": 2}}'),
        ],
        "junk": [
            *(forged(header=junk) for junk in (b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"\0", b"{}")),
            *(forged(claims=junk) for junk in (b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"\0", b"{}")),
            forged(header=json.dumps(HEADER).encode() + b"{}"),
            forged(header=b"\xef\xbb\xbf" + json.dumps(HEADER).encode()),
            forged(claims=json.dumps(CLAIMS).encode("utf-16")),
            forged(claims=GENUINE.encode()),  # a token within a token
            forged({**HEADER, "cty": "JWT"}, GENUINE.encode()),
            forged(header=b"[" * 2000),
            forged(claims=b'{"a":' * 800 + b"1" + b"}" * 800),
            forged(claims=b"[" * 3000 + b"]" * 3000),
            f"{GENUINE}.{SIGNATURE}",
            f"{HEAD}.{BODY}.{SIGNATURE}..",
            f"{HEAD}=.{BODY}.{SIGNATURE}",
            f"{HEAD}\n.{BODY}.{SIGNATURE}",
            f"{HEAD} .{BODY}.{SIGNATURE}",
            f"{HEAD}!.{BODY}.{SIGNATURE}",
            GENUINE.replace(".", "\u2024"),
            GENUINE[:10] + "\u0430" + GENUINE[10:],
            json.dumps({"protected": HEAD, "payload": BODY, "signature": SIGNATURE}),  # the JSON form of a JWS
        ],
        "too large": [
            forged(claims={**CLAIMS, "more": "x" * MAX_TOKEN}),
            "A" * 1_000_000,
            ".".join(["A" * 100_000] * 3),
            "." * 100_000,
        ],
    }

    def setUp(self) -> None:
        path = Path(self.mktemp())
        path.write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
        self.tokens = Tokens([users(KeyFile(path, Clock().seconds), "bookd", "bookd")], lambda: NOW * 1_000_000)

    def test_genuine(self) -> None:
        """What the forgeries are made of is let in, and so are forms of it that mean the same."""
        for token in (
            GENUINE,
            forged(without(HEADER, "typ")),
            forged({**HEADER, "typ": "at+JWT"}),
            forged(claims={**CLAIMS, "aud": ["other", "bookd"]}),
            forged(claims={**CLAIMS, "iat": NOW - 0.25}),
            # What a token says of keys is not looked at, also where it is true.
            forged({**HEADER, "jku": "https://attacker.example/", "jwk": jwk(STRANGER, "k1")}),
        ):
            principal = self.tokens.principal(f"Bearer {token}")
            assert principal is not None
            self.assertEqual((principal.subject, list(principal.roles)), ("ada", ["admin"]))

    def test_forged(self) -> None:
        """Each forgery is refused, as a token that is not valid."""
        for kind, tokens in self.rows.items():
            for token in tokens:
                with self.assertRaises(Unauthenticated, msg=f"{kind}: {token[:200]}") as caught:
                    self.tokens.principal(f"Bearer {token}")
                self.assertEqual(caught.exception.reason, "TOKEN_INVALID", f"{kind}: {token[:200]}")

    @settings(max_examples=500, deadline=None)
    @given(st.integers(0, len(GENUINE) - 1), st.characters(codec="utf-8"))
    def test_one_character(self, place: int, character: str) -> None:
        """A token of which one character was changed is refused, whichever it is."""
        changed = GENUINE[:place] + character + GENUINE[place + 1 :]
        if changed != GENUINE:
            self.assertRaises(Unauthenticated, self.tokens.principal, f"Bearer {changed}")

    @settings(max_examples=500, deadline=None)
    @given(st.one_of(st.text(), st.lists(st.binary(max_size=60).map(part), min_size=2, max_size=4).map(".".join)))
    def test_anything(self, text: str) -> None:
        """Whatever is sent in place of a token is refused, and breaks nothing."""
        self.assertRaises(Unauthenticated, self.tokens.principal, f"Bearer {text}")

    @settings(max_examples=300, deadline=None)
    @given(
        st.dictionaries(st.sampled_from([*CLAIMS, "x"]), JSON),
        st.dictionaries(st.sampled_from(["typ", "cty", "x", "jwk"]), JSON),
    )
    def test_any_claims(self, claims: dict[str, Any], header: dict[str, Any]) -> None:
        """Whatever is signed, it is a token for somebody with a name, or it is refused."""
        token = forged({**header, "alg": "EdDSA", "kid": "k1"}, {**CLAIMS, **claims})
        try:
            principal = self.tokens.principal(f"Bearer {token}")
        except Unauthenticated:
            return
        assert principal is not None
        self.assertTrue(principal.subject)
        self.assertEqual(principal.subject, claims.get("sub", "ada"))

    def test_expired(self) -> None:
        """A token whose time is over says so, since its owner may get another."""
        with self.assertRaises(Unauthenticated) as caught:
            self.tokens.principal("Bearer " + forged(claims={**CLAIMS, "exp": NOW - 60}))
        self.assertEqual(caught.exception.reason, "TOKEN_EXPIRED")

    def test_count(self) -> None:
        """The table is as long as it looks."""
        self.assertGreater(sum(map(len, self.rows.values())), 150)


PARTNER = Ed25519PrivateKey.generate()
PARTNER_RSA = rsa.generate_private_key(65537, 2048)
PARTNER_EC = ec.generate_private_key(ec.SECP256R1())
PARTNER_RSA_PEM = PARTNER_RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
THEIR_HEADER = {"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"}
THEIR_CLAIMS = {
    "iss": "https://login.example",
    "aud": "https://shop.example",
    "sub": "ada",
    "client_id": "app",
    "jti": "t1",
    "groups": ["clerks", "admin"],
    "roles": ["admin"],
    "sid": "s1",
    "iat": NOW,
    "exp": NOW + 900,
}


def signed(data: bytes, algorithm: Any = SHA256) -> bytes:
    """The partner's signature with its RSA key."""
    return PARTNER_RSA.sign(data, PKCS1v15(), algorithm())


def raw_ec(key: Any) -> Sign:
    """A signature on P-256 as JWS has it: two numbers of 32 bytes."""

    def sign(data: bytes) -> bytes:
        return b"".join(
            number.to_bytes(32, "big") for number in decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
        )

    return sign


def theirs(header: Any = THEIR_HEADER, claims: Any = THEIR_CLAIMS, sign: Sign = PARTNER.sign) -> str:
    """A token of the partner's."""
    return forged(header, claims, sign)


class ForgedElsewhereTests(SynchronousTestCase):
    """Tokens of an issuer that the configuration names, whose key has the very name of one of ours."""

    rows: ClassVar[dict[str, list[str]]] = {
        "one issuer's key for another's tokens": [
            forged(sign=PARTNER.sign),
            forged({**HEADER, "kid": "r1", "alg": "RS256"}, sign=signed),
            forged({**HEADER, "kid": "e1", "alg": "ES256"}, sign=raw_ec(PARTNER_EC)),
            theirs(sign=KEY.sign),
            theirs(sign=STRANGER.sign),
            theirs({**THEIR_HEADER, "kid": "ours"}, sign=KEY.sign),
            forged(claims={**CLAIMS, "aud": "https://shop.example"}, sign=PARTNER.sign),
            theirs(claims={**THEIR_CLAIMS, "iss": "bookd"}),
            theirs(claims={**THEIR_CLAIMS, "iss": "bookd", "aud": "bookd"}),
            theirs(claims={**CLAIMS}),
            theirs(claims=twice(THEIR_CLAIMS, "iss", "bookd", first=True)),
            theirs(claims=twice(THEIR_CLAIMS, "iss", "bookd", first=False)),
            theirs(claims={**THEIR_CLAIMS, "iss": ["https://login.example", "bookd"]}),
        ],
        "another issuer or audience": [
            *(
                theirs(claims={**THEIR_CLAIMS, "iss": issuer})
                for issuer in (
                    "https://login.example/",
                    "https://LOGIN.example",
                    "http://login.example",
                    "login.example",
                    "partner",
                    "https://files.example",
                    "",
                    None,
                    1,
                    {},
                )
            ),
            *(
                theirs(claims={**THEIR_CLAIMS, "aud": audience})
                for audience in ("bookd", "https://shop.example/", "app", "", None, [], ["app"], {}, 1)
            ),
        ],
        "another algorithm than the key's": [
            theirs({**THEIR_HEADER, "kid": "r1", "alg": name}, sign=signed)
            for name in ("PS256", "RS384", "RS512", "EdDSA", "ES256", "HS256", "none", "rs256")
        ]
        + [
            theirs({**THEIR_HEADER, "kid": kid, "alg": "HS256"}, sign=hs256(PARTNER_RSA_PEM))
            for kid in ("r1", "k1", "e1", "s1")
        ]
        + [
            theirs({**THEIR_HEADER, "kid": "s1", "alg": "HS256"}, sign=hs256(b"secret")),
            theirs({**THEIR_HEADER, "kid": "s1", "alg": "EdDSA"}, sign=hs256(b"secret")),
            theirs({**THEIR_HEADER, "kid": "r1", "alg": "RS256"}, sign=lambda data: signed(data, SHA512)),
            theirs({**THEIR_HEADER, "kid": "r1", "alg": "RS256"}, sign=lambda _: bytes(256)),
            theirs({**THEIR_HEADER, "kid": "r1", "alg": "RS256"}, sign=lambda _: b""),
            theirs({**THEIR_HEADER, "kid": "e1", "alg": "ES256"}, sign=lambda _: bytes(64)),
            theirs({**THEIR_HEADER, "kid": "e1", "alg": "ES256"}, sign=es256),
            theirs(
                {**THEIR_HEADER, "kid": "e1", "alg": "ES256"},
                sign=lambda data: PARTNER_EC.sign(data, ec.ECDSA(SHA256())),  # DER, which JWS does not have
            ),
            # A key that the issuer published for an algorithm that is not allowed here.
            theirs({**THEIR_HEADER, "kid": "r2", "alg": "RS512"}, sign=lambda data: signed(data, SHA512)),
        ],
        "another kind of token": [
            *(
                theirs({**THEIR_HEADER, "typ": kind})
                for kind in (
                    "JWT",
                    "jwt",
                    "",
                    "application/",
                    "application/jwt",
                    "logout+jwt",
                    "secevent+jwt",
                    "at",
                    None,
                    1,
                )
            ),
            theirs(without(THEIR_HEADER, "typ")),
            *(
                theirs(claims={**THEIR_CLAIMS, **extra})
                for extra in each(
                    {"cnf": {"jkt": "x"}},
                    {"cnf": {"x5t#S256": "x"}},
                    {"cnf": None},
                    {"at_hash": "x"},
                    {"c_hash": "x"},
                    {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
                )
            ),
        ],
        "critical extensions": [
            theirs({**THEIR_HEADER, **extra})
            for extra in each({"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"zip": "DEF"}, {"enc": "A256GCM"})
        ],
        "a key that the token brings along": [
            theirs({**THEIR_HEADER, **extra}, sign=STRANGER.sign)
            for extra in each(
                {"jwk": jwk(STRANGER, "k1")},
                {"jku": "https://attacker.example/jwks.json"},
                {"x5u": "https://attacker.example/cert.pem"},
            )
        ],
        "claims that are missing": [
            theirs(claims=without(THEIR_CLAIMS, name)) for name in ("iss", "aud", "sub", "iat", "exp")
        ],
        "times": [
            theirs(claims={**THEIR_CLAIMS, "iat": NOW + 60}),
            theirs(claims={**THEIR_CLAIMS, "nbf": NOW + 60}),
            theirs(claims={**THEIR_CLAIMS, "exp": NOW + 3700}),  # for too long
            *(
                theirs(claims={**THEIR_CLAIMS, name: value})
                for name in ("exp", "nbf", "iat")
                for value in each(str(NOW), None, True, [NOW], {}, 10**400)
            ),
        ],
        "who and as what": [
            *(theirs(claims={**THEIR_CLAIMS, "sub": who}) for who in ("", None, 1, ["ada"], {"ada": 1}, "a" * 300)),
            *(
                theirs(claims={**THEIR_CLAIMS, "groups": what})
                for what in (None, 1, [1], [["clerks"]], {"clerks": 1}, True)
            ),
        ],
    }

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        secret = {"kty": "oct", "k": part(b"secret"), "kid": "s1"}
        published = [
            jwk(PARTNER, "k1"),
            rsa_jwk(PARTNER_RSA, kid="r1"),
            rsa_jwk(PARTNER_RSA, kid="r2", alg="RS512"),
            ec_jwk(PARTNER_EC, kid="e1"),
            {**secret, "alg": "HS256"},
        ]
        for name, keys in (("ours", [jwk(KEY, "k1"), jwk(KEY, "ours")]), ("theirs", published)):
            (folder / name).write_text(json.dumps({"keys": keys}))
        self.folder = folder
        self.tokens = self.made()

    def made(self, **otherwise: Any) -> Tokens:
        """Tokens that know us, the partner, and a third one that is like the partner."""
        usual = {"roles_claim": ["groups"], "roles": {"clerks": ["staff"], "everyone": ["customer"]}, **otherwise}
        table = IssuerTable(
            name="partner", issuer="https://login.example", audience="https://shop.example", jwks="theirs", **usual
        )
        third = IssuerTable(name="files", issuer="https://files.example", audience="https://shop.example", jwks="ours")
        ours, keys = (
            KeyFile(self.folder / name, Clock().seconds, algorithms)
            for name, algorithms in (("ours", ["EdDSA"]), ("theirs", table.algorithms))
        )
        issuers = [users(ours, "bookd", "bookd"), elsewhere(table, keys), elsewhere(third, ours)]
        return Tokens(issuers, lambda: NOW * 1_000_000)

    def who(self, token: str, tokens: Tokens | None = None) -> tuple[str, list[str], str]:
        """Subject, roles and session of a token that is genuine."""
        principal = (tokens or self.tokens).principal(f"Bearer {token}")
        assert principal is not None
        return principal.subject, list(principal.roles), principal.session_id

    def test_genuine(self) -> None:
        """What the forgeries are made of is let in, whichever of the issuer's keys signed it."""
        expected = ("partner~ada", ["staff"], "")
        for token in (
            theirs(),
            theirs({**THEIR_HEADER, "typ": "application/at+jwt"}),
            theirs({**THEIR_HEADER, "typ": "AT+JWT"}),
            theirs({**THEIR_HEADER, "kid": "r1", "alg": "RS256"}, sign=signed),
            theirs({**THEIR_HEADER, "kid": "e1", "alg": "ES256"}, sign=raw_ec(PARTNER_EC)),
            theirs(claims={**THEIR_CLAIMS, "aud": ["app", "https://shop.example"]}),
            theirs(claims={**THEIR_CLAIMS, "nbf": NOW}),
        ):
            self.assertEqual(self.who(token), expected)
        self.assertEqual(self.who(GENUINE), ("ada", ["admin"], "s1"))

    def test_forged(self) -> None:
        """Each forgery is refused, as a token that is not valid."""
        for kind, tokens in self.rows.items():
            for token in tokens:
                with self.assertRaises(Unauthenticated, msg=f"{kind}: {token[:200]}") as caught:
                    self.tokens.principal(f"Bearer {token}")
                self.assertEqual(caught.exception.reason, "TOKEN_INVALID", f"{kind}: {token[:200]}")

    def test_other_types(self) -> None:
        """Where the configuration says so, tokens of another type, or of none, are taken; and no others."""
        for allowed in (["jwt"], [""], ["at+jwt", ""]):
            tokens = self.made(types=allowed)
            for kind, header in (
                ("jwt", {**THEIR_HEADER, "typ": "JWT"}),
                ("", without(THEIR_HEADER, "typ")),
                ("at+jwt", THEIR_HEADER),
                ("logout", {**THEIR_HEADER, "typ": "logout+jwt"}),
                ("blank", {**THEIR_HEADER, "typ": ""}),
                ("blank", {**THEIR_HEADER, "typ": "application/"}),
            ):
                if kind in allowed:
                    self.who(theirs(header), tokens)
                else:
                    self.assertRaises(Unauthenticated, tokens.principal, f"Bearer {theirs(header)}")

    def test_no_roles_by_default(self) -> None:
        """An issuer gives nobody a role unless the configuration says which; what it calls roles is nothing by itself."""
        tokens = self.made(roles_claim=[], roles={})
        self.assertEqual(self.who(theirs(), tokens), ("partner~ada", [], ""))
        self.assertEqual(self.who(theirs(), self.made(roles_claim=["roles"], roles={})), ("partner~ada", [], ""))
        self.assertEqual(self.who(theirs(), self.made(roles_claim=[], everybody=["customer"]))[1], ["customer"])

    def test_where_roles_are(self) -> None:
        """Roles are found in members of members, in words, and nowhere when the claim is absent."""
        nested = {**THEIR_CLAIMS, "realm": {"access": ["clerks"]}, "scope": "everyone clerks clerks-not"}
        for path, roles in (
            (["realm", "access"], ["staff"]),
            (["scope"], ["customer", "staff"]),
            (["realm", "nothing"], []),
            (["nothing", "at", "all"], []),
        ):
            self.assertEqual(self.who(theirs(claims=nested), self.made(roles_claim=path))[1], roles)
        for path in (["realm"], ["scope", "access"], ["sub", "x"], ["groups", "x"]):
            token = theirs(claims={**nested, "realm": {"access": 1}})
            self.assertRaises(Unauthenticated, self.made(roles_claim=path).principal, f"Bearer {token}")

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.text(max_size=10) | st.sampled_from(["clerks", "everyone", "admin", "staff"]), max_size=6))
    def test_no_more_than_the_mapping(self, groups: list[str]) -> None:
        """Whatever a token claims, its roles are those of the mapping."""
        mapped = {"clerks": "staff", "everyone": "customer"}
        expected = sorted({mapped[group] for group in groups if group in mapped})
        self.assertEqual(self.who(theirs(claims={**THEIR_CLAIMS, "groups": groups}))[1], expected)

    @settings(max_examples=300, deadline=None)
    @given(
        st.dictionaries(st.sampled_from([*THEIR_CLAIMS, "x", "act", "scope"]), JSON),
        st.dictionaries(st.sampled_from(["typ", "cty", "x", "jwk"]), JSON),
    )
    def test_any_claims(self, claims: dict[str, Any], header: dict[str, Any]) -> None:
        """Whatever the partner signs, it is a token for one of its own, with roles that are mapped, or it is refused."""
        token = theirs({**THEIR_HEADER, **header}, {**THEIR_CLAIMS, **claims})
        try:
            subject, roles, session = self.who(token)
        except Unauthenticated:
            return
        self.assertTrue(subject.startswith("partner~") and len(subject) > len("partner~"), subject)
        self.assertLessEqual(set(roles), {"staff", "customer"})
        self.assertEqual(session, "")

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.text("ab~|@._-A0 /\n\u00e9", min_size=1, max_size=100), min_size=2, max_size=2, unique=True))
    def test_subjects(self, subjects: list[str]) -> None:
        """Two subjects never get one id; an id has room in every table, is plain text, and is none of ours."""
        ids = [self.who(theirs(claims={**THEIR_CLAIMS, "sub": subject}))[0] for subject in subjects]
        ids.append(self.who(theirs(claims={**THEIR_CLAIMS, "sub": ids[0]}))[0])
        self.assertEqual(len(set(ids)), 3)
        for made in ids:
            self.assertRegex(made, r"\Apartner~~?[A-Za-z0-9._|@-]+\Z")
            self.assertLessEqual(len(made), LONGEST_SUBJECT)

    def test_same_name_elsewhere(self) -> None:
        """One name at three issuers is three people."""
        third = theirs(claims={**THEIR_CLAIMS, "iss": "https://files.example"}, sign=KEY.sign)
        named = [self.who(token)[0] for token in (GENUINE, theirs(), third)]
        self.assertEqual(named, ["ada", "partner~ada", "files~ada"])

    def test_expired(self) -> None:
        """A token whose time is over says so."""
        with self.assertRaises(Unauthenticated) as caught:
            self.tokens.principal("Bearer " + theirs(claims={**THEIR_CLAIMS, "iat": NOW - 900, "exp": NOW - 60}))
        self.assertEqual(caught.exception.reason, "TOKEN_EXPIRED")

    def test_count(self) -> None:
        """The table is as long as it looks."""
        self.assertGreater(sum(map(len, self.rows.values())), 90)
