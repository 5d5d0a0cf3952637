"""What the MOM writes and reads, as plain functions of a connection. The desk decides where they run and commit.

What each promises, it promises for the transaction it runs in: a message and the row of its lane change together, and so
do the outcome of a message, the advance of its lane and the reply that goes out. Whatever is not legal for the state of a
message raises before anything is written.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from attrs import field, frozen
from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Select,
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
from sqlalchemy.dialects import postgresql, sqlite

from bookd.errors import Code, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from bookd.mom.machine import FINISHED, Event, IllegalTransition, MessageState, after
from bookd.mom.schema import lanes, messages, queues


@frozen
class Draft:
    """A message that is to be kept. Times are in microseconds; `schema` explains the fields."""

    message_id: str
    destination: str
    lane: str
    method: str
    request: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    principal: bytes = field(repr=False)
    subject: str
    metadata: Mapping[str, str]
    reply_to: str | None
    expire_at: int


@frozen
class Kept:
    """A message that is on disk: a row of `messages`."""

    seq: int
    message_id: str
    destination: str
    lane: str
    method: str
    request: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    principal: bytes = field(repr=False)
    subject: str
    metadata: Mapping[str, str]
    reply_to: str | None
    state: MessageState = field(converter=MessageState)
    attempts: int
    refusals: int
    ready_at: int
    expire_at: int
    last_error: str
    created_at: int
    updated_at: int
    finished_at: int | None
    status_code: int | None
    status: bytes | None
    response: bytes | None = field(repr=False)


@frozen
class Outcome:
    """What became of a message: how it left the queue, and the response or the serialized google.rpc.Status."""

    event: Event
    code: Code
    response: bytes | None = field(default=None, repr=False)
    status: bytes | None = None
    error: str = ""  # for a person
    counts: bool = False  # it ended with an attempt that decided nothing


@frozen
class Place:
    """Where a queued message stands, for whom does not need all of it."""

    seq: int
    message_id: str
    destination: str
    lane: str


@frozen
class Ready:
    """Lane heads that may be delivered, and when the next of those that may not yet is ready (None: there is none)."""

    messages: Sequence[Kept]
    next_at: int | None


@frozen
class Bounds:
    """What the queue of one destination takes: messages, and bytes of their requests."""

    depth: int
    bytes: int


@frozen
class Queue:
    """What waits for one destination."""

    destination: str
    depth: int
    bytes: int
    lanes: int
    dead: int
    oldest: int | None  # microseconds
    paused_at: int | None  # microseconds


# Seconds after which it is worth while to come again to a queue that was full.
FULL_RETRY = 5.0
# Microseconds that a message waits at most before its next delivery, where nobody knows better.
LONGEST_PAUSE = 86_400_000_000

_QUEUED = messages.c.state == MessageState.QUEUED

# What every kept message needs is said by statements that are made once: making them takes longer than running them.
_INSERT: Final = {
    "sqlite": sqlite.insert(messages).on_conflict_do_nothing(index_elements=["message_id"]).returning(messages.c.seq),
    "postgresql": (
        postgresql.insert(messages).on_conflict_do_nothing(index_elements=["message_id"]).returning(messages.c.seq)
    ),
}
_FIND: Final = select(messages).where(messages.c.message_id == bindparam("message_id"))
_HERE: Final = (lanes.c.destination == bindparam("b_destination")) & (lanes.c.lane == bindparam("b_lane"))
_IN_LANE: Final = select(exists().where(_HERE))
_OPEN_LANE: Final = insert(lanes).from_select(
    ["destination", "lane", "head_seq", "ready_at", "blocked"],
    select(
        bindparam("b_destination", type_=String),
        bindparam("b_lane", type_=String),
        bindparam("b_seq", type_=BigInteger),
        bindparam("b_ready_at", type_=BigInteger),
        false(),
    ).where(~exists().where(_HERE)),
)
_NEXT: Final = (
    select(messages)
    .where(messages.c.destination == bindparam("b_destination"), messages.c.lane == bindparam("b_lane"), _QUEUED)
    .order_by(messages.c.seq)
    .limit(1)
)
_ADVANCE: Final = (
    update(lanes)
    .where(_HERE, lanes.c.head_seq == bindparam("b_left"))
    .values(head_seq=bindparam("b_seq"), ready_at=bindparam("b_ready_at"), blocked=False)
)
_CLOSE_LANE: Final = delete(lanes).where(_HERE, lanes.c.head_seq == bindparam("b_left"))
_FINISH: Final = (
    update(messages)
    .where(messages.c.seq == bindparam("b_seq"), _QUEUED)
    .values(
        state=bindparam("b_state"),
        last_error=bindparam("b_error"),
        updated_at=bindparam("b_now"),
        finished_at=bindparam("b_now"),
        status_code=bindparam("b_code"),
        status=bindparam("b_status"),
        response=bindparam("b_response"),
        attempts=messages.c.attempts + bindparam("b_counts"),
    )
    .returning(messages.c.destination, messages.c.lane, func.length(messages.c.request).label("size"))
)
_COUNT: Final = (
    update(queues)
    .where(queues.c.destination == bindparam("b_destination"))
    .values(
        depth=queues.c.depth + bindparam("b_depth"),
        bytes=queues.c.bytes + bindparam("b_bytes"),
        dead=queues.c.dead + bindparam("b_dead"),
    )
    .returning(queues.c.depth, queues.c.bytes)
)


def keep(connection: Connection, draft: Draft, now: int, bounds: Bounds | None = None) -> tuple[Kept, bool]:
    """Put a message at the end of its lane; or answer the one that is kept under this id already.

    The flag says whether it is new. Raises `InvalidArgument`, reason IDEMPOTENCY_KEY_REUSED, when the id is known for
    another request or from another subject; `Unavailable`, reason QUEUE_FULL, when a new message is beyond `bounds`.
    """
    values = {
        "message_id": draft.message_id,
        "destination": draft.destination,
        "lane": draft.lane,
        "method": draft.method,
        "request": draft.request,
        "fingerprint": draft.fingerprint,
        "principal": draft.principal,
        "subject": draft.subject,
        "metadata": dict(draft.metadata),
        "reply_to": draft.reply_to,
        "expire_at": draft.expire_at,
        "state": MessageState.QUEUED,
        "attempts": 0,
        "refusals": 0,
        "ready_at": now,
        "last_error": "",
        "created_at": now,
        "updated_at": now,
    }
    seq = connection.execute(_INSERT[connection.dialect.name], values).scalar_one_or_none()
    if seq is None:
        known = find(connection, draft.message_id)
        assert known is not None
        return require_same(known, draft.fingerprint, draft.subject), False
    _count(connection, draft.destination, depth=1, bytes_=len(draft.request), bounds=bounds)
    _open_lane(connection, draft.destination, draft.lane, seq, now)
    return Kept(seq=seq, finished_at=None, status_code=None, status=None, response=None, **values), True  # type: ignore[arg-type]


def require_same(known: Kept, fingerprint: bytes, subject: str) -> Kept:
    """`known`, if it is the same request of the same subject. Raises `InvalidArgument` otherwise."""
    if known.fingerprint != fingerprint or known.subject != subject:
        raise InvalidArgument(
            "this message id was used for another request",
            reason="IDEMPOTENCY_KEY_REUSED",
            info={"message_id": known.message_id},
        )
    return known


def find(connection: Connection, message_id: str) -> Kept | None:
    """The message with this id."""
    row = connection.execute(_FIND, {"message_id": message_id}).one_or_none()
    return None if row is None else _kept(row)


def look(connection: Connection, message_id: str, destination: str, lane: str) -> tuple[Kept | None, bool]:
    """What a call has to know before it may be forwarded: the message with its id, and whether its lane has any."""
    here = {"b_destination": destination, "b_lane": lane}
    return find(connection, message_id), bool(connection.execute(_IN_LANE, here).scalar_one())


def ready(
    connection: Connection,
    destination: str,
    now: int,
    limit: int,
    excluded: Collection[str] = (),
    longest_pause: int = LONGEST_PAUSE,
) -> Ready:
    """At most `limit` heads of lanes that are ready, the longest ready first, but none of the lanes `excluded`.

    A message that would have to wait for longer than any pause lasts was written while the clock was ahead: it is ready.
    """
    waiting = (
        select(lanes.c.lane, lanes.c.head_seq, lanes.c.ready_at)
        .where(lanes.c.destination == destination, lanes.c.blocked.is_(False))
        .order_by(lanes.c.ready_at, lanes.c.head_seq)
        .limit(limit + len(excluded) + 1)
    )
    heads: list[int] = []
    next_at: int | None = None
    for row in connection.execute(waiting):
        if row.lane in excluded:
            continue
        if now < row.ready_at <= now + longest_pause:
            next_at = next_at or row.ready_at
            continue
        if len(heads) == limit:
            break
        heads.append(row.head_seq)
    if not heads:
        return Ready((), next_at)
    found = connection.execute(
        select(messages).where(messages.c.seq.in_(heads)).order_by(messages.c.ready_at, messages.c.seq)
    )
    return Ready([_kept(row) for row in found], next_at)


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

    With `block_lane` the lane stays where it is. Answers the message that now heads the lane, if that one is ready.
    Raises `IllegalTransition` when the message is not queued any more.
    """
    state = after(MessageState.QUEUED, outcome.event)
    values = {
        "b_seq": seq,
        "b_state": state,
        "b_error": outcome.error,
        "b_now": now,
        "b_code": outcome.code,
        "b_status": outcome.status,
        "b_response": outcome.response,
        "b_counts": int(outcome.counts),
    }
    row = connection.execute(_FINISH, values).one_or_none()
    if row is None:
        stands = connection.execute(select(messages.c.state).where(messages.c.seq == seq)).scalar_one()
        raise IllegalTransition(MessageState(stands), outcome.event)
    _count(connection, row.destination, depth=-1, bytes_=-row.size, dead=int(state is MessageState.DEAD))
    if reply is not None:
        keep(connection, reply, now)
    if block_lane:
        connection.execute(_lane_of(update(lanes), row).where(lanes.c.head_seq == seq).values(blocked=True))
        return None
    head = _settle(connection, row.destination, row.lane, seq)
    return None if head is None or head.ready_at > now else head


def postpone(connection: Connection, seq: int, event: Event, ready_at: int, error: str, now: int) -> None:
    """Leave a message in the queue until `ready_at`: after a failed attempt, or because it could not be taken.

    Only a failed attempt counts as one. Raises `IllegalTransition` when the message is not queued any more.
    """
    row = connection.execute(
        select(messages.c.state, messages.c.destination, messages.c.lane).where(messages.c.seq == seq)
    ).one()
    after(MessageState(row.state), event)
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
    connection.execute(_lane_of(update(lanes), row).where(lanes.c.head_seq == seq).values(ready_at=ready_at))


def forget(connection: Connection, message_id: str, state: MessageState | None = None) -> Place:
    """Remove a finished message, in one state if that is given; answers where it stood. Raises `NotFound`, or
    `FailedPrecondition` while it is queued."""
    known = find(connection, message_id)
    if known is None or (state is not None and known.state not in (state, MessageState.QUEUED)):
        raise NotFound(f"no operation {message_id}")
    if known.state not in FINISHED:
        raise FailedPrecondition("the operation is not done", reason="OPERATION_NOT_DONE")
    if known.state is MessageState.DEAD:
        _count(connection, known.destination, dead=-1)
    _settle(connection, known.destination, known.lane, known.seq)
    connection.execute(delete(messages).where(messages.c.seq == known.seq))
    return Place(known.seq, known.message_id, known.destination, known.lane)


def revive(connection: Connection, message_id: str, expire_at: int, now: int) -> Place:
    """Put a dead letter back into its lane, in front of what was kept after it. Raises `NotFound`, or
    `IllegalTransition` for any other message."""
    known = find(connection, message_id)
    if known is None:
        raise NotFound(f"no message {message_id}")
    state = after(known.state, Event.RETRIED)
    _count(connection, known.destination, depth=1, bytes_=len(known.request), dead=-1)
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
        )
    )
    here = (lanes.c.destination == known.destination) & (lanes.c.lane == known.lane)
    row = connection.execute(select(lanes).where(here)).one_or_none()
    if row is None:
        _open_lane(connection, known.destination, known.lane, known.seq, now)
    elif row.head_seq == known.seq:
        # It may have blocked the lane, while one that is older was put back.
        _settle(connection, known.destination, known.lane, known.seq)
    elif not row.blocked and known.seq < row.head_seq:
        connection.execute(update(lanes).where(here).values(head_seq=known.seq, ready_at=now))
    return Place(known.seq, known.message_id, known.destination, known.lane)


def blocks(connection: Connection, seq: int) -> bool:
    """Whether a dead letter blocks its lane."""
    found = exists().where(lanes.c.head_seq == seq, lanes.c.blocked.is_(True))
    return bool(connection.execute(select(found)).scalar_one())


def pause(connection: Connection, destination: str, paused_at: int | None) -> None:
    """Note that an operator paused a destination, or, with None, that it goes on."""
    _count(connection, destination)
    connection.execute(update(queues).where(queues.c.destination == destination).values(paused_at=paused_at))


def paused(connection: Connection) -> set[str]:
    """The destinations that are paused."""
    return set(connection.execute(select(queues.c.destination).where(queues.c.paused_at.is_not(None))).scalars())


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


def expired(connection: Connection, now: int, limit: int) -> list[Place]:
    """At most `limit` queued messages whose time is over, those first that are over longest."""
    old = (
        select(messages.c.seq, messages.c.message_id, messages.c.destination, messages.c.lane)
        .where(_QUEUED, messages.c.expire_at <= now)
        .order_by(messages.c.expire_at)
        .limit(limit)
    )
    return [Place(**row._mapping) for row in connection.execute(old)]


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
    return [_kept(row) for row in connection.execute(found)], count(connection, subject, state, destination)


def count(
    connection: Connection,
    subject: str | None = None,
    state: MessageState | None = None,
    destination: str | None = None,
) -> int:
    """How many messages there are, of one subject, in one state and for one destination if these are given."""
    counted = _filtered(select(func.count()).select_from(messages), subject, state, destination)
    return int(connection.execute(counted).scalar_one())


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
        .where(messages.c.destination == destination, _QUEUED)
        .order_by(messages.c.seq)
        .limit(1)
    )
    waiting = connection.execute(oldest).scalar() if row.depth else None
    return Queue(destination, row.depth, row.bytes, in_lanes, row.dead, waiting, row.paused_at)


def destinations(connection: Connection) -> list[str]:
    """The destinations that anything was ever kept for, or that were paused, by name."""
    return list(connection.execute(select(queues.c.destination).order_by(queues.c.destination)).scalars())


def _kept(row: Row[Any]) -> Kept:
    return Kept(**row._mapping)


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


def _count(
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
    row = connection.execute(_COUNT, changes).one_or_none()
    if row is None:
        connection.execute(insert(queues).values(destination=destination, depth=depth, bytes=bytes_, dead=dead))
    elif bounds is not None and (row.depth > bounds.depth or row.bytes > bounds.bytes):
        raise Unavailable(
            f"too much waits for {destination}",
            reason="QUEUE_FULL",
            retry_after=FULL_RETRY,
            info={"queue": destination},
        )


def _lane_of(statement: Any, row: Any) -> Any:
    return statement.where(lanes.c.destination == row.destination, lanes.c.lane == row.lane)


def _open_lane(connection: Connection, destination: str, lane: str, head_seq: int, ready_at: int) -> None:
    """Make the row of a lane, unless it has one."""
    row = {"b_destination": destination, "b_lane": lane, "b_seq": head_seq, "b_ready_at": ready_at}
    connection.execute(_OPEN_LANE, row)


def _settle(connection: Connection, destination: str, lane: str, left: int) -> Kept | None:
    """Let a lane's row tell the truth again after message `left` is not queued (any more); answers its new head.

    A lane whose head is another message stays as it is: `left` stood behind it.
    """
    here: dict[str, Any] = {"b_destination": destination, "b_lane": lane}
    row = connection.execute(_NEXT, here).one_or_none()
    here["b_left"] = left
    if row is None:
        connection.execute(_CLOSE_LANE, here)
        return None
    moved = connection.execute(_ADVANCE, here | {"b_seq": row.seq, "b_ready_at": row.ready_at})
    return _kept(row) if moved.rowcount else None
