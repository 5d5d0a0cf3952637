"""A gRPC server as a Twisted service: servicers of our colour, health and reflection, peers known by certificate."""

import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Protocol
from uuid import uuid4

import grpc
import grpc.aio
from attrs import frozen
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from bookd.bridge import status
from bookd.bridge.context import Context
from bookd.bridge.crossing import Incoming, from_asyncio, to_asyncio
from bookd.bridge.exchange import Exchange
from bookd.bridge.tls import peer_name
from bookd.bridge.trunk import OVERHEAD
from bookd.contract.descriptors import Contract, Method
from bookd.contract.policy import authorize
from bookd.errors import BookdError, Internal, InvalidArgument, PermissionDenied


class ListenError(Exception):
    """A server cannot listen; the message names the address and says why."""


@frozen
class RawMethod:
    """A method that moves bytes: what a proxy serves. `behaviour(request or requests, context)` is of our colour."""

    client_streaming: bool
    server_streaming: bool
    behaviour: Callable[[Any, Context], Any]


class Lookup(Protocol):
    """Finds the raw method behind a path that no servicer serves; None when there is none."""

    def __call__(self, path: str, /) -> RawMethod | None: ...


class Server(Service):
    """Serves servicers, raw methods, `grpc.health.v1.Health` and server reflection on one port.

    `peers` are the daemon names whose certificates may call, `trusted` those of them whose word about the principal is
    believed; None admits and trusts everybody, for tests. Where `contract` has a rule for the method called, it is
    enforced before the servicer's method runs. With `credentials` None the server is plain text, for tests.

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
    ) -> None:
        self.host = host
        self.port = port
        self._credentials = credentials
        self._methods = contract.methods if contract is not None else {}
        self._pool = contract.pool if contract is not None else None
        self._peers = None if peers is None else frozenset(peers)
        self._trusted = None if trusted is None else frozenset(trusted)
        self._grace = grace
        self.max_message = max_message
        self._handlers: list[_Handler] = []
        self._unary: dict[str, _Method] = {}
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
            self._handlers.append(_Crossed(self, handler))

    def add_registered_method_handlers(self, service: str, methods: Any) -> None:
        """Likewise called by generated code; the generic handlers say it all."""

    def add_generic(self, lookup: Lookup, services: Iterable[str] = ()) -> None:
        """Serve raw methods; `services` are the full names that health and reflection tell of."""
        self._names += services
        self._handlers.append(_Raw(self, lookup))

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
            ]
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
        context.admit(self._trusted)
        return context

    def unary(self, path: str) -> "_Method | None":
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
        number = uuid4().hex
        self.log.failure("{path} failed, told as {number}", Failure(error), path=path, number=number)
        return Internal(f"internal error {number}", info={"error_id": number}, reason="INTERNAL")

    async def abort(self, grpc_context: Any, path: str, error: Exception) -> None:
        """End the call with the status of `error`."""
        told = self.told(path, error)
        await grpc_context.abort(status.grpc_code(told.code), told.message, status.trailing_metadata(told))


class _Handler(grpc.GenericRpcHandler):
    """Finds methods, and gives them to grpc.aio wrapped so that it can run them."""

    def find(self, path: str) -> "_Method | None":
        """The method at `path`."""
        raise NotImplementedError

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Called by grpc.aio."""
        found = self.find(details.method)
        return None if found is None else found.wrapped()


@frozen
class _Details:
    method: str
    invocation_metadata: tuple[Any, ...] = ()


class _Crossed(_Handler):
    """The handlers of one servicer, with each method wrapped so that grpc.aio can run it."""

    def __init__(self, server: Server, handler: grpc.GenericRpcHandler) -> None:
        self._server = server
        self._handler = handler

    def find(self, path: str) -> "_Method | None":
        details: Any = _Details(path)
        method: Any = self._handler.service(details)
        if method is None:
            return None
        shape = _shape(method.request_streaming, method.response_streaming)
        behaviour = getattr(method, shape)
        return _Method(self._server, path, shape, behaviour, method.request_deserializer, method.response_serializer)


class _Raw(_Handler):
    """Raw methods, which have no serializers."""

    def __init__(self, server: Server, lookup: Lookup) -> None:
        self._server = server
        self._lookup = lookup

    def find(self, path: str) -> "_Method | None":
        raw = self._lookup(path)
        if raw is None:
            return None
        return _Method(self._server, path, _shape(raw.client_streaming, raw.server_streaming), raw.behaviour)


def _shape(client_streaming: bool, server_streaming: bool) -> str:
    return f"{'stream' if client_streaming else 'unary'}_{'stream' if server_streaming else 'unary'}"


class _Method:
    """One method of the server, however it came there."""

    def __init__(
        self,
        server: Server,
        path: str,
        shape: str,
        behaviour: Callable[[Any, Context], Any],
        deserializer: Callable[[bytes], Any] | None = None,
        serializer: Callable[[Any], bytes] | None = None,
    ) -> None:
        self.shape = shape
        self.serialize: Callable[[Any], bytes] = serializer or bytes
        self._server = server
        self._path = path
        self._behaviour = behaviour
        self._deserializer = deserializer
        self._serializer = serializer

    def deserialize(self, request: bytes) -> Any:
        """The request as the method wants it. Raises `InvalidArgument` when it cannot be read."""
        try:
            return request if self._deserializer is None else self._deserializer(request)
        except DecodeError:
            raise InvalidArgument(f"this is no request of {self._path}") from None

    def run(self, request: Any, context: Context) -> Any:
        """Check a call whose request is one message, and run it."""
        if isinstance(request, Message):
            rule = self._server.rule(self._path)
            if rule is not None:
                authorize(rule, context.principal, request)
            context.describe(request)
        return self._behaviour(request, context)

    def wrapped(self) -> grpc.RpcMethodHandler:
        """The method as grpc.aio runs it."""
        run = self._stream if self.shape.endswith("stream") else self._answer
        made: grpc.RpcMethodHandler = getattr(grpc, f"{self.shape}_rpc_method_handler")(
            run, self._deserializer, self._serializer
        )
        return made

    async def _answer(self, request: Any, grpc_context: Any) -> Any:
        try:
            return await to_asyncio(self._begin(request, grpc_context))
        except Exception as error:
            await self._server.abort(grpc_context, self._path, error)

    async def _stream(self, request: Any, grpc_context: Any) -> None:
        try:
            await _pour(self._begin(request, grpc_context), grpc_context.write)
        except Exception as error:
            await self._server.abort(grpc_context, self._path, error)

    def _begin(self, request: Any, grpc_context: Any) -> Any:
        context = self._server.admit(self._path, grpc_context)
        if self.shape.startswith("stream"):
            return self._behaviour(Incoming(grpc_context.read, grpc.aio.EOF), context)
        return self.run(request, context)


async def _pour(responses: AsyncIterator[Any], write: Callable[[Any], Any]) -> None:
    """Write all that an iterator of our colour yields; close it when the call ends before it does."""
    step: Deferred[Any] = succeed(None)
    try:
        while True:
            step = Deferred.fromCoroutine(_next(responses))
            try:
                response = await to_asyncio(step)
            except StopAsyncIteration:
                return
            await write(response)
    finally:
        # A step that was cancelled takes a moment to end; until it has, the iterator runs and cannot be closed.
        ended: Deferred[None] = Deferred()
        step.addBoth(lambda _: ended.callback(None))
        await to_asyncio(ended)
        close = getattr(responses, "aclose", None)
        if close is not None:
            await to_asyncio(close())


async def _next(responses: AsyncIterator[Any]) -> Any:
    return await anext(responses)


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
