"""An HTTP/2 peer without manners: it holds a daemon's certificate, or none, and sends whatever it likes.

It blocks, and is meant for a thread. That the other end hangs up is no failure here: it ends the `with` block.
"""

import select
import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions

BROKEN = (OSError, h2.exceptions.ProtocolError, EOFError)
# Bytes that are taken at once.
PIECE = 65536


def message(body: bytes, length: int | None = None) -> bytes:
    """A gRPC message (its length may be a lie)."""
    return b"\0" + (len(body) if length is None else length).to_bytes(4, "big") + body


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """An HTTP/2 frame (its length may be a lie)."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Peer:
    """A connection to the daemon `server` with the certificate of the daemon `name`, or with none."""

    def __init__(self, home: Path, port: int, server: str, name: str | None, *, window: int | None = None) -> None:
        context = ssl.create_default_context(cafile=str(home / "pki" / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        if name is not None:
            context.load_cert_chain(home / "pki" / f"{name}.pem", home / "pki" / f"{name}.key")
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket = context.wrap_socket(plain, server_hostname=f"{server}.bookd.internal")
        self.ended: dict[int, list[tuple[bytes, bytes]]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.over: set[int] = set()
        self.greedy = window is None
        config = h2.config.H2Configuration(
            client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.http = h2.connection.H2Connection(config)
        self.http.initiate_connection()
        if window is not None:
            self.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        self.socket.close()
        return isinstance(error, BROKEN)

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def pour(self, data: bytes) -> None:
        """Send bytes, and drop what comes meanwhile, so that neither side waits for the other to read."""
        self.socket.setblocking(False)
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                select.select([self.socket], [self.socket], [], 10)
            self.drop(0)

    def drop(self, seconds: float) -> None:
        """Take what comes for so long, or until the other end closes, and do not look at it."""
        until = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(until - time.monotonic(), 0))
            try:
                if not self.socket.recv(PIECE):
                    raise EOFError
            except (ssl.SSLWantReadError, TimeoutError):
                return

    def flush(self) -> None:
        """Send what HTTP/2 has to say."""
        data = self.http.data_to_send()
        if data:
            self.socket.sendall(data)

    def open(self, path: str, *more: tuple[str, str], end: bool = False) -> int:
        """Begin a call, which is not sent before `flush`; answers the number of its stream."""
        stream: int = self.http.get_next_available_stream_id()
        self.http.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":path", path),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *more,
            ],
            end_stream=end,
        )
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send data on a stream as fast as the other end takes it."""
        view = memoryview(data)
        while view:
            room = min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size, len(view))
            if room:
                self.http.send_data(stream, bytes(view[:room]), end_stream=end and room == len(view))
                view = view[room:]
                self.flush()
            else:
                self.flush()
                self.hear(2.0)
                if stream in self.over:
                    return
        if not data and end:
            self.http.end_stream(stream)
        self.flush()

    def hear(self, seconds: float = 10.0) -> None:
        """Take what comes next. Raises TimeoutError when nothing does."""
        self.socket.settimeout(seconds)
        data = self.socket.recv(PIECE)
        if not data:
            raise EOFError
        for event in self.http.receive_data(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self.ended.setdefault(event.stream_id, []).extend(event.headers)
                case h2.events.DataReceived():
                    self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
                    if self.greedy:
                        self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamReset() | h2.events.StreamEnded():
                    self.over.add(event.stream_id)
        self.flush()

    def listen(self, seconds: float) -> None:
        """Take what comes for so long, or until the other end closes."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                self.hear(left)

    def status(self, stream: int, seconds: float = 10.0) -> int | None:
        """The gRPC status of a call, once it has ended; None when its stream was reset."""
        until = time.monotonic() + seconds
        while True:
            found = dict(self.ended.get(stream, ())).get(b"grpc-status")
            if found is not None:
                return int(found)
            if stream in self.over:
                return None
            self.hear(until - time.monotonic())
        return None

    def call(self, path: str, request: bytes = b"", more: Sequence[tuple[str, str]] = ()) -> int | None:
        """A decent unary call; its gRPC status."""
        stream = self.open(path, *more)
        self.send(stream, message(request), end=True)
        return self.status(stream)
