"""Keeps messages that came together in a few statements for all of them.

Each message by itself takes a statement for its row, one for the row of its lane and one for the counts of its queue. That
is more than the rows cost the database, and after each statement the writer's thread has to wait for the interpreter, which
the reactor holds. So a group goes in as a whole: a few statements that insert many rows each, one for all lanes, and one for
each queue.

A group that is out of the ordinary does not go in like that: an id that is known or comes twice, a queue that takes no more,
anything that the database refuses. Of that nothing stays, and then each message is kept by itself, in a savepoint of its own
(`store.keep`), so that one is told what is wrong with it and its neighbours do not notice.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, bindparam, false, func, insert, literal_column, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from bookd.mom import ledger, store, vault
from bookd.mom.machine import MessageState
from bookd.mom.records import Bounds, Draft, Kept
from bookd.mom.schema import lanes, messages
from bookd.storage import savepoint
from bookd.storage.prepared import Prepared

# How many rows one statement inserts.
_WIDTHS: Final = (64, 16, 4, 1)
# What the rows have in common, and what each has of its own.
_COMMON: Final = {"state": str(int(MessageState.QUEUED)), "attempts": "0", "refusals": "0", "last_error": "''"}
_OWN: Final = ("message_id", "destination", "lane", "method", "subject", "reply_to", "expire_at")
_SECRET: Final = ("request", "principal", "metadata", "fingerprint", "key_id")
_TIMES: Final = ("ready_at", "created_at", "updated_at")

_LAST: Final = Prepared(select(func.max(messages.c.seq)))
# Of several messages of a lane the first one gets there first. The others change nothing, nor does any where the lane has a row.
_OPEN_LANES: Final = Prepared(
    sqlite.insert(lanes)
    .from_select(
        ["destination", "lane", "head_seq", "ready_at", "blocked"],
        select(messages.c.destination, messages.c.lane, messages.c.seq, messages.c.ready_at, false())
        .where(messages.c.seq >= bindparam("b_first"))
        .order_by(messages.c.seq),
    )
    .on_conflict_do_nothing(index_elements=["destination", "lane"])
)

Answer = tuple[Kept, bool] | Exception


def keep_all(connection: Connection, drafts: Sequence[tuple[Draft, int]], bounds: Bounds | None = None) -> list[Answer]:
    """Keep each draft, in this order, as of the time beside it. Answers for each what `store.keep` does, or what that
    raises; then nothing of it was written. When the database itself fails this raises, and nothing is kept."""
    # Elsewhere others may write at the same time, and numbers need not follow one another.
    if len(drafts) > 1 and connection.dialect.name == "sqlite":
        savepoint.begin(connection)
        try:
            kept = _as_one(connection, drafts, bounds)
        except Exception:
            savepoint.undo(connection)
        else:
            savepoint.keep(connection)
            return [(each, True) for each in kept]
    return [_alone(connection, draft, now, bounds) for draft, now in drafts]


def _alone(connection: Connection, draft: Draft, now: int, bounds: Bounds | None) -> Answer:
    try:
        with savepoint.part(connection):
            return store.keep(connection, draft, now, bounds)
    except OperationalError:
        raise  # a full disk, or one that fails, may have ended the transaction: then nothing of it may go on
    except Exception as error:
        return error


def _as_one(connection: Connection, drafts: Sequence[tuple[Draft, int]], bounds: Bounds | None) -> list[Kept]:
    rows = []
    sizes: defaultdict[str, list[int]] = defaultdict(list)
    for draft, now in drafts:
        secret = vault.accepted(connection, draft)
        sizes[draft.destination].append(len(secret["request"]))
        rows.append((*(getattr(draft, name) for name in _OWN), *(secret[name] for name in _SECRET), now))
    for destination, each in sizes.items():
        ledger.count(connection, destination, depth=len(each), bytes_=sum(each), bounds=bounds)
    for start, width in _parts(len(rows)):
        statement, names = _inserting(width)
        values: dict[str, Any] = {}
        for named, row in zip(names, rows[start : start + width], strict=True):
            values.update(zip(named, row, strict=True))
        statement.run(connection, values)
    last = _LAST.value(connection)
    assert last is not None
    first = last - len(rows) + 1
    _OPEN_LANES.run(connection, {"b_first": first})
    return [store.fresh(draft, seq, now) for seq, (draft, now) in enumerate(drafts, first)]


def _parts(count: int) -> Iterable[tuple[int, int]]:
    """Where each statement begins, and how many rows it inserts."""
    start = 0
    for width in _WIDTHS:
        while count - start >= width:
            yield start, width
            start += width


@cache
def _inserting(width: int) -> tuple[Prepared, list[list[str]]]:
    """The statement that inserts so many rows, and the names of the values of each."""
    rows, names = [], []
    for number in range(width):
        named = {name: f"b_{name}_{number}" for name in (*_OWN, *_SECRET, "now")}
        row: dict[str, Any] = {name: literal_column(value) for name, value in _COMMON.items()}
        row |= {name: bindparam(named[name], type_=messages.c[name].type) for name in (*_OWN, *_SECRET)}
        row |= {name: bindparam(named["now"], type_=messages.c[name].type) for name in _TIMES}
        rows.append(row)
        names.append(list(named.values()))
    return Prepared(insert(messages).values(rows)), names
