"""The methods of a server, wherever they come from: servicers made by protoc, or byte proxies.

Each can be run in two ways, by itself through grpc.aio or on a trunk (`bookd.bridge.exchange`), and means the same.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from time import perf_counter
from typing import Any, Protocol

import grpc
import grpc.aio
from attrs import frozen
from google.protobuf.message import DecodeError, Message
from twisted.internet.defer import Deferred, succeed

from bookd.bridge.context import Context
from bookd.bridge.crossing import Incoming, to_asyncio
from bookd.contract import descriptors
from bookd.contract.policy import authorize
from bookd.errors import InvalidArgument


class Calls(Protocol):
    """What a method needs of its server."""

    def admit(self, path: str, grpc_context: Any) -> Context:
        """The context of a call by itself. Raises what is wrong with it."""

    def rule(self, path: str) -> descriptors.Method | None:
        """The method's rule, if the contract has one."""

    def ended(self, path: str, code: str, began: float) -> None:
        """Count a call that has ended; `began` is what `time.perf_counter` said then."""

    async def abort(self, grpc_context: Any, path: str, error: Exception, began: float) -> None:
        """End a call with a failure, and count it."""


@frozen
class RawMethod:
    """A method that moves bytes: what a proxy serves. `behaviour(request or requests, context)` is of our colour."""

    client_streaming: bool
    server_streaming: bool
    behaviour: Callable[[Any, Context], Any]


class Lookup(Protocol):
    """Finds the raw method behind a path that no servicer serves; None when there is none."""

    def __call__(self, path: str, /) -> RawMethod | None: ...


class Handler(grpc.GenericRpcHandler):
    """Finds methods, and gives them to grpc.aio wrapped so that it can run them."""

    def find(self, path: str) -> "Method | None":
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


class Servicer(Handler):
    """The handlers of one servicer, with each method wrapped so that grpc.aio can run it."""

    def __init__(self, server: Calls, handler: grpc.GenericRpcHandler) -> None:
        self._server = server
        self._handler = handler

    def find(self, path: str) -> "Method | None":
        details: Any = _Details(path)
        method: Any = self._handler.service(details)
        if method is None:
            return None
        shape = _shape(method.request_streaming, method.response_streaming)
        behaviour = getattr(method, shape)
        return Method(self._server, path, shape, behaviour, method.request_deserializer, method.response_serializer)


class Raw(Handler):
    """Raw methods, which have no serializers."""

    def __init__(self, server: Calls, lookup: Lookup) -> None:
        self._server = server
        self._lookup = lookup

    def find(self, path: str) -> "Method | None":
        raw = self._lookup(path)
        if raw is None:
            return None
        return Method(self._server, path, _shape(raw.client_streaming, raw.server_streaming), raw.behaviour)


def _shape(client_streaming: bool, server_streaming: bool) -> str:
    return f"{'stream' if client_streaming else 'unary'}_{'stream' if server_streaming else 'unary'}"


class Method:
    """One method of the server, however it came there."""

    def __init__(
        self,
        server: Calls,
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
        began = perf_counter()
        try:
            answer = await to_asyncio(self._begin(request, grpc_context))
        except asyncio.CancelledError:
            self._server.ended(self._path, "CANCELLED", began)
            raise
        except Exception as error:
            await self._server.abort(grpc_context, self._path, error, began)
        else:
            self._server.ended(self._path, "OK", began)
            return answer

    async def _stream(self, request: Any, grpc_context: Any) -> None:
        began = perf_counter()

        async def write(response: Any) -> None:
            try:
                await grpc_context.write(response)
            except grpc.aio.BaseError:  # the call has ended, and nobody has been told yet
                raise asyncio.CancelledError from None

        try:
            await _pour(self._begin(request, grpc_context), write)
        except asyncio.CancelledError:
            self._server.ended(self._path, "CANCELLED", began)
            raise
        except Exception as error:
            await self._server.abort(grpc_context, self._path, error, began)
        else:
            self._server.ended(self._path, "OK", began)

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
