"""Listens for HTTPS.

What is sent goes to the kernel at once, as long as it takes it. Twisted would wait for the next turn of its loop, in case there
were more, and ask first whether the socket can be written to: a tenth of what a read costs, when answers are written whole.

The certificate and its key are looked at again once a second at most, and read again when they changed: a renewed
certificate serves new connections without a restart, and those that are open stay open.
"""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.application.service import Service
from twisted.internet import tcp
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import AcceptableCiphers, Certificate, CertificateOptions, KeyPair, TLSVersion
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from bookd.bridge import pem
from bookd.bridge.server import ListenError, check_free
from bookd.config import Identity
from bookd.gateway.site import Site

_GLANCE = 1.0
# Of TLS 1.2: forward secrecy and AEAD, nothing else (RFC 9325, section 4.2). All of TLS 1.3's are so.
_CIPHERS = AcceptableCiphers.fromOpenSSLCipherString("ECDHE+AESGCM:ECDHE+CHACHA20")
_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """TLS 1.2 or later with a certificate chain and a key from PEM files. Raises OSError or ValueError at first.

    Files that cannot be read later leave the certificate as it was, and that is told once.
    """

    def __init__(self, identity: Identity, home: Path, seconds: Callable[[], float]) -> None:
        self._paths = (home / identity.certificate, home / identity.private_key)
        self._seconds = seconds
        self._complaint = pem.complaint(*self._paths)
        self._looked = seconds()
        self._stamp = pem.stamp(*self._paths)
        self._options = self._read()

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        """A TLS connection for a client that has just arrived."""
        self._refresh()
        return SSL.Connection(self._options.getContext(), None)

    def _refresh(self) -> None:
        now = self._seconds()
        if now - self._looked < _GLANCE:
            return
        self._looked = now
        try:
            stamp = pem.stamp(*self._paths)
            if stamp != self._stamp:
                self._options = self._read()
                self._stamp = stamp
        except (OSError, ValueError) as error:
            self._complaint.spoilt(error)

    def _read(self) -> CertificateOptions:
        chain, key = pem.read_pair(*self._paths)
        try:
            leaf, *issuers = (Certificate.loadPEM(_PEM_BEGIN + part) for part in chain.split(_PEM_BEGIN)[1:])
            options = CertificateOptions(
                privateKey=KeyPair.load(key, crypto.FILETYPE_PEM).original,
                certificate=leaf.original,
                extraCertChain=[issuer.original for issuer in issuers],
                raiseMinimumTo=TLSVersion.TLSv1_2,
                acceptableCiphers=_CIPHERS,
            )
            options.getContext()  # a key that TLS cannot use shows here
        except (SSL.Error, crypto.Error, ValueError, TypeError) as error:
            raise ValueError(f"{self._paths[0]} holds no certificate that can be used: {error}") from error
        return options


class Wire(tcp.Server):
    """A connection that is written to at once."""

    def write(self, data: bytes) -> None:
        """Send what the kernel takes now; the rest when it can take more. A connection that broke is found to be so there."""
        if self.connected and not self._writeDisconnected and not self.dataBuffer and not self._tempDataBuffer:
            try:
                sent = self.socket.send(data)
            except OSError:
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)


class Port(tcp.Port):
    """A port whose connections are of that kind."""

    transport = Wire


class Door(TLSMemoryBIOFactory):
    """Lets in as many connections as the site admits."""

    # Without the buffer in which small writes gather: an answer is one.
    protocol = TLSMemoryBIOProtocol

    def buildProtocol(self, addr: Any) -> Any:
        """The protocol of a new connection; None, and Twisted closes it, for one too many."""
        site: Any = self.wrappedFactory
        return super().buildProtocol(addr) if site.admits(addr.host) else None


class Listener(Service):
    """Serves a site on every address of `host`. Afterwards `port` is the port it listens on.

    Raises `ListenError` from startService. stopService stops listening, lets the requests that are under way finish,
    for `grace` seconds at most, and fires when no connection is left.
    """

    def __init__(self, host: str, port: int, site: Site, tls: Any, *, grace: float, reactor: Any) -> None:
        self.host = host
        self.port = port
        self._site = site
        self._tls = tls
        self._grace = grace
        self._reactor = reactor
        self._listening: list[Any] = []

    def startService(self) -> None:
        """Listen."""
        super().startService()
        check_free(self.host, self.port)
        factory = Door(self._tls, False, self._site)
        for address in _addresses(self.host):
            try:
                listening: Any = Port(self.port, factory, interface=address, reactor=self._reactor)
                listening.startListening()
            except CannotListenError as error:
                if self._listening:
                    continue  # a host without IPv6
                raise ListenError(f"cannot listen on {self.host}:{self.port}: {error.socketError}") from None
            self._listening.append(listening)
            self.port = listening.getHost().port

    def stopService(self) -> Deferred[None]:
        """Stop listening and drain."""
        super().stopService()
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        listening, self._listening = self._listening, []
        await DeferredList([port.stopListening() for port in listening])
        giving_up = self._reactor.callLater(self._grace, self._site.abort)
        await self._site.drain()
        if giving_up.active():
            giving_up.cancel()


def _addresses(host: str) -> list[str]:
    """The IP addresses that `host` stands for. Raises `ListenError`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}: {error.strerror}") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in sorted(found, key=lambda entry: entry[0])))
