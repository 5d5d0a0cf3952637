"""Brings a database to the schema of this version, in one transaction: all of it or nothing.

Each daemon's revisions are Alembic scripts in `<package>/migrations/versions/`. There is no alembic.ini and no env.py
a daemon; one env.py (`bookd/storage/alembic`) serves all. Two processes that start at once wait for each other.
"""

from importlib.resources import files
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
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


def configuration(package: str) -> Config:
    """Alembic's configuration for the revisions of `package`."""
    config = Config()
    config.set_main_option("script_location", str(files("bookd.storage") / "alembic").replace("%", "%%"))
    # One path; the separator only keeps a folder with spaces or colons in its name in one piece.
    config.set_main_option("path_separator", "newline")
    versions = files(package) / "migrations" / "versions"
    config.set_main_option("version_locations", str(versions).replace("%", "%%"))
    return config
