"""The checker finds each kind of fault in histories that are made up, and none in sound ones."""

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from tests.chaos.checker import Fault, Seen, Verdict, book_lane, check, order_lane, user_lane
from tests.chaos.effects import DEAD, QUEUED, SUCCEEDED, Book, Effects, Event, Order, Reservation, User
from tests.chaos.history import Operation

BOOK = Book(1, "b1", "third", stock=98, reserved=2, supplied=100, version=4)
ORDER = Order(1, "o1", "u1", "here", "CONFIRMED", 2, {"b1": 2})
HELD = Reservation("o1", "RESERVED", {1: 2})
PLACED, CONFIRMED = Event(1, "OrderPlaced", "o1"), Event(2, "OrderConfirmed", "o1")
ANA = User("u1", "ana", "Ana", "Main St", 1)


def operation(kind: str, lane: str, times: tuple[float, float], arguments: Any, result: Any, **more: Any) -> Operation:
    """An operation that succeeded: `times` are its beginning and its end."""
    made = Operation(0, kind, lane, "m", arguments, times[0], times[1], times[1], "ok", result)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def placed(
    began: float = 0.0, ended: float = 1.0, /, marker: str = "here", order_id: str = "o1", **more: Any
) -> Operation:
    """An order that was acknowledged."""
    arguments, result = {"marker": marker, "items": {"b1": 2}}, {"order_id": order_id, "status": "CONFIRMED"}
    return operation("order.create", order_lane("u1"), (began, ended), arguments, result, **more)


def patched(began: float, ended: float, title: str, version: int, /, **more: Any) -> Operation:
    """A book that was renamed."""
    result = {"version": version, "title": title}
    return operation("book.patch", book_lane("b1"), (began, ended), {"title": title}, result, **more)


def adjusted(began: float, ended: float, copies: int, version: int, /, **more: Any) -> Operation:
    """A stock that was adjusted."""
    arguments = {"book_id": "b1", "copies": copies}
    return operation("book.adjust", book_lane("b1"), (began, ended), arguments, {"version": version}, **more)


def looked(began: float, ended: float, title: str, version: int) -> Operation:
    """A book that was read."""
    return operation("book.read", book_lane("b1"), (began, ended), {}, {"version": version, "title": title})


EFFECTS = Effects(
    orders=[ORDER],
    reservations={"o1": HELD},
    books=[BOOK],
    users=[ANA],
    events=[PLACED, CONFIRMED],
)
# An order, and then two new titles for its book: versions 2, 3 and 4.
SOUND = [placed(), patched(2, 3, "second", 3), patched(4, 5, "third", 4), looked(6, 7, "third", 4)]


class CheckerTestCase(SynchronousTestCase):
    """Histories against effects."""

    def checked(self, operations: Any = SOUND, effects: Effects = EFFECTS, stock: int = 100, **more: Any) -> Verdict:
        """The verdict."""
        for number, each in enumerate(operations):
            each.number = number
        return check(operations, effects, {"b1": stock}, **more)

    def found(self, *arguments: Any, **more: Any) -> set[Fault]:
        """The faults that are found."""
        return {anomaly.fault for anomaly in self.checked(*arguments, **more).anomalies}


class SoundTests(CheckerTestCase):
    """What is right is left alone."""

    def test_sound(self) -> None:
        """A history whose effects are all there has no fault, and is counted."""
        verdict = self.checked()
        self.assertEqual(verdict.anomalies, [])
        self.assertEqual(
            (verdict.counts["attempted"], verdict.counts["acknowledged"], verdict.counts["reads"]), (3, 3, 1)
        )

    def test_unknown_without_effect(self) -> None:
        """What was never acknowledged need not be there."""
        unknown = placed(marker="elsewhere", outcome="unknown", accepted=None, ended=None)
        self.assertEqual(self.found([*SOUND, unknown]), set())

    def test_recovered(self) -> None:
        """What was never acknowledged may be there, once; it is counted as recovered."""
        unknown = patched(6, 7, "fourth", 5, outcome="unknown", accepted=None, ended=None, message_id="late")
        effects = evolve(EFFECTS, books=[evolve(BOOK, title="fourth", version=5)], applied=frozenset({"late"}))
        verdict = self.checked([*SOUND[:3], unknown], effects)
        self.assertEqual((verdict.anomalies, verdict.counts["recovered"]), ([], 1))

    def test_fair_refusal(self) -> None:
        """Some things may be refused."""
        refused = operation("order.cancel", order_lane("u1"), (2, 3), {"order_id": "o2"}, {"reason": "ORDER_REJECTED"})
        refused.outcome = "refused"
        self.assertEqual(self.found([*SOUND, refused]), set())

    def test_concurrent_changes(self) -> None:
        """Changes at the same time may take either order."""
        changes = [patched(2, 6, "third", 4), patched(3, 5, "second", 3)]
        self.assertEqual(self.found([placed(), *changes]), set())

    def test_kept_change_is_not_seen_yet(self) -> None:
        """What was answered 202 keeps its place, and need not be seen before it is done."""
        late = patched(4, 9, "third", 4, accepted=4.5, name="operations/m")
        effects = evolve(EFFECTS, messages={"m": SUCCEEDED})
        self.assertEqual(
            self.found([placed(), patched(2, 3, "second", 3), late, looked(6, 7, "second", 3)], effects), set()
        )


class LostTests(CheckerTestCase):
    """Something acknowledged is not there."""

    def test_order(self) -> None:
        """An order."""
        self.assertIn(Fault.LOST, self.found([*SOUND, placed(6, 7, "elsewhere", "o2")]))

    def test_book(self) -> None:
        """A new book."""
        new = operation("book.create", "new", (1, 2), {"marker": "new"}, {"version": 1})
        self.assertEqual(self.found([*SOUND, new]), {Fault.LOST})

    def test_two_changes_of_one_version(self) -> None:
        """Two changes that were told the same version: the disk forgot one of them."""
        twice = [placed(), patched(2, 3, "second", 3), patched(4, 5, "third", 4), patched(6, 7, "third", 4)]
        self.assertIn(Fault.LOST, self.found(twice))

    def test_version_beyond_the_last(self) -> None:
        """A change that made a version which is not there any more."""
        self.assertIn(Fault.LOST, self.found([*SOUND, patched(8, 9, "third", 5)]))

    def test_too_few_changes(self) -> None:
        """A register that has changed less often than was acknowledged."""
        self.assertIn(Fault.LOST, self.found([*SOUND, patched(1, 8, "x", 2)]))

    def test_cancellation(self) -> None:
        """A cancellation of an order that is confirmed."""
        cancel = operation("order.cancel", order_lane("u1"), (2, 3), {"order_id": "o1"}, {"status": "CANCELLED"})
        self.assertEqual(self.found([*SOUND, cancel]), {Fault.LOST})

    def test_reservation_without_an_order(self) -> None:
        """An order that the inventory knows, and orders do not."""
        held = {"o1": HELD, "o2": Reservation("o2", "REJECTED", {})}
        self.assertEqual(self.found(SOUND, evolve(EFFECTS, reservations=held)), {Fault.LOST})

    def test_event(self) -> None:
        """Something that happened, and was not told."""
        self.assertEqual(self.found(SOUND, evolve(EFFECTS, events=[PLACED])), {Fault.LOST})

    def test_kept_message(self) -> None:
        """A 202 whose message the MOM does not have."""
        self.assertEqual(self.found([placed(name="operations/x"), *SOUND[1:]]), {Fault.LOST})

    def test_forgotten_operation(self) -> None:
        """A 202 whose operation the MOM does not know when it is asked."""
        forgotten = placed(6, 7, "elsewhere", name="operations/x", outcome="refused")
        forgotten.result = {"status": 404, "reason": "OPERATION_UNKNOWN"}
        self.assertEqual(self.found([*SOUND, forgotten]), {Fault.LOST})


class DoubledTests(CheckerTestCase):
    """Something took effect more than once."""

    def test_order(self) -> None:
        """An order that is there twice, acknowledged or not."""
        again = evolve(ORDER, seq=2, order_id="o2", status="REJECTED")
        effects = evolve(EFFECTS, orders=[ORDER, again])
        self.assertIn(Fault.DUPLICATED, self.found(SOUND, effects))
        unknown = [placed(outcome="unknown", accepted=None, ended=None), *SOUND[1:]]
        self.assertIn(Fault.DUPLICATED, self.found(unknown, effects))

    def test_change(self) -> None:
        """A register that has changed more often than anybody asked."""
        self.assertEqual(self.found(SOUND, evolve(EFFECTS, books=[evolve(BOOK, version=5)])), {Fault.DUPLICATED})

    def test_adjustment(self) -> None:
        """An adjustment that was made twice: a change too many, and copies that nobody supplied."""
        effects = evolve(EFFECTS, books=[evolve(BOOK, stock=118, supplied=120, version=6)])
        found = self.found([*SOUND, adjusted(8, 9, 10, 5)], effects)
        self.assertEqual(found, {Fault.DUPLICATED, Fault.UNBALANCED})

    def test_event(self) -> None:
        """Something that was told twice."""
        effects = evolve(EFFECTS, events=[PLACED, CONFIRMED, Event(3, "OrderConfirmed", "o1")])
        self.assertEqual(self.found(SOUND, effects), {Fault.DUPLICATED})


class UnexpectedTests(CheckerTestCase):
    """Something is in effect that should not be, or was refused that should not be."""

    def test_refused_and_there(self) -> None:
        """An order that was refused."""
        refused = placed(outcome="refused")
        refused.result = {"status": 400, "reason": ""}
        self.assertEqual(self.found([refused, *SOUND[1:]]), {Fault.UNEXPECTED})

    def test_nobody_asked(self) -> None:
        """An order that nobody placed."""
        self.assertEqual(self.found(SOUND[1:]), {Fault.UNEXPECTED})

    def test_cancelled_by_nobody(self) -> None:
        """An order that was cancelled, and nobody asked."""
        effects = evolve(
            EFFECTS,
            orders=[evolve(ORDER, status="CANCELLED", version=3)],
            reservations={"o1": evolve(HELD, status="RELEASED")},
            books=[evolve(BOOK, stock=100, reserved=0, version=5)],
            events=[PLACED, CONFIRMED, Event(3, "OrderCancelled", "o1")],
        )
        self.assertEqual(self.found(SOUND, effects), {Fault.UNEXPECTED})

    def test_refusal(self) -> None:
        """A refusal for which there is no reason in this run."""
        refused = adjusted(8, 9, 1, 0, outcome="refused")
        refused.result = {"status": 422, "reason": "IDEMPOTENCY_KEY_REUSED"}
        self.assertEqual(self.found([*SOUND, refused]), {Fault.UNEXPECTED})

    def test_another_order(self) -> None:
        """An answer that is about another order."""
        effects = evolve(EFFECTS, orders=[evolve(ORDER, items={"b1": 2, "b2": 1})])
        self.assertIn(Fault.UNEXPECTED, self.found(SOUND, effects))

    def test_shown_otherwise(self) -> None:
        """What clients see differs from what is stored."""
        seen = Seen({"b1": 99}, {"o1": "CONFIRMED"})
        self.assertEqual(self.found(seen=seen), {Fault.UNEXPECTED})
        self.assertEqual(self.found(seen=evolve(seen, books={"b1": 98})), set())


class OrderTests(CheckerTestCase):
    """Lanes, and what readers see."""

    def test_overtaken(self) -> None:
        """A change that began after another was acknowledged made the lower version."""
        changes = [patched(2, 3, "third", 4), patched(4, 5, "second", 3)]
        self.assertIn(Fault.DISORDERED, self.found([placed(), *changes]))

    def test_overtaken_while_kept(self) -> None:
        """A 202 holds a place in the lane: whoever comes later may not be in effect before."""
        kept = patched(2, 9, "third", 4, accepted=3, name="operations/m")
        effects = evolve(EFFECTS, messages={"m": SUCCEEDED})
        self.assertEqual(self.found([placed(), kept, patched(4, 5, "second", 3)], effects), {Fault.DISORDERED})

    def test_orders_of_a_user(self) -> None:
        """Orders of one user are placed in the order in which they were acknowledged."""
        second = evolve(ORDER, seq=2, order_id="o2", address="there", status="REJECTED", version=2)
        effects = evolve(
            EFFECTS,
            orders=[ORDER, second],
            reservations={"o1": HELD, "o2": Reservation("o2", "REJECTED", {})},
            events=[PLACED, CONFIRMED, Event(3, "OrderPlaced", "o2"), Event(4, "OrderRejected", "o2")],
        )
        first = placed(8, 9)
        self.assertEqual(self.found([first, placed(6, 7, "there", "o2"), *SOUND[1:]], effects), {Fault.DISORDERED})

    def test_last_one_wins(self) -> None:
        """The value in the end is that of the last change."""
        effects = evolve(EFFECTS, books=[evolve(BOOK, title="second")])
        self.assertEqual(self.found(SOUND[:3], effects), {Fault.DISORDERED})

    def test_old_value_seen_again(self) -> None:
        """A reader sees a version that is older than what was over before."""
        self.assertEqual(self.found([*SOUND, looked(8, 9, "second", 3)]), {Fault.DISORDERED})

    def test_other_value_seen(self) -> None:
        """A reader sees a value that its version never had."""
        self.assertEqual(self.found([*SOUND, looked(8, 9, "first", 4)]), {Fault.DISORDERED})

    def test_events(self) -> None:
        """What happened is told in its order."""
        effects = evolve(EFFECTS, events=[CONFIRMED, PLACED])
        self.assertEqual(self.found(SOUND, effects), {Fault.DISORDERED})

    def test_user(self) -> None:
        """Users are registers too."""
        moves = [
            operation(
                "user.patch", user_lane("u1"), times, {"address": address}, {"version": version, "address": address}
            )
            for times, address, version in (((1, 2), "A", 3), ((3, 4), "B", 2))
        ]
        effects = evolve(EFFECTS, users=[evolve(ANA, address="A", version=3)])
        self.assertEqual(self.found([*SOUND, *moves], effects), {Fault.DISORDERED})


class StockTests(CheckerTestCase):
    """Copies."""

    def test_supply(self) -> None:
        """Copies that nobody supplied."""
        self.assertEqual(self.found(stock=90), {Fault.UNBALANCED})

    def test_reserved_for_nobody(self) -> None:
        """Copies that are reserved, and no order holds them."""
        effects = evolve(EFFECTS, books=[evolve(BOOK, stock=97, reserved=3)])
        self.assertEqual(self.found(SOUND, effects), {Fault.UNBALANCED})

    def test_confirmed_without_reservation(self) -> None:
        """An order that is confirmed, and has no copies."""
        released = evolve(HELD, status="RELEASED")
        effects = evolve(EFFECTS, reservations={"o1": released}, books=[evolve(BOOK, stock=100, reserved=0, version=5)])
        self.assertEqual(self.found(SOUND, effects), {Fault.UNBALANCED})

    def test_other_items(self) -> None:
        """An order that has other copies than it is of."""
        effects = evolve(EFFECTS, reservations={"o1": evolve(HELD, items={1: 1})})
        self.assertEqual(self.found(SOUND, effects), {Fault.UNBALANCED})


class StuckTests(CheckerTestCase):
    """Something never ended."""

    def test_pending_order(self) -> None:
        """An order that nobody decided."""
        effects = evolve(EFFECTS, orders=[evolve(ORDER, status="PENDING", version=1)], events=[PLACED])
        self.assertEqual(self.found(SOUND, effects), {Fault.STUCK})

    def test_waiting(self) -> None:
        """A message that is in an outbox, or in the MOM's queue, when all is quiet."""
        self.assertEqual(self.found(SOUND, evolve(EFFECTS, waiting={"messages": 1})), {Fault.STUCK})

    def test_vanished(self) -> None:
        """A 202 that never ended."""
        unknown = placed(6, 7, "there", name="operations/m", outcome="unknown", ended=None)
        effects = evolve(EFFECTS, messages={"m": QUEUED})
        self.assertEqual(self.found([*SOUND, unknown], effects), {Fault.VANISHED})

    def test_dead_letter(self) -> None:
        """A message that was given up."""
        self.assertEqual(self.found(SOUND, evolve(EFFECTS, messages={"m": DEAD})), {Fault.DEAD})
