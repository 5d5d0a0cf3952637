"""Who listens on the suite's ports."""

import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bookd.command import ports
from bookd.command.home import CommandError, Home
from bookd.command.init import make_home


def listener(host: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    """Somebody who listens on a free port."""
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as daemons do
    found.bind((host, 0))
    found.listen()
    return found


class PortsTests(SynchronousTestCase):
    """Taken and free."""

    def test_taken_port_is_named_with_its_daemon(self) -> None:
        """The line names port and daemon, each of them when there are several."""
        with listener() as one, listener() as two, listener() as gone:
            first, second = one.getsockname()[1], two.getsockname()[1]
            gone.close()
            wanted = {"mom": ("localhost", first), "users": ("localhost", second)}
            error = self.assertRaises(CommandError, ports.require_free, wanted)
        self.assertIn(f"port {first} (mom) and port {second} (users) are taken", error.message)
        self.assertIn("--port-offset", error.message)

    def test_taken_on_every_address(self) -> None:
        """Somebody on all addresses is in the way of localhost, and the other way round."""
        with listener("0.0.0.0") as everywhere:
            self.assertTrue(ports.taken("localhost", everywhere.getsockname()[1]))
        with listener() as local:
            self.assertTrue(ports.taken("0.0.0.0", local.getsockname()[1]))

    def test_free_port(self) -> None:
        """A port that somebody has just left is free."""
        with listener() as one:
            port = one.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)), one.accept()[0]:
                pass
        self.assertFalse(ports.taken("localhost", port))
        ports.require_free({"mom": ("localhost", port)})

    def test_port_twice(self) -> None:
        """Two daemons with one port are told."""
        with listener() as one:
            port = one.getsockname()[1]
        wanted = {"mom": ("localhost", port), "users": ("localhost", port)}
        self.assertIn("for two daemons", self.assertRaises(CommandError, ports.require_free, wanted).message)

    def test_metrics(self) -> None:
        """The ports of the metrics are among those of a home, of all daemons or of some; a table without one has none."""
        home = Home(Path(self.mktemp()))
        make_home(home, port_offset=10)
        self.assertEqual(len(home.ports()), 10)
        wanted = {"mom": ("localhost", 50065), "metrics of mom": ("127.0.0.1", 9189)}
        self.assertEqual(home.ports(["mom"]), wanted)
        text = home.config_file.read_text()
        home.config_file.write_text(text.replace("metrics_port = 9189\n", ""))
        self.assertEqual(home.ports(["mom"]), {"mom": ("localhost", 50065)})

    def test_host_that_is_none(self) -> None:
        """An address that this machine does not know is told."""
        self.assertIn(
            "no-such-host.invalid", self.assertRaises(CommandError, ports.taken, "no-such-host.invalid", 1).message
        )

    def test_listens(self) -> None:
        """Somebody accepts connections, or nobody does."""
        with listener() as one:
            port = one.getsockname()[1]
            self.assertTrue(ports.listens("0.0.0.0", port))
        self.assertFalse(ports.listens("localhost", port))
