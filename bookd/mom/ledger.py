"""The rows that sum the messages up, so that nobody has to count or search: of lanes, and of queues.

A lane's head is the first of its messages that waits, or that is a dead letter which blocks. While the latter is the head
nothing of the lane is delivered; what stands before it is. So such a letter holds up all that was kept after it, and
nothing else, wherever it stood when it died.

Whoever changes a message lets these rows tell the truth again before its transaction ends.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Connection,
    String,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    select,
    update,
)

from bookd.errors import Unavailable
from bookd.mom import vault
from bookd.mom.machine import MessageState
from bookd.mom.records import Bounds, Kept
from bookd.mom.schema import blockers, lanes, messages, queues
from bookd.storage.prepared import Prepared

# Seconds after which it is worth while to come again to a queue that was full.
FULL_RETRY = 5.0

# Of `messages`: those that wait.
QUEUED: Final = messages.c.state == MessageState.QUEUED

_HERE: Final = (lanes.c.destination == bindparam("b_destination")) & (lanes.c.lane == bindparam("b_lane"))
_IN_LANE: Final = Prepared(select(exists().where(_HERE)))
_OPEN_LANE: Final = Prepared(
    insert(lanes).from_select(
        ["destination", "lane", "head_seq", "ready_at", "blocked"],
        select(
            bindparam("b_destination", type_=String),
            bindparam("b_lane", type_=String),
            bindparam("b_seq", type_=BigInteger),
            bindparam("b_ready_at", type_=BigInteger),
            false(),
        ).where(~exists().where(_HERE)),
    )
)
_BEHIND: Final = (blockers.c.destination == bindparam("b_destination")) & (blockers.c.lane == bindparam("b_lane"))
_FIRST_BEHIND: Final = select(func.min(blockers.c.seq)).where(_BEHIND)
_BLOCKER: Final = Prepared(_FIRST_BEHIND)
# The first that waits, and beside it the first that blocks.
_NEXT: Final = Prepared(
    select(messages, _FIRST_BEHIND.scalar_subquery().label("blocker"))
    .where(messages.c.destination == bindparam("b_destination"), messages.c.lane == bindparam("b_lane"), QUEUED)
    .order_by(messages.c.seq)
    .limit(1)
)
_ADVANCE: Final = Prepared(
    update(lanes)
    .where(_HERE, lanes.c.head_seq == bindparam("b_left"))
    .values(head_seq=bindparam("b_seq"), ready_at=bindparam("b_ready_at"), blocked=bindparam("b_blocked"))
)
_CLOSE_LANE: Final = Prepared(
    delete(lanes).where(_HERE, lanes.c.head_seq == bindparam("b_left"), ~exists().where(_BEHIND))
)
_COUNT: Final = Prepared(
    update(queues)
    .where(queues.c.destination == bindparam("b_destination"))
    .values(
        depth=queues.c.depth + bindparam("b_depth"),
        bytes=queues.c.bytes + bindparam("b_bytes"),
        dead=queues.c.dead + bindparam("b_dead"),
    )
    .returning(queues.c.depth, queues.c.bytes)
)


def busy(connection: Connection, destination: str, lane: str) -> bool:
    """Whether a lane has a message that waits, or one that blocks it."""
    return bool(_IN_LANE.value(connection, {"b_destination": destination, "b_lane": lane}))


def open_lane(connection: Connection, destination: str, lane: str, head_seq: int, ready_at: int) -> None:
    """Make the row of a lane, unless it has one."""
    row = {"b_destination": destination, "b_lane": lane, "b_seq": head_seq, "b_ready_at": ready_at}
    _OPEN_LANE.run(connection, row)


def settle(connection: Connection, destination: str, lane: str, left: int) -> Kept | None:
    """Let a lane's row tell the truth again after message `left` began or ceased to wait, or to block; answers its new
    head, unless that blocks.

    A lane whose head is another message stays as it is: `left` stood behind it.
    """
    here: dict[str, Any] = {"b_destination": destination, "b_lane": lane}
    row = _NEXT.row(connection, here)
    here["b_left"] = left
    if row is None:
        if _CLOSE_LANE.run(connection, here):
            return None
        blocker = _BLOCKER.value(connection, here)
        head: dict[str, Any] = {}
    else:
        head = row._asdict()
        blocker = head.pop("blocker")
    if blocker is not None and (not head or blocker < head["seq"]):
        _ADVANCE.run(connection, here | {"b_seq": blocker, "b_ready_at": 0, "b_blocked": True})
        return None
    if not head:
        return None
    next_ = {"b_seq": head["seq"], "b_ready_at": head["ready_at"], "b_blocked": False}
    return vault.kept(connection, head) if _ADVANCE.run(connection, here | next_) else None


def block(connection: Connection, destination: str, lane: str, seq: int) -> None:
    """A dead letter blocks its lane from now on; the lane is to be settled then."""
    connection.execute(insert(blockers).values(destination=destination, lane=lane, seq=seq))


def unblock(connection: Connection, seq: int) -> None:
    """A dead letter, if it blocked its lane, does not do so any more; the lane is to be settled then."""
    connection.execute(delete(blockers).where(blockers.c.seq == seq))


def count(
    connection: Connection,
    destination: str,
    *,
    depth: int = 0,
    bytes_: int = 0,
    dead: int = 0,
    bounds: Bounds | None = None,
) -> None:
    """Let the row of a queue tell of a change; a queue that has none gets it. Raises `Unavailable` beyond `bounds`."""
    changes = {"b_destination": destination, "b_depth": depth, "b_bytes": bytes_, "b_dead": dead}
    row: Any = _COUNT.row(connection, changes)
    if row is None:
        connection.execute(insert(queues).values(destination=destination, depth=depth, bytes=bytes_, dead=dead))
    total = (depth, bytes_) if row is None else (row.depth, row.bytes)
    if bounds is not None and (total[0] > bounds.depth or total[1] > bounds.bytes):
        raise Unavailable(
            f"too much waits for {destination}",
            reason="QUEUE_FULL",
            retry_after=FULL_RETRY,
            info={"queue": destination},
        )


def pause(connection: Connection, destination: str, paused_at: int | None) -> None:
    """Note that an operator paused a destination, or, with None, that it goes on."""
    count(connection, destination)
    connection.execute(update(queues).where(queues.c.destination == destination).values(paused_at=paused_at))


def paused(connection: Connection) -> set[str]:
    """The destinations that are paused."""
    return set(connection.execute(select(queues.c.destination).where(queues.c.paused_at.is_not(None))).scalars())
