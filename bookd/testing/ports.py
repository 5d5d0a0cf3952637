"""Ports for daemons that a test starts: free now, and not taken in between by somebody's connection.

A port that the kernel gives for "any" is one that it may give again at once, to whoever connects somewhere, between the
moment it is let go and the moment a daemon listens on it. So these are chosen outside the range of such ports.
"""

import errno
import os
import random
import socket
from collections.abc import Iterable
from pathlib import Path

# What Linux takes for connections, when it does not tell.
EPHEMERAL = (32768, 60999)
LOWEST, HIGHEST = 12000, 65535

_random = random.Random(os.getpid())
_given: set[int] = set()


class NoPorts(Exception):
    """All ports that could be used are taken."""


def ephemeral() -> tuple[int, int]:
    """The first and the last port that the kernel gives to connections (ip(7), ip_local_port_range)."""
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return EPHEMERAL
    return int(first), int(last)


def free_ports(count: int) -> list[int]:
    """So many ports that nobody listens on, none of which this process was given before."""
    first, last = ephemeral()
    chosen = [port for port in (*range(LOWEST, first), *range(last + 1, HIGHEST)) if port not in _given]
    _random.shuffle(chosen)
    found: list[int] = []
    for port in chosen:
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise NoPorts(f"{count} free ports are needed; {len(found)} were found")
    _given.update(found)
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def free_offset(ports: Iterable[int]) -> int:
    """A number that can be added to each of `ports`, so that all are free."""
    wanted = tuple(ports)
    first, last = ephemeral()
    offsets = list(range(0, HIGHEST - max(wanted), 10))
    _random.shuffle(offsets)
    for offset in offsets:
        moved = {port + offset for port in wanted}
        usable = all(port >= LOWEST and not first <= port <= last for port in moved)
        if usable and not moved & _given and all(_is_free(port) for port in moved):
            _given.update(moved)
            return offset
    raise NoPorts("there is no offset at which all ports of a suite are free")


def _is_free(port: int) -> bool:
    try:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
    except OSError as error:
        return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # a host without IPv6
    return True
