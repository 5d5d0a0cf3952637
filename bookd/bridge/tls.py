"""Mutual TLS between daemons: who we are, whom we believe, and who is at the other end.

A daemon is known by one DNS name in its certificate, `NAME.bookd.internal`, wherever it listens: a client asks for that
name whatever the address, and a server reads it from the client's certificate.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from bookd import pki
from bookd.bridge import pem
from bookd.config import Identity

SUFFIX = ".bookd.internal"
# auth_context() key that gRPC puts the subject alternative names under.
_NAMES = "x509_subject_alternative_name"


class Files:
    """Certificate, private key and authority of a daemon, which may be renewed at any time."""

    def __init__(self, identity: Identity, home: Path) -> None:
        self._paths = home / identity.certificate, home / identity.private_key, home / identity.ca
        self.complaint = pem.complaint(*self._paths[:2])

    def stamp(self) -> object:
        """Equal as long as nothing was replaced. Raises OSError."""
        return pem.stamp(*self._paths)

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Key, certificate and authority. Raises ValueError that names the file that cannot be used; half-way through a
        renewal key and certificate do not fit."""
        certificate, key, ca = self._paths
        chain, secret = pem.read_pair(certificate, key)
        return secret, chain, pem.read(ca, pki.certificates)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a client that shows the certificate and believes servers of the same CA. Raises as `read`."""
        key, chain, authority = self.read()
        return grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=chain)


def server_credentials(identity: Identity, home: Path) -> grpc.ServerCredentials:
    """Credentials of a server that asks every client for a certificate of the same CA.

    The files are looked at on every handshake and read again when they changed, so a renewed certificate needs no
    restart. Raises OSError or ValueError when they cannot be used now.
    """
    files = Files(identity, home)
    seen = files.stamp()
    current = _certificate_configuration(files)

    def fetch() -> Any:  # None: nothing changed, which the stubs do not know
        nonlocal seen
        try:
            stamp = files.stamp()
            if stamp == seen:
                files.complaint.good()
                return None
            renewed = _certificate_configuration(files)
        except (OSError, ValueError) as error:
            files.complaint.spoilt(error)
            return None  # half-way through a renewal, or worse: the old one still serves
        files.complaint.good()
        seen = stamp
        return renewed

    return grpc.dynamic_ssl_server_credentials(current, fetch, require_client_authentication=True)


def _certificate_configuration(files: Files) -> grpc.ServerCertificateConfiguration:
    key, chain, authority = files.read()
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authority)


def channel_credentials(identity: Identity, home: Path) -> grpc.ChannelCredentials:
    """Credentials of a client, read once. Raises OSError and ValueError."""
    return Files(identity, home).channel_credentials()


def peer_name(auth_context: Mapping[str, Sequence[bytes]]) -> str:
    """The daemon name in the peer's certificate; empty when it showed none, or one that names no daemon."""
    for name in auth_context.get(_NAMES, ()):
        text = name.decode("ascii", "replace")
        if text.endswith(SUFFIX):
            return text.removesuffix(SUFFIX)
    return ""
