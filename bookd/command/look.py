"""One look into the databases of a suite, and what is found by it. `accounts` says what is looked for."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from enum import Enum
from itertools import islice
from typing import Any, Final, TypeVar

from attrs import field, frozen
from sqlalchemy import Connection

T = TypeVar("T")

# Ids that one statement asks for.
BATCH: Final = 500


class Gravity(Enum):
    """How bad a finding is."""

    WRONG = "wrong"
    LATE = "late"


@frozen
class Finding:
    """Something that is not as it should be. Two findings that are equal rest on the same state of things."""

    check: str
    subject: str
    text: str = field(eq=False)
    evidence: tuple[Any, ...] = ()
    gravity: Gravity = Gravity.WRONG


@frozen
class Look:
    """One look: a snapshot of each database that could be opened, the time, and since when what waits is late."""

    databases: Mapping[str, Connection]
    now: int
    late: int

    def rows(self, name: str, statement: Any) -> Iterator[Any]:
        """What a database answers, not all at once."""
        return iter(self.databases[name].execution_options(yield_per=1000).execute(statement))

    def since(self, time: int) -> str:
        """How long ago a time is, for a person."""
        return str(timedelta(seconds=max(0, self.now - time) // 1_000_000))


def batches(values: Iterable[T]) -> Iterator[list[T]]:
    """The values, so many at a time as one statement asks for."""
    iterator = iter(values)
    while batch := list(islice(iterator, BATCH)):
        yield batch
