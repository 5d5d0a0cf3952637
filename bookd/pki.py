"""A private certificate authority, and the certificates of the daemons (RFC 5280).

Every hop between daemons is mutual TLS. `bookd init` makes one authority for a suite and one certificate for each daemon;
`NAME.bookd.internal` in its subject alternative names is what a daemon is known by. Keys are ECDSA over P-256. The
authority signs leaves only (path length 0). A leaf never outlives the authority that signed it.

Nothing here touches a file or asks for the time; keys and serial numbers are random.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME = timedelta(days=3652)  # ten years
LEAF_LIFETIME = timedelta(days=825)  # the longest that common TLS clients accept
# Two hosts' clocks differ a little: a fresh certificate is valid on both.
CLOCK_SKEW = timedelta(minutes=5)
DOMAIN = "bookd.internal"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


@frozen
class Issued:
    """A certificate and its private key.

    `certificate_pem` is a chain, leaf first; an authority's is its own certificate alone. `key_pem` is PKCS#8, not
    encrypted: whoever writes it to a file keeps others out.
    """

    certificate_pem: bytes
    key_pem: bytes


def make_authority(now: datetime, common_name: str = "bookd private CA") -> Issued:
    """A new self-signed authority. `now` bears a time zone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, SHA256())
    )
    return Issued(certificate.public_bytes(Encoding.PEM), _key_pem(key))


def issue(authority: Issued, name: str, hosts: Sequence[str], now: datetime) -> Issued:
    """A certificate for the daemon `name`, signed by `authority`, good as a server's and as a client's.

    It stands for `name`.bookd.internal, for this host under its usual names, and for `hosts` (DNS names and IP
    addresses). Raises `ValueError` when a name cannot be in a certificate, or the authority is not valid at `now`.
    """
    if not _LABEL.fullmatch(name):
        raise ValueError(f"{name!r} is not a DNS label, so it cannot name a daemon")
    signer = load_pem_private_key(authority.key_pem, password=None)
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
    if not isinstance(signer, ec.EllipticCurvePrivateKey) or signer.public_key() != issuer.public_key():
        raise ValueError("the authority's key does not belong to its certificate")
    if not issuer.not_valid_before_utc <= now < issuer.not_valid_after_utc:
        raise ValueError(
            f"the authority is valid from {issuer.not_valid_before_utc} until {issuer.not_valid_after_utc}"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    names = _alternative_names([*_usual(name), *hosts])
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name}.{DOMAIN}")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_SKEW, issuer.not_valid_before_utc))
        .not_valid_after(min(now + LEAF_LIFETIME, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(signer, SHA256())
    )
    return Issued(certificate.public_bytes(Encoding.PEM) + authority.certificate_pem, _key_pem(key))


def ends(certificate_pem: bytes) -> datetime:
    """When the first certificate of a chain ends, UTC. Raises `ValueError` when there is none."""
    return x509.load_pem_x509_certificates(certificate_pem)[0].not_valid_after_utc


def hosts(certificate_pem: bytes, name: str) -> list[str]:
    """The DNS names and addresses that the daemon's certificate stands for beyond those that every one has."""
    leaf = x509.load_pem_x509_certificates(certificate_pem)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usual = {host.lower() for host in _usual(name)}
    return [text for text in (str(each.value) for each in names) if text not in usual]


def fits(certificate_pem: bytes, key_pem: bytes) -> bool:
    """Whether the key is that of the first certificate. Raises `ValueError` when either cannot be read."""
    return private_key(key_pem).public_key() == certificates(certificate_pem)[0].public_key()


def certificates(pem: bytes) -> list[x509.Certificate]:
    """The certificates in a file. Raises `ValueError` that says of the file why it cannot be used, as in "is empty"."""
    if not pem.strip():
        raise ValueError("is empty")
    begun = pem.count(b"-----BEGIN CERTIFICATE-----")
    if not begun:
        raise ValueError("holds no certificate in PEM")
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        found = []
    if len(found) != begun:
        raise ValueError("holds a certificate that is cut off or damaged")
    return found


def private_key(pem: bytes) -> PrivateKeyTypes:
    """The private key in a file. Raises `ValueError` as `certificates` does."""
    if not pem.strip():
        raise ValueError("is empty")
    if b"PRIVATE KEY-----" not in pem:
        raise ValueError("holds no private key in PEM")
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError("holds a private key that is locked with a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds a private key that is cut off or damaged") from None


def _usual(name: str) -> list[str]:
    return [f"{name}.{DOMAIN}", "localhost", "127.0.0.1", "::1"]


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    names: dict[str, x509.GeneralName] = {}
    for host in hosts:
        try:
            address = ip_address(host)
        except ValueError:
            if len(host) > 253 or not _HOST.fullmatch(host):
                raise ValueError(f"{host!r} is neither an IP address nor a DNS name") from None
            names.setdefault(host.lower(), x509.DNSName(host.lower()))
        else:
            names.setdefault(str(address), x509.IPAddress(address))
    return list(names.values())
