"""`bookd keys`: the keys that sign access tokens, changed while the suite runs.

A new key is published first and signs a little later, when every gateway has read of it; both happen by themselves, since
the users daemon looks at its folder, and the gateway at its JWK set, once a second. Tokens of the keys before stay good
until they expire. A gateway on another host gets a copy of the JWK set; give it the time with --signs-in.

With --sealing it is the keys that seal what the MOM keeps. There too a new one is taken within a second, and an old one
opens what was sealed with it; what is unread for good without it is counted before one is removed.
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from bookd.command.home import CommandError, Home
from bookd.config import Mom
from bookd.mom import seals, vault
from bookd.mom.seals import SealsError
from bookd.storage.engine import open_engine, reading
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


def seals_folder(home: Home) -> tuple[Path, Mom]:
    """The folder of the keys that seal, and the table of the MOM."""
    table = home.load().mom
    if table is None or table.sealing_keys is None:
        raise CommandError(f"{home.config_file} names no sealing_keys of [mom]")
    return home.path / table.sealing_keys, table


SEALING = click.option(
    "--sealing", is_flag=True, help="The keys that seal what the MOM keeps, not those that sign tokens."
)


@click.group()
def keys() -> None:
    """Show, rotate and prune the keys that sign access tokens, and those that seal what the MOM keeps."""


@keys.command()
@click.option(
    "--signs-in",
    type=click.FloatRange(min=2.0),
    default=SIGNS_IN,
    show_default=True,
    metavar="SECONDS",
    help="When the new key begins to sign: by then every gateway must have the new JWK set.",
)
@SEALING
@click.pass_obj
def rotate(home: Home, signs_in: float, sealing: bool) -> None:
    """Make a new key. Nothing needs a restart, and nobody is logged out."""
    if sealing:
        _rotate_seals(home, signs_in)
        return
    path, _ = folder(home)
    try:
        fresh = signing.rotate(path, _now(), signs_in)
    except (KeysError, OSError) as error:
        raise CommandError(str(error)) from error
    click.echo(f"made {path / fresh.kid}.pem, which signs from {_date(fresh.created_at)} on")
    click.echo(f"published in {path / signing.JWKS}; remove the old keys later with: bookd keys prune")


@keys.command()
@SEALING
@click.pass_obj
def prune(home: Home, sealing: bool) -> None:
    """Remove the keys none of whose tokens is good any more; or with which nothing is sealed any more."""
    if sealing:
        _prune_seals(home)
        return
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
@SEALING
@click.pass_obj
def show(home: Home, sealing: bool) -> None:
    """Show the keys, the newest first, and what each is for."""
    if sealing:
        _show_seals(home)
        return
    path, _ = folder(home)
    try:
        found = signing.load(path)
    except KeysError as error:
        raise CommandError(str(error)) from error
    now = _now()
    current = signing.signing(found, now)
    for key in found:
        click.echo(f"{key.kid}  from {_date(key.created_at)}  {_state(key, current)}")


def _rotate_seals(home: Home, seals_in: float) -> None:
    path, _ = seals_folder(home)
    try:
        fresh = seals.rotate(path, _now(), seals_in)
    except (SealsError, OSError) as error:
        raise CommandError(str(error)) from error
    click.echo(f"made {path / fresh.key_id}{seals.ENDING}, which seals from {_date(fresh.since)} on")
    click.echo("back it up; remove the old ones later with: bookd keys prune --sealing")


def _prune_seals(home: Home) -> None:
    path, table = seals_folder(home)
    try:
        found = seals.load(path)
        sealing = seals.sealing(found, _now())
        # Older than the one that seals, which the MOM has seen by now.
        old = [seal for seal in found.values() if seal.since < sealing.since and sealing.since + MARGIN * 1e6 <= _now()]
        engine = open_engine(table.database if "://" in table.database else home.path / table.database)
        with reading(engine).connect() as connection, connection.begin():
            used = {seal.key_id: vault.count(connection, seal.key_id) for seal in old}
        engine.dispose()
        for key_id, count in used.items():
            file = path / (key_id + seals.ENDING)
            if not count:
                file.unlink()
            click.echo(f"removed {file}" if not count else f"left {file}: {count} rows are sealed with it still")
    except SQLAlchemyError as error:
        raise CommandError(f"{table.database}: {getattr(error, 'orig', None) or error}") from error
    except (SealsError, OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    if not old:
        click.echo("there is nothing to remove")


def _show_seals(home: Home) -> None:
    try:
        found = seals.load(seals_folder(home)[0])
    except SealsError as error:
        raise CommandError(str(error)) from error
    sealing = seals.sealing(found, _now())
    for seal in sorted(found.values(), key=lambda each: each.since, reverse=True):
        state = "seals" if seal is sealing else "will seal" if seal.since > sealing.since else "opens"
        click.echo(f"{seal.key_id}  from {_date(seal.since)}  {state}")


def _state(key: SigningKey, current: SigningKey) -> str:
    if key is current:
        return "signs"
    return "will sign" if key.created_at > current.created_at else "verifies"


def _now() -> int:
    return time.time_ns() // 1000


def _date(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(sep=" ", timespec="seconds")
