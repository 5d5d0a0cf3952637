"""The accounts of what was asked and told: sagas, outboxes, the MOM's queues, inboxes and events."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from sqlalchemy import MetaData, Row, func, select

from bookd.command.look import Finding, Gravity, Look, batches
from bookd.mom.machine import MessageState
from bookd.mom.schema import events, lanes, messages, queues
from bookd.orders.saga import APPLY_OUTCOME, SERVICE
from bookd.orders.schema import orders, steps
from bookd.storage import inbox, outbox

# Which database holds what goes to a destination.
SERVED: Final = {
    "bookd.inventory.v1.InventoryService": "inventory",
    "bookd.orders.v1.OrdersService": "orders",
    "bookd.users.v1.UsersService": "users",
}
SERVICES: Final = ("inventory", "orders", "users")

_metadata = MetaData()
_inbox, _outbox = inbox.define(_metadata), outbox.define(_metadata)

# What somebody waits for.


def saga(look: Look) -> Iterator[Finding]:
    """Each step that an order waits for is in the outbox, with the MOM, or its answer is on the way."""
    stepless = (
        select(orders.c.order_id, orders.c.version)
        .where(orders.c.status == "PENDING")
        .where(
            ~select(steps.c.order_id).where(steps.c.order_id == orders.c.order_id, steps.c.done_at.is_(None)).exists()
        )
    )
    for row in look.rows("orders", stepless):
        yield Finding("saga", f"order {row.order_id}", "is PENDING, and nothing is asked for it", (row.version,))
    waiting = (
        select(
            steps.c.message_id,
            steps.c.order_id,
            steps.c.step,
            orders.c.status,
            orders.c.version,
            _outbox.c.attempts,
            _outbox.c.last_error,
            _outbox.c.created_at,
        )
        .join(orders, orders.c.order_id == steps.c.order_id)
        .outerjoin(_outbox, _outbox.c.message_id == steps.c.message_id)
        .where(steps.c.done_at.is_(None))
    )
    for batch in batches(look.rows("orders", waiting)):
        kept = _by_id(look, [row.message_id for row in batch if row.created_at is None])
        answers = _replies(look, list(kept))
        for row in batch:
            found = _where(look, row, kept.get(row.message_id), answers.get(row.message_id, ()))
            if found is not None:
                text, gravity = found
                evidence = (row.message_id, row.version, gravity is Gravity.WRONG)
                told = f"is {row.status}; its {row.step} {text}"
                yield Finding("saga", f"order {row.order_id}", told, evidence, gravity)


_PLACE = (
    messages.c.message_id,
    messages.c.lane,
    messages.c.state,
    messages.c.attempts,
    messages.c.last_error,
    messages.c.created_at,
)


def _by_id(look: Look, ids: Sequence[str]) -> dict[str, Row[Any]]:
    found = select(*_PLACE).where(messages.c.message_id.in_(ids))
    return {row.message_id: row for row in look.rows("mom", found)}


def _replies(look: Look, ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """Replies by the message that they answer, which names their lane."""
    found = select(*_PLACE).where(
        messages.c.destination == SERVICE, messages.c.lane.in_(ids), messages.c.method == APPLY_OUTCOME
    )
    replies: dict[str, list[Row[Any]]] = {}
    for row in look.rows("mom", found):
        replies.setdefault(row.lane, []).append(row)
    return replies


def _where(
    look: Look, step: Row[Any], kept: Row[Any] | None, replies: Sequence[Row[Any]]
) -> tuple[str, Gravity] | None:
    """Where the message of an open step is, if that is to be told, and how bad it is."""
    if step.created_at is not None:
        return _waits(look, step, "in the outbox")
    if kept is None:
        return "is in no outbox and not with the MOM: nobody will answer", Gravity.WRONG
    if kept.state == MessageState.QUEUED:
        return _waits(look, kept, "with the MOM")
    queued = [each for each in replies if each.state == MessageState.QUEUED]
    if queued:
        return _waits(look, queued[0], "as an answer with the MOM")
    return _ended(kept, replies), Gravity.WRONG


def _ended(kept: Row[Any], replies: Sequence[Row[Any]]) -> str:
    """What is wrong with an open step whose message is not queued, and whose answer is not either."""
    if any(each.state == MessageState.DEAD for each in replies):
        return "is answered, but the answer is a dead letter"
    if kept.state == MessageState.DEAD:
        return "is a dead letter"
    if replies:
        return "is answered, and the answer was delivered, but had no effect"
    return "has ended, but no answer was sent"


def _waits(look: Look, row: Row[Any], where: str) -> tuple[str, Gravity] | None:
    if row.created_at >= look.now - look.late:
        return None
    error = f"; {row.attempts} attempts, the last: {row.last_error}" if row.last_error else ""
    return f"waits {where} for {look.since(row.created_at)}{error}", Gravity.LATE


def outboxes(look: Look) -> Iterator[Finding]:
    """What the services have to send has left their outboxes."""
    for name in SERVICES:
        if name not in look.databases:
            continue
        old = select(func.count(), func.min(_outbox.c.created_at), func.max(_outbox.c.last_error)).where(
            _outbox.c.created_at < look.now - look.late
        )
        number, oldest, error = next(look.rows(name, old))
        if number:
            told = f"{number} messages wait, the oldest for {look.since(oldest)}" + (f"; {error}" if error else "")
            yield Finding("outboxes", name, told, gravity=Gravity.LATE)


def queued(look: Look) -> Iterator[Finding]:
    """What the MOM has kept is delivered: its queues move, and no letter is dead."""
    dead = select(messages.c.message_id, messages.c.method, messages.c.last_error, messages.c.finished_at).where(
        messages.c.state == MessageState.DEAD
    )
    for row in look.rows("mom", dead):
        told = f"{row.method} is a dead letter for {look.since(row.finished_at)}: {row.last_error}"
        yield Finding("queued", f"message {row.message_id}", told, (row.finished_at,))
    old = (
        select(messages.c.destination, func.count(), func.min(messages.c.created_at))
        .where(messages.c.state == MessageState.QUEUED, messages.c.created_at < look.now - look.late)
        .group_by(messages.c.destination)
    )
    for destination, number, oldest in look.rows("mom", old):
        told = f"{number} messages wait, the oldest for {look.since(oldest)}"
        yield Finding("queued", destination, told, gravity=Gravity.LATE)


def in_lanes(look: Look) -> Iterator[Finding]:
    """Each lane's row names its first message; so none is passed over or forgotten. The counts of the queues hold."""
    first = (
        select(messages.c.destination, messages.c.lane, func.min(messages.c.seq).label("seq"))
        .where(messages.c.state == MessageState.QUEUED)
        .group_by(messages.c.destination, messages.c.lane)
        .subquery()
    )
    here = (lanes.c.destination == first.c.destination) & (lanes.c.lane == first.c.lane)
    unlike = (
        select(first, lanes.c.head_seq)
        .outerjoin(lanes, here)
        .where(lanes.c.head_seq.is_(None) | ((lanes.c.head_seq != first.c.seq) & lanes.c.blocked.is_(False)))
    )
    for row in look.rows("mom", unlike):
        told = "is in no lane: it will never be delivered" if row.head_seq is None else "is passed over by its lane"
        yield Finding("in_lanes", f"message {row.seq} of {row.lane}", told, (row.head_seq,))
    empty = (
        select(lanes.c.lane, lanes.c.head_seq)
        .outerjoin(first, here)
        .where(lanes.c.blocked.is_(False), first.c.seq.is_(None))
    )
    for row in look.rows("mom", empty):
        yield Finding("in_lanes", f"lane {row.lane}", "has nothing to deliver, but says so", (row.head_seq,))
    for state, column in ((MessageState.QUEUED, queues.c.depth), (MessageState.DEAD, queues.c.dead)):
        actual = select(func.count()).where(messages.c.destination == queues.c.destination, messages.c.state == state)
        counted = select(queues.c.destination, column, actual.scalar_subquery())
        for destination, number, there in look.rows("mom", counted):
            if number != there:
                told = f"counts {number} {state.name.lower()} messages, but there are {there}"
                yield Finding("in_lanes", destination, told, (state, number, there))


def applied(look: Look) -> Iterator[Finding]:
    """What the MOM says was done, the service has in its inbox."""
    for destination, name in SERVED.items():
        if name not in look.databases:
            continue
        done = select(messages.c.message_id, messages.c.method).where(
            messages.c.destination == destination,
            messages.c.state == MessageState.SUCCEEDED,
            messages.c.method != APPLY_OUTCOME,
        )
        for batch in batches(look.rows("mom", done)):
            ids = [row.message_id for row in batch]
            known = {
                row.message_id
                for row in look.rows(name, select(_inbox.c.message_id).where(_inbox.c.message_id.in_(ids)))
            }
            for row in batch:
                if row.message_id not in known:
                    told = f"{row.method} succeeded for the MOM, but {name} does not know it"
                    yield Finding("applied", f"message {row.message_id}", told)


# What was told.

_TYPES: Final = {
    status: f"bookd.orders.v1.Order{name}"
    for status, name in (
        ("PENDING", "Placed"),
        ("CONFIRMED", "Confirmed"),
        ("REJECTED", "Rejected"),
        ("CANCELLED", "Cancelled"),
    )
}


def told(look: Look) -> Iterator[Finding]:
    """What became of each order was told, or is in the outbox to be told, as far back as events are kept."""
    oldest = next(look.rows("mom", select(func.min(events.c.published_at))))[0]
    if oldest is None:
        oldest = look.now
    since = select(orders.c.order_id, orders.c.status, orders.c.version).where(orders.c.updated_at > oldest)
    for batch in batches(look.rows("orders", since)):
        ids = [row.order_id for row in batch]
        published = {
            (row.subject, row.type)
            for row in look.rows("mom", select(events.c.subject, events.c.type).where(events.c.subject.in_(ids)))
        }
        to_tell = select(_outbox.c.lane).where(_outbox.c.lane.in_([f"event {each}" for each in ids]))
        waiting = {row.lane for row in look.rows("orders", to_tell)}
        for row in batch:
            if (row.order_id, _TYPES[row.status]) not in published and f"event {row.order_id}" not in waiting:
                text = f"is {row.status}, and that was never told"
                yield Finding("told", f"order {row.order_id}", text, (row.version,))


def in_order(look: Look) -> Iterator[Finding]:
    """The events of one subject stand in the journal in the order in which they happened."""
    by_subject = select(events.c.seq, events.c.source, events.c.subject, events.c.event_id).order_by(
        events.c.source, events.c.subject, events.c.seq
    )
    for (_, subject), rows in groupby(look.rows("mom", by_subject), key=lambda row: (row.source, row.subject)):
        last: tuple[int, ...] = ()
        for row in rows:
            # Name/subject/number: what tells apart what happens to one subject counts up.
            number = tuple(int(each) for each in re.findall(r"\d+", row.event_id.rpartition("/")[2])[:2])
            if number < last:
                yield Finding("in_order", subject, f"{row.event_id} was published after a later one", (row.seq,))
            last = max(last, number)


def boxes(look: Look) -> dict[str, dict[str, int]]:
    """How much each service has in its inbox and outbox."""
    return {
        f"boxes of {name}": {
            table.name: next(look.rows(name, select(func.count()).select_from(table)))[0] for table in (_inbox, _outbox)
        }
        for name in SERVICES
        if name in look.databases
    }
