"""`bookd keys`: the keys that sign access tokens, changed while the suite runs.

A new key is published first and signs a little later, when every gateway has read of it; both happen by themselves, since
the users daemon looks at its folder, and the gateway at its JWK set, once a second. Tokens of the keys before stay good
until they expire. A gateway on another host gets a copy of the JWK set; give it the time with --signs-in.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from bookd.command.home import CommandError, Home
from bookd.users import keys as signing
from bookd.users.keys import KeysError, SigningKey

# Clocks differ, and a token is believed a little beyond its end.
MARGIN = 60.0
SIGNS_IN = 5.0


def folder(home: Home) -> tuple[Path, float]:
    """The folder of the keys, and how many seconds a token is good for."""
    table = home.load().users
    if table is None:
        raise CommandError(f"{home.config_file} has no users, whose keys these are")
    return home.path / table.keys, table.access_lifetime


@click.group()
def keys() -> None:
    """Show, rotate and prune the keys that sign access tokens."""


@keys.command()
@click.option(
    "--signs-in",
    type=click.FloatRange(min=2.0),
    default=SIGNS_IN,
    show_default=True,
    metavar="SECONDS",
    help="When the new key begins to sign: by then every gateway must have the new JWK set.",
)
@click.pass_obj
def rotate(home: Home, signs_in: float) -> None:
    """Make a new key. Nothing needs a restart, and nobody is logged out."""
    path, _ = folder(home)
    try:
        fresh = signing.rotate(path, _now(), signs_in)
    except (KeysError, OSError) as error:
        raise CommandError(str(error)) from error
    click.echo(f"made {path / fresh.kid}.pem, which signs from {_date(fresh.created_at)} on")
    click.echo(f"published in {path / signing.JWKS}; remove the old keys later with: bookd keys prune")


@keys.command()
@click.pass_obj
def prune(home: Home) -> None:
    """Remove the keys none of whose tokens is good any more."""
    path, lifetime = folder(home)
    try:
        removed = signing.prune(path, _now(), lifetime + MARGIN)
    except (KeysError, OSError) as error:
        raise CommandError(str(error)) from error
    for key in removed:
        click.echo(f"removed {path / key.kid}.pem")
    if not removed:
        click.echo("there is nothing to remove")


@keys.command(name="list")
@click.pass_obj
def show(home: Home) -> None:
    """Show the keys, the newest first, and what each is for."""
    path, _ = folder(home)
    try:
        found = signing.load(path)
    except KeysError as error:
        raise CommandError(str(error)) from error
    now = _now()
    current = signing.signing(found, now)
    for key in found:
        click.echo(f"{key.kid}  from {_date(key.created_at)}  {_state(key, current)}")


def _state(key: SigningKey, current: SigningKey) -> str:
    if key is current:
        return "signs"
    return "will sign" if key.created_at > current.created_at else "verifies"


def _now() -> int:
    return time.time_ns() // 1000


def _date(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(sep=" ", timespec="seconds")
