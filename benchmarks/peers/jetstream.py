"""NATS JetStream: a stream in files, and a publisher that waits for each acknowledgement.

    python -m benchmarks.peers.jetstream --home HOME --port PORT --in-flight N --seconds S --size BYTES

is the publisher (nats-py). Mutual TLS with bookd's own certificates, as the MOM has it. `sync_interval: always` flushes to
the disk before the acknowledgement, as the MOM does; by default the server does so every two minutes.
"""

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.load import arguments, keep_busy, served, tell
from benchmarks.stand import BenchError
from bookd.command.home import Home
from bookd.testing import ports

SERVER = "nats-server"
STREAM, SUBJECT = "kept", "kept.{number}"
_CONFIG = """
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}", {sync} }}
tls {{ cert_file: "{pki}/mom.pem", key_file: "{pki}/mom.key", ca_file: "{pki}/ca.pem", verify: true }}
"""


@contextmanager
def server(home: Home, folder: Path, *, always: bool) -> Iterator[int]:
    """A server of its own, with an empty stream; answers its port."""
    folder.mkdir()
    port = ports.free_port()
    sync = "sync_interval: always" if always else ""
    config = folder / "nats.conf"
    config.write_text(_CONFIG.format(port=port, folder=folder / "store", sync=sync, pki=home.path / "pki"))
    with served([_binary(), "--config", str(config)], port, folder / "nats.log"):
        asyncio.run(_make(home, port))
        yield port


def _binary() -> str:
    found = shutil.which(SERVER) or shutil.which(SERVER, path=str(Path(sys.executable).parent))
    if found is None:
        raise BenchError(f"there is no {SERVER}: `make bench-mom` installs it")
    return found


async def _connect(home: Path, port: int) -> Any:
    import nats

    trust = ssl.create_default_context(cafile=home / "pki" / "ca.pem")
    trust.load_cert_chain(home / "pki" / "gateway.pem", home / "pki" / "gateway.key")
    return await nats.connect(f"tls://localhost:{port}", tls=trust)


async def _make(home: Home, port: int) -> None:
    from nats.js.api import StorageType

    connection = await _connect(home.path, port)
    await connection.jetstream().add_stream(name=STREAM, subjects=["kept.*"], storage=StorageType.FILE)
    await connection.close()


async def publish(home: Path, port: int, in_flight: int, seconds: float, size: int) -> None:
    """One round."""
    connection = await _connect(home, port)
    stream, payload = connection.jetstream(), os.urandom(size)
    # As with the MOM each message has an id of its own, by which a repeated one is found out.
    tell(
        await keep_busy(
            lambda number: stream.publish(
                SUBJECT.format(number=number), payload, headers={"Nats-Msg-Id": os.urandom(16).hex()}
            ),
            in_flight,
            seconds,
        )
    )
    await connection.close()


def main() -> None:
    """Publish for one round."""
    given = arguments(__doc__)
    import uvloop

    uvloop.run(publish(given.home, given.port, given.in_flight, given.seconds, given.size))


if __name__ == "__main__":
    main()
