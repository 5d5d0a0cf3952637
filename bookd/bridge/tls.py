"""Mutual TLS between daemons: who we are, whom we believe, and who is at the other end.

A daemon is known by one DNS name in its certificate, `NAME.bookd.internal`, wherever it listens: a client asks for that
name whatever the address, and a server reads it from the client's certificate.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from bookd.config import Identity
from bookd.pki import fits

SUFFIX = ".bookd.internal"
# auth_context() key that gRPC puts the subject alternative names under.
_NAMES = "x509_subject_alternative_name"


def server_credentials(identity: Identity, home: Path) -> grpc.ServerCredentials:
    """Credentials of a server that asks every client for a certificate of the same CA.

    The files are looked at on every handshake and read again when they changed, so a renewed certificate needs no
    restart. Raises OSError or ValueError when they cannot be used now.
    """
    paths = [home / identity.private_key, home / identity.certificate, home / identity.ca]
    seen = _stamp(paths)
    current = _certificate_configuration(paths)

    def fetch() -> Any:  # None: nothing changed, which the stubs do not know
        nonlocal seen
        try:
            stamp = _stamp(paths)
            if stamp == seen:
                return None
            renewed = _certificate_configuration(paths)
        except (OSError, ValueError):
            return None  # half-way through a renewal: the old one still serves
        seen = stamp
        return renewed

    return grpc.dynamic_ssl_server_credentials(current, fetch, require_client_authentication=True)


def _stamp(paths: Sequence[Path]) -> list[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_ino) for status in (path.stat() for path in paths)]


def _certificate_configuration(paths: Sequence[Path]) -> grpc.ServerCertificateConfiguration:
    key, chain, authority = (path.read_bytes() for path in paths)
    if not fits(chain, key):
        raise ValueError(f"{paths[1]}: the key in {paths[0]} is not this certificate's")
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authority)


def channel_credentials(identity: Identity, home: Path) -> grpc.ChannelCredentials:
    """Credentials of a client that shows its certificate and believes servers of the same CA. Raises OSError."""
    return grpc.ssl_channel_credentials(
        root_certificates=(home / identity.ca).read_bytes(),
        private_key=(home / identity.private_key).read_bytes(),
        certificate_chain=(home / identity.certificate).read_bytes(),
    )


def peer_name(auth_context: Mapping[str, Sequence[bytes]]) -> str:
    """The daemon name in the peer's certificate; empty when it showed none, or one that names no daemon."""
    for name in auth_context.get(_NAMES, ()):
        text = name.decode("ascii", "replace")
        if text.endswith(SUFFIX):
            return text.removesuffix(SUFFIX)
    return ""
