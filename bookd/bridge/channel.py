"""A gRPC channel as a Twisted service: stubs made on it return Deferreds and async iterators of our colour."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from bookd.bridge import status
from bookd.bridge.crossing import Incoming, from_asyncio, outgoing
from bookd.bridge.line import Line, options, target
from bookd.bridge.reactor import loop
from bookd.bridge.succession import Succession
from bookd.bridge.tls import Files
from bookd.bridge.trunk import LARGEST, Trunk
from bookd.errors import BookdError, Unavailable

Metadata = Sequence[tuple[str, str | bytes]]
_OF_GRPC = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


class Channel(Service):
    """A connection to one peer, which may have several instances: calls go round robin.

    `addresses` are "host:port"; more than one must be IP addresses. `name` is the daemon name that the peer's
    certificate must bear; with `credentials` None the channel is plain text, for tests; with `Files` it follows their
    renewal (`bookd.bridge.succession`). Before startService and after stopService every call fails with `Unavailable`. So
    does one that finds no connection, or loses it: the error names the service; gRPC's own words about it, addresses
    included, go to the log, once for each new text. Unary calls share one stream where the peer offers that
    (`bookd.bridge.trunk`); with `trunk` False each goes by itself.
    """

    log = Logger()

    def __init__(
        self,
        addresses: Sequence[str],
        credentials: grpc.ChannelCredentials | Files | None = None,
        *,
        name: str = "",
        max_message: int = 4 * 1024 * 1024,
        grace: float = 5.0,
        trunk: bool = True,
    ) -> None:
        self._target = target(addresses)
        self._options = options(addresses, name, max_message)
        self._credentials = None if isinstance(credentials, Files) else credentials
        self._grace = grace
        self._trouble = ""
        self._name = name or addresses[0]
        # Several instances are to share the calls; a trunk leads to one.
        self._wants_trunk = trunk and len(addresses) == 1
        self._line: Line | None = None
        self._trunk: Trunk | None = None
        self._succession: Succession | None = None
        if isinstance(credentials, Files):
            self._succession = Succession(credentials, self._made, self._use, lambda: self._line, self._name)
            self._succession.read()

    def startService(self) -> None:
        """Make the channel; it connects by itself, and again whenever the connection breaks."""
        super().startService()
        if self._succession is not None:
            self._use(self._succession.begin())
        else:
            self._use(self._made(self._credentials))

    def _made(self, credentials: grpc.ChannelCredentials | None) -> Line:
        return Line(self._target, credentials, self._options, peer=self._name, carries=self._wants_trunk)

    def _use(self, line: Line) -> None:
        self._line, self._trunk = line, line.trunk

    def stopService(self) -> Deferred[None]:
        """Refuse further calls; fires when those under way have ended, after the grace period at the latest."""
        super().stopService()
        line, self._line, self._trunk = self._line, None, None
        return succeed(None) if line is None else from_asyncio(self._close(line))

    async def _close(self, line: Line) -> None:
        if self._succession is not None:
            await asyncio.gather(self._succession.end(self._grace), line.close(self._grace))
        else:
            await line.close(self._grace)

    @property
    def has_trunk(self) -> bool:
        """Whether unary calls share a stream now."""
        return self._trunk is not None and self._trunk.open

    def open(self) -> Line:
        """The line beneath. Raises `Unavailable` when the service does not run."""
        if self._line is None:
            raise Unavailable("the channel is closed", retry_after=1.0)
        return self._line

    def failure(self, error: grpc.aio.AioRpcError, method: str) -> BookdError:
        """What a failed call of `method` means."""
        text, trailing = error.details() or "", tuple(error.trailing_metadata() or ())
        # A bookd server sends a rich status with these; gRPC's own failures, and strange servers, have none. CANCELLED is
        # what it makes of calls that come when a server has begun to stop, or outlast its grace: whether they had an
        # effect is as unknown as when a connection breaks.
        if error.code() not in _OF_GRPC or any(key == status.DETAILS_KEY for key, _ in trailing):
            return status.from_call(error.code(), text, trailing)
        service = method.strip("/").rpartition("/")[0]
        if text != self._trouble:
            self._trouble = text
            self.log.info("{service} does not answer: {text}", service=service, text=text)
        return Unavailable(f"{service} does not answer", reason="UNREACHABLE", retry_after=1.0)

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., Deferred[Any]]:
        """A callable `(request, timeout=None, metadata=None) -> Deferred[response]`; without serializers it takes and
        gives bytes. `timeout` is in seconds."""
        rpc = _Rpc(self, "unary_unary", method, request_serializer, response_deserializer)
        # Health and reflection are about the server, not about what is behind it.
        by_itself = method.startswith("/grpc.")

        def call(
            request: Any, timeout: float | None = None, metadata: Metadata | None = None, **_: Any
        ) -> Deferred[Any]:
            trunk = self._trunk
            if trunk is None or not trunk.open or by_itself:
                return from_asyncio(rpc.answer(request, timeout, metadata))
            packed = request if request_serializer is None else request_serializer(request)
            if len(packed) > LARGEST:
                return from_asyncio(rpc.answer(request, timeout, metadata))
            carried = trunk.call(method, packed, timeout, metadata or ())
            return carried if response_deserializer is None else carried.addCallback(response_deserializer)

        return call

    def stream_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., Deferred[Any]]:
        """A callable `(async iterator of requests, timeout=None, metadata=None) -> Deferred[response]`."""
        rpc = _Rpc(self, "stream_unary", method, request_serializer, response_deserializer)

        def call(
            requests: AsyncIterator[Any], timeout: float | None = None, metadata: Metadata | None = None, **_: Any
        ) -> Deferred[Any]:
            return from_asyncio(rpc.answer(outgoing(requests), timeout, metadata))

        return call

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., "Responses"]:
        """A callable `(request, timeout=None, metadata=None) -> Responses`."""
        rpc = _Rpc(self, "unary_stream", method, request_serializer, response_deserializer)

        def call(request: Any, timeout: float | None = None, metadata: Metadata | None = None, **_: Any) -> Responses:
            return rpc.responses(request, timeout, metadata)

        return call

    def stream_stream(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., "Responses"]:
        """A callable `(async iterator of requests, timeout=None, metadata=None) -> Responses`."""
        rpc = _Rpc(self, "stream_stream", method, request_serializer, response_deserializer)

        def call(
            requests: AsyncIterator[Any], timeout: float | None = None, metadata: Metadata | None = None, **_: Any
        ) -> Responses:
            return rpc.responses(outgoing(requests), timeout, metadata)

        return call


class _Rpc:
    """One method of a channel. The callable of grpc.aio behind it is made once for each time the channel is started."""

    def __init__(self, channel: Channel, shape: str, *arguments: Any) -> None:
        self._channel = channel
        self._shape = shape
        self._arguments = arguments
        self.method: str = arguments[0]
        self._made_on: Line | None = None
        self._call: Any = None

    def begin(self, request: Any, seconds: float | None, metadata: Metadata | None) -> Any:
        """Begin the call; answers the call object of grpc.aio. Raises `Unavailable` when the channel is closed."""
        line = self._channel.open()
        if line is not self._made_on:
            self._made_on, self._call = line, getattr(line.channel, self._shape)(*self._arguments)
        if self._shape.startswith("unary"):
            call = self._call(request, timeout=seconds, metadata=tuple(metadata or ()))
        else:
            call = self._call(timeout=seconds, metadata=tuple(metadata or ()))
            writing = loop().create_task(_write_all(call, request, self._arguments[1] or bytes))
            call.add_done_callback(lambda _: writing.cancel())
        line.carry(call)
        return call

    def responses(self, request: Any, seconds: float | None, metadata: Metadata | None) -> "Responses":
        """Begin a call that answers with a stream."""
        return Responses(
            self.begin(request, seconds, metadata), lambda error: self._channel.failure(error, self.method)
        )

    async def answer(self, request: Any, seconds: float | None, metadata: Metadata | None) -> Any:
        """Make the call, in asyncio's colour."""
        failure: BookdError
        try:
            return await self.begin(request, seconds, metadata)
        except grpc.aio.AioRpcError as error:
            failure = self._channel.failure(error, self.method)
        except grpc.aio.UsageError as error:
            failure = Unavailable(f"the channel was closed: {error}", retry_after=1.0)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # by the caller
            failure = Unavailable("the channel was closed", retry_after=1.0)
        # Raised here, it has nothing of grpc's error, whose frames would keep the call, and so the connection.
        raise failure


async def _write_all(call: Any, requests: AsyncIterator[Any], serialize: Callable[[Any], bytes]) -> None:
    """Write a call's requests.

    Not with the call's own `write`, which makes an error of its own of the stream's end when the server ends the stream
    first, and so loses what the server said (grpc.aio 1.85, "Internal error from Core").
    """
    try:
        await call.wait_for_connection()
        async for request in requests:
            await call._cython_call.send_serialized_message(serialize(request))
        await call.done_writing()
    except (grpc.aio.AioRpcError, grpc.aio.InternalError):
        pass  # the stream has ended, which whoever reads it is told
    except asyncio.CancelledError:
        raise
    except Exception:
        Channel.log.failure("the requests of a stream failed; its call is cancelled")
        call.cancel()
    finally:
        await requests.aclose()  # type: ignore[attr-defined]


class Responses(AsyncIterator[Any]):
    """The responses of a streaming call. `cancel()` ends the call; so does dropping out of the loop and calling it."""

    def __init__(self, call: Any, failure: Callable[[grpc.aio.AioRpcError], BookdError]) -> None:
        self._call = call
        self._failure = failure
        self._incoming: Incoming[Any] = Incoming(self._read, grpc.aio.EOF)

    async def __anext__(self) -> Any:
        return await anext(self._incoming)

    def cancel(self) -> None:
        """End the call; the servicer's coroutine is cancelled."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    async def aclose(self) -> None:
        """The same, so that a `Responses` can stand where an async generator does."""
        self.cancel()

    async def _read(self) -> Any:
        if self._call is None:
            return grpc.aio.EOF  # it has ended before
        failure: BaseException
        try:
            read = await self._call.read()
        except grpc.aio.AioRpcError as error:
            failure = self._failure(error)
        except asyncio.CancelledError:
            failure = asyncio.CancelledError()
        else:
            if read is grpc.aio.EOF:
                self._call = None
            return read
        # As with calls that answer once: who keeps this error shall not keep the call.
        self._call = None
        raise failure
