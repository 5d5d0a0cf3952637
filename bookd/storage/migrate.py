"""Brings a database to the schema of this version, in one transaction: all of it or nothing.

Each daemon's revisions are Alembic scripts in `<package>/migrations/versions/`, called after their numbers: `v0002_outbox.py`
is revision 0002. There is no alembic.ini and no env.py a daemon; one env.py (`bookd/storage/alembic`) serves all. Two
processes that start at once wait for each other.

Most starts find the newest revision there. They do not import Alembic, which takes ten megabytes and a tenth of a second.
"""

from importlib.resources import files
from threading import Lock
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

# Alembic keeps the migration that runs in module-level variables.
_one_at_a_time = Lock()

# Any number that nothing else locks on.
_POSTGRESQL_LOCK = 0x626F6F6B64


class MigrationError(Exception):
    """The database cannot be brought to this version's schema; the message says why."""


def upgrade(engine: Engine, package: str) -> None:
    """Run the revisions of `package` ("bookd.inventory") that the database has not seen.

    Raises `MigrationError`, and leaves the database as it was: one that a newer version has upgraded, or that cannot be
    opened or changed.
    """
    if revision(engine) == newest(package):
        return
    from alembic import command
    from alembic.util import CommandError

    config = configuration(package)
    try:
        with _one_at_a_time, engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _POSTGRESQL_LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (CommandError, SQLAlchemyError) as error:
        # The driver's own words; SQLAlchemy adds lines to them.
        raise MigrationError(f"{engine.url.render_as_string()}: {getattr(error, 'orig', None) or error}") from error


def revision(engine: Engine) -> str | None:
    """The revision that a database has; None for one that has none, or that cannot be read."""
    try:
        with engine.connect() as connection:
            found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            return found
    except SQLAlchemyError:
        return None


def newest(package: str) -> str:
    """The newest revision of a package."""
    names = (each.name for each in (files(package) / "migrations" / "versions").iterdir())
    return max(name for name in names if name.endswith(".py"))[1:].partition("_")[0]


def configuration(package: str) -> Any:
    """Alembic's configuration for the revisions of `package`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("bookd.storage") / "alembic").replace("%", "%%"))
    # One path; the separator only keeps a folder with spaces or colons in its name in one piece.
    config.set_main_option("path_separator", "newline")
    versions = files(package) / "migrations" / "versions"
    config.set_main_option("version_locations", str(versions).replace("%", "%%"))
    return config
