"""The gateway's connections: how much each may take, how many there may be, and how they end."""

from time import time
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web import server
from twisted.web.http import datetimeToString

from bookd.bridge.audit import Record, nothing
from bookd.bridge.metrics import Count, uncounted
from bookd.gateway import access
from bookd.gateway.connection import Connection
from bookd.gateway.cors import Cors
from bookd.gateway.hosts import Hosts
from bookd.gateway.origin import Proxies
from bookd.gateway.request import Request


@frozen(kw_only=True)
class Bounds:
    """What clients may do. Sizes are in bytes, times in seconds."""

    max_body: int = 1024 * 1024
    max_url: int = 8192
    # All headers together, and how many there may be.
    max_headers: int = 16 * 1024
    max_header_count: int = 100
    idle_timeout: float = 60.0
    head_timeout: float = 10.0
    body_timeout: float = 60.0
    max_connections: int = 10_000
    max_connections_per_address: int = 2_000
    # Many clients share the address of a proxy that is trusted.
    proxies: Proxies = field(factory=Proxies)


class Site(server.Site):
    """The factory of connections. `gateway` is a `bookd.gateway.routes.Gateway`; `new_id` makes request ids; `cors` knows
    the pages of others that may ask, `hosts` the names that are served; `audit` hears of refusals, and of what was done by the right of a role, `count` and
    `access` of every request that has ended."""

    reactor: Any

    def __init__(
        self,
        gateway: Any,
        bounds: Bounds,
        cors: Cors,
        *,
        new_id: Any,
        reactor: Any,
        hosts: Hosts | None = None,
        audit: Record = nothing,
        count: Count = uncounted,
        access: access.Record = access.nothing,
    ) -> None:
        super().__init__(
            gateway.app.resource(),
            requestFactory=Request,
            timeout=bounds.idle_timeout,
            reactor=reactor,
            parsePOSTFormSubmission=False,
        )
        self.protocol = Connection  # type: ignore[assignment]
        self.gateway = gateway
        self.bounds = bounds
        self.cors = cors
        self.hosts = hosts or Hosts()
        self.displayTracebacks = False
        self.logger = Logger()
        self.new_id = new_id
        self.audit = audit
        self.count = count
        self.access = access
        # Each connection with the address that it came from, and how many came from each address.
        self.connections: dict[Connection, str] = {}
        self._of: dict[str, int] = {}
        self._drained: list[Deferred[None]] = []
        # The last second that was told, and how.
        self._date = (0, "")

    def startFactory(self) -> None:
        """Nothing: Twisted would keep an access log of its own."""

    def stopFactory(self) -> None:
        """Nothing, likewise."""

    def log(self, request: Any) -> None:
        """Nothing, likewise: requests record themselves, also those that never finish."""

    def date(self) -> str:
        """The value of Date."""
        now = int(time())
        if self._date[0] != now:
            self._date = (now, datetimeToString(now).decode("ascii"))
        return self._date[1]

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS offers by ALPN: the connection above speaks HTTP/1.1 only."""
        return [b"http/1.1"]

    def admits(self, host: str) -> bool:
        """Whether another connection from the address `host` is taken. Twisted closes one that is not, without a word: it
        has not even shaken hands, and a thousand such must cost nothing."""
        if len(self.connections) >= self.bounds.max_connections:
            return False
        if self.bounds.proxies.trusts(host):
            return True
        return self._of.get(host, 0) < self.bounds.max_connections_per_address

    def came(self, connection: Connection) -> None:
        """Count a connection that has begun."""
        self.connections[connection] = host = connection.host
        self._of[host] = self._of.get(host, 0) + 1

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        host = self.connections.pop(connection, None)
        if host is not None:
            self._of[host] -= 1
            if not self._of[host]:
                del self._of[host]
        if not self.connections:
            waiting, self._drained = self._drained, []
            for deferred in waiting:
                deferred.callback(None)

    def drain(self) -> Deferred[None]:
        """Let each connection finish its request; fires when the last one has ended."""
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        for connection in list(self.connections):
            connection.finish_up()
        if not self.connections and not drained.called:
            self._drained.remove(drained)
            drained.callback(None)
        return drained

    def abort(self) -> None:
        """End every connection that is left."""
        for connection in list(self.connections):
            connection.transport.abortConnection()
