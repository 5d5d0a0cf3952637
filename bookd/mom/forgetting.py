"""How messages that are over go. Plain SQL."""

from sqlalchemy import Connection, delete, select

from bookd.errors import FailedPrecondition, NotFound
from bookd.mom import ledger, store
from bookd.mom.machine import FINISHED, MessageState
from bookd.mom.records import Place
from bookd.mom.schema import messages


def forget(connection: Connection, message_id: str, state: MessageState | None = None) -> Place:
    """Remove a finished message, in one state if that is given; answers where it stood. Raises `NotFound`, or
    `FailedPrecondition` while it is queued."""
    known = store.find(connection, message_id)
    if known is None or (state is not None and known.state not in (state, MessageState.QUEUED)):
        raise NotFound(f"no operation {message_id}")
    if known.state not in FINISHED:
        raise FailedPrecondition("the operation is not done", reason="OPERATION_NOT_DONE")
    if known.state is MessageState.DEAD:
        ledger.count(connection, known.destination, dead=-1)
        ledger.unblock(connection, known.seq)
    ledger.settle(connection, known.destination, known.lane, known.seq)
    connection.execute(delete(messages).where(messages.c.seq == known.seq))
    return Place(known.seq, known.message_id, known.destination, known.lane)


def purge(connection: Connection, before: int, limit: int) -> int:
    """Remove at most `limit` messages that finished before `before`, and say how many. Dead letters stay."""
    old = (
        select(messages.c.seq)
        .where(messages.c.finished_at < before, messages.c.state != MessageState.DEAD)
        .order_by(messages.c.finished_at)
        .limit(limit)
    )
    seqs = connection.execute(old).scalars().all()
    connection.execute(delete(messages).where(messages.c.seq.in_(seqs)))
    return len(seqs)
