"""Many unary calls on one stream: the server's half. `bookd.bridge.trunk` is the client's.

Each call of a frame is begun as it would be by itself: its peer is known, its principal is read and judged, its method
runs. Answers go back as they come; those that come while a frame is being written share the next one.

What a client sends is bounded, whoever it is: how large a frame is, how many calls are in it, how many are under way, how
large the metadata of one is. While a client does not take its answers, its frames wait. A client that breaks the
protocol loses its trunk, and what is under way on it.
"""

import asyncio
from collections.abc import Callable
from inspect import isawaitable, iscoroutine
from time import monotonic, perf_counter
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from bookd.bridge.context import Context
from bookd.bridge.metrics import OTHER
from bookd.bridge.status import stopped
from bookd.bridge.trunk import CARRY, FULL, LEAST, Writer
from bookd.contract.status import to_status
from bookd.errors import BookdError, Cancelled, InvalidArgument, ResourceExhausted, Unimplemented
from bookd.wire.bridge.v1.trunk_pb2 import Call, Frame

# Calls that one client may have under way on its trunk; while there are so many, its frames wait.
MOST = 2000
# Bytes of a frame that is read, which is more than a client of ours fills; calls, or cancellations, in one.
LONGEST = 2 * FULL
MANY = FULL // LEAST
# Bytes of one call's metadata, as gRPC itself has it.
METADATA = 16 * 1024
# Calls that are begun before others have their turn.
_AT_ONCE = 50


class Unary(Protocol):
    """A unary method, whichever way it was added to the server."""

    def deserialize(self, request: bytes) -> Any:
        """The request as the method wants it."""

    def serialize(self, response: Any) -> bytes:
        """The response as it travels."""

    def run(self, request: Any, context: Context) -> Any:
        """Check the call and run it; answers a Deferred, an awaitable of our colour, or the response."""


class Calls(Protocol):
    """What the exchange needs of a server."""

    max_message: int

    def peer(self, path: str, grpc_context: Any) -> str:
        """The name of the peer. Raises when it may not call."""

    def unary(self, path: str) -> Unary | None:
        """The unary method at `path`."""

    def context(self, path: str, peer: str, invocation: dict[str, str | bytes], timing: Any) -> Context:
        """The context of a call. Raises what is wrong with it."""

    def told(self, path: str, error: Exception) -> BookdError:
        """What the caller may hear of a failure."""

    def ended(self, path: str, code: str, began: float) -> None:
        """Count a call that has ended; `began` is what `time.perf_counter` said then."""

    async def abort(self, grpc_context: Any, path: str, error: Exception, began: float) -> None:
        """End a call with a failure, and count it."""


class Exchange(grpc.GenericRpcHandler):
    """Serves the trunks of all clients of one server."""

    def __init__(self, server: Calls) -> None:
        self._server = server
        self._lines: set[_Line] = set()
        self._handler: grpc.RpcMethodHandler = grpc.stream_stream_rpc_method_handler(
            self._carry, None, Frame.SerializeToString
        )

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of the trunk."""
        return self._handler if details.method == CARRY else None

    def close(self) -> None:
        """Take no further calls; each trunk ends when those under way have ended."""
        for line in list(self._lines):
            line.close()

    async def _carry(self, _: Any, grpc_context: Any) -> None:
        try:
            peer = self._server.peer(CARRY, grpc_context)
        except BookdError as error:
            await self._server.abort(grpc_context, CARRY, error, perf_counter())
            return
        line = _Line(self._server, peer, grpc_context)
        self._lines.add(line)
        try:
            await line.carry()
        except InvalidArgument as error:
            await self._server.abort(grpc_context, CARRY, error, perf_counter())
        finally:
            self._lines.discard(line)
            line.hang_up()


class _Line:
    """The trunk of one client."""

    def __init__(self, server: Calls, peer: str, grpc_context: Any) -> None:
        self._server = server
        self._peer = peer
        self._grpc = grpc_context
        self._writer = Writer(grpc_context.write)
        self._calls: dict[int, Deferred[Any]] = {}
        # Calls that their client has cancelled, and that have not ended.
        self._given_up: set[int] = set()
        self._fewer: asyncio.Event = asyncio.Event()
        self._closing = asyncio.Event()

    async def carry(self) -> None:
        """Serve until the client ends the stream, or until the last call after `close`. Raises `InvalidArgument` when the
        client breaks the protocol."""
        await self._grpc.write(Frame())
        closing = asyncio.ensure_future(self._closing.wait())
        reading = asyncio.ensure_future(self._read())
        reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # the stream broke
        try:
            await asyncio.wait([closing, reading], return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and isinstance(broken := reading.exception(), InvalidArgument):
                raise broken
            while self._calls:
                self._fewer.clear()
                await self._fewer.wait()
            await self._writer.idle()
        finally:
            closing.cancel()
            reading.cancel()

    def close(self) -> None:
        """Take no further calls."""
        self._writer.frame(1).closing = True
        self._closing.set()

    def hang_up(self) -> None:
        """Cancel what is under way: the client has gone."""
        self._writer.close()
        for deferred in list(self._calls.values()):
            deferred.cancel()

    async def _read(self) -> None:
        while (packed := await self._grpc.read()) is not grpc.aio.EOF:
            frame = _frame(packed)
            for number in frame.cancelled:
                deferred = self._calls.get(number)
                if deferred is not None:
                    self._given_up.add(number)
                    deferred.cancel()
            for count, call in enumerate(frame.calls, 1):
                if call.id in self._calls:
                    raise InvalidArgument(f"the id {call.id} is that of a call under way", reason="BROKEN_FRAME")
                self._begin(call)
                if not count % _AT_ONCE:
                    await asyncio.sleep(0)
                    await self._room()
            await self._room()

    async def _room(self) -> None:
        while len(self._calls) >= MOST:
            self._fewer.clear()
            await self._fewer.wait()
        await self._writer.catch_up()

    def _begin(self, call: Call) -> None:
        began, number, path = perf_counter(), call.id, call.path
        method: Unary | None = None
        try:
            method = self._server.unary(path)
            if method is None:
                raise Unimplemented(f"{path} is not served here")
            if self._closing.is_set():
                raise stopped()
            invocation: dict[str, str | bytes] = {}
            size = 0
            for entry in call.metadata:
                key, value = entry.key, entry.value
                size += len(key) + len(value)
                if size > METADATA:
                    raise ResourceExhausted(f"the metadata is larger than {METADATA:,} bytes")
                invocation.setdefault(key, value if key.endswith("-bin") else value.decode("ascii", "replace"))
            context = self._server.context(path, self._peer, invocation, _Timing(call.timeout_ms))
            outcome = method.run(method.deserialize(call.request), context)
            if iscoroutine(outcome):
                outcome = Deferred.fromCoroutine(outcome)
            elif not isinstance(outcome, Deferred) and isawaitable(outcome):
                outcome = Deferred.fromCoroutine(_awaited(outcome))
        except Exception as error:
            # Names that nobody serves are not counted by name: a client may make up any number.
            self._fail(number, path if method is not None else OTHER, error, began)
            return
        if not isinstance(outcome, Deferred):
            self._answer(number, path, method.serialize, outcome, began)
            return
        self._calls[number] = outcome
        outcome.addBoth(self._ended, number, path, method.serialize, began)

    def _ended(self, result: Any, number: int, path: str, serialize: Callable[[Any], bytes], began: float) -> None:
        # A call that ended at once is not among them yet when this runs for it.
        self._calls.pop(number, None)
        self._fewer.set()
        given_up = number in self._given_up
        self._given_up.discard(number)
        if isinstance(result, Failure):
            error = result.value
            if isinstance(error, CancelledError):
                error = Cancelled("the call was cancelled") if given_up else stopped()
            self._fail(number, path, error if isinstance(error, Exception) else RuntimeError(repr(error)), began)
        else:
            self._answer(number, path, serialize, result, began)

    def _answer(self, number: int, path: str, serialize: Callable[[Any], bytes], response: Any, began: float) -> None:
        try:
            packed = serialize(response)
            if len(packed) > self._server.max_message:
                raise ResourceExhausted(f"the response has {len(packed):,} bytes, more than may be sent")
        except Exception as error:
            self._fail(number, path, error, began)
            return
        self._writer.frame(len(packed)).answers.add(id=number, response=packed)
        self._server.ended(path, "OK", began)

    def _fail(self, number: int, path: str, error: Exception, began: float) -> None:
        why = self._server.told(path, error)
        told: status_pb2.Status = to_status(why)
        self._writer.frame(told.ByteSize()).answers.add(id=number).status.CopyFrom(told)
        self._server.ended(path, why.code.name, began)


def _frame(packed: bytes) -> Frame:
    if len(packed) > LONGEST:
        raise InvalidArgument(f"the frame has {len(packed):,} bytes, more than {LONGEST:,}", reason="BROKEN_FRAME")
    try:
        frame: Frame = Frame.FromString(packed)
    except DecodeError:
        raise InvalidArgument("this is no frame", reason="BROKEN_FRAME") from None
    if max(len(frame.calls), len(frame.cancelled)) > MANY:
        raise InvalidArgument(f"the frame has more than {MANY:,} calls", reason="BROKEN_FRAME")
    return frame


class _Timing:
    """How long the caller waits, as grpc's own contexts tell it."""

    def __init__(self, milliseconds: int) -> None:
        self._until = monotonic() + milliseconds / 1000 if milliseconds else None

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None when there is none."""
        return None if self._until is None else max(self._until - monotonic(), 0.0)


async def _awaited(work: Any) -> Any:
    return await work
