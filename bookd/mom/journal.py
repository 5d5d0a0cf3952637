"""The journal: published events in their order, and how far each durable subscription has come. Plain SQL.

The newest event is never removed, so that the journal knows its place even when all else is forgotten.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import field, frozen
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from bookd.errors import NotFound, OutOfRange, Unavailable
from bookd.mom import store, vault
from bookd.mom.records import Bounds, Draft
from bookd.mom.schema import events, subscriptions
from bookd.mom.seals import Broken
from bookd.storage import savepoint
from bookd.storage.prepared import Prepared
from bookd.storage.rows import Rows

_SAME = select(events.c.seq).where(events.c.source == bindparam("source"), events.c.event_id == bindparam("event_id"))
_KNOWN: Final = Prepared(_SAME)
_VALUES: Final = ("source", "event_id", "type", "subject", "event", "key_id", "published_at")
# Unless it is there: an insertion that meets it would use up a number.
_ADD: Final = Prepared(
    insert(events)
    .from_select(
        _VALUES, select(*(bindparam(name, type_=events.c[name].type) for name in _VALUES)).where(~_SAME.exists())
    )
    .returning(events.c.seq)
)
_ROWS: Final = Rows(events, _VALUES)
_LAST: Final = Prepared(select(func.max(events.c.seq)))
# From so many on it takes fewer statements to write them together.
_MANY: Final = 8


@frozen
class Fact:
    """An event that is to be published; `schema` explains the fields."""

    source: str
    event_id: str
    type: str
    subject: str
    event: bytes = field(repr=False)


@frozen
class Record:
    """A published event: its place, and the serialized bookd.mom.v1.Event, without its sequence."""

    seq: int
    event: bytes = field(repr=False)


@frozen
class Filter:
    """Which events are wanted. No types: any; no subject: any."""

    types: tuple[str, ...] = ()
    subject: str = ""

    def wants(self, fact: Fact) -> bool:
        """Whether an event is wanted."""
        return (not self.types or fact.type in self.types) and self.subject in ("", fact.subject)


@frozen
class Published:
    """The places of the events, in the order given, and the destinations of the messages that were kept for them."""

    seqs: list[int]
    destinations: list[str]


@frozen
class Page:
    """Events that match, in their order; `upto` is the place up to which there are no others."""

    records: list[Record]
    upto: int


@frozen
class Standing:
    """A durable subscription. Times are in microseconds."""

    peer: str
    name: str
    wanted: Filter
    cursor: int
    created_at: int
    seen_at: int


def publish(
    connection: Connection,
    facts: Sequence[Fact],
    messages: Callable[[Fact, int], Sequence[Draft]],
    most: Bounds | None,
    now: int,
) -> Published:
    """Add the events that are not there yet, and keep for each the messages that `messages(fact, seq)` answers.

    Raises `Unavailable`, reason QUEUE_FULL, when a queue that gets one of them holds `most` already. The first message into each
    queue decides: what has begun to fit goes in as a whole, so that no batch is too large for ever.
    """
    published = Published([], [])
    for fact, (seq, is_new) in zip(facts, _add_all(connection, facts, now), strict=True):
        published.seqs.append(seq)
        for draft in messages(fact, seq) if is_new else ():
            store.keep(connection, draft, now, None if draft.destination in published.destinations else most)
            published.destinations.append(draft.destination)
    return published


def _add_all(connection: Connection, facts: Sequence[Fact], now: int) -> list[tuple[int, bool]]:
    """The place of each event, and whether it is new."""
    written = []
    for fact in facts:
        key_id, event = vault.published(connection, fact.event, _clear(fact))
        written.append((fact.source, fact.event_id, fact.type, fact.subject, event, key_id, now))
    # Elsewhere others may write at the same time, and numbers need not follow one another.
    if len(facts) >= _MANY and connection.dialect.name == "sqlite":
        savepoint.begin(connection)
        try:
            _ROWS.insert(connection, written)
        except IntegrityError:  # some are there, or come twice
            savepoint.undo(connection)
        else:
            savepoint.keep(connection)
            last: Any = _LAST.value(connection)
            return [(seq, True) for seq in range(last - len(facts) + 1, last + 1)]
    return [_add(connection, dict(zip(_VALUES, row, strict=True))) for row in written]


def _add(connection: Connection, event: dict[str, Any]) -> tuple[int, bool]:
    seq: int | None = _ADD.value(connection, event)
    if seq is not None:
        return seq, True
    known: Any = _KNOWN.value(connection, {"source": event["source"], "event_id": event["event_id"]})
    return known, False


def bounds(connection: Connection) -> tuple[int, int]:
    """The places of the oldest and of the newest event; (1, 0) when there never was one."""
    row = connection.execute(select(func.min(events.c.seq), func.max(events.c.seq))).one()
    return (1, 0) if row[0] is None else (row[0], row[1])


def page(connection: Connection, after: int, wanted: Filter, limit: int) -> Page:
    """At most `limit` events that match, behind the place `after`. Raises `Unavailable`, reason SEALED, when one of them
    cannot be opened."""
    newest = bounds(connection)[1]
    found = select(events).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    if wanted.types:
        found = found.where(events.c.type.in_(wanted.types))
    if wanted.subject:
        found = found.where(events.c.subject == wanted.subject)
    try:
        records = [
            Record(row.seq, vault.read(connection, row.key_id, row.event, _clear(row)))
            for row in connection.execute(found)
        ]
    except Broken as broken:
        # Nobody is led past it: whoever follows comes again.
        raise Unavailable(f"an event cannot be read now: {broken}", reason="SEALED", retry_after=30.0) from None
    return Page(records, records[-1].seq if len(records) == limit else max(newest, after))


def start(connection: Connection, after: int | None) -> int:
    """The place to go on from: behind `after`; behind the newest event for None; before the oldest for 0.

    Raises `OutOfRange` when events behind `after` are forgotten, or when there never was such an event.
    """
    oldest, newest = bounds(connection)
    if after is None:
        return newest
    if after and not oldest - 1 <= after <= newest:
        raise OutOfRange(
            f"events from {oldest:020} to {newest:020} are kept, {after:020} is not among them",
            reason="EVENTS_FORGOTTEN",
            info={"oldest": f"{oldest:020}", "newest": f"{newest:020}"},
        )
    return after


def subscribe(connection: Connection, peer: str, name: str, wanted: Filter, *, from_oldest: bool, now: int) -> Standing:
    """The subscription, made if it is not there, with this filter."""
    known = find(connection, peer, name)
    values = {"types": list(wanted.types), "subject": wanted.subject, "seen_at": now}
    if known is None:
        cursor = 0 if from_oldest else bounds(connection)[1]
        connection.execute(insert(subscriptions).values(peer=peer, name=name, cursor=cursor, created_at=now, **values))
    else:
        connection.execute(_of(update(subscriptions), peer, name).values(values))
    made = find(connection, peer, name)
    assert made is not None
    return made


def find(connection: Connection, peer: str, name: str) -> Standing | None:
    """The subscription of this name."""
    row = connection.execute(_of(select(subscriptions), peer, name)).one_or_none()
    return None if row is None else _standing(row)


def standings(connection: Connection) -> list[Standing]:
    """All subscriptions, by peer and name."""
    rows = connection.execute(select(subscriptions).order_by(subscriptions.c.peer, subscriptions.c.name))
    return [_standing(row) for row in rows]


def acknowledge(connection: Connection, peer: str, name: str, seq: int, now: int) -> None:
    """All events up to `seq` are dealt with. A subscription that is gone stays gone."""
    connection.execute(
        _of(update(subscriptions), peer, name).where(subscriptions.c.cursor < seq).values(cursor=seq, seen_at=now)
    )


def unsubscribe(connection: Connection, peer: str, name: str) -> None:
    """End a subscription. Raises `NotFound`."""
    if connection.execute(_of(delete(subscriptions), peer, name)).rowcount != 1:
        raise NotFound(f"no subscription {peer}/{name}", reason="SUBSCRIPTION_NOT_FOUND")


def expire(connection: Connection, before: int) -> list[Standing]:
    """End the subscriptions whose clients were last heard before `before`, and answer them."""
    old = [each for each in standings(connection) if each.seen_at < before]
    for each in old:
        unsubscribe(connection, each.peer, each.name)
    return old


def purge(connection: Connection, before: int, limit: int) -> int:
    """Remove at most `limit` events that were published before `before` and that every subscription is past; answers
    how many. The newest stays."""
    newest = bounds(connection)[1]
    needed: int | None = connection.execute(select(func.min(subscriptions.c.cursor))).scalar()
    upto = newest - 1 if needed is None else min(newest - 1, needed)
    old = (
        select(events.c.seq)
        .where(events.c.published_at < before, events.c.seq <= upto)
        .order_by(events.c.seq)
        .limit(limit)
    )
    seqs = connection.execute(old).scalars().all()
    connection.execute(delete(events).where(events.c.seq.in_(seqs)))
    return len(seqs)


def _clear(event: Any) -> tuple[str, str, str, str]:
    return (event.source, event.event_id, event.type, event.subject)


def _of(statement: Any, peer: str, name: str) -> Any:
    return statement.where(subscriptions.c.peer == peer, subscriptions.c.name == name)


def _standing(row: Row[Any]) -> Standing:
    wanted = Filter(tuple(row.types), row.subject)
    return Standing(row.peer, row.name, wanted, row.cursor, row.created_at, row.seen_at)
