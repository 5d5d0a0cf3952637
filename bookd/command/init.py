"""`bookd init`: makes what a suite needs before its first start.

A private authority and a certificate for each daemon, the key that signs access tokens, the first administrator's
password and the configuration. What is there already is left as it is, so a second call only fills gaps. Files appear
under their names complete or not at all. Others on the machine can read none of it.
"""

import json
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import NamedTemporaryFile

import click

from bookd import pki
from bookd.command.home import CommandError, Home
from bookd.mom import seals
from bookd.users import keys

PORTS = {"gateway": 8081, "mom": 50055, "inventory": 50051, "orders": 50052, "users": 50053}
# Where each tells how it is. No offset that is a multiple of ten brings one suite's to another's ports.
METRICS_PORTS = {"gateway": 9180, "mom": 9179, "inventory": 9176, "orders": 9177, "users": 9178}
# The operator is no daemon: a person who calls the daemons' rpcs directly.
CERTIFIED = (*PORTS, "operator")
FOLDERS = ("pki", "keys", "seals", "secrets", "data", "log")


def configuration(port_offset: int = 0, host: str = "localhost") -> str:
    """The text of bookd.toml, all ports moved by `port_offset` and the gateway listening on `host`."""
    template = Template((files("bookd.command") / "bookd.toml.in").read_text(encoding="utf-8"))
    metrics = {f"metrics_{name}": port for name, port in METRICS_PORTS.items()}
    ports = {name: str(port + port_offset) for name, port in {**PORTS, **metrics}.items()}
    return template.substitute(ports, host=host)


class Making:
    """Fills a home, and keeps account of what was made and what was there."""

    def __init__(self, home: Home, now: datetime) -> None:
        self.home = home
        self.now = now
        self.made: list[str] = []
        self.kept: list[str] = []

    def everything(self, port_offset: int, hosts: Sequence[str]) -> None:
        """Make whatever is missing."""
        make_folder(self.home.path)
        for name in FOLDERS:
            make_folder(self.home.path / name)
        self.certificates(hosts)
        self.signing_key()
        self.sealing_key()
        administrator = {"username": "admin", "password": secrets.token_urlsafe(18)}
        self.file("secrets/admin.json", json.dumps(administrator).encode() + b"\n")
        listen_on = "0.0.0.0" if hosts else "localhost"  # noqa: S104 - asked for with --host
        self.file("bookd.toml", configuration(port_offset, listen_on).encode())

    def file(self, name: str, content: bytes) -> None:
        """Write a file that only this user can read, unless there is one of that name."""
        (self.made if write_new(self.home.path / name, content) else self.kept).append(name)

    def certificates(self, hosts: Sequence[str]) -> None:
        """Make the authority, and with it the certificates that are missing."""
        if self.absent("pki/ca"):
            self.pair("pki/ca", pki.make_authority(self.now))
        else:
            self.kept += ["pki/ca.pem", "pki/ca.key"]
        for name in CERTIFIED:
            if self.absent(f"pki/{name}"):
                issued = pki.issue(self.authority(), name, hosts if name == "gateway" else (), self.now)
                self.pair(f"pki/{name}", issued)
            else:
                self.kept += [f"pki/{name}.pem", f"pki/{name}.key"]

    def absent(self, stem: str) -> bool:
        """Whether a certificate and its key are both missing. An authority may keep its key elsewhere."""
        certificate, key = ((self.home.path / f"{stem}.{ending}").exists() for ending in ("pem", "key"))
        if certificate != key and not (certificate and stem == "pki/ca"):
            there, missing = ("pem", "key") if certificate else ("key", "pem")
            raise CommandError(f"{self.home.path / stem}.{there} is there, but {stem}.{missing} is missing")
        return not certificate

    def pair(self, stem: str, issued: pki.Issued) -> None:
        """Write a key and its certificate; the certificate last, since it says that the pair is complete."""
        self.file(f"{stem}.key", issued.key_pem)
        self.file(f"{stem}.pem", issued.certificate_pem)

    def authority(self) -> pki.Issued:
        """The authority as it lies in the home."""
        try:
            return pki.Issued(*((self.home.path / f"pki/ca.{ending}").read_bytes() for ending in ("pem", "key")))
        except OSError as error:
            raise CommandError(f"certificates are missing, and the authority cannot be read: {error}") from error

    def signing_key(self) -> None:
        """Make the key that signs access tokens, and the JWK set that verifies them, unless there are any."""
        folder = self.home.path / "keys"
        there = sorted(folder.glob("*.pem"))
        if there:
            self.kept += [f"keys/{path.name}" for path in there]
        else:
            key = keys.generate(int(self.now.timestamp() * 1_000_000))
            self.made.append(f"keys/{keys.write(folder, key).name}")
        if (folder / keys.JWKS).exists():
            self.kept.append(f"keys/{keys.JWKS}")
        else:
            self.made.append(f"keys/{keys.publish(folder, keys.load(folder)).name}")

    def sealing_key(self) -> None:
        """Make the key that seals what the MOM keeps, unless there are any."""
        folder = self.home.path / "seals"
        there = sorted(folder.glob("*" + seals.ENDING))
        if there:
            self.kept += [f"seals/{path.name}" for path in there]
        else:
            seal = seals.generate(int(self.now.timestamp() * 1_000_000))
            self.made.append(f"seals/{seals.write(folder, seal).name}")


def make_folder(path: Path) -> None:
    """Make a folder that only this user can enter, unless it is there."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot make the folder {path}: {error.strerror}") from error


def write_new(path: Path, content: bytes) -> bool:
    """Write `content` to `path`, mode 0600, complete or not at all; false when there is something of that name."""
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as scratch:
            scratch.write(content)
            scratch.flush()
            os.fsync(scratch.fileno())
            os.link(scratch.name, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
    return True


def make_home(home: Home, *, port_offset: int = 0, hosts: Sequence[str] = (), now: datetime | None = None) -> Making:
    """Fill the gaps of `home`; the answer says what was made and what was there."""
    making = Making(home, now if now is not None else datetime.now(UTC))
    try:
        making.everything(port_offset, hosts)
    except (ValueError, keys.KeysError) as error:  # a host that no certificate can hold; a key file that is none
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    return making


@click.command()
@click.option(
    "--port-offset",
    type=click.IntRange(0, 65535 - max(PORTS.values())),
    default=0,
    help="Add this to every port, so that several suites can stand side by side.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or address by which other machines reach the gateway (repeatable). It goes into the gateway's"
    " certificate, and the gateway listens on all IPv4 addresses; without it, on localhost only.",
)
@click.pass_obj
def init(home: Home, port_offset: int, hosts: tuple[str, ...]) -> None:
    """Make a suite's home: authority, certificates, keys, configuration and the first administrator.

    Whatever is there already is left as it is.
    """
    making = make_home(home, port_offset=port_offset, hosts=hosts)
    for name in making.made:
        click.echo(f"made  {home.path / name}")
    for name in making.kept:
        click.echo(f"left  {home.path / name} (it was there)")
    click.echo(f"The administrator's name and password are in {home.admin}")
