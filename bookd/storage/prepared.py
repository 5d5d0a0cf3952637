"""Statements that are made ready once, and then cost little more than the database itself.

A statement of SQLAlchemy Core is looked up in a cache, bound and wrapped anew each time it is executed. That is several
times what SQLite needs for a row by its key, and all of it is the same each time. So the statements that every call needs
are `Prepared`: compiled for the dialect of the connection once, and given to the driver with their values from then on. They
are Core statements still, and mean the same on SQLite and PostgreSQL.

They run in the transaction of the connection that they are given, beside any others. What the driver raises comes as it
does from SQLAlchemy (`sqlalchemy.exc`), but never with the values, which may be secret. A parameter that
stands for a list (`in_` with `expanding`) cannot be prepared.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, LargeBinary, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

Values = Mapping[str, Any]
_NONE: Values = {}


class Prepared:
    """A statement of Core; or where dialects differ, or where it is large and not always needed, a function that makes it for
    the dialect of this name.

    Rows are named tuples. Each time it is run it needs values for the same parameters.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._made: dict[str, _Made] = {}

    def rows(self, connection: Connection, values: Values = _NONE) -> list[Any]:
        """All rows that it answers."""
        made, cursor = self._run(connection, values)
        return [made.row(row) for row in cursor.fetchall()]

    def row(self, connection: Connection, values: Values = _NONE) -> Any | None:
        """The row that it answers, if there is one. Of several, the first."""
        made, cursor = self._run(connection, values)
        # All are fetched: until then the statement is not over.
        rows = cursor.fetchall()
        return made.row(rows[0]) if rows else None

    def value(self, connection: Connection, values: Values = _NONE) -> Any | None:
        """The first column of that row; None without a row, too."""
        row = self.row(connection, values)
        return None if row is None else row[0]

    def run(self, connection: Connection, values: Values = _NONE) -> int:
        """Run it; answers how many rows it has changed."""
        changed: int = self._run(connection, values)[1].rowcount
        return changed

    def run_each(self, connection: Connection, several: Sequence[Values]) -> None:
        """Run it once for each of several values, in this order."""
        if len(several) == 1:
            self._run(connection, several[0])
        elif several:
            made = self._made.get(connection.dialect.name) or self._make(connection.dialect, several[0])
            _begun(connection)
            say(connection, made.sql, [made.arguments(values) for values in several], many=True)

    def _run(self, connection: Connection, values: Values) -> tuple["_Made", Any]:
        made = self._made.get(connection.dialect.name) or self._make(connection.dialect, values)
        _begun(connection)
        return made, say(connection, made.sql, made.arguments(values))

    def _make(self, dialect: Dialect, values: Values) -> "_Made":
        made = self._made[dialect.name] = _Made(self._statement, dialect, list(values))
        return made


class _Made:
    """A statement as one dialect's driver takes it: its text, what makes the driver's arguments of the values, and what makes
    a row of the driver's."""

    def __init__(self, statement: Any, dialect: Dialect, names: list[str]) -> None:
        chosen = statement(dialect.name) if callable(statement) else statement
        compiled = chosen.compile(dialect=dialect, column_keys=names)
        self.sql = str(compiled)
        if "POSTCOMPILE" in self.sql:
            raise ValueError(f"this cannot be prepared, a list stands in it: {self.sql}")
        # A driver takes its values either in the order of their places, or by their names.
        places: Sequence[str] | None = compiled.positiontup
        placed: Callable[[Values], Any] = dict if places is None else _in_order(places)
        fixed = {name: value for name, value in compiled.params.items() if name not in names}
        prepare = _processors(
            (name, bind.type.dialect_impl(dialect).bind_processor(dialect), bind.type)
            for name, bind in compiled.binds.items()
        )
        fixed |= {name: process(fixed[name]) for name, process in prepare if name in fixed}
        prepare = [(name, process) for name, process in prepare if name not in fixed]
        self.arguments = _then(_prepared(fixed, prepare), placed) if fixed or prepare else placed
        columns = getattr(chosen, "exported_columns", ())
        told = _processors(
            (place, column.type.dialect_impl(dialect).result_processor(dialect, None), column.type)
            for place, column in enumerate(columns)
        )
        names = [str(column.key) for column in columns]
        named: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # the names are known only here
        # What its `_make` does, but for counting the columns.
        row: Callable[[Sequence[Any]], Any] = partial(tuple.__new__, named)
        self.row = _then(_told(told), row) if told else row


def inserting(dialect: str, table: Table) -> Any:
    """INSERT INTO `table` as a dialect has it, with ON CONFLICT. What is not used is not imported: PostgreSQL's is 2 MiB."""
    return import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


def say(connection: Connection, sql: str, arguments: Any = (), *, many: bool = False) -> Any:
    """Give the driver a statement in its own words; answers the cursor. What it raises is SQLAlchemy's."""
    dialect: Any = connection.dialect
    cursor: Any = connection.connection.dbapi_connection.cursor()  # type: ignore[union-attr]
    do = dialect.do_executemany if many else dialect.do_execute
    try:
        do(cursor, sql, arguments)
    except dialect.dbapi.Error as error:
        raise DBAPIError.instance(
            sql, None, error, dialect.dbapi.Error, hide_parameters=True, dialect=dialect
        ) from error
    return cursor


def _begun(connection: Connection) -> None:
    if not connection.in_transaction():
        connection.begin()


def _in_order(places: Sequence[str]) -> Callable[[Values], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    if places:
        place = places[0]
        return lambda values: (values[place],)
    return lambda values: ()


def _then(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: second(first(value))


def _prepared(fixed: Values, prepare: list[tuple[Any, Callable[[Any], Any]]]) -> Callable[[Values], Values]:
    def arguments(values: Values) -> Values:
        return {**values, **{name: process(values[name]) for name, process in prepare}, **fixed}

    return arguments


def _told(told: list[tuple[Any, Callable[[Any], Any]]]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    def tell(row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        for place, process in told:
            values[place] = process(values[place])
        return values

    return tell


def _processors(each: Iterable[tuple[Any, Any, Any]]) -> list[tuple[Any, Callable[[Any], Any]]]:
    """Those that there are. Drivers take and give bytes as bytes."""
    return [
        (key, process) for key, process, type_ in each if process is not None and not isinstance(type_, LargeBinary)
    ]
