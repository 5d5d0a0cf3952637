"""What the MOM keeps, and what of it may be delivered: plain functions of a connection. The desk decides where they run
and commit.

What each promises, it promises for the transaction it runs in: a message and the row of its lane change together, and so
do the outcome of a message, the advance of its lane and the reply that goes out. Whatever is not legal for the state of a
message raises before anything is written. `settling` has what becomes of messages, `forgetting` how they go, `overview`
what is asked about them.
"""

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, bindparam, select

from bookd.errors import InvalidArgument, Unavailable
from bookd.mom import ledger, vault
from bookd.mom.machine import MessageState
from bookd.mom.records import Bounds, Draft, Kept, Place, Ready
from bookd.mom.schema import lanes, messages
from bookd.storage.prepared import Prepared, inserting

# Microseconds that a message waits at most before its next delivery, where nobody knows better.
LONGEST_PAUSE = 86_400_000_000
# Seconds after which it is worth while to ask again for what cannot be opened.
SEALED_RETRY = 30.0

_INSERT: Final = Prepared(
    lambda dialect: (
        inserting(dialect, messages).on_conflict_do_nothing(index_elements=["message_id"]).returning(messages.c.seq)
    )
)
_FIND: Final = Prepared(select(messages).where(messages.c.message_id == bindparam("b_message_id")))


def keep(connection: Connection, draft: Draft, now: int, bounds: Bounds | None = None) -> tuple[Kept, bool]:
    """Put a message at the end of its lane; or answer the one that is kept under this id already.

    The flag says whether it is new. Raises `InvalidArgument`, reason IDEMPOTENCY_KEY_REUSED, when the id is known for
    another request or from another subject; `Unavailable`, reason QUEUE_FULL, when a new message is beyond `bounds`, and
    reason SEALED when the known one cannot be opened.
    """
    values = {
        "message_id": draft.message_id,
        "destination": draft.destination,
        "lane": draft.lane,
        "method": draft.method,
        "subject": draft.subject,
        "reply_to": draft.reply_to,
        "expire_at": draft.expire_at,
        "state": int(MessageState.QUEUED),
        "attempts": 0,
        "refusals": 0,
        "ready_at": now,
        "last_error": "",
        "created_at": now,
        "updated_at": now,
    }
    secret = vault.accepted(connection, draft)
    seq = _INSERT.value(connection, values | secret)
    if seq is None:
        known = find(connection, draft.message_id)
        assert known is not None
        return require_same(known, draft.fingerprint, draft.subject), False
    ledger.count(connection, draft.destination, depth=1, bytes_=len(secret["request"]), bounds=bounds)
    ledger.open_lane(connection, draft.destination, draft.lane, seq, now)
    return fresh(draft, seq, now), True


def fresh(draft: Draft, seq: int, now: int) -> Kept:
    """The message that was kept of a draft just now."""
    return Kept(
        seq=seq,
        message_id=draft.message_id,
        destination=draft.destination,
        lane=draft.lane,
        method=draft.method,
        request=draft.request,
        fingerprint=draft.fingerprint,
        principal=draft.principal,
        subject=draft.subject,
        metadata=dict(draft.metadata),
        reply_to=draft.reply_to,
        state=MessageState.QUEUED,
        attempts=0,
        refusals=0,
        ready_at=now,
        expire_at=draft.expire_at,
        last_error="",
        created_at=now,
        updated_at=now,
        finished_at=None,
        status_code=None,
        status=None,
        response=None,
    )


def require_same(known: Kept, fingerprint: bytes, subject: str) -> Kept:
    """`known`, if it is the same request of the same subject. Raises `InvalidArgument` otherwise; `Unavailable` when that
    cannot be told, as it cannot be opened."""
    if known.fault and known.subject == subject:
        raise sealed()
    if known.fingerprint != fingerprint or known.subject != subject:
        raise InvalidArgument(
            "this message id was used for another request",
            reason="IDEMPOTENCY_KEY_REUSED",
            info={"message_id": known.message_id},
        )
    return known


def sealed() -> Unavailable:
    """What a caller is told of a message that cannot be opened; the log says more."""
    return Unavailable("what is kept of it cannot be read now", reason="SEALED", retry_after=SEALED_RETRY)


def find(connection: Connection, message_id: str) -> Kept | None:
    """The message with this id."""
    row = _FIND.row(connection, {"b_message_id": message_id})
    return None if row is None else vault.kept(connection, row._asdict())


def look(connection: Connection, message_id: str, destination: str, lane: str) -> tuple[Kept | None, bool]:
    """What a call has to know before it may be forwarded: the message with its id, and whether its lane has any."""
    return find(connection, message_id), ledger.busy(connection, destination, lane)


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
    return Ready([vault.kept(connection, row._mapping) for row in found], next_at)


def expired(connection: Connection, now: int, limit: int) -> list[Place]:
    """At most `limit` queued messages whose time is over, those first that are over longest."""
    old = (
        select(messages.c.seq, messages.c.message_id, messages.c.destination, messages.c.lane)
        .where(ledger.QUEUED, messages.c.expire_at <= now)
        .order_by(messages.c.expire_at)
        .limit(limit)
    )
    return [Place(**row._mapping) for row in connection.execute(old)]
