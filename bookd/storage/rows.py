"""Inserts many rows in a few statements, each of which costs little more than one that inserts a single row."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, insert, literal_column

from bookd.storage.prepared import Prepared

# How many rows one statement inserts.
_WIDTHS: Final = (64, 16, 4, 1)


class Rows:
    """Rows of `table`, of which these columns are given, in this order; `same` are the others, as literals of SQL."""

    def __init__(self, table: Table, columns: Sequence[str], same: Mapping[str, str] | None = None) -> None:
        self._table = table
        self._columns = columns
        self._same: dict[str, Any] = {name: literal_column(value) for name, value in (same or {}).items()}
        self._inserting = cache(self._prepare)

    def insert(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert them, in this order. When this raises, some of them may have been."""
        for start, width in _parts(len(rows)):
            statement, names = self._inserting(width)
            values: dict[str, Any] = {}
            for named, row in zip(names, rows[start : start + width], strict=True):
                values.update(zip(named, row, strict=True))
            statement.run(connection, values)

    def _prepare(self, width: int) -> tuple[Prepared, list[list[str]]]:
        names = [[f"b_{name}_{number}" for name in self._columns] for number in range(width)]

        def statement(_: str) -> Any:
            # Made when it is compiled, and not kept: a thousand parameters are more than a megabyte.
            types = {name: self._table.c[name].type for name in self._columns}
            return insert(self._table).values(
                [
                    {
                        name: bindparam(bound, type_=types[name])
                        for name, bound in zip(self._columns, named, strict=True)
                    }
                    | self._same
                    for named in names
                ]
            )

        return Prepared(statement), names


def _parts(count: int) -> Iterator[tuple[int, int]]:
    """Where each statement begins, and how many rows it inserts."""
    start = 0
    for width in _WIDTHS:
        while count - start >= width:
            yield start, width
            start += width
