"""Ports for daemons that tests start: free, distinct, and none that a connection could take in between."""

import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from bookd.command import ports
from bookd.command.home import Home
from bookd.command.init import METRICS_PORTS, PORTS, make_home
from bookd.testing.ports import HIGHEST, LOWEST, NoPorts, ephemeral, free_offset, free_port, free_ports

SUITE = (*PORTS.values(), *METRICS_PORTS.values())


def listener(port: int, host: str = "127.0.0.1") -> socket.socket:
    """Somebody who listens there, as daemons do. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen()
    except OSError:
        found.close()
        raise
    return found


class FreePortsTests(SynchronousTestCase):
    """Some ports."""

    def usable(self, found: list[int]) -> None:
        """No port is the kernel's to give to connections, none is another's, and a daemon can listen on each."""
        first, last = ephemeral()
        for port in found:
            self.assertTrue(LOWEST <= port <= HIGHEST and not first <= port <= last, port)
            listener(port).close()

    def test_usable(self) -> None:
        """Ports are distinct, outside the range of connections, and a daemon can listen on each."""
        found = free_ports(50)
        self.assertEqual(len(set(found)), 50)
        self.usable(found)

    def test_never_twice(self) -> None:
        """What a test was given nobody else of this process is given, whether it listens there or not."""
        before = {*free_ports(20), free_port()}
        self.assertEqual(len(before), 21)
        self.assertFalse(before & set(free_ports(200)))

    def test_no_port(self) -> None:
        """To ask for none is answered."""
        self.assertEqual(free_ports(0), [])

    def test_connections_have_others(self) -> None:
        """Connections that the kernel gives ports to take none of these."""
        first, last = ephemeral()
        with listener(free_port()) as server:
            for _ in range(50):
                with socket.create_connection(server.getsockname()) as client, server.accept()[0]:
                    self.assertTrue(first <= client.getsockname()[1] <= last)

    def test_too_many(self) -> None:
        """More ports than there are: the error says how many were found, and none of them is used up."""
        error = self.assertRaises(NoPorts, free_ports, HIGHEST)
        self.assertIn(f"{HIGHEST} free ports are needed; ", str(error))
        self.usable(free_ports(50))

    def test_other_processes_look_elsewhere(self) -> None:
        """Two processes that look at the same moment do not come upon the same ports in the same order."""
        script = "from bookd.testing.ports import free_ports; print(free_ports(10))"
        found = {subprocess.check_output([sys.executable, "-c", script]) for _ in range(2)}
        self.assertEqual(len(found), 2)


class FreeOffsetTests(SynchronousTestCase):
    """Ports of a whole suite."""

    def test_suite(self) -> None:
        """At the offset all ports of a suite are free, and can be listened on at once."""
        home = Home(Path(self.mktemp()))
        make_home(home, port_offset=free_offset(SUITE))
        wanted = home.ports()
        self.assertEqual(len(wanted), len(SUITE))
        ports.require_free(wanted)
        first, last = ephemeral()
        for _, port in wanted.values():
            self.assertFalse(first <= port <= last)
            self.addCleanup(listener(port).close)

    def test_suites_keep_apart(self) -> None:
        """Several suites of one process have no port in common, nor with ports that were given one by one."""
        taken = set(free_ports(100))
        for _ in range(5):
            offset = free_offset(SUITE)
            moved = {port + offset for port in SUITE}
            self.assertFalse(moved & taken)
            taken |= moved

    def alone(self, host: str) -> None:
        """Of a port that can be moved nowhere, there is an offset only while nobody listens on it."""
        for port in range(HIGHEST - 9, HIGHEST):
            try:
                with listener(port, host):
                    error = self.assertRaises(NoPorts, free_offset, [port])
                self.assertIn("all ports of a suite", str(error))
                self.assertEqual(free_offset([port]), 0)
            except (OSError, NoPorts):
                continue  # somebody else has this one
            self.assertRaises(NoPorts, free_offset, [port])
            return
        raise SkipTest("all of the last ports are taken")

    def test_taken(self) -> None:
        """A port on which somebody listens is not free; once it was given, it is not given again."""
        self.alone("127.0.0.1")

    def test_taken_over_ipv6(self) -> None:
        """Somebody who listens on the other loopback address only is in the way, too."""
        try:
            listener(free_port(), "::1").close()
        except OSError as error:
            raise SkipTest("this host has no IPv6") from error
        self.alone("::1")

    def test_nowhere(self) -> None:
        """Ports that lie so far apart that one of them would always be the kernel's, too low or none, are told."""
        first, last = ephemeral()
        for wanted in ([1, HIGHEST - 1], [LOWEST, LOWEST + last - first], [HIGHEST]):
            self.assertRaises(NoPorts, free_offset, wanted)
