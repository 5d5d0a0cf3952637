"""RabbitMQ: a quorum queue of one node, and a publisher that waits for each confirmation.

    python -m benchmarks.peers.rabbitmq --home HOME --port PORT --in-flight N --seconds S --size BYTES

is the publisher (aiormq). The node is one of its own, with its files in a temporary folder; mutual TLS with bookd's own
certificates. A quorum queue writes its log and flushes it to the disk, many messages at a time, before it confirms.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.load import arguments, keep_busy, served, tell
from benchmarks.stand import BenchError
from bookd.command.home import Home
from bookd.testing import ports

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
QUEUE = "kept"
_CONFIG = """
listeners.tcp = none
listeners.ssl.default = {port}
ssl_options.cacertfile = {pki}/ca.pem
ssl_options.certfile = {pki}/mom.pem
ssl_options.keyfile = {pki}/mom.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
disk_free_limit.absolute = 50MB
"""


def lacking() -> str:
    """Why it cannot be measured here; empty when it can."""
    if not SERVER.exists():
        return "there is no RabbitMQ: on Debian, apt-get install rabbitmq-server"
    return "" if shutil.which("epmd") else "there is no epmd, without which RabbitMQ does not start"


@contextmanager
def server(home: Home, folder: Path) -> Iterator[int]:
    """A node of its own, with an empty queue; answers its port."""
    folder.mkdir()
    port, nodes, epmd = ports.free_ports(3)
    (folder / "rabbitmq.conf").write_text(_CONFIG.format(port=port, pki=home.path / "pki"))
    (folder / "plugins").write_text("[].\n")
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_DIST_PORT": str(nodes),
        "ERL_EPMD_PORT": str(epmd),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
    }
    mapper = [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(epmd)]
    with (
        subprocess.Popen(mapper, env=environment) as names,
        served([str(SERVER)], port, folder / "rabbitmq.log", environment),
    ):
        try:
            asyncio.run(_make(home, port))
            yield port
        finally:
            names.terminate()


async def _connect(home: Path, port: int) -> Any:
    import aiormq

    pki = home / "pki"
    return await aiormq.connect(
        f"amqps://guest:guest@localhost:{port}//?cafile={pki}/ca.pem&certfile={pki}/gateway.pem&keyfile={pki}/gateway.key"
    )


async def _make(home: Home, port: int) -> None:
    # It listens a moment before it takes connections.
    for _ in range(50):
        try:
            connection = await _connect(home.path, port)
            break
        except OSError:
            await asyncio.sleep(0.2)
    else:
        raise BenchError("RabbitMQ takes no connection")
    channel = await connection.channel()
    await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    await connection.close()


async def publish(home: Path, port: int, in_flight: int, seconds: float, size: int) -> None:
    """One round."""
    from pamqp.commands import Basic

    connection = await _connect(home, port)
    channel = await connection.channel(publisher_confirms=True)
    payload = os.urandom(size)

    async def call(_: int) -> None:
        properties = Basic.Properties(message_id=os.urandom(16).hex(), delivery_mode=2)
        confirmed = await channel.basic_publish(payload, routing_key=QUEUE, properties=properties)
        if not isinstance(confirmed, Basic.Ack):
            raise BenchError(f"RabbitMQ said {confirmed}")

    tell(await keep_busy(call, in_flight, seconds))
    await connection.close()


def main() -> None:
    """Publish for one round."""
    given = arguments(__doc__)
    import uvloop

    uvloop.run(publish(given.home, given.port, given.in_flight, given.seconds, given.size))


if __name__ == "__main__":
    main()
