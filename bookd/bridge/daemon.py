"""What the taps of all daemons share: their options, their table of the configuration, and how they fail to start."""

import sys
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from sqlalchemy import Connection, select
from twisted.application.service import IService
from twisted.python import usage

from bookd import config
from bookd.bridge import tls
from bookd.bridge.channel import Channel
from bookd.bridge.desk import Desk
from bookd.bridge.interpreter import Interpreter
from bookd.bridge.metrics import Metrics
from bookd.bridge.modes import Exposed, require_private
from bookd.bridge.server import ListenError, Server
from bookd.bridge.stack import Stack
from bookd.bridge.vitals import Ready, Vitals
from bookd.contract.descriptors import Contract, ContractError, load, shipped


class Options(usage.Options):
    """Options of every daemon."""

    optParameters: ClassVar[list[Any]] = [  # noqa: N815
        ("config", "c", "var/bookd.toml", "The configuration file; paths in it are relative to its folder."),
    ]


class Daemon(Stack):
    """The top of a daemon: a stack whose failure to start is one line on standard error and exit status 1."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._daemon = name

    def startService(self) -> None:
        """Start the children, the lowest first."""
        try:
            super().startService()
        except (ListenError, OSError, ValueError) as error:
            fail(self._daemon, error)


def daemon(name: str, *children: Any) -> Daemon:
    """The daemon `name` ("bookd-orders") made of services, the one that the others stand on first."""
    made = Daemon(name)
    for child in (*children, Interpreter()):
        IService(child).setServiceParent(made)
    return made


def fail(name: str, error: object) -> NoReturn:
    """End the process: one line that names the daemon and the fault."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        error = f"{error.filename}: {error.strerror}"
    sys.stderr.write(f"{name}: {error}\n")
    sys.stderr.flush()
    raise SystemExit(1)


def table(options: Options, name: str) -> tuple[Any, Path]:
    """The table of the daemon `name` ("orders") and the folder that its paths are relative to; ends the process when
    the configuration cannot be used, or when others may read or change what is the daemon's own."""
    path = Path(options["config"])
    try:
        loaded, home = config.load(path)
        found = getattr(loaded, name)
        if found is None:
            raise config.ConfigError(f"{path}: no table [{name}]")
        require_private(path, found)
    except (config.ConfigError, Exposed) as error:
        fail(f"bookd-{name}", error)
    return found, home


def contract(name: str, home: Path, descriptor_sets: list[str]) -> Contract:
    """The contract of the bookstore and of the configured descriptor sets; ends the process when one is unusable."""
    try:
        return load([shipped(), *((home / path).read_bytes() for path in descriptor_sets)])
    except (OSError, ContractError) as error:
        fail(name, error)


def require_memory(contract: Contract, service: str, keep_inbox: float) -> None:
    """Raises ValueError when a message of the service ("bookd.orders.v1.OrdersService") may be delivered that it has
    forgotten: one that its rpc lets live too long. What the MOM's table says is compared where both tables are read."""
    for method in contract.methods.values():
        expire_after = method.delivery.expire_after.ToMicroseconds() / 1e6
        if method.service == service and expire_after and keep_inbox < expire_after + config.LATE:
            raise ValueError(
                f"`keep_inbox` must be at least {config.LATE:g} s longer than the `expire_after` of {method.path}, which is "
                f"{expire_after:g} s, lest a message takes effect twice"
            )


def vitals(
    name: str, reactor: Any, home: Path, port: int | None, *identities: config.Identity
) -> tuple[Metrics, Vitals]:
    """The numbers of the daemon `name` ("bookd-orders"), among them the ends of these certificates, and the port, None for
    none, on which they are told."""
    metrics = Metrics(name)
    files = [file for identity in identities for file in (identity.certificate, identity.ca)]
    metrics.certificates(home, list(dict.fromkeys(files)))
    return metrics, Vitals(reactor, port, metrics)


def grpc_server(table: config.Grpc, home: Path, contract: Contract, metrics: Metrics) -> Server:
    """The server that a daemon's [….grpc] table describes. Raises OSError when a certificate cannot be read."""
    return Server(
        table.host,
        table.port,
        tls.server_credentials(table.identity, home),
        contract=contract,
        peers=table.peers,
        trusted=table.trusted,
        grace=table.grace,
        max_message=table.max_message,
        count=metrics.requests("grpc", ("method",)),
    )


def working(server: Server, desk: Desk) -> Ready:
    """Whether the server takes calls, and the database answers."""

    async def ready() -> bool:
        return await server.serves() and await desk.read(_answers)

    return ready


def _answers(connection: Connection) -> bool:
    return bool(connection.execute(select(1)).scalar_one())


def channel(
    peer: config.Peer, identity: config.Identity, home: Path, grace: float = 5.0, *, kind: type[Channel] = Channel
) -> Channel:
    """A channel to a peer, under the daemon's own certificate. Raises OSError or ValueError when that cannot be used."""
    return kind(peer.addresses, tls.Files(identity, home), name=peer.name, grace=grace)
