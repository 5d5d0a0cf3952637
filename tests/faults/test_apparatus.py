"""The apparatus itself: it must find the faults that it is there for."""

from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from sqlalchemy import Connection, Engine, text
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.call import Call
from bookd.inventory import store
from bookd.storage import inbox, outbox
from bookd.storage.engine import open_engine
from bookd.testing.faults import Fault, Injected, watch
from bookd.wire.inventory.v1 import inventory_pb2
from tests.faults.room import NOW, FaultsTestCase, Story
from tests.faults.test_services import FIRST, INVENTORY, balanced, book

LOW = 5


class Shop:
    """A careful adjustment of stock, with a message to somebody, in plain statements."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.call = Call(FIRST, f"{INVENTORY}AdjustStock", b"f" * 32)

    def prepare(self) -> None:
        """There is a book."""
        request = book()
        with self.engine.begin() as connection:
            store.create_book(connection, store.Draft("a", "T", "A", "", 10, request.book.price), NOW)

    def adjust(self) -> str:
        """Take a copy away, and tell."""
        with self.engine.begin() as connection:
            return inbox.once(connection, self.call, inventory_pb2.Book, NOW, self.work).book_id

    def work(self, connection: Connection) -> inventory_pb2.Book:
        """The change and the message."""
        changed = store.adjust_stock(connection, "a", -1, NOW, LOW)
        self.tell(connection)
        return changed

    def tell(self, connection: Connection) -> None:
        """Put the message into the outbox."""
        outbox.put(connection, outbox.Message(FIRST, "lane", "/a.B/C", b""), NOW)

    def close(self) -> None:
        """The process ends."""


class WithoutInbox(Shop):
    """Applies a message whenever it comes."""

    def adjust(self) -> str:
        with self.engine.begin() as connection:
            return self.work(connection).book_id


class InboxOnItsOwn(Shop):
    """Remembers the message in a transaction of its own, after the work."""

    def adjust(self) -> str:
        with self.engine.begin() as connection:
            known = connection.exec_driver_sql("SELECT count(*) FROM inbox").scalar_one()
        if not known:
            with self.engine.begin() as connection:
                self.work(connection)
            with self.engine.begin() as connection:
                inbox.once(connection, self.call, Empty, NOW, lambda _: Empty())
        return "a"


class OutboxBefore(Shop):
    """Writes the message in a transaction of its own, before the change."""

    def adjust(self) -> str:
        with self.engine.begin() as connection:
            self.tell(connection)
        return super().adjust()

    def work(self, connection: Connection) -> inventory_pb2.Book:
        return store.adjust_stock(connection, "a", -1, NOW, LOW)


class OutboxAfter(OutboxBefore):
    """Writes the message in a transaction of its own, after the change."""

    def adjust(self) -> str:
        book_id = Shop.adjust(self)
        with self.engine.begin() as connection:
            self.tell(connection)
        return book_id


class AnsweredTooEarly(Shop):
    """Answers although the commit failed."""

    def adjust(self) -> str:
        try:
            return super().adjust()
        except Exception:
            return "a"


class Unstable(Shop):
    """Answers otherwise when it is asked again."""

    def adjust(self) -> str:
        with self.engine.begin() as connection:
            known = connection.exec_driver_sql("SELECT count(*) FROM inbox").scalar_one()
        return f"{super().adjust()}{known}"


class SelfTests(FaultsTestCase):
    """Shops that do it wrong."""

    def story(self, shop: Any) -> Story:
        """The story of one adjustment, which is one transaction."""
        return Story("bookd.inventory", shop, lambda one: one.adjust(), lambda one: one.prepare(), balanced)

    def test_right(self) -> None:
        """What is done right passes."""
        self.every_fault(self.story(Shop), least=10)

    def test_without_inbox(self) -> None:
        """A message that takes effect twice is found before any fault struck."""
        self.assertIn("asked again", self.found(self.story(WithoutInbox)))

    def test_inbox_on_its_own(self) -> None:
        """An inbox in another transaction is found."""
        self.assertIn("left a part", self.found(self.story(InboxOnItsOwn)))

    def test_outbox_before(self) -> None:
        """A message without its cause is found."""
        self.assertIn("left a part: outbox has", self.found(self.story(OutboxBefore)))

    def test_outbox_after(self) -> None:
        """A cause without its message is found."""
        self.assertIn("left a part: outbox lacks", self.found(self.story(OutboxAfter)))

    def test_answered_too_early(self) -> None:
        """An answer that does not hold is found."""
        self.assertIn("was answered, but is not there", self.found(self.story(AnsweredTooEarly)))

    def test_unstable(self) -> None:
        """Another answer to the same message is found."""
        self.assertIn("asked again, it answers", self.found(self.story(Unstable)))

    def test_tampered_response(self) -> None:
        """A response that is not recorded as it was given is found."""

        class Forgetful(Shop):
            def adjust(self) -> str:
                with self.engine.begin() as connection:
                    answer: Message = inbox.once(connection, self.call, inventory_pb2.Book, NOW, self.work)
                    connection.execute(text("UPDATE inbox SET response = x'' WHERE message_id = :id"), {"id": FIRST})
                    return str(answer)

        self.assertIn("asked again, it answers", self.found(self.story(Forgetful)))


class PointTests(SynchronousTestCase):
    """Where a fault strikes, and what it leaves."""

    def test_points(self) -> None:
        """Each statement is a point, and each commit two; the copy holds what was committed by then."""
        seen = []
        for number in range(5):
            path = Path(self.mktemp()) / "a.sqlite"
            engine = open_engine(path)
            self.addCleanup(engine.dispose)
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE t (a)")
            fault = Fault(number, path, path.with_name("copy.sqlite"))
            try:
                with watch(engine, fault), engine.begin() as connection:
                    connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            except Exception as error:
                self.assertIsInstance(getattr(error, "orig", error), Injected)
                copy = open_engine(path.with_name("copy.sqlite"))
                self.addCleanup(copy.dispose)
                with copy.connect() as connection:
                    seen.append((fault.struck, connection.exec_driver_sql("SELECT count(*) FROM t").scalar()))
            else:
                self.assertIsNone(fault.struck)
        self.assertEqual(
            seen,
            [
                ("before BEGIN IMMEDIATE", 0),
                ("before INSERT INTO t VALUES (1)", 0),
                ("before the commit", 0),
                ("after the commit", 1),
            ],
        )
