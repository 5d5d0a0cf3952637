"""What is asked about the messages by owners and operators. Nothing here changes anything. Plain SQL."""

from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Select, exists, func, select

from bookd.mom import ledger, vault
from bookd.mom.machine import MessageState
from bookd.mom.records import Kept, Queue
from bookd.mom.schema import blockers, lanes, messages, queues


def page(
    connection: Connection,
    subject: str | None,
    state: MessageState | None,
    before: int | None,
    limit: int,
    destination: str | None = None,
) -> tuple[list[Kept], int]:
    """At most `limit` messages of one subject, or of all when it is None, the newest first, with seqs below `before`;
    and how many there are in all."""
    found = _filtered(select(messages), subject, state, destination).order_by(messages.c.seq.desc()).limit(limit)
    if before is not None:
        found = found.where(messages.c.seq < before)
    return [vault.kept(connection, row._mapping) for row in connection.execute(found)], count(
        connection, subject, state, destination
    )


def count(
    connection: Connection,
    subject: str | None = None,
    state: MessageState | None = None,
    destination: str | None = None,
) -> int:
    """How many messages there are, of one subject, in one state and for one destination if these are given."""
    counted = _filtered(select(func.count()).select_from(messages), subject, state, destination)
    return int(connection.execute(counted).scalar_one())


def dead(connection: Connection, after: int, limit: int, destination: str | None = None) -> list[Kept]:
    """At most `limit` dead letters with seqs beyond `after`, of one destination if it is given, the oldest first."""
    found = _filtered(select(messages), None, MessageState.DEAD, destination)
    rows = connection.execute(found.where(messages.c.seq > after).order_by(messages.c.seq).limit(limit))
    return [vault.kept(connection, row._mapping) for row in rows]


def few(connection: Connection, limit: int) -> int:
    """How many messages there are, counted up to `limit`."""
    some = select(messages.c.seq).limit(limit).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def queue(connection: Connection, destination: str) -> Queue:
    """What waits for one destination."""
    row = connection.execute(select(queues).where(queues.c.destination == destination)).one_or_none()
    if row is None:
        return Queue(destination, 0, 0, 0, 0, None, None)
    in_lanes = connection.execute(
        select(func.count()).select_from(lanes).where(lanes.c.destination == destination)
    ).scalar_one()
    oldest = (
        select(messages.c.created_at)
        .where(messages.c.destination == destination, ledger.QUEUED)
        .order_by(messages.c.seq)
        .limit(1)
    )
    waiting = connection.execute(oldest).scalar() if row.depth else None
    return Queue(destination, row.depth, row.bytes, in_lanes, row.dead, waiting, row.paused_at)


@frozen
class Depth:
    """What is counted of a queue: messages that wait, bytes of their requests, dead letters, and whether it is paused."""

    messages: int
    bytes: int
    dead: int
    paused: bool


def depths(connection: Connection) -> dict[str, Depth]:
    """What is counted of each queue that anything was ever kept for, or that was paused. Cheap, however much waits."""
    return {
        row.destination: Depth(row.depth, row.bytes, row.dead, row.paused_at is not None)
        for row in connection.execute(select(queues))
    }


def destinations(connection: Connection) -> list[str]:
    """The destinations that anything was ever kept for, or that were paused, by name."""
    return list(connection.execute(select(queues.c.destination).order_by(queues.c.destination)).scalars())


def blocks(connection: Connection, seq: int) -> bool:
    """Whether a dead letter blocks its lane, or will once what stands before it is through."""
    found = exists().where(blockers.c.seq == seq)
    return bool(connection.execute(select(found)).scalar_one())


def _filtered(
    query: Select[Any], subject: str | None, state: MessageState | None, destination: str | None
) -> Select[Any]:
    if subject is not None:
        query = query.where(messages.c.subject == subject)
    if state is not None:
        query = query.where(messages.c.state == state)
    if destination is not None:
        query = query.where(messages.c.destination == destination)
    return query
