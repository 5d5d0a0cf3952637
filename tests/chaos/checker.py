"""Holds a history against the effects, and names what should not be.

How an effect is found:

- An order, a new book and a new user bear a marker that nobody else uses: so many rows have it, so often it took effect.
- A book and a user are registers with a version that counts their changes. Each acknowledged change was told the version
  that it made. So two changes that were told the same version, or a version that is higher than the last one, are a
  change that was lost; and a last version that is higher than the changes account for is a change that was doubled.
  What orders did to a book (a reservation changes it once, a release once more) is known from the reservations.
- The copies of a book that were supplied are those at the start and the sum of all adjustments.

Order in a lane is held against the clock: a change that was acknowledged, by its success or by a 202, before another
one of its lane was begun, must have made the lower version; of orders, of one user, the lower `seq`. What somebody read
must be as new as all that was over before the read began: so no value that was overwritten is ever seen again.

Everything here is a function of its arguments.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any

from attrs import field, frozen

from tests.chaos.effects import DEAD, QUEUED, SUCCEEDED, Effects, Event, Order
from tests.chaos.history import Operation

# What a suite may refuse in a run; anything else that is refused should have been done.
FAIR = frozenset(
    {
        ("order.cancel", "ORDER_REJECTED"),
        ("book.adjust", "OUT_OF_STOCK"),
    }
)
# What the MOM says of an operation that it does not know.
FORGOTTEN = "OPERATION_UNKNOWN"
# Events that tell of an order, as it goes on.
PLACED, CONFIRMED, REJECTED, CANCELLED = "OrderPlaced", "OrderConfirmed", "OrderRejected", "OrderCancelled"
_TOLD = {"CONFIRMED": CONFIRMED, "REJECTED": REJECTED, "CANCELLED": CANCELLED}


class Fault(Enum):
    """What can be wrong."""

    LOST = "lost"  # acknowledged, and not in effect
    DUPLICATED = "duplicated"  # in effect more than once
    UNEXPECTED = "unexpected"  # in effect, though it was refused or nobody asked; or refused without a reason
    DISORDERED = "out of order"  # overtaken in its lane, or an old value seen again
    STUCK = "stuck"  # never decided, though all was well again
    VANISHED = "without end"  # a 202 of which nobody knows what became
    UNBALANCED = "unbalanced"  # copies that were made up or went missing
    DEAD = "dead letters"  # given up, though nothing was wrong with it


@frozen
class Anomaly:
    """Something wrong, for a person."""

    fault: Fault
    what: str


@frozen
class Verdict:
    """What the checker found. `counts` are for the report."""

    counts: Mapping[str, int]
    anomalies: Sequence[Anomaly]

    def number(self, fault: Fault) -> int:
        """How many anomalies are of that kind."""
        return sum(anomaly.fault is fault for anomaly in self.anomalies)


@frozen
class Register:
    """Something that has a version. `silent` is how many of its changes no client made."""

    lane: str
    version: int
    silent: int
    values: Mapping[str, Any]  # what its fields hold in the end


@frozen
class _Span:
    """When something was begun, when it was acknowledged, and the place in the order that it got."""

    number: int
    began: float
    over: float  # from when on those that begin have later places
    place: int
    writes: bool = field(default=True)


@frozen
class Seen:
    """What clients see of a suite that is quiet: the copies of each book, and where each order stands."""

    books: Mapping[str, int]
    orders: Mapping[str, str]


def check(
    operations: Sequence[Operation], effects: Effects, stock: Mapping[str, int], seen: Seen | None = None
) -> Verdict:
    """The verdict over a run. `stock` are the copies that each book had when the run began."""
    writes = [operation for operation in operations if not operation.kind.endswith(".read")]
    found: list[Anomaly] = []
    found += _refusals(writes)
    found += _markers(writes, effects)
    found += _registers(operations, effects)
    found += _adjustments(writes, effects, stock)
    found += _orders(writes, effects)
    found += _stock(effects)
    found += _lanes_of_orders(writes, effects)
    found += _events(effects)
    found += _kept(writes, effects)
    found += _quiet(effects)
    found += _shown(effects, seen)
    return Verdict(_counts(operations, writes, effects), found)


def _counts(operations: Sequence[Operation], writes: Sequence[Operation], effects: Effects) -> Mapping[str, int]:
    outcomes = Counter(write.outcome for write in writes)
    return {
        "attempted": len(writes),
        "acknowledged": outcomes["ok"],
        "of these by 202": sum(write.acknowledged and bool(write.name) for write in writes),
        "refused": outcomes["refused"],
        "unknown": outcomes["unknown"],
        "recovered": sum(write.outcome == "unknown" and write.message_id in effects.applied for write in writes),
        "sent again": sum(max(write.attempts - 1, 0) for write in writes),
        "reads": len(operations) - len(writes),
        "kept by the MOM": len(effects.messages),
        "orders": len(effects.orders),
    }


def _refusals(writes: Iterable[Operation]) -> Iterator[Anomaly]:
    for write in writes:
        reason = str(write.result.get("reason", ""))
        if write.outcome == "refused" and reason == FORGOTTEN:
            yield Anomaly(Fault.LOST, f"{_name(write)} was answered 202, and later the MOM did not know {write.name}")
        elif write.outcome == "refused" and (write.kind, reason) not in FAIR:
            yield Anomaly(Fault.UNEXPECTED, f"{_name(write)} was refused: {write.result.get('status')} {reason}")
        if write.outcome == "unknown" and write.name:
            yield Anomaly(Fault.VANISHED, f"{_name(write)} was answered 202, {write.name}, and never ended")


def _markers(writes: Iterable[Operation], effects: Effects) -> Iterator[Anomaly]:
    places = {
        "order.create": Counter(order.address for order in effects.orders),
        "book.create": Counter(book.title for book in effects.books),
        "user.create": Counter(user.username for user in effects.users),
    }
    asked: defaultdict[str, set[str]] = defaultdict(set)
    for write in writes:
        if write.kind not in places:
            continue
        marker = str(write.arguments["marker"])
        asked[write.kind].add(marker)
        times = places[write.kind][marker]
        if times > 1:
            yield Anomaly(Fault.DUPLICATED, f"{_name(write)} is there {times} times")
        elif write.acknowledged and not times:
            yield Anomaly(Fault.LOST, f"{_name(write)} was acknowledged and is not there")
        elif write.outcome == "refused" and times:
            yield Anomaly(Fault.UNEXPECTED, f"{_name(write)} was refused and is there")
    for order in effects.orders:
        if order.address not in asked["order.create"]:
            yield Anomaly(Fault.UNEXPECTED, f"order {order.order_id} is there, and nobody placed it")


def registers(effects: Effects) -> dict[str, Register]:
    """Books and users, by their lanes."""
    moves: Counter[int] = Counter()
    for reservation in effects.reservations.values():
        for seq in reservation.items:
            moves[seq] += 2 if reservation.status == "RELEASED" else 1
    found = {}
    for book in effects.books:
        lane = book_lane(book.book_id)
        found[lane] = Register(lane, book.version, moves[book.seq], {"title": book.title})
    for user in effects.users:
        lane = user_lane(user.user_id)
        found[lane] = Register(lane, user.version, 0, {"address": user.address, "full_name": user.full_name})
    return found


def book_lane(book_id: str) -> str:
    """The lane of the changes of a book."""
    return f"book {book_id}"


def user_lane(user_id: str) -> str:
    """The lane of the changes of a user."""
    return f"user {user_id}"


def order_lane(user_id: str) -> str:
    """The lane of the orders of a user."""
    return f"orders of {user_id}"


def _registers(operations: Iterable[Operation], effects: Effects) -> Iterator[Anomaly]:
    there = registers(effects)
    changes: defaultdict[str, list[Operation]] = defaultdict(list)
    reads: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.kind in ("book.patch", "book.adjust", "user.patch"):
            changes[operation.lane].append(operation)
        elif operation.kind in ("book.read", "user.read") and operation.outcome == "ok":
            reads[operation.lane].append(operation)
    for lane in changes.keys() | reads.keys():
        if lane not in there:
            yield Anomaly(Fault.LOST, f"{lane} is not there any more")
            continue
        yield from _changes(there[lane], changes[lane], effects)
        yield from _final(there[lane], changes[lane])
        yield from _seen(lane, changes[lane], reads[lane])
        made = [change for change in changes[lane] if change.acknowledged]
        # A change that was answered 202 keeps its place from then on, and can be seen once it is done.
        placed = [_span(change, int(change.result["version"]), change.accepted) for change in made]
        done = [_span(change, int(change.result["version"]), change.ended) for change in made]
        read = [_span(each, int(each.result["version"]), each.ended, writes=False) for each in reads[lane]]
        yield from _in_order(lane, placed, [*placed, *read])
        yield from _in_order(lane, read, [*done, *read])


def _changes(register: Register, changes: Sequence[Operation], effects: Effects) -> Iterator[Anomaly]:
    acknowledged = [change for change in changes if change.acknowledged]
    by_version: dict[int, Operation] = {}
    for change in acknowledged:
        version = int(change.result["version"])
        if version in by_version:
            both = f"{_name(by_version[version])} and {_name(change)}"
            yield Anomaly(Fault.LOST, f"{both} were told the same version {version} of {register.lane}")
        by_version[version] = change
        if version > register.version:
            yield Anomaly(
                Fault.LOST, f"{_name(change)} made version {version} of {register.lane}, which is at {register.version}"
            )
    recovered = sum(change.outcome == "unknown" and change.message_id in effects.applied for change in changes)
    beyond = register.version - 1 - register.silent - len(by_version) - recovered
    if beyond > 0:
        yield from [Anomaly(Fault.DUPLICATED, f"{register.lane} has {beyond} changes too many")] * beyond
    elif beyond < 0 and all(version <= register.version for version in by_version):
        yield from [Anomaly(Fault.LOST, f"{register.lane} has {-beyond} changes too few")] * -beyond


def _final(register: Register, changes: Sequence[Operation]) -> Iterator[Anomaly]:
    """The last acknowledged value wins, unless one without an answer came later."""
    for name, value in register.values.items():
        written = [change for change in changes if name in change.arguments and change.outcome != "refused"]
        known = [change for change in written if change.acknowledged]
        if not known:
            continue
        last = max(known, key=lambda change: int(change.result["version"]))
        fair = {last.arguments[name], *(change.arguments[name] for change in written if not change.acknowledged)}
        if value not in fair:
            yield Anomaly(
                Fault.DISORDERED,
                f"{register.lane} has {name} {value!r}, and {_name(last)} made it {last.arguments[name]!r}",
            )


def _seen(lane: str, changes: Sequence[Operation], reads: Sequence[Operation]) -> Iterator[Anomaly]:
    """What was read at a version is what the last change up to it has written."""
    by_name: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
    for change in changes:
        if change.acknowledged:
            for name in ("title", "address", "full_name"):
                if name in change.arguments:
                    by_name[name].append((int(change.result["version"]), change.arguments[name]))
    unknown = [change for change in changes if change.outcome == "unknown"]
    for name, written in by_name.items():
        if any(name in change.arguments for change in unknown):
            continue
        written.sort()
        for read in reads:
            if name not in read.result:
                continue
            before = [value for version, value in written if version <= int(read.result["version"])]
            if before and before[-1] != read.result[name]:
                yield Anomaly(
                    Fault.DISORDERED,
                    f"{_name(read)} found {name} {read.result[name]!r} at version {read.result['version']} of {lane}, "
                    f"where {before[-1]!r} was",
                )


def _adjustments(writes: Iterable[Operation], effects: Effects, stock: Mapping[str, int]) -> Iterator[Anomaly]:
    sums: Counter[str] = Counter(stock)
    doubtful: set[str] = set()
    for write in writes:
        if write.kind == "book.adjust":
            if write.acknowledged or (write.outcome == "unknown" and write.message_id in effects.applied):
                sums[str(write.arguments["book_id"])] += int(write.arguments["copies"])
            elif write.outcome == "unknown":
                doubtful.add(str(write.arguments["book_id"]))
    there = {book.book_id: book for book in effects.books}
    for book_id in stock:
        supplied = there[book_id].supplied if book_id in there else 0
        if supplied != sums[book_id] and book_id not in doubtful:
            yield Anomaly(
                Fault.UNBALANCED,
                f"book {book_id} was supplied with {supplied} copies, and {sums[book_id]} are accounted for",
            )


def _orders(writes: Iterable[Operation], effects: Effects) -> Iterator[Anomaly]:
    by_id = {order.order_id: order for order in effects.orders}
    cancels: defaultdict[str, list[Operation]] = defaultdict(list)
    for write in writes:
        if write.kind == "order.cancel":
            cancels[str(write.arguments["order_id"])].append(write)
        elif write.kind == "order.create" and write.acknowledged:
            yield from _placed(write, by_id.get(str(write.result["order_id"])))
    for order in effects.orders:
        yield from _decided(order, effects)
        if order.status == "CANCELLED" and all(cancel.outcome == "refused" for cancel in cancels[order.order_id]):
            yield Anomaly(Fault.UNEXPECTED, f"order {order.order_id} is cancelled, and nobody was told so")
    for order_id, asked in cancels.items():
        for cancel in asked:
            if cancel.acknowledged and (order_id not in by_id or by_id[order_id].status != "CANCELLED"):
                status = by_id[order_id].status if order_id in by_id else "gone"
                yield Anomaly(Fault.LOST, f"{_name(cancel)} was acknowledged, and order {order_id} is {status}")
    for order_id in effects.reservations.keys() - by_id.keys():
        yield Anomaly(Fault.LOST, f"the inventory knows order {order_id}, and orders do not")


def _placed(write: Operation, order: Order | None) -> Iterator[Anomaly]:
    if order is None:
        yield Anomaly(
            Fault.LOST, f"{_name(write)} was answered with order {write.result['order_id']}, which is not there"
        )
    elif order.address != write.arguments["marker"] or dict(order.items) != dict(write.arguments["items"]):
        yield Anomaly(
            Fault.UNEXPECTED, f"{_name(write)} was answered with order {order.order_id}, which is another one"
        )


def _decided(order: Order, effects: Effects) -> Iterator[Anomaly]:
    reservation = effects.reservations.get(order.order_id)
    held = reservation.status if reservation is not None else None
    if order.status == "PENDING":
        yield Anomaly(Fault.STUCK, f"order {order.order_id} is pending, its reservation is {held}")
    fair = {"CONFIRMED": {"RESERVED"}, "REJECTED": {"REJECTED", "RELEASED"}, "CANCELLED": {"RELEASED", "REJECTED"}}
    if order.status in fair and held not in fair[order.status]:
        yield Anomaly(Fault.UNBALANCED, f"order {order.order_id} is {order.status}, its reservation is {held}")
    seqs = {book.seq: book.book_id for book in effects.books}
    if reservation is not None and held == "RESERVED":
        reserved = {seqs.get(seq, str(seq)): copies for seq, copies in reservation.items.items()}
        if reserved != dict(order.items):
            yield Anomaly(Fault.UNBALANCED, f"order {order.order_id} is of {order.items}, and {reserved} are reserved")


def _stock(effects: Effects) -> Iterator[Anomaly]:
    held: Counter[int] = Counter()
    for reservation in effects.reservations.values():
        if reservation.status == "RESERVED":
            held.update(reservation.items)
    for book in effects.books:
        if book.reserved != held[book.seq]:
            yield Anomaly(
                Fault.UNBALANCED,
                f"book {book.book_id} has {book.reserved} copies reserved, orders hold {held[book.seq]}",
            )
        if book.stock < 0 or book.stock + book.reserved != book.supplied:
            yield Anomaly(Fault.UNBALANCED, f"book {book.book_id} does not add up: {book}")


def _lanes_of_orders(writes: Iterable[Operation], effects: Effects) -> Iterator[Anomaly]:
    seqs = {order.order_id: order.seq for order in effects.orders}
    lanes: defaultdict[str, list[_Span]] = defaultdict(list)
    for write in writes:
        if write.kind == "order.create" and write.acknowledged and write.result["order_id"] in seqs:
            lanes[write.lane].append(_span(write, seqs[str(write.result["order_id"])], write.accepted))
    for lane, spans in lanes.items():
        yield from _in_order(lane, spans, spans)


def _in_order(lane: str, spans: Iterable[_Span], before: Iterable[_Span]) -> Iterator[Anomaly]:
    """Each of `spans` has a later place than any of `before` that was over when it began; a reader may have the same."""
    ends = sorted(before, key=lambda span: span.over)
    passed = 0
    highest: _Span | None = None
    for span in sorted(spans, key=lambda span: span.began):
        while passed < len(ends) and ends[passed].over < span.began:
            if highest is None or ends[passed].place > highest.place:
                highest = ends[passed]
            passed += 1
        if highest is None:
            continue
        # What a reader has seen may still be seen, but a change makes something new of it.
        if span.place < highest.place or (span.writes and span.place == highest.place):
            yield Anomaly(
                Fault.DISORDERED,
                f"{lane}: {span.number} began at {span.began:.3f} and has place {span.place}; {highest.number} was "
                f"over at {highest.over:.3f} and has place {highest.place}",
            )


def _events(effects: Effects) -> Iterator[Anomaly]:
    """Each thing that happened to an order was told once, in order."""
    told: defaultdict[str, list[Event]] = defaultdict(list)
    for event in effects.events:
        if event.kind in (PLACED, CONFIRMED, REJECTED, CANCELLED):
            told[event.subject].append(event)
    rank = {PLACED: 0, CONFIRMED: 1, REJECTED: 1, CANCELLED: 2}
    for order in effects.orders:
        kinds = [event.kind for event in told.pop(order.order_id, [])]
        for kind, times in Counter(kinds).items():
            if times > 1:
                yield Anomaly(Fault.DUPLICATED, f"{kind} of order {order.order_id} was told {times} times")
        for kind in {PLACED, *([_TOLD[order.status]] if order.status in _TOLD else [])} - set(kinds):
            yield Anomaly(Fault.LOST, f"{kind} of order {order.order_id} was not told")
        if any(rank[one] > rank[next_one] for one, next_one in pairwise(kinds)):
            yield Anomaly(Fault.DISORDERED, f"what happened to order {order.order_id} was told as {kinds}")
    for order_id in told:
        yield Anomaly(Fault.LOST, f"events tell of order {order_id}, which is not there")


def _kept(writes: Iterable[Operation], effects: Effects) -> Iterator[Anomaly]:
    """Whatever was answered 202 is known to the MOM, and ended as the client was told."""
    for write in writes:
        if not write.name or write.outcome == "unknown" or write.result.get("reason") == FORGOTTEN:
            continue
        state = effects.messages.get(write.name.rpartition("/")[2])
        if state is None:
            yield Anomaly(Fault.LOST, f"{_name(write)} was answered 202, and the MOM does not know {write.name}")
        elif write.acknowledged != (state == SUCCEEDED) and state not in (QUEUED, DEAD):
            yield Anomaly(
                Fault.UNEXPECTED, f"{_name(write)} is {write.outcome} to its client, its message is in state {state}"
            )


def _quiet(effects: Effects) -> Iterator[Anomaly]:
    for what, count in effects.waiting.items():
        if count:
            yield Anomaly(Fault.STUCK, f"{count} {what}")
    for message_id, state in effects.messages.items():
        if state == DEAD:
            yield Anomaly(Fault.DEAD, f"message {message_id}")


def _shown(effects: Effects, seen: Seen | None) -> Iterator[Anomaly]:
    """Clients see what stands in the databases."""
    if seen is None:
        return
    stock = {book.book_id: book.stock for book in effects.books}
    orders = {order.order_id: order.status for order in effects.orders}
    for shown, there, kind in ((seen.books, stock, "book"), (seen.orders, orders, "order")):
        for key in shown.keys() | there.keys():
            if shown.get(key) != there.get(key):
                yield Anomaly(Fault.UNEXPECTED, f"{kind} {key} is shown as {shown.get(key)}, and is {there.get(key)}")


def _span(operation: Operation, place: int, over: float | None, *, writes: bool = True) -> _Span:
    assert over is not None  # it was acknowledged
    return _Span(operation.number, operation.invoked, over, place, writes)


def _name(operation: Operation) -> str:
    return f"{operation.kind} {operation.number}"
