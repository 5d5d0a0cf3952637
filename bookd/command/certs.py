"""`bookd certs`: the certificates of a suite, and how they are renewed while it runs.

A renewed certificate comes with a new key, from the suite's own authority, for the same names. Daemons show it to whoever
connects from then on; connections that are open stay open. As callers they connect anew within a few seconds, and the old
connections end with the last call on them.
"""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from bookd import pki
from bookd.command.home import CommandError, Home
from bookd.command.init import CERTIFIED

# One that ends within this time is pointed out.
SOON = timedelta(days=30)

NAMES = click.argument("names", nargs=-1, metavar="[DAEMON]...", type=click.Choice(CERTIFIED))


def until(home: Home, name: str) -> datetime:
    """When the certificate of `name` ends. Raises `CommandError`."""
    path = home.path / "pki" / f"{name}.pem"
    try:
        return pki.ends(path.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{path} holds no certificate") from error


def remark(home: Home, name: str, now: datetime) -> str:
    """What to say of the certificate of `name` in a line about the daemon."""
    try:
        end = until(home, name)
    except CommandError:
        return "certificate unreadable"
    if end <= now:
        return f"certificate ENDED {end:%Y-%m-%d}"
    return f"certificate until {end:%Y-%m-%d}" + (" (renew it: bookd certs renew)" if end - now < SOON else "")


def renew(home: Home, names: Sequence[str], now: datetime) -> None:
    """Give the named new certificates. Raises `CommandError` for those that cannot have one; the others are renewed then."""
    folder = home.path / "pki"
    faults = []
    try:
        authority = pki.Issued((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    for name in names:
        try:
            _renew(folder, name, authority, now)
        except OSError as error:
            faults.append(f"{error.filename}: {error.strerror}")
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise CommandError("\n".join(dict.fromkeys(faults)))


def _renew(folder: Path, name: str, authority: pki.Issued, now: datetime) -> None:
    old = folder / f"{name}.pem"
    try:
        hosts = pki.hosts(old.read_bytes(), name) if old.exists() else []
    except ValueError:
        raise ValueError(f"{old} holds no certificate to be renewed; without the file a new one is made") from None
    issued = pki.issue(authority, name, hosts, now)
    # Whoever reads between these two finds that they do not fit, and looks again.
    parts = (folder / f"{name}.key", issued.key_pem), (old, issued.certificate_pem)
    for path, content in parts:
        _write(_beside(path), content)
    for path, _ in parts:
        _beside(path).replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@click.group()
def certs() -> None:
    """Show and renew the certificates of the suite."""


@certs.command(name="renew")
@NAMES
@click.pass_obj
def renew_named(home: Home, names: tuple[str, ...]) -> None:
    """Renew certificates (all, if none is named). Nothing needs a restart, and no call is cut off."""
    chosen = names or CERTIFIED
    renew(home, chosen, datetime.now(UTC))
    for name in chosen:
        click.echo(f"{name:<10} {remark(home, name, datetime.now(UTC))}")
    click.echo("New connections see them at once; the daemons themselves call with them within a few seconds.")


@certs.command(name="list")
@click.pass_obj
def show(home: Home) -> None:
    """Show when each certificate ends."""
    now = datetime.now(UTC)
    for name in ("ca", *CERTIFIED):
        click.echo(f"{name:<10} {remark(home, name, now)}")
