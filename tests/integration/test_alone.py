"""One daemon by itself, as any supervisor or person starts it."""

import os
import shutil
import signal
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from bookd.command.ports import listens
from tests.chaos.stage import configure, environment, make_home

reactor: Any = installed
# A client that knows nothing of the service but its address: it lists by reflection what is served, and asks for books.
CLIENT = """
import sys
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
port, ca, *pair = sys.argv[1:]
read = lambda path: open(path, "rb").read()
credentials = grpc.ssl_channel_credentials(read(ca), *(read(path) for path in pair))
options = [("grpc.ssl_target_name_override", "inventory.bookd.internal")]
with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    print(*database.get_services())
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("bookd.inventory.v1.InventoryService").FindMethodByName("ListBooks")
    call = channel.unary_unary(
        "/bookd.inventory.v1.InventoryService/ListBooks",
        GetMessageClass(method.input_type).SerializeToString, GetMessageClass(method.output_type).FromString,
    )
    print("books", len(call(GetMessageClass(method.input_type)(), timeout=5).books))
"""


def lives(pid: int) -> bool:
    """Whether there is such a process; one that has ended and whose parent has not noticed is none."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class InventoryTests(TestCase):
    """twistd bookd-inventory, without -n."""

    timeout = 60

    async def setUp(self) -> None:
        """Start it as a daemon of the system."""
        self.home = Path(mkdtemp(prefix="bookd-alone-"))
        self.addCleanup(shutil.rmtree, self.home)
        ports = make_home(self.home)
        configure(self.home, ports, lambda link: ports[link.partition("-")[2]])
        self.port = ports["inventory"]
        self.pidfile, self.log = self.home / "inventory.pid", self.home / "inventory.log"
        twistd = str(Path(sys.executable).with_name("twistd"))
        config = ["--config", str(self.home / "bookd.toml")]
        said, errors, status = await getProcessOutputAndValue(
            sys.executable,
            [twistd, f"--pidfile={self.pidfile}", f"--logfile={self.log}", "bookd-inventory", *config],
            environment(),
        )
        self.assertEqual((status, errors), (0, b""), said)
        await self.until(self.pidfile.exists)
        self.pid = int(self.pidfile.read_text())
        self.addCleanup(self.end)
        await self.until(lambda: listens("localhost", self.port))

    def end(self) -> None:
        """Leave no process."""
        if lives(self.pid):
            os.kill(self.pid, signal.SIGKILL)

    async def until(self, condition: Any, seconds: float = 15.0) -> None:
        """Wait for a condition."""
        limit = reactor.seconds() + seconds
        while not condition():
            self.assertLess(reactor.seconds(), limit, self.log.read_text() if self.log.exists() else "no log")
            await deferLater(reactor, 0.05)

    async def ask(self, *pair: str) -> tuple[bytes, bytes, int]:
        """What a plain gRPC client with that certificate and key gets."""
        files = [str(self.home / "pki" / name) for name in ("ca.pem", *pair)]
        said, errors, status = await getProcessOutputAndValue(
            sys.executable, ["-c", CLIENT, str(self.port), *files], environment()
        )
        return said, errors, status

    async def test_daemonized(self) -> None:
        """It serves in the background, by reflection too, to who has a certificate and to nobody else; SIGTERM ends it
        in order."""
        said, errors, status = await self.ask("operator.key", "operator.pem")
        self.assertEqual(status, 0, errors)
        self.assertIn(b"bookd.inventory.v1.InventoryService", said)
        self.assertIn(b"books 0", said)
        said, errors, status = await self.ask()
        self.assertNotEqual(status, 0, said)
        self.assertIn(b"UNAVAILABLE", errors)
        os.kill(self.pid, signal.SIGTERM)
        await self.until(lambda: not lives(self.pid))
        self.assertFalse(self.pidfile.exists())
        self.assertIn("Server Shut Down", self.log.read_text())
        self.assertNotIn("Traceback", self.log.read_text())
