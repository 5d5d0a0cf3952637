"""A gRPC server as a Twisted service: servicers of our colour, health and reflection, peers known by certificate."""

import errno
import os
import socket
from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.bridge import methods, status
from bookd.bridge.context import Context
from bookd.bridge.crossing import from_asyncio
from bookd.bridge.exchange import Exchange
from bookd.bridge.methods import Handler, Lookup, Raw, Servicer
from bookd.bridge.metrics import Count, uncounted
from bookd.bridge.tls import peer_name
from bookd.bridge.trunk import OVERHEAD
from bookd.contract.descriptors import Contract, Method
from bookd.errors import BookdError, Internal, PermissionDenied

# Calls by themselves that one connection may have open; its peer's further ones wait, as HTTP/2 has it. And all calls by
# themselves of a server; what comes beyond is refused.
_STREAMS = 1000
_CALLS = 10_000
# Seconds that a peer may take to show who it is.
_HANDSHAKE = 10.0


class ListenError(Exception):
    """A server cannot listen; the message names the address and says why."""


class Server(Service):
    """Serves servicers, raw methods, `grpc.health.v1.Health` and server reflection on one port.

    `peers` are the daemon names whose certificates may call, `trusted` those of them whose word about the principal is
    believed; None admits and trusts everybody, for tests. Where `contract` has a rule for the method called, it is
    enforced before the servicer's method runs. With `credentials` None the server is plain text, for tests. `count` is told
    of each call once it has ended: seconds, the name of its code, its path.

    Add servicers before startService: `add_OrdersServiceServicer_to_server(servicer, server)`. Afterwards `port` is the
    port it listens on. Raises `ListenError` from startService when it cannot.
    """

    log = Logger()

    def __init__(
        self,
        host: str,
        port: int,
        credentials: grpc.ServerCredentials | None = None,
        *,
        contract: Contract | None = None,
        peers: Iterable[str] | None = None,
        trusted: Iterable[str] | None = None,
        grace: float = 5.0,
        max_message: int = 4 * 1024 * 1024,
        count: Count = uncounted,
    ) -> None:
        self.host = host
        self.port = port
        self._credentials = credentials
        self._methods = contract.methods if contract is not None else {}
        self._pool = contract.pool if contract is not None else None
        self._peers = None if peers is None else frozenset(peers)
        self._trusted = None if trusted is None else frozenset(trusted)
        self._grace = grace
        self._count = count
        self.max_message = max_message
        self._handlers: list[Handler] = []
        self._unary: dict[str, methods.Method] = {}
        self._exchange = Exchange(self)
        self._names: list[str] = []
        self._server: grpc.aio.Server | None = None
        self._health: health_aio.HealthServicer | None = None
        self.started: Deferred[None] = succeed(None)

    # What generated code calls to add a servicer.

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Add the methods of a servicer; protoc's add_…_to_server calls this."""
        for handler in handlers:
            self._names.append(handler.service_name())  # type: ignore[attr-defined]
            self._handlers.append(Servicer(self, handler))

    def add_registered_method_handlers(self, service: str, methods: Any) -> None:
        """Likewise called by generated code; the generic handlers say it all."""

    def add_generic(self, lookup: Lookup, services: Iterable[str] = ()) -> None:
        """Serve raw methods; `services` are the full names that health and reflection tell of."""
        self._names += services
        self._handlers.append(Raw(self, lookup))

    # The service.

    def startService(self) -> None:
        """Listen, and serve from the next turn of the reactor on."""
        super().startService()
        check_free(self.host, self.port)
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self.max_message + OVERHEAD),
                ("grpc.max_send_message_length", self.max_message + OVERHEAD),
                # Peers may look after an idle connection every 5 s.
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
                ("grpc.max_concurrent_streams", _STREAMS),
                # From 1,000 calls on that wait for their turn, gRPC would cancel some at random, whoever's they are.
                ("grpc.server.max_pending_requests", _CALLS),
                ("grpc.server.max_pending_requests_hard_limit", _CALLS),
                ("grpc.server_handshake_timeout_ms", round(_HANDSHAKE * 1000)),
            ],
            maximum_concurrent_rpcs=_CALLS,
        )
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((self._exchange, *self._handlers))
        names = [*dict.fromkeys(self._names), health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server, self._pool)
        address = f"{self.host}:{self.port}"
        try:
            if self._credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {address}: {error}") from None
        self._server = server
        self.started = from_asyncio(self._serve(server, names))

    async def _serve(self, server: grpc.aio.Server, names: Sequence[str]) -> None:
        assert self._health is not None
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await server.start()

    def stopService(self) -> Deferred[None]:
        """Drain: say NOT_SERVING, take no further calls, fire when those under way have ended or the grace is over."""
        super().stopService()
        server, self._server = self._server, None
        if server is None:
            return succeed(None)
        drained: Deferred[None] = self.started.addBoth(lambda _: from_asyncio(self._drain(server)))
        return drained

    async def serves(self) -> bool:
        """Whether calls are taken."""
        return self._server is not None and bool(self.started.called)

    async def _drain(self, server: grpc.aio.Server) -> None:
        assert self._health is not None
        await self._health.enter_graceful_shutdown()
        self._exchange.close()
        await server.stop(self._grace)

    # Each call passes here.

    def admit(self, path: str, grpc_context: Any) -> Context:
        """The context of a call by itself, once its peer has been found to be one of ours."""
        peer = self.peer(path, grpc_context)
        invocation: dict[str, Any] = {}
        for key, value in grpc_context.invocation_metadata() or ():
            invocation.setdefault(key, value)
        return self.context(path, peer, invocation, grpc_context)

    def peer(self, path: str, grpc_context: Any) -> str:
        """The name of the peer. Raises `PermissionDenied` when it may not call."""
        peer = peer_name(grpc_context.auth_context())
        if self._peers is not None and peer not in self._peers:
            self.log.warn("refused {path}: peer {peer} is not listed", path=path, peer=peer or "(nameless)")
            raise PermissionDenied(f"{peer or 'this peer'} may not call here", reason="UNKNOWN_PEER")
        return peer

    def context(self, path: str, peer: str, invocation: dict[str, Any], timing: Any) -> Context:
        """The context of a call of a peer that may call; `timing` tells how long that waits."""
        context = Context(path, peer, invocation, timing)
        try:
            context.admit(self._trusted)
        except PermissionDenied as error:
            self.log.warn("refused {path}: {why}", path=path, why=error.message)
            raise
        return context

    def unary(self, path: str) -> methods.Method | None:
        """The unary method at `path`."""
        found = self._unary.get(path)
        if found is None:
            for handler in self._handlers:
                found = handler.find(path)
                if found is not None and found.shape == "unary_unary":
                    self._unary[path] = found
                    return found
            return None
        return found

    def rule(self, path: str) -> Method | None:
        """The method's rule, if the contract has one."""
        return self._methods.get(path)

    def told(self, path: str, error: Exception) -> BookdError:
        """What the caller may hear of a failure. One that is none of ours is logged, and told as INTERNAL."""
        if isinstance(error, BookdError):
            return error
        if isinstance(error, CancelledError):
            return status.stopped()
        number = uuid4().hex
        self.log.failure("{path} failed, told as {number}", Failure(error), path=path, number=number)
        return Internal(f"internal error {number}", info={"error_id": number}, reason="INTERNAL")

    def ended(self, path: str, code: str, began: float) -> None:
        """Count a call of a method that is served; `began` is what `time.perf_counter` said then."""
        self._count(perf_counter() - began, code, path)

    async def abort(self, grpc_context: Any, path: str, error: Exception, began: float) -> None:
        """End the call with the status of `error`."""
        told = self.told(path, error)
        self.ended(path, told.code.name, began)
        await grpc_context.abort(status.grpc_code(told.code), told.message, status.trailing_metadata(told))


def check_free(host: str, port: int) -> None:
    """Raise `ListenError` when any address of `host` has `port` taken: gRPC is content with one that is free.

    Port 0 stands for any free port.
    """
    if port == 0:
        return
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                continue  # a host without IPv6
            reason = os.strerror(error.errno or 0)
            raise ListenError(f"cannot listen on {host}:{port}: {reason}") from None
