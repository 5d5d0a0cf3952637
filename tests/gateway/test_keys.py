"""Keys of JWK sets: which are of use, and for what."""

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway import keys
from bookd.gateway.keys import MOST_KEYS, parse
from tests.gateway.serving import KEY, jwk

RSA = rsa.generate_private_key(65537, 2048)
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
ALL = tuple(keys._KINDS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def rsa_jwk(key: Any = RSA, **more: Any) -> dict[str, Any]:
    """The public half of an RSA key."""
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "r1", **more}


def ec_jwk(key: Any, **more: Any) -> dict[str, Any]:
    """The public half of a key on a curve."""
    return {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "e1", **more}


def text(*entries: Any) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": list(entries)}).encode()


class ParseTests(SynchronousTestCase):
    """One entry at a time, beside one that is always good."""

    def found(self, entry: Any, algorithms: Any = ALL) -> str | None:
        """The algorithm of an entry; None when it is passed over."""
        good = {**jwk(KEY, "good"), "alg": "EdDSA"}
        read = parse(text(entry, good), [*algorithms, "EdDSA"])
        others = [key.algorithm for kid, key in read.items() if kid != "good"]
        return others[0] if others else None

    def test_algorithm_of_the_key(self) -> None:
        """A key verifies with the algorithm that it names, or with the only one that its kind has here."""
        self.assertEqual(self.found(jwk(KEY, "k"), ()), "EdDSA")
        for name, curve in CURVES.items():
            self.assertEqual(self.found(ec_jwk(ec.generate_private_key(curve))), name)
        self.assertEqual(self.found(rsa_jwk(), ("RS256",)), "RS256")
        self.assertEqual(self.found(rsa_jwk(), ("PS384",)), "PS384")
        self.assertEqual(self.found(rsa_jwk(alg="PS512")), "PS512")

    def test_algorithm_in_doubt(self) -> None:
        """A key that could be used with several algorithms, or that names one that is not allowed or not its own, is
        passed over."""
        self.assertIsNone(self.found(rsa_jwk()))
        for name in ("RS512", "HS256", "none", "ES256", "", None, 5, ["RS256"], {"RS256": 1}):
            self.assertIsNone(self.found(rsa_jwk(alg=name), ("RS256", "ES256")), name)

    def test_kinds_that_are_none(self) -> None:
        """Secrets, weak keys, keys of other curves and kinds, and keys that are broken, are passed over."""
        p256 = ec_jwk(ec.generate_private_key(ec.SECP256R1()))
        other = jwt.algorithms.OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True)
        for entry in (
            {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "EdDSA"},
            {**other, "kid": "o"},
            {**jwk(KEY, "k"), "crv": "X25519"},
            rsa_jwk(rsa.generate_private_key(65537, 1024), alg="RS256"),
            rsa_jwk(alg="RS256", e="AQ"),
            rsa_jwk(alg="RS256", e="_" * 300),
            rsa_jwk(alg="RS256", n="AQAB"),
            {**p256, "crv": "secp256k1"},
            {**p256, "crv": "P-384"},
            {**p256, "x": p256["y"], "y": p256["x"]},  # not on the curve
            {**p256, "x": "!"},
            {**p256, "x": 7},
            {**p256, "x": None},
            {name: value for name, value in p256.items() if name != "y"},
        ):
            self.assertIsNone(self.found(entry), entry)

    def test_keys_for_something_else(self) -> None:
        """Keys for encryption, or that may not verify, are passed over."""
        for more in ({"use": "enc"}, {"use": None}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"key_ops": 1}):
            self.assertIsNone(self.found({**jwk(KEY, "k"), **more}), more)
        self.assertEqual(self.found({**jwk(KEY, "k"), "use": "sig", "key_ops": ["sign", "verify"]}, ()), "EdDSA")

    def test_names(self) -> None:
        """A key without a name, or with a strange one, is passed over; of two with one name the first counts."""
        for kid in (None, "", 1, [], "k" * 300):
            self.assertIsNone(self.found({**jwk(KEY, "k"), "kid": kid}), kid)
        read = parse(text(rsa_jwk(alg="RS256", kid="k"), jwk(KEY, "k")), ALL)
        self.assertEqual([key.algorithm for key in read.values()], ["RS256"])

    def test_private_half(self) -> None:
        """Of a key that was published whole, only the public half is taken."""
        private = jwt.algorithms.OKPAlgorithm.to_jwk(KEY, as_dict=True)
        found = parse(text({**private, "kid": "k"}))["k"].public
        self.assertEqual(found, KEY.public_key())

    def test_no_set(self) -> None:
        """What is no set, is too large, or has no key of use, is refused."""
        for data in (
            b"",
            b"{",
            b"null",
            b"[]",
            b"{}",
            b'{"keys": null}',
            b'{"keys": {}}',
            b'{"keys": "x"}',
            b'{"keys": []}',
            b"\xff",
            b'{"keys":' + b"[" * 5000 + b"]" * 5000 + b"}",
            b'{"keys": [' + b"9" * 10_000 + b"]}",
            text(*([jwk(KEY, "k")] * (MOST_KEYS + 1))),
            text(7, None, [], "k"),
        ):
            self.assertRaises(ValueError, parse, data)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
    def test_anything(self, data: bytes) -> None:
        """Whatever is sent in place of a set, it is refused, and nothing else happens."""
        self.assertRaises(ValueError, parse, data)

    @settings(max_examples=300, deadline=None)
    @given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "alg", "use", "key_ops", "kid"]), JSON))
    def test_any_entry(self, members: dict[str, Any]) -> None:
        """Whatever stands in an entry, the others are read."""
        for entry in ({**jwk(KEY, "k"), **members}, {**rsa_jwk(alg="RS256"), **members}):
            self.assertIn("good", parse(text(entry, jwk(KEY, "good")), ALL))
