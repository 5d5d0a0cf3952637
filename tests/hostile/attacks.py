"""What a peer without manners tries on a gRPC server. Each attack takes a way to connect, and lasts a few seconds at most.

A server may answer, refuse, reset or hang up as it likes; what is asked of it is that it lives, serves others, and forgets.
"""

import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress

from bookd.bridge.trunk import CARRY
from bookd.wire.bridge.v1.trunk_pb2 import Frame
from tests.hostile.peer import BROKEN, Peer, frame, message

Connect = Callable[..., Peer]
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8


def block(path: str, *more: tuple[str, str]) -> bytes:
    """The header block of a call, HPACK without Huffman, without a table: literals, never indexed."""
    usual = (
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    )
    return b"".join(b"\x10" + _text(name) + _text(value) for name, value in (*usual, *more))


def _text(text: str) -> bytes:
    """A string of HPACK (RFC 7541, section 5.2)."""
    size, packed = len(text), b""
    if size < 127:
        return bytes([size]) + text.encode()
    size -= 127
    while size >= 128:
        packed += bytes([size % 128 + 128])
        size //= 128
    return b"\x7f" + packed + bytes([size]) + text.encode()


def head(path: str, stream: int, flags: int = END_HEADERS) -> bytes:
    """The frame that begins a call."""
    return frame(HEADERS, flags, stream, block(path))


def garbage_frames(connect: Connect) -> None:
    """Frames of all kinds with noise in them, by a fixed seed."""
    noise = random.Random(4)
    for _ in range(60):
        with connect() as peer:
            for _ in range(50):
                payload = noise.randbytes(noise.choice((0, 1, 4, 5, 8, 9, 64, 1000)))
                stream = noise.choice((0, 0, 1, 1, 2, 3, 2**31 - 1, 2**32 - 1))
                peer.raw(frame(noise.randrange(14), noise.randrange(256), stream, payload))
            peer.listen(0.05)


def lying_lengths(connect: Connect) -> None:
    """Frames and messages that are longer or shorter than they say."""
    for payload, length in ((b"x" * 10, 0xFFFFFF), (b"x" * 100, 3), (b"", 16385), (b"x" * 20000, None)):
        for kind in (DATA, HEADERS, SETTINGS, CONTINUATION):
            with connect() as peer:
                peer.raw(frame(kind, 0, 1, payload, length))
                peer.listen(0.05)
    for body, length in ((b"", 2**32 - 1), (b"x", 0), (b"x" * 100, 5), (b"x", 100)):
        with connect() as peer:
            stream = peer.open(HEALTH)
            peer.send(stream, message(body, length), end=True)
            peer.status(stream, 2.0)


def large_message(connect: Connect) -> None:
    """A message of 64 MB, of which the whole is sent; and one of 4 GB that is announced."""
    with connect() as peer:
        stream = peer.open(HEALTH)
        peer.send(stream, message(bytes(64 * 1024 * 1024)), end=True)
        peer.status(stream)
    with connect() as peer:
        stream = peer.open(HEALTH)
        peer.send(stream, message(bytes(1024 * 1024), 2**32 - 1))
        peer.listen(0.5)


def many_streams(connect: Connect) -> None:
    """10,000 streams that send no message."""
    _open_many(connect, HEALTH)


def many_watches(connect: Connect) -> None:
    """10,000 streams of a method that never ends."""
    _open_many(connect, WATCH, message(b""))


def many_trunks(connect: Connect) -> None:
    """10,000 trunks that send nothing."""
    _open_many(connect, CARRY)


def _open_many(connect: Connect, path: str, request: bytes = b"") -> None:
    with connect() as peer:
        for number in range(1, 20_001, 2):
            data = frame(DATA, 0, number, request) if request else b""
            peer.pour(head(path, number) + data)
        peer.drop(2.0)


def rapid_reset(connect: Connect) -> None:
    """50,000 calls that are reset as soon as they are made (CVE-2023-44487)."""
    with connect() as peer:
        for number in range(1, 100_001, 2):
            peer.pour(head(HEALTH, number) + frame(RST_STREAM, 0, number, b"\0\0\0\x08"))
        peer.drop(0.5)


def huge_headers(connect: Connect) -> None:
    """Metadata of a megabyte, in one header, in many, and in a reference to one that is said again and again."""
    for more in (
        [("x-a", "a" * 1024 * 1024)],
        [(f"x-{number}", "a" * 1000) for number in range(1000)],
        [("x-a", "a" * 4000)] * 1000,
    ):
        with connect() as peer:
            first, *rest = _pieces(block(HEALTH, *more))
            peer.raw(frame(HEADERS, END_STREAM, 1, first) + b"".join(frame(CONTINUATION, 0, 1, each) for each in rest))
            peer.raw(frame(CONTINUATION, END_HEADERS, 1, b""))
            peer.listen(0.5)


def _pieces(data: bytes) -> list[bytes]:
    return [data[start : start + 16384] for start in range(0, len(data), 16384)]


def continuation_flood(connect: Connect) -> None:
    """A head that goes on in 20,000 frames and does not end (CVE-2024-27316), with headers in them and without."""
    for payload in (b"", b"\x00\x03x-a\x7f\x81\x07" + b"a" * 1024, b"\x00\x01a\x01b" * 100):
        with connect() as peer:
            peer.raw(frame(HEADERS, 0, 1, b"\x83"))
            for _ in range(200):
                peer.raw(frame(CONTINUATION, 0, 1, payload) * 100)
            peer.listen(0.2)


def ping_flood(connect: Connect) -> None:
    """200,000 pings, whose answers are not read."""
    _flood(connect, frame(PING, 0, 0, bytes(8)))


def settings_flood(connect: Connect) -> None:
    """200,000 settings, whose answers are not read; one in two changes the windows of all streams."""
    with connect() as peer:
        for _ in range(500):
            peer.open(WATCH)
        peer.flush()
        peer.raw(
            b"".join(frame(SETTINGS, 0, 0, b"\x00\x04" + size.to_bytes(4, "big")) for size in (0, 2**31 - 1, 1, 65535))
        )
    _flood(connect, frame(SETTINGS, 0, 0, b"") + frame(SETTINGS, 0, 0, b"\x00\x04\x00\x01\x00\x00"))


def empty_data_flood(connect: Connect) -> None:
    """200,000 frames of no data."""
    with connect() as peer:
        stream = peer.open(HEALTH)
        peer.flush()
        for _ in range(2000):
            peer.raw(frame(DATA, 0, stream, b"") * 100)
        peer.listen(0.2)


def window_flood(connect: Connect) -> None:
    """Windows that are opened too far, by nothing, and of streams that are not there."""
    for stream, size in ((0, 2**31 - 1), (0, 0), (1, 0), (1, 2**31 - 1), (77, 1)):
        with connect() as peer:
            peer.open(HEALTH)
            peer.flush()
            peer.raw(frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big")) * 1000)
            peer.listen(0.05)


def _flood(connect: Connect, data: bytes) -> None:
    with connect() as peer:
        peer.socket.settimeout(1.0)  # what is not taken is refused
        for _ in range(2000):
            peer.raw(data * 100)
        peer.listen(0.2)


def silence(connect: Connect) -> None:
    """200 connections that say nothing after the handshake; and streams that send nothing."""
    peers = [connect() for _ in range(200)]
    with suppress(*BROKEN):
        for peer in peers[:20]:
            peer.open(HEALTH)
            peer.flush()
        peers[0].listen(1.0)
    for peer in peers:
        peer.socket.close()


def slow_reader(connect: Connect) -> None:
    """5,000 calls with answers that are never read: the windows of their streams are closed."""
    with connect(window=0) as peer:
        for number in range(5000):
            stream = peer.open(REFLECTION)
            # file_containing_symbol: an answer of some kilobytes.
            peer.http.send_data(
                stream, message(b"\x22\x1cgrpc.health.v1.Health") if number % 2 else message(b"\x3a\x00")
            )
            if not number % 100:
                peer.flush()
        peer.listen(1.0)


def deaf_trunk(connect: Connect) -> None:
    """Calls on a trunk whose answers are never read, as long as frames are taken."""
    with connect(window=0) as peer:
        stream = peer.open(CARRY)
        peer.flush()
        number = 0
        for _ in range(5000):
            sent = Frame()
            for _ in range(500):
                number += 1
                sent.calls.add(id=number, path=HEALTH)
            peer.socket.settimeout(1.0)
            peer.send(stream, message(sent.SerializeToString()))
        peer.listen(0.2)


def lying_trunk(connect: Connect) -> None:
    """Frames that are no frames, ids that come twice, answers and cancellations of what was never asked."""
    twice = Frame()
    for number in (1, 1, 1, 0, 2**64 - 1):
        twice.calls.add(id=number, path=HEALTH)
    answers = Frame(cancelled=[5, 5, 2**64 - 1] * 1000, closing=True)
    answers.answers.add(id=1, response=b"x")
    packed = twice.SerializeToString()
    for data in (
        message(b"\xff" * 100),
        message(packed, len(packed) - 3) + message(packed),
        message(packed, len(packed) + 3) + message(packed),
        message(packed),
        message(answers.SerializeToString()),
        message(b"\x1a\xff\xff\xff\xff\x0f"),
        b"\x01" + message(b"compressed, it says")[1:],
        b"\x02" + message(b"")[1:],
    ):
        with connect() as peer:
            stream = peer.open(CARRY)
            peer.send(stream, data, end=True)
            peer.status(stream, 2.0)


def full_frames(connect: Connect) -> None:
    """Frames as large as they may be, of the smallest calls and cancellations that there are."""
    for packed in (b"\x0a\x00" * 2_000_000, b"\x1a\x80\x89\x7a" + b"\x01" * 2_000_000):
        with connect() as peer:
            stream = peer.open(CARRY)
            peer.send(stream, message(packed), end=True)
            peer.status(stream, 5.0)


def abandoned(connect: Connect) -> None:
    """Connections that end in the middle of something, without a goodbye."""
    for data in (b"", message(b"")[:3], message(bytes(100_000))[:50_000]):
        for _ in range(20):
            with connect() as peer:
                stream = peer.open(HEALTH)
                peer.send(stream, data)
                peer.socket.shutdown(socket.SHUT_RDWR)


def not_http(connect: Connect) -> None:
    """What is not HTTP/2 at all, inside of TLS."""
    for data in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        os.urandom(65536),
        b"\x00" * 65536,
        b"PRI * HTTP/2.0\r\n",
    ):
        with connect() as peer:
            peer.raw(data)
            peer.listen(0.05)


ATTACKS: tuple[Callable[[Connect], None], ...] = (
    garbage_frames,
    lying_lengths,
    large_message,
    many_streams,
    many_watches,
    many_trunks,
    rapid_reset,
    huge_headers,
    continuation_flood,
    ping_flood,
    settings_flood,
    empty_data_flood,
    window_flood,
    silence,
    slow_reader,
    deaf_trunk,
    lying_trunk,
    full_frames,
    abandoned,
    not_http,
)
