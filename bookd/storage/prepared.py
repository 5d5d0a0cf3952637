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
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError

Values = Mapping[str, Any]
_NONE: Values = {}


class Prepared:
    """A statement: of Core, or one for each name of a dialect where they differ.

    Rows are named tuples. Each time it is run it needs values for the same parameters.
    """

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._made: dict[str, _Made] = {}

    def rows(self, connection: Connection, values: Values = _NONE) -> list[Any]:
        """All rows that it answers."""
        made = self._for(connection, values)
        cursor = made.execute(connection, made.arguments(values))
        return [made.row(row) for row in cursor.fetchall()]

    def row(self, connection: Connection, values: Values = _NONE) -> Any | None:
        """The row that it answers, if there is one. Of several, the first."""
        made = self._for(connection, values)
        # All are fetched: until then the statement is not over.
        rows = made.execute(connection, made.arguments(values)).fetchall()
        return made.row(rows[0]) if rows else None

    def value(self, connection: Connection, values: Values = _NONE) -> Any | None:
        """The first column of that row; None without a row, too."""
        row = self.row(connection, values)
        return None if row is None else row[0]

    def run(self, connection: Connection, values: Values = _NONE) -> int:
        """Run it; answers how many rows it has changed."""
        made = self._for(connection, values)
        changed: int = made.execute(connection, made.arguments(values)).rowcount
        return changed

    def run_each(self, connection: Connection, several: Sequence[Values]) -> None:
        """Run it once for each of several values, in this order."""
        if several:
            made = self._for(connection, several[0])
            made.execute(connection, [made.arguments(values) for values in several], many=True)

    def _for(self, connection: Connection, values: Values) -> "_Made":
        made = self._made.get(connection.dialect.name)
        if made is None:
            made = self._made[connection.dialect.name] = _Made(self._statement, connection.dialect, list(values))
        return made


class _Made:
    """A statement as one dialect's driver takes it."""

    def __init__(self, statement: Any, dialect: Dialect, names: list[str]) -> None:
        chosen = statement[dialect.name] if isinstance(statement, Mapping) else statement
        compiled = chosen.compile(dialect=dialect, column_keys=names)
        self._sql = str(compiled)
        if "POSTCOMPILE" in self._sql:
            raise ValueError(f"this cannot be prepared, a list stands in it: {self._sql}")
        self._fixed = {name: value for name, value in compiled.params.items() if name not in names}
        self._prepare = _processors(
            (name, bind.type.dialect_impl(dialect).bind_processor(dialect), bind.type)
            for name, bind in compiled.binds.items()
        )
        places: Sequence[str] | None = compiled.positiontup
        # A driver takes its values either in the order of their places, or by their names.
        self._placed: Callable[[Values], Any] = dict if places is None else _in_order(places)
        columns = getattr(chosen, "exported_columns", ())
        self._told = _processors(
            (place, column.type.dialect_impl(dialect).result_processor(dialect, None), column.type)
            for place, column in enumerate(columns)
        )
        names = [str(column.key) for column in columns]
        row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # the names are known only here
        self._row: Callable[[Sequence[Any]], Any] = row._make

    def arguments(self, values: Values) -> Any:
        """What the driver gets."""
        if self._fixed:
            values = {**values, **self._fixed}
        if self._prepare:
            values = {**values, **{name: prepare(values[name]) for name, prepare in self._prepare}}
        return self._placed(values)

    def row(self, row: Sequence[Any]) -> Any:
        """A row as it is told."""
        if self._told:
            told = list(row)
            for place, tell in self._told:
                told[place] = tell(told[place])
            row = told
        return self._row(row)

    def execute(self, connection: Connection, arguments: Any, *, many: bool = False) -> Any:
        """Let the driver do it."""
        if not connection.in_transaction():
            connection.begin()
        return say(connection, self._sql, arguments, many=many)


def say(connection: Connection, sql: str, arguments: Any = (), *, many: bool = False) -> Any:
    """Give the driver a statement in its own words; answers the cursor. What it raises is SQLAlchemy's."""
    dialect: Any = connection.dialect
    cursor = connection.connection.cursor()
    do = dialect.do_executemany if many else dialect.do_execute
    try:
        do(cursor, sql, arguments)
    except dialect.dbapi.Error as error:
        raise DBAPIError.instance(
            sql, None, error, dialect.dbapi.Error, hide_parameters=True, dialect=dialect
        ) from error
    return cursor


def _in_order(places: Sequence[str]) -> Callable[[Values], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda values: tuple(values[name] for name in places)


def _processors(each: Iterable[tuple[Any, Any, Any]]) -> list[tuple[Any, Callable[[Any], Any]]]:
    """Those that there are. Drivers take and give bytes as bytes."""
    return [
        (key, process) for key, process, type_ in each if process is not None and not isinstance(type_, LargeBinary)
    ]
