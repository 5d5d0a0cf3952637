"""The private authority and what it signs."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from twisted.trial.unittest import SynchronousTestCase

from bookd import pki

NOW = datetime(2026, 11, 24, 0, 30, tzinfo=UTC)


def _chain(issued: pki.Issued) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(issued.certificate_pem)


class AuthorityTests(SynchronousTestCase):
    """The certificate that signs all others."""

    def test_is_an_authority_for_leaves_only(self) -> None:
        """It may sign certificates, none of which may sign another, and nothing else."""
        (certificate,) = _chain(pki.make_authority(NOW))
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        self.assertTrue(constraints.critical and usage.critical)
        self.assertEqual((constraints.value.ca, constraints.value.path_length), (True, 0))
        self.assertTrue(usage.value.key_cert_sign)
        self.assertFalse(usage.value.digital_signature)

    def test_lives_ten_years_from_a_little_ago(self) -> None:
        """It is valid five minutes before it was made, and for ten years."""
        (certificate,) = _chain(pki.make_authority(NOW))
        self.assertEqual(certificate.not_valid_before_utc, NOW - timedelta(minutes=5))
        self.assertEqual(certificate.not_valid_after_utc.year, 2036)

    def test_key_is_p256_in_pkcs8(self) -> None:
        """Its key is an unencrypted PKCS#8 PEM over P-256."""
        issued = pki.make_authority(NOW)
        self.assertTrue(issued.key_pem.startswith(b"-----BEGIN PRIVATE KEY-----"))
        key = load_pem_private_key(issued.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.assertIsInstance(key.curve, ec.SECP256R1)

    def test_two_authorities_differ(self) -> None:
        """Neither key nor serial number comes twice."""
        one, other = pki.make_authority(NOW), pki.make_authority(NOW)
        self.assertNotEqual(one.key_pem, other.key_pem)
        self.assertNotEqual(_chain(one)[0].serial_number, _chain(other)[0].serial_number)


class LeafTests(SynchronousTestCase):
    """The certificate of one daemon."""

    def setUp(self) -> None:
        self.authority = pki.make_authority(NOW)

    def _verifiers(self, at: datetime) -> PolicyBuilder:
        return PolicyBuilder().store(Store(_chain(self.authority))).time(at)

    def test_verifies_as_server_under_each_name(self) -> None:
        """A client that trusts the authority accepts it for the daemon, this host and each host asked for."""
        leaf = _chain(pki.issue(self.authority, "orders", ["books.example.org", "192.0.2.7"], NOW))[0]
        subjects = [
            x509.DNSName("orders.bookd.internal"),
            x509.DNSName("localhost"),
            x509.DNSName("books.example.org"),
            *(x509.IPAddress(ip_address(text)) for text in ("127.0.0.1", "::1", "192.0.2.7")),
        ]
        for subject in subjects:
            chain = self._verifiers(NOW).build_server_verifier(subject).verify(leaf, [])
            self.assertEqual(len(chain), 2)
        with self.assertRaises(VerificationError):
            self._verifiers(NOW).build_server_verifier(x509.DNSName("users.bookd.internal")).verify(leaf, [])

    def test_verifies_as_client(self) -> None:
        """A server that trusts the authority accepts it too."""
        leaf = _chain(pki.issue(self.authority, "mom", [], NOW))[0]
        verified = self._verifiers(NOW).build_client_verifier().verify(leaf, [])
        assert verified.subjects is not None
        self.assertIn(x509.DNSName("mom.bookd.internal"), verified.subjects)

    def test_refused_by_another_authority(self) -> None:
        """Whoever trusts another authority refuses it, though both have the same name."""
        leaf = _chain(pki.issue(pki.make_authority(NOW), "mom", [], NOW))[0]
        with self.assertRaises(VerificationError):
            self._verifiers(NOW).build_client_verifier().verify(leaf, [])

    def test_cannot_sign(self) -> None:
        """It is no authority itself, and names the two uses it has."""
        leaf = _chain(pki.issue(self.authority, "mom", [], NOW))[0]
        self.assertFalse(leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        self.assertFalse(leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign)
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(set(uses), {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})

    def test_lifetime(self) -> None:
        """It lives 825 days at most, begins five minutes ago, and ends with its authority at the latest."""
        leaf = _chain(pki.issue(self.authority, "mom", [], NOW))[0]
        self.assertEqual(leaf.not_valid_before_utc, NOW - timedelta(minutes=5))
        self.assertEqual(leaf.not_valid_after_utc, NOW + timedelta(days=825))
        (ca,) = _chain(self.authority)
        late = _chain(pki.issue(self.authority, "mom", [], ca.not_valid_after_utc - timedelta(days=1)))[0]
        self.assertEqual(late.not_valid_after_utc, ca.not_valid_after_utc)

    def test_expired_authority_signs_nothing(self) -> None:
        """An authority that has expired, or is not valid yet, is refused."""
        for at in (NOW + timedelta(days=4000), NOW - timedelta(days=1)):
            with self.assertRaisesRegex(ValueError, "valid from"):
                pki.issue(self.authority, "mom", [], at)

    def test_foreign_key_is_refused(self) -> None:
        """A certificate with another's key makes no authority."""
        mixed = pki.Issued(self.authority.certificate_pem, pki.make_authority(NOW).key_pem)
        with self.assertRaisesRegex(ValueError, "does not belong"):
            pki.issue(mixed, "mom", [], NOW)

    def test_chain_is_leaf_first(self) -> None:
        """The chain begins with the leaf and ends with the authority."""
        leaf, ca = _chain(pki.issue(self.authority, "mom", [], NOW))
        self.assertEqual([ca], _chain(self.authority))
        leaf.verify_directly_issued_by(ca)

    def test_names_come_once(self) -> None:
        """A host that is asked for twice, or is there anyway, is named once."""
        hosts = ["localhost", "LOCALHOST", "::1", "0:0:0:0:0:0:0:1"]
        leaf = _chain(pki.issue(self.authority, "mom", hosts, NOW))[0]
        self.assertEqual(len(list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)), 4)

    def test_bad_names(self) -> None:
        """What cannot be a DNS name or an address is refused, and the error says which it was."""
        for name in ("", "a.b", "UPPER", "-x", "x" * 64, "naïve", "a\0b"):
            with self.assertRaises(ValueError):
                pki.issue(self.authority, name, [], NOW)
        for host in ("", "a b", "http://x", "bücher.example", "a..b", "x" * 300, "*", "host\n"):
            with self.assertRaisesRegex(ValueError, "neither an IP address nor a DNS name"):
                pki.issue(self.authority, "mom", [host], NOW)

    def test_openssl_takes_the_files(self) -> None:
        """OpenSSL loads chain and key as a pair."""
        folder = Path(self.mktemp())
        folder.mkdir()
        issued = pki.issue(self.authority, "mom", [], NOW)
        (folder / "mom.pem").write_bytes(issued.certificate_pem)
        (folder / "mom.key").write_bytes(issued.key_pem)
        context = ssl.create_default_context(cadata=self.authority.certificate_pem.decode())
        context.load_cert_chain(folder / "mom.pem", folder / "mom.key")
