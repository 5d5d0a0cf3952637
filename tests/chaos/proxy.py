"""A TCP link between two daemons that can be cut, silenced and slowed. TLS passes through it untouched."""

from collections import deque
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure


class Weather(Enum):
    """What a link does with bytes and connections."""

    FAIR = "fair"
    CUT = "cut"  # connections are broken, and new ones too
    SILENT = "silent"  # nothing comes through, and nobody is told
    SLOW = "slow"  # everything comes late


class Link:
    """A port on 127.0.0.1 that leads to another one. `late` is by how many seconds a slow link delays."""

    def __init__(self, reactor: Any, name: str, target: int, late: float = 0.15) -> None:
        self.reactor = reactor
        self.name = name
        self.target = target
        self.late = late
        self.weather = Weather.FAIR
        self.pairs: set[_Near] = set()
        self._port: Any = None

    def open(self) -> int:
        """Listen; answers the port."""
        self._port = self.reactor.listenTCP(0, _Factory(self), interface="127.0.0.1")
        return int(self._port.getHost().port)

    async def close(self) -> None:
        """Break what goes through, and listen no more."""
        self.set(Weather.CUT)
        if self._port is not None:
            await self._port.stopListening()
        ended = [pair.ended for pair in self.pairs]
        for each in ended:
            await each

    def set(self, weather: Weather) -> None:
        """Let it be so from now on. What a silent link held back comes through when it is fair again."""
        self.weather = weather
        for pair in list(self.pairs):
            if weather is Weather.CUT:
                pair.abort()
            else:
                pair.blow()


class _Way:
    """One direction of a connection: bytes that wait until they may go on, in their order."""

    def __init__(self, link: Link) -> None:
        self.to: Any = None
        self._link = link
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # when each may go; None: the end
        self._timer: IDelayedCall | None = None

    def take(self, data: bytes | None) -> None:
        """Bytes have come, or the end."""
        late = self._link.late if self._link.weather is Weather.SLOW else 0.0
        self._waiting.append((self._link.reactor.seconds() + late, data))
        self.go()

    def go(self) -> None:
        """Pass on what may go."""
        if self.to is None or self._link.weather is Weather.SILENT:
            return
        now = self._link.reactor.seconds()
        while self._waiting and self._waiting[0][0] <= now:
            data = self._waiting.popleft()[1]
            if data is None:
                self.to.loseConnection()
            else:
                self.to.write(data)
        if self._waiting and (self._timer is None or not self._timer.active()):
            self._timer = self._link.reactor.callLater(max(self._waiting[0][0] - now, 0.0), self.go)

    def stop(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
        self.to = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class _Near(Protocol):
    """The side that connected."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.ended: Deferred[None] = Deferred()
        self.there = _Way(link)
        self.back = _Way(link)
        self._far: Any = None
        self._connecting: Deferred[Any] | None = None

    def connectionMade(self) -> None:
        """Connect the other side too."""
        assert self.transport is not None
        self._link.pairs.add(self)
        self.back.to = self.transport
        if self._link.weather is Weather.CUT:
            self.abort()
            return
        self.transport.setTcpNoDelay(True)  # type: ignore[attr-defined]
        endpoint = HostnameEndpoint(self._link.reactor, b"localhost", self._link.target, timeout=5)
        self._connecting = endpoint.connect(Factory.forProtocol(lambda: _Far(self)))
        self._connecting.addErrback(lambda _: self.abort())

    def connected_to(self, far: Any) -> None:
        """The other side stands."""
        self._connecting = None
        if self.ended.called:
            far.abortConnection()
            return
        self._far = self.there.to = far
        far.setTcpNoDelay(True)
        self.there.go()

    def dataReceived(self, data: bytes) -> None:
        """Towards the server."""
        self.there.take(data)

    def blow(self) -> None:
        """The weather has changed."""
        self.there.go()
        self.back.go()

    def abort(self) -> None:
        """Break both sides."""
        if self._connecting is not None:
            self._connecting.cancel()
        sides: list[Any] = [self.transport, self._far]
        for side in sides:
            if side is not None:
                side.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The client has gone: so goes the other side, once it has what was sent."""
        self._link.pairs.discard(self)
        self.back.stop()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._far is not None and self._link.weather is Weather.FAIR:
            self._far.loseConnection()
        elif self._far is not None:
            self._far.abortConnection()
        if not self.ended.called:
            self.ended.callback(None)

    def far_lost(self) -> None:
        """The server has gone: so goes the client, once it has what was sent."""
        self.there.stop()
        self._far = None
        self.back.take(None)


class _Far(Protocol):
    """The side that is connected to."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def connectionMade(self) -> None:
        """The way is open."""
        self._near.connected_to(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Towards the client."""
        self._near.back.take(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the other side."""
        self._near.far_lost()


class _Factory(Factory):
    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Near(self._link)
