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
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from bookd.bridge import status
from bookd.bridge.context import Context
from bookd.bridge.crossing import Incoming, from_asyncio, to_asyncio
from bookd.bridge.tls import peer_name
from bookd.contract.descriptors import Contract, Method
from bookd.contract.policy import authorize
from bookd.errors import BookdError, Internal, PermissionDenied


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
        self._max_message = max_message
        self._handlers: list[grpc.GenericRpcHandler] = []
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
                ("grpc.max_receive_message_length", self._max_message),
                ("grpc.max_send_message_length", self._max_message),
                # Peers may look after an idle connection every 5 s.
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ]
        )
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers(tuple(self._handlers))
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
        await server.stop(self._grace)

    # Each call passes here.

    def admit(self, path: str, grpc_context: Any) -> Context:
        """The context of a call, once its peer has been found to be one of ours."""
        peer = peer_name(grpc_context.auth_context())
        if self._peers is not None and peer not in self._peers:
            self.log.warn("refused {path}: peer {peer} is not listed", path=path, peer=peer or "(nameless)")
            raise PermissionDenied(f"{peer or 'this peer'} may not call here", reason="UNKNOWN_PEER")
        invocation: dict[str, Any] = {}
        for key, value in grpc_context.invocation_metadata() or ():
            invocation.setdefault(key, value)
        context = Context(path, peer, invocation, grpc_context)
        context.admit(self._trusted)
        return context

    def rule(self, path: str) -> Method | None:
        """The method's rule, if the contract has one."""
        return self._methods.get(path)

    async def abort(self, grpc_context: Any, path: str, error: Exception) -> None:
        """End the call with the status of `error`. An error that is none of ours is logged, and told as INTERNAL."""
        if not isinstance(error, BookdError):
            number = uuid4().hex
            self.log.failure("{path} failed, told as {number}", path=path, number=number)
            error = Internal(f"internal error {number}", info={"error_id": number}, reason="INTERNAL")
        code, message = status.grpc_code(error.code), error.message
        await grpc_context.abort(code, message, status.trailing_metadata(error))


class _Crossed(grpc.GenericRpcHandler):
    """The handlers of one servicer, with each method wrapped so that grpc.aio can run it."""

    def __init__(self, server: Server, handler: grpc.GenericRpcHandler) -> None:
        self._server = server
        self._handler = handler

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = self._handler.service(details)
        if method is None:
            return None
        shape = _shape(method.request_streaming, method.response_streaming)
        return _wrap(self._server, details.method, method, getattr(method, shape))


class _Raw(grpc.GenericRpcHandler):
    """Raw methods, which have no serializers."""

    def __init__(self, server: Server, lookup: Lookup) -> None:
        self._server = server
        self._lookup = lookup

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        raw = self._lookup(details.method)
        if raw is None:
            return None
        plain = _make(_shape(raw.client_streaming, raw.server_streaming), raw.behaviour, None, None)
        return _wrap(self._server, details.method, plain, raw.behaviour)


def _shape(client_streaming: bool, server_streaming: bool) -> str:
    return f"{'stream' if client_streaming else 'unary'}_{'stream' if server_streaming else 'unary'}"


def _make(shape: str, behaviour: Any, deserializer: Any, serializer: Any) -> grpc.RpcMethodHandler:
    made: grpc.RpcMethodHandler = getattr(grpc, f"{shape}_rpc_method_handler")(behaviour, deserializer, serializer)
    return made


def _wrap(server: Server, path: str, method: Any, behaviour: Callable[[Any, Context], Any]) -> grpc.RpcMethodHandler:
    def requests(request: Any, context: Context, grpc_context: Any) -> Any:
        if method.request_streaming:
            return Incoming(grpc_context.read, grpc.aio.EOF)
        if isinstance(request, Message):
            rule = server.rule(path)
            if rule is not None:
                authorize(rule, context.principal, request)
            context.describe(request)
        return request

    async def answer(request: Any, grpc_context: Any) -> Any:
        try:
            context = server.admit(path, grpc_context)
            return await to_asyncio(behaviour(requests(request, context, grpc_context), context))
        except Exception as error:
            await server.abort(grpc_context, path, error)

    async def stream(request: Any, grpc_context: Any) -> None:
        try:
            context = server.admit(path, grpc_context)
            await _pour(behaviour(requests(request, context, grpc_context), context), grpc_context.write)
        except Exception as error:
            await server.abort(grpc_context, path, error)

    shape = _shape(method.request_streaming, method.response_streaming)
    wrapped = stream if method.response_streaming else answer
    return _make(shape, wrapped, method.request_deserializer, method.response_serializer)


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
