"""Many unary calls on one stream: the client's half. `bookd.bridge.exchange` is the server's.

Making and ending an HTTP/2 stream for each call costs more than most calls are worth. So a channel keeps one stream to its
peer open, the trunk, and puts its unary calls on it; what gathers while a frame is being written goes together in the
next one. A call that finds nobody else waiting goes at once. Nothing else changes: metadata, deadlines, cancellation and
errors are those of a call by itself, and so is what a broken connection means for the calls under way.

Calls go by themselves, as always, while the trunk is not open, when the peer does not offer one, and when a request is so
large that others would wait behind it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from bookd.bridge.reactor import loop
from bookd.contract.status import from_status
from bookd.errors import BookdError, DeadlineExceeded, Unavailable
from bookd.wire.bridge.v1.trunk_pb2 import Answer, Call, Frame

CARRY = "/bookd.bridge.v1.TrunkService/Carry"
# Requests of more bytes go by themselves.
LARGEST = 64 * 1024
# A frame is closed once it has so many bytes; each call, answer or cancellation counts as no less than so many.
FULL = 256 * 1024
LEAST = 64
# Bytes that may wait to be written: while there are more, calls go by themselves. Those end with their deadlines, however
# long the peer takes nothing.
BEHIND = 4 * 1024 * 1024
# Bytes that a call needs beside its path, its request and its metadata.
_AROUND_CALL = 40
# Bytes that a frame needs beside the one response that it holds.
OVERHEAD = 1024
# Seconds before the trunk is tried again after it broke, and after a peer that is there refused it.
_PAUSE, _LONG_PAUSE = 0.05, 30.0
_BROKEN = frozenset(grpc.StatusCode) - {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED}
# Seconds that the end of a stream that was cancelled may take.
_PATIENCE = 1.0
_LONGEST_TIMEOUT = 2**32 - 1  # milliseconds


@define(eq=False)
class _Waiting:
    """A call that has no answer yet."""

    deferred: "Deferred[bytes]"
    timer: asyncio.TimerHandle | None = None


class Writer:
    """Writes frames one after another; what is added while one is being written goes into the next."""

    def __init__(self, write: Any) -> None:
        self._write = write
        self._frames: deque[tuple[Frame, int]] = deque()
        # Bytes that are not written yet.
        self.behind = 0
        self._less: list[asyncio.Future[None]] = []
        self._loop = loop()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def frame(self, size: int) -> Frame:
        """The frame that the next `size` bytes belong into. It is written from the next turn of the loop on."""
        if self._closed:
            return Frame()  # which nobody will read
        size = max(size, LEAST)
        frame, before = self._frames.pop() if self._frames else (Frame(), 0)
        if before and before + size > FULL:
            self._frames.append((frame, before))
            frame, before = Frame(), 0
        self._frames.append((frame, before + size))
        self.behind += size
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return frame

    async def idle(self) -> None:
        """Wait until all is written."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def catch_up(self) -> None:
        """Wait until not too much waits to be written any more."""
        while self.behind > BEHIND and not self._closed:
            less: asyncio.Future[None] = self._loop.create_future()
            self._less.append(less)
            await less

    def close(self) -> None:
        """Write nothing more."""
        self._end()
        if self._task is not None:
            self._task.cancel()

    def _end(self) -> None:
        self._closed = True
        self._frames.clear()
        self._told()

    def _told(self) -> None:
        less, self._less = self._less, []
        for each in less:
            if not each.done():
                each.set_result(None)

    async def _run(self) -> None:
        try:
            while self._frames:
                frame, size = self._frames.popleft()
                await self._write(frame)
                self.behind -= size
                self._told()
        except Exception:
            self._end()  # the stream has ended, which whoever reads it is told
        finally:
            self._task = None


class Trunk:
    """The trunk of one channel. `peer` is its name, for people."""

    log = Logger()

    def __init__(self, channel: grpc.aio.Channel, peer: str) -> None:
        self._channel = channel
        self._peer = peer
        self._waiting: dict[int, _Waiting] = {}
        self._writer: Writer | None = None
        self._last = 0
        self._closed = False
        self._loop = loop()
        self._task = self._loop.create_task(self._run())

    @property
    def open(self) -> bool:
        """Whether calls can be put on it."""
        return self._writer is not None and self._writer.behind <= BEHIND

    def call(
        self, path: str, request: bytes, timeout: float | None, metadata: Sequence[tuple[str, str | bytes]]
    ) -> "Deferred[bytes]":
        """Put a call on the trunk, which must be open. Cancelling the Deferred cancels the call."""
        assert self._writer is not None
        # Before anything is noted, as it may raise.
        packed = [(key, value if isinstance(value, bytes) else value.encode("ascii")) for key, value in metadata]
        self._last += 1
        number = self._last
        deferred: Deferred[bytes] = Deferred(lambda _: self._cancel(number))
        waiting = _Waiting(deferred)
        milliseconds = 0
        if timeout is not None:
            if timeout <= 0:
                deferred.errback(_late())
                return deferred
            milliseconds = min(max(round(timeout * 1000), 1), _LONGEST_TIMEOUT)
            waiting.timer = self._loop.call_later(timeout, self._time_out, number)
        self._waiting[number] = waiting
        size = len(path) + len(request) + sum(len(key) + len(value) for key, value in packed) + _AROUND_CALL
        call: Call = self._writer.frame(size).calls.add(id=number, path=path, request=request, timeout_ms=milliseconds)
        for key, value in packed:
            call.metadata.add(key=key, value=value)
        return deferred

    async def close(self, grace: float | None) -> None:
        """Take no further calls; end when those under way have ended, after `grace` seconds at the latest, if given. It may
        be cancelled, and called again with less patience."""
        self._closed = True
        self._writer = None
        if self._waiting:
            ended = [asyncio.ensure_future(_ended(each.deferred)) for each in self._waiting.values()]
            await asyncio.wait(ended, timeout=grace)
            for each in ended:
                each.cancel()
        self._task.cancel()
        await asyncio.wait([self._task], timeout=_PATIENCE)
        self._fail_all(Unavailable("the channel was closed", retry_after=1.0))

    # The stream.

    async def _run(self) -> None:
        while True:
            try:
                code = await self._carry()
            except asyncio.CancelledError:
                if self._closed:
                    return  # an exception would keep the stream, and so the connection, until garbage is collected
                code = grpc.StatusCode.CANCELLED  # it was the stream that was cancelled, by the channel beneath
            self._fail_all(
                Unavailable(f"the connection to {self._peer} broke", reason="CONNECTION_LOST", retry_after=1.0)
            )
            await self._until_ready(_PAUSE if code in _BROKEN else _LONG_PAUSE)

    async def _carry(self) -> grpc.StatusCode:
        """Keep the stream open as long as it lasts; answers what it ended with."""
        stream = self._channel.stream_stream(CARRY, Frame.SerializeToString, Frame.FromString)()
        writer = Writer(stream.write)
        try:
            frame: Any = await stream.read()
            if frame is not grpc.aio.EOF:
                self._writer = writer
            while frame is not grpc.aio.EOF:
                if frame.closing:
                    self._writer = None
                for answer in frame.answers:
                    self._answered(answer)
                frame = await stream.read()
            code: grpc.StatusCode = await stream.code()
            return code
        except grpc.aio.AioRpcError as error:
            return error.code()
        except grpc.aio.UsageError:
            return grpc.StatusCode.CANCELLED  # the channel was closed
        finally:
            self._writer = None
            writer.close()
            stream.cancel()

    async def _until_ready(self, pause: float) -> None:
        """Wait until it is worth while to try again: a while, and then for the connection."""
        await asyncio.sleep(pause)
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    # The calls.

    def _answered(self, answer: Answer) -> None:
        waiting = self._take(answer.id)
        if waiting is None:
            return  # it was cancelled, or was late
        if answer.HasField("status"):
            waiting.deferred.errback(from_status(answer.status))
        else:
            waiting.deferred.callback(answer.response)

    def _time_out(self, number: int) -> None:
        waiting = self._take(number)
        if waiting is not None:
            self._say_cancelled(number)
            waiting.deferred.errback(_late())

    def _cancel(self, number: int) -> None:
        if self._take(number) is not None:
            self._say_cancelled(number)

    def _say_cancelled(self, number: int) -> None:
        if self._writer is not None:
            self._writer.frame(8).cancelled.append(number)

    def _take(self, number: int) -> _Waiting | None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and waiting.timer is not None:
            waiting.timer.cancel()
        return waiting

    def _fail_all(self, error: BookdError) -> None:
        for number in list(self._waiting):
            waiting = self._take(number)
            if waiting is not None:
                waiting.deferred.errback(error)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("Deadline Exceeded")


async def _ended(deferred: "Deferred[bytes]") -> None:
    ended: asyncio.Future[None] = loop().create_future()

    def tell(result: Any) -> Any:
        if not ended.done():
            ended.set_result(None)
        return result

    deferred.addBoth(tell)
    await ended
