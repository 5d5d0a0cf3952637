"""Where things lie in a suite's home, the folder that `bookd init` makes."""

import json
import os
import tempfile
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path

import click
from attrs import frozen

from bookd import config

# In the order in which they start; they stop the other way round.
DAEMONS = ("inventory", "orders", "users", "mom", "gateway")
# sun_path of unix(7) holds 108 bytes with the closing zero, and supervisord first binds to a name with its pid behind.
SOCKET_PATH_LIMIT = 107 - len(".4194304")


class CommandError(click.ClickException):
    """Something the person at the terminal can mend. Shown as one line; the command ends with status 1."""

    def show(self, file: object = None) -> None:
        """Write the line to standard error."""
        click.echo(f"bookd: {self.message}", err=True)


@frozen
class Home:
    """A suite's home. Nothing of it needs to be there yet."""

    path: Path  # absolute

    @property
    def config_file(self) -> Path:
        """The one configuration file."""
        return self.path / "bookd.toml"

    @property
    def ca(self) -> Path:
        """The certificate of the suite's private authority."""
        return self.path / "pki" / "ca.pem"

    @property
    def admin(self) -> Path:
        """Name and password of the first administrator."""
        return self.path / "secrets" / "admin.json"

    def log(self, program: str) -> Path:
        """What a program of the suite writes to its standard output and error."""
        return self.path / "log" / f"{program}.log"

    @property
    def socket(self) -> Path:
        """Where the suite's supervisor listens: in the home, or, when that path is too long for a socket, in a folder of
        this user's below the system's one for temporary files."""
        usual = self.path / "supervisor.sock"
        if len(os.fsencode(usual)) <= SOCKET_PATH_LIMIT:
            return usual
        mark = sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"bookd-{os.getuid()}-{mark}" / "supervisor.sock"

    def load(self) -> config.Config:
        """The configuration. Raises `CommandError` when there is none or it cannot be used."""
        if not self.config_file.exists():
            raise CommandError(f"{self.path} holds no suite; make one with: bookd --home {self.path} init")
        try:
            return config.load(self.config_file)[0]
        except config.ConfigError as error:
            raise CommandError(str(error)) from error

    def listeners(self) -> dict[str, tuple[str, int]]:
        """Host and port that each configured daemon listens on, by the daemon's name, in `DAEMONS` order."""
        settings = self.load()
        found = {
            name: (table.grpc.host, table.grpc.port)
            for name, table in (
                ("inventory", settings.inventory),
                ("orders", settings.orders),
                ("users", settings.users),
                ("mom", settings.mom),
            )
            if table is not None
        }
        if settings.gateway is not None:
            found["gateway"] = (settings.gateway.host, settings.gateway.port)
        return found

    def metrics_ports(self) -> dict[str, int]:
        """The port on which each configured daemon tells how it is, of those that do, by the daemon's name."""
        settings = self.load()
        tables = {name: getattr(settings, name) for name in DAEMONS}
        return {
            name: table.metrics_port
            for name, table in tables.items()
            if table is not None and table.metrics_port is not None
        }

    def ports(self, daemons: Collection[str] = DAEMONS) -> dict[str, tuple[str, int]]:
        """Host and port of everything that these daemons listen on, by what it is."""
        found = {name: place for name, place in self.listeners().items() if name in daemons}
        metrics = {name: port for name, port in self.metrics_ports().items() if name in daemons}
        return found | {f"metrics of {name}": ("127.0.0.1", port) for name, port in metrics.items()}

    def url(self) -> str:
        """Where clients on this host reach the gateway."""
        listeners = self.listeners()
        if "gateway" not in listeners:
            raise CommandError(f"{self.config_file} has no gateway; say where it is with --url")
        return f"https://localhost:{listeners['gateway'][1]}"

    def administrator(self) -> Mapping[str, str]:
        """{username, password} of the first administrator. Raises `CommandError` when it cannot be read."""
        try:
            found = json.loads(self.admin.read_text(encoding="utf-8"))
            return {"username": str(found["username"]), "password": str(found["password"])}
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CommandError(
                f"{self.admin} holds no administrator ({error}); say --username and --password"
            ) from error
