"""Who listens on the suite's ports."""

import errno
import socket
from collections.abc import Iterable, Mapping

from bookd.command.home import CommandError

EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - addresses to recognise, not to bind


def _families(host: str, port: int) -> Iterable[tuple[socket.AddressFamily, object]]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CommandError(f"cannot listen on {host}: {error.strerror}") from error
    return [(family, address) for family, _, _, _, address in found]


def taken(host: str, port: int) -> bool:
    """Whether a daemon could not listen there because somebody else does."""
    for family, address in _families(host, port):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # as the daemons do; connections that linger in TIME_WAIT take no port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)  # type: ignore[arg-type]
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
                if error.errno == errno.EACCES:
                    raise CommandError(f"port {port} needs more rights than this user has") from error
    return False


def require_free(listeners: Mapping[str, tuple[str, int]]) -> None:
    """Raise `CommandError` that names each port that is taken, and the daemon it is meant for."""
    busy = [f"port {port} ({name})" for name, (host, port) in listeners.items() if taken(host, port)]
    if busy:
        raise CommandError(
            f"{' and '.join(busy)} {'is' if len(busy) == 1 else 'are'} taken by another program;"
            " end it, or make a suite on other ports: bookd --home DIR init --port-offset N"
        )
    numbers = [port for _, port in listeners.values()]
    for name, (_, port) in listeners.items():
        if numbers.count(port) > 1:
            raise CommandError(f"port {port} ({name}) is configured for two daemons")


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection(("localhost" if host in EVERYWHERE else host, port), timeout=1.0):
            return True
    except OSError:
        return False
