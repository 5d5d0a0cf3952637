"""An HTTPS client without manners: it sends bytes, and reads when it likes. It blocks, and is meant for a thread."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def connected(ca: Path, port: int, *, receives: int | None = None) -> Iterator[ssl.SSLSocket]:
    """A connection; with `receives` the kernel takes no more than about so many bytes that are not read."""
    context = ssl.create_default_context(cafile=str(ca))
    with socket.socket() as plain:
        if receives is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        plain.settimeout(20)
        plain.connect(("127.0.0.1", port))
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            yield client


def send(client: ssl.SSLSocket, data: bytes, times: int = 1) -> int:
    """Send bytes a number of times; answers how many bytes were taken before the other end hung up."""
    sent = 0
    for _ in range(times):
        try:
            client.sendall(data)
        except OSError:
            break
        sent += len(data)
    return sent


def read(client: ssl.SSLSocket, seconds: float = 20.0) -> bytes:
    """What comes until the end, or for so long."""
    received, until = b"", time.monotonic() + seconds
    try:
        while (left := until - time.monotonic()) > 0:
            client.settimeout(left)
            piece = client.recv(65536)
            if not piece:
                break
            received += piece
    except OSError:
        pass
    return received
