"""What lies at an HTTPS address that the configuration names, fetched with care.

The answer is bounded in bytes, head and all; it must come from the address itself (no redirect is followed) with 200, and
must not be compressed. Whoever fetches bounds the time: cancelling breaks the connection.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from OpenSSL.SSL import Error as TLSError
from treq import collect
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer

# Bytes of a whole answer, and seconds that a connection may take.
LARGEST, CONNECTING = 256 * 1024, 5.0


class Refused(Exception):
    """An answer that is not taken."""


class _Metered(ProtocolWrapper):
    """A connection that breaks when more comes than an answer may have."""

    def __init__(self, factory: Any, wrapped: Any) -> None:
        super().__init__(factory, wrapped)
        self.gone: Deferred[None] = Deferred()
        self._left = LARGEST

    def dataReceived(self, data: bytes) -> None:
        """Hand on a piece, or break."""
        self._left -= len(data)
        if self._left < 0:
            self.hang_up()
        else:
            super().dataReceived(data)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        """The connection is over."""
        super().connectionLost(reason)
        self.gone.callback(None)

    def hang_up(self) -> None:
        """Break the connection at once: whoever is at the other end might never close it."""
        wire: Any = self.transport
        if wire is not None:
            wire.abortConnection()


class _Door(WrappingFactory):
    protocol = _Metered
    noisy = False


@implementer(IStreamClientEndpoint)
@frozen
class _Line:
    """An endpoint whose connections are metered, and told of."""

    endpoint: Any
    opened: Callable[[_Metered], None]

    def connect(self, protocolFactory: Any) -> Any:
        """Connect the protocol of the factory."""

        protocolFactory.noisy = False  # it would log two lines for each fetch

        def connected(metered: Any) -> Any:
            self.opened(metered)
            return metered.wrappedProtocol

        return self.endpoint.connect(_Door(protocolFactory)).addCallback(connected)


@implementer(IAgentEndpointFactory)
@implementer(IAgent)
class Address:
    """Where a JWK set is; `ca` is a file with the authorities that may have signed the certificate there, None stands for
    those of the system. Raises OSError and ValueError for a file that holds none."""

    def __init__(self, reactor: Any, url: str, ca: Path | None) -> None:
        self._reactor = reactor
        self._url = url
        self._policy = BrowserLikePolicyForHTTPS(_trust(ca) if ca is not None else platformTrust())
        self._open: list[_Metered] = []

    def fetch(self) -> Deferred[bytes]:
        """What is there. One call at a time."""
        return Deferred.fromCoroutine(self._fetch())

    async def _fetch(self) -> bytes:
        try:
            headers: dict[bytes | str, bytes | str] = {
                "Accept": "application/jwk-set+json, application/json",
                "User-Agent": "bookd",
            }
            response = await HTTPClient(self).get(
                self._url, headers=headers, allow_redirects=False, unbuffered=True, reactor=self._reactor
            )
            if response.code != 200:
                raise Refused(f"the answer is {response.code}")
            parts: list[bytes] = []
            await collect(response, parts.append)
            return b"".join(parts)
        finally:
            open_now, self._open = self._open, []
            for line in open_now:
                line.hang_up()
                await line.gone

    # What treq asks, and what Twisted's agent asks.

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:
        """Make a request whose answer is not unpacked."""
        pool = HTTPConnectionPool(self._reactor, persistent=False)
        agent = Agent.usingEndpointFactory(self._reactor, self, pool)
        headers.setRawHeaders(b"accept-encoding", [b"identity"])
        return agent.request(method, uri, headers, bodyProducer).addCallback(_plain)

    def endpointForURI(self, uri: URI) -> Any:
        """A line to a host, by TLS, whatever the address says."""
        host = HostnameEndpoint(self._reactor, uri.host, uri.port, CONNECTING)
        return _Line(wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), host), self._open.append)


def _plain(response: Any) -> Any:
    if response.headers.hasHeader(b"content-encoding"):
        raise Refused("the answer is compressed")
    return response


def _trust(ca: Path) -> Any:
    mark = b"-----BEGIN CERTIFICATE-----"
    try:
        found = [Certificate.loadPEM(mark + part) for part in ca.read_bytes().split(mark)[1:]]
    except OSError:
        raise
    except Exception as error:  # pyOpenSSL raises several kinds
        raise ValueError(f"{ca}: no certificate that can be used: {error}") from error
    if not found:
        raise ValueError(f"{ca}: there is no certificate in it")
    return trustRootFromCertificates(found)


def reason(error: Exception) -> str:
    """What a failure to fetch is, for people: Twisted puts the reason behind several others."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return reason(reasons[0].value)
    if isinstance(error, TLSError):
        return f"TLS: {error.args[0] if error.args else error!r}"
    return str(error) or type(error).__name__
