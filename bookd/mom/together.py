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
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, false, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import OperationalError

from bookd.mom import ledger, store, vault
from bookd.mom.machine import MessageState
from bookd.mom.records import Bounds, Draft, Kept
from bookd.mom.schema import lanes, messages
from bookd.storage import savepoint
from bookd.storage.prepared import Prepared
from bookd.storage.rows import Rows

# What the rows have in common, and what each has of its own.
_COMMON: Final = {"state": str(int(MessageState.QUEUED)), "attempts": "0", "refusals": "0", "last_error": "''"}
_OWN: Final = ("message_id", "destination", "lane", "method", "subject", "reply_to", "expire_at")
_SECRET: Final = ("request", "principal", "metadata", "fingerprint", "key_id")
_TIMES: Final = ("ready_at", "created_at", "updated_at")
_ROWS: Final = Rows(messages, (*_OWN, *_SECRET, *_TIMES), _COMMON)

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
        rows.append((*(getattr(draft, name) for name in _OWN), *(secret[name] for name in _SECRET), now, now, now))
    for destination, each in sizes.items():
        ledger.count(connection, destination, depth=len(each), bytes_=sum(each), bounds=bounds)
    _ROWS.insert(connection, rows)
    last = _LAST.value(connection)
    assert last is not None
    first = last - len(rows) + 1
    _OPEN_LANES.run(connection, {"b_first": first})
    return [store.fresh(draft, seq, now) for seq, (draft, now) in enumerate(drafts, first)]
