"""Tests for `bookd.orders.rules`: what an order may be, and every answer in every state."""

from itertools import product

from attrs import evolve
from google.type.money_pb2 import Money
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import FailedPrecondition, InvalidArgument
from bookd.orders import rules
from bookd.orders.rules import SAGA, Answer, Item, News, Order, Status, Step
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.orders.v1 import orders_pb2
from tests.orders.room import PRICE, asked, pending

PRICED = (Item("a", 1, PRICE, "A"), Item("b", 2, PRICE, "B"))


def standing(status: Status, address: str = "2 Oak Street") -> Order:
    """An order in a state."""
    order = pending(address=address)
    if status is Status.CONFIRMED:
        return evolve(order, status=status, items=PRICED, total=Money(currency_code="USD", units=47, nanos=970_000_000))
    return evolve(order, status=status, reason="why" if status is Status.REJECTED else "")


def reservation(
    *lines: tuple[str, int], status: int = inventory_pb2.RESERVATION_STATUS_RESERVED, **fields: str
) -> inventory_pb2.Reservation:
    """What the inventory answers."""
    found = inventory_pb2.Reservation(status=status, **fields)  # type: ignore[arg-type]
    for book_id, quantity in lines:
        found.items.add(book_id=book_id, quantity=quantity, unit_price=PRICE, title=book_id.upper())
    return found


class LinesTests(SynchronousTestCase):
    """What `lines` takes, merges and refuses."""

    def fields(self, request: orders_pb2.CreateOrderRequest) -> list[str]:
        return [violation.field for violation in self.assertRaises(InvalidArgument, rules.lines, request).violations]

    def test_merged(self) -> None:
        """Lines of one book are added up, in the order in which the books first appear."""
        self.assertEqual(rules.lines(asked(("b", 1), ("a", 2), ("b", 3))), (Item("b", 4), Item("a", 2)))

    def test_limits(self) -> None:
        """The smallest and the largest orders pass."""
        self.assertEqual(len(rules.lines(asked(*((f"book-{n}", 10_000) for n in range(100))))), 100)
        self.assertEqual(rules.lines(asked(("x" * 64, 1), address="")), (Item("x" * 64, 1),))
        self.assertEqual(rules.lines(asked(("a", 1), address="x" * 1000)), (Item("a", 1),))

    def test_faults(self) -> None:
        """Each fault names its field."""
        faults = [
            (orders_pb2.CreateOrderRequest(), ["items"]),
            (asked(*[("a", 1)] * 101), ["items"]),
            (asked(("a", 0)), ["items[0].quantity"]),
            (asked(("a", 1), ("b", -1)), ["items[1].quantity"]),
            (asked(("a", 10_001)), ["items[0].quantity"]),
            (asked(("a", 2**31 - 1)), ["items[0].quantity"]),
            (asked(("a", 9_000), ("a", 1_001)), ["items[1].quantity"]),
            (asked(("", 1)), ["items[0].book_id"]),
            (asked((" ", 1)), ["items[0].book_id"]),
            (asked(("x" * 65, 1)), ["items[0].book_id"]),
            (asked(("a\0", 1)), ["items[0].book_id"]),
            (asked(("a", 1), address="x" * 1001), ["shipping_address"]),
            (asked(("", 0), ("b", 0), address="\0"), [
                "items[0].book_id", "items[0].quantity", "items[1].quantity", "shipping_address"
            ]),
        ]  # fmt: skip
        for request, fields in faults:
            with self.subTest(fields=fields):
                self.assertEqual(self.fields(request), fields)


class SagaTests(SynchronousTestCase):
    """Every answer to every step in every state."""

    def test_every_combination(self) -> None:
        """What the table holds happens; whatever it does not hold raises, and changes nothing."""
        for status, step, answer in product(Status, Step, Answer):
            with self.subTest(status=status, step=step, answer=answer):
                before = standing(status, "" if step is Step.ADDRESS else "2 Oak Street")
                news = News(
                    answer,
                    reason="" if answer is Answer.DONE else "because",
                    address="1 Elm Street",
                    items=PRICED if answer is Answer.DONE else (),
                )
                if (status, step, answer) not in SAGA:
                    with self.assertRaises(ValueError):
                        rules.answered(before, step, news, 9)
                    continue
                expected, asked_next = SAGA[status, step, answer]
                after, next_step = rules.answered(before, step, news, 9)
                self.assertEqual((after.status, next_step), (expected, asked_next))
                if after is not before:
                    self.assertEqual((after.version, after.updated_at), (before.version + 1, 9))

    def test_final_states_stay(self) -> None:
        """No answer moves a rejected or a cancelled order, and none unsettles a confirmed one."""
        for (status, _, _), (after, _) in SAGA.items():
            if status is not Status.PENDING:
                self.assertIs(after, status)

    def test_what_is_held_is_released(self) -> None:
        """When a reservation's fate is unknown and the order does not go on, a release is asked for; until it is done."""
        self.assertEqual(SAGA[Status.PENDING, Step.RESERVE, Answer.LOST], (Status.REJECTED, Step.RELEASE))
        for status, answer in product((Status.REJECTED, Status.CANCELLED), (Answer.LOST, Answer.REFUSED)):
            self.assertIs(SAGA[status, Step.RELEASE, answer][1], Step.RELEASE)

    def test_first_step(self) -> None:
        """Without an address users is asked first."""
        self.assertIs(rules.first_step(pending()), Step.RESERVE)
        self.assertIs(rules.first_step(pending(address="")), Step.ADDRESS)

    def test_address(self) -> None:
        """The user's address becomes the order's."""
        after, step = rules.answered(pending(address=""), Step.ADDRESS, rules.located(" 1 Elm Street\n"), 9)
        self.assertEqual((after.shipping_address, after.status, step), ("1 Elm Street", Status.PENDING, Step.RESERVE))

    def test_no_address(self) -> None:
        """A user without an address has the order rejected, with that reason."""
        after, step = rules.answered(pending(address=""), Step.ADDRESS, rules.located(" "), 9)
        self.assertEqual((after.status, step), (Status.REJECTED, None))
        self.assertIn("no shipping address", after.reason)

    def test_confirmed(self) -> None:
        """The inventory's prices and titles become the order's, whatever order they come in; the total is their sum."""
        order = pending()
        news = rules.decided(order, reservation(("b", 2), ("a", 1)))
        after, _ = rules.answered(order, Step.RESERVE, news, 9)
        self.assertEqual(after.items, PRICED)
        self.assertEqual(after.total, Money(currency_code="USD", units=47, nanos=970_000_000))

    def test_decisions(self) -> None:
        """What the inventory says, and what is made of it."""
        strange = reservation(("a", 1), ("b", 2))
        strange.items[1].unit_price.currency_code = "EUR"
        cases = [
            (
                reservation(status=inventory_pb2.RESERVATION_STATUS_REJECTED, reason="sold out"),
                Answer.REFUSED,
                "sold out",
            ),
            (reservation(status=inventory_pb2.RESERVATION_STATUS_REJECTED), Answer.REFUSED, "the inventory refused"),
            (reservation(status=inventory_pb2.RESERVATION_STATUS_RELEASED), Answer.REFUSED, "released"),
            (reservation(status=0), Answer.LOST, "did not decide"),
            (reservation(), Answer.LOST, "something else"),
            (reservation(("a", 1)), Answer.LOST, "something else"),
            (reservation(("a", 1), ("b", 3)), Answer.LOST, "something else"),
            (reservation(("a", 1), ("b", 2), ("c", 1)), Answer.LOST, "something else"),
            (strange, Answer.LOST, "different currencies"),
        ]
        for answer, expected, reason in cases:
            news = rules.decided(pending(), answer)
            self.assertIs(news.answer, expected)
            self.assertIn(reason, news.reason)


class CancelTests(SynchronousTestCase):
    """Cancellation in every state."""

    def test_pending_and_confirmed(self) -> None:
        """What may hold stock is cancelled and released; prices stay."""
        for status in (Status.PENDING, Status.CONFIRMED):
            before = standing(status)
            after, step = rules.cancelled(before, 9)
            self.assertEqual((after.status, step), (Status.CANCELLED, Step.RELEASE))
            self.assertEqual((after.total, after.items), (before.total, before.items))

    def test_before_the_reservation(self) -> None:
        """Without an address nothing was reserved, so nothing is released."""
        after, step = rules.cancelled(pending(address=""), 9)
        self.assertEqual((after.status, step), (Status.CANCELLED, None))

    def test_twice(self) -> None:
        """A cancelled order stays as it is."""
        before = standing(Status.CANCELLED)
        self.assertIs(rules.cancelled(before, 9)[0], before)
        self.assertIs(rules.cancelled(before, 9)[1], None)

    def test_rejected(self) -> None:
        """A rejected order cannot be cancelled."""
        error = self.assertRaises(FailedPrecondition, rules.cancelled, standing(Status.REJECTED), 9)
        self.assertEqual(error.reason, "ORDER_REJECTED")
