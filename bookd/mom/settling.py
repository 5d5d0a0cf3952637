"""What becomes of kept messages: they end, wait for another attempt, or come back from the dead letters. Plain SQL."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, select, update

from bookd.errors import NotFound
from bookd.mom import ledger, store, vault
from bookd.mom.machine import Event, IllegalTransition, MessageState, after
from bookd.mom.records import Draft, Kept, Outcome, Place
from bookd.mom.schema import lanes, messages
from bookd.storage.prepared import Prepared

_FINISH: Final = Prepared(
    update(messages)
    .where(messages.c.seq == bindparam("b_seq"), ledger.QUEUED)
    .values(
        state=bindparam("b_state"),
        last_error=bindparam("b_error"),
        updated_at=bindparam("b_now"),
        finished_at=bindparam("b_now"),
        status_code=bindparam("b_code"),
        status=bindparam("b_status"),
        response=bindparam("b_response"),
        outcome_key_id=bindparam("b_outcome_key_id"),
        attempts=messages.c.attempts + bindparam("b_counts"),
    )
    .returning(messages.c.destination, messages.c.lane, func.length(messages.c.request).label("size"))
)


def finish(
    connection: Connection,
    seq: int,
    outcome: Outcome,
    now: int,
    *,
    block_lane: bool = False,
    reply: Draft | None = None,
) -> Kept | None:
    """Take a message out of the queue with its outcome, send the reply, and let its lane move on.

    With `block_lane` what was kept after it waits: the lane moves on to what stands before it at most. Answers the message
    that now heads the lane, if that one is ready. Raises `IllegalTransition` when the message is not queued any more.
    """
    state = after(MessageState.QUEUED, outcome.event)
    values = {
        "b_seq": seq,
        "b_state": state,
        "b_error": outcome.error,
        "b_now": now,
        "b_code": outcome.code,
        "b_counts": int(outcome.counts),
    } | vault.ended(connection, seq, outcome)
    row = _FINISH.row(connection, values)
    if row is None:
        stands = connection.execute(select(messages.c.state).where(messages.c.seq == seq)).scalar_one()
        raise IllegalTransition(MessageState(stands), outcome.event)
    ledger.count(connection, row.destination, depth=-1, bytes_=-row.size, dead=int(state is MessageState.DEAD))
    if reply is not None:
        store.keep(connection, reply, now)
    if block_lane:
        ledger.block(connection, row.destination, row.lane, seq)
    head = ledger.settle(connection, row.destination, row.lane, seq)
    return None if head is None or head.ready_at > now else head


def postpone(connection: Connection, seq: int, event: Event, ready_at: int, error: str, now: int) -> None:
    """Leave a message in the queue until `ready_at`: after a failed attempt, or because it could not be taken.

    Only a failed attempt counts as one. Raises `IllegalTransition` when the message is not queued any more.
    """
    state = connection.execute(select(messages.c.state).where(messages.c.seq == seq)).scalar_one()
    after(MessageState(state), event)
    counts: dict[str, Any] = (
        {"attempts": messages.c.attempts + 1, "refusals": 0}
        if event is Event.FAILED
        else {"refusals": messages.c.refusals + 1}
    )
    connection.execute(
        update(messages)
        .where(messages.c.seq == seq)
        .values(ready_at=ready_at, last_error=error, updated_at=now, **counts)
    )
    connection.execute(update(lanes).where(lanes.c.head_seq == seq).values(ready_at=ready_at))


def revive(connection: Connection, message_id: str, expire_at: int, now: int) -> Place:
    """Put a dead letter back into its lane, in front of what was kept after it. Raises `NotFound`, or
    `IllegalTransition` for any other message."""
    known = store.find(connection, message_id)
    if known is None:
        raise NotFound(f"no message {message_id}")
    state = after(known.state, Event.RETRIED)
    size = connection.execute(select(func.length(messages.c.request)).where(messages.c.seq == known.seq)).scalar_one()
    ledger.count(connection, known.destination, depth=1, bytes_=size, dead=-1)
    connection.execute(
        update(messages)
        .where(messages.c.seq == known.seq)
        .values(
            state=state,
            attempts=0,
            refusals=0,
            ready_at=now,
            expire_at=expire_at,
            updated_at=now,
            finished_at=None,
            status_code=None,
            status=None,
            outcome_key_id=None,
        )
    )
    ledger.unblock(connection, known.seq)
    here = (lanes.c.destination == known.destination) & (lanes.c.lane == known.lane)
    row = connection.execute(select(lanes).where(here)).one_or_none()
    if row is None:
        ledger.open_lane(connection, known.destination, known.lane, known.seq, now)
    elif row.head_seq == known.seq:
        ledger.settle(connection, known.destination, known.lane, known.seq)
    elif known.seq < row.head_seq:
        connection.execute(update(lanes).where(here).values(head_seq=known.seq, ready_at=now, blocked=False))
    return Place(known.seq, known.message_id, known.destination, known.lane)


def revive_all(connection: Connection, letters: Iterable[tuple[str, int]], now: int) -> list[Place]:
    """Put dead letters back, each an id with its expiry, so that they are ready together; answers those that were dead
    still."""
    revived = []
    for message_id, expire_at in letters:
        with suppress(IllegalTransition, NotFound):  # somebody else was faster; nothing was written
            revived.append(revive(connection, message_id, expire_at, now))
    return revived
