"""Makes the first administrator, so that a new suite has somebody who may hand out roles."""

from pathlib import Path

import msgspec
from sqlalchemy import Engine

from bookd.users import rules, store
from bookd.users.passwords import Passwords
from bookd.users.rules import NewUser


class AdministratorError(Exception):
    """The file that names the first administrator cannot be used; the message says which and why."""


class _Named(msgspec.Struct):
    username: str
    password: str


def ensure(engine: Engine, path: Path, passwords: Passwords, user_id: str, now: int) -> bool:
    """Unless there is an admin, register the one that the JSON file at `path` names {username, password}.

    False when there is no such file and no admin either. It blocks for as long as one password takes to be hashed: call
    it before the reactor runs. Raises `AdministratorError`.
    """
    with engine.connect() as connection, connection.begin():
        if store.has_admin(connection):
            return True
        try:
            named = msgspec.json.decode(path.read_bytes(), type=_Named)
        except FileNotFoundError:
            return False
        except (OSError, msgspec.DecodeError) as error:
            raise AdministratorError(f"{path}: {error}") from error
        if not rules.is_username(named.username) or len(named.password) < rules.MIN_PASSWORD:
            raise AdministratorError(f"{path}: it names no username and password that a user could have")
        new = NewUser(
            user_id=user_id,
            username=named.username,
            email=f"{named.username}@localhost",
            full_name="Administrator",
            address="",
            roles=rules.FIRST_ADMINISTRATOR_ROLES,
            password_hash=passwords.hash(named.password),
        )
        store.add(connection, new, now)
    return True
