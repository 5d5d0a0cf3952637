"""Indexes of some rows of a table, which SQLite and PostgreSQL have alike.

`Index` takes `postgresql_where` for that, and imports all of SQLAlchemy's PostgreSQL at once: 2 MiB of each daemon, where most run
on SQLite. So it is told when the index is made there.
"""

from typing import Any

from sqlalchemy import Connection, Index, event


def partial(name: str, *columns: str, where: Any) -> Index:
    """An index of the rows for which a condition holds."""
    index = Index(name, *columns, sqlite_where=where)

    def tell(index: Index, connection: Connection, **_: Any) -> None:
        if connection.dialect.name == "postgresql":
            index.dialect_options["postgresql"]["where"] = where

    event.listen(index, "before_create", tell)
    return index
