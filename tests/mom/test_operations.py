"""Tests for `bookd.mom.operations`: the public face of a kept message, and what a repeated call is answered."""

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import BytesValue

from bookd.contract.status import detail
from bookd.errors import BookdError, Code, Internal, NotFound, Unavailable
from bookd.mom import operations, settling
from bookd.mom.machine import MessageState
from bookd.mom.operations import answer, message_id, operation
from bookd.mom.records import Kept, Outcome
from bookd.wire.mom.v1 import message_pb2
from tests.mom.room import CANCELLED, DEAD, DECLINED, NOW, SEND, StoreTestCase, done, number_id, post, receipt


class OperationsTestCase(StoreTestCase):
    """Messages that have ended."""

    def ended(self, number: int, outcome: Outcome) -> Kept:
        """A message that ended so."""
        self.do(settling.finish, self.keep(number).seq, outcome, NOW + 5)
        return self.found(number_id(number))


class OperationTests(OperationsTestCase):
    """google.longrunning.Operation."""

    def test_queued(self) -> None:
        """A message that waits is an operation that is not done; its metadata says what is known."""
        made = operation(post(), self.keep(1))
        self.assertEqual((made.name, made.done, made.WhichOneof("result")), (f"operations/{number_id(1)}", False, None))
        about = message_pb2.OperationMetadata()
        self.assertTrue(made.metadata.Unpack(about))
        self.assertEqual((about.message_id, about.method, about.subject), (number_id(1), SEND, "ada"))
        self.assertEqual((about.state, about.created_at.ToMicroseconds()), (MessageState.QUEUED, NOW))

    def test_ended(self) -> None:
        """One that has ended is done, with its response or its error, and when it ended."""
        for number, (outcome, kind, code) in enumerate(
            ((done(), "response", 0), (DECLINED, "error", 5), (DEAD, "error", 13), (CANCELLED, "error", 1))
        ):
            made = operation(post(), self.ended(number, outcome))
            self.assertEqual((made.done, made.WhichOneof("result"), made.error.code), (True, kind, code))
            about = message_pb2.OperationMetadata()
            made.metadata.Unpack(about)
            self.assertEqual(about.updated_at.ToMicroseconds(), NOW + 5)

    def test_response(self) -> None:
        """The response is what its method says it is; that of a method that is not known any more is bytes."""
        kept = self.ended(1, done("fine"))
        found = operation(post(), kept).response
        self.assertEqual((found.type_url.rpartition("/")[2], found.value), ("post.v1.Receipt", receipt("fine")))
        unknown = self.keep(2, method="/gone.v1.GoneService/Do")
        self.do(settling.finish, unknown.seq, done("fine"), NOW)
        packed: AnyMessage = operation(post(), self.found(number_id(2))).response
        value = BytesValue()
        self.assertTrue(packed.Unpack(value))
        self.assertEqual(value.value, receipt("fine"))

    def test_names(self) -> None:
        """A name has a message id, in any spelling of a UUID; nothing else is one."""
        self.assertEqual(message_id(f"operations/{number_id(7).upper()}"), number_id(7))
        for name in (
            "",
            "operations/",
            number_id(7),
            "queues/" + number_id(7),
            "operations/x",
            "operations/" + "0" * 999,
        ):
            with self.assertRaises(NotFound) as caught:
                message_id(name)
            self.assertLess(len(caught.exception.message), 200)


class AnswerTests(OperationsTestCase):
    """What a call is answered whose message is kept."""

    def test_waits(self) -> None:
        """While it waits: UNAVAILABLE, with the operation, and when to ask."""
        with self.assertRaises(Unavailable) as caught:
            answer(post(), self.keep(1))
        told = detail(caught.exception, message_pb2.Deferred)
        assert told is not None
        self.assertEqual(told.operation.name, f"operations/{number_id(1)}")
        self.assertEqual((caught.exception.retry_after, told.retry_after.ToMilliseconds()), (1.0, 1000))

    def test_done(self) -> None:
        """Done: its response, an empty one too."""
        self.assertEqual(answer(post(), self.ended(1, done("fine"))), receipt("fine"))
        self.assertEqual(answer(post(), self.ended(2, operations.succeeded(b""))), b"")

    def test_no(self) -> None:
        """An error is raised as it was; whether it is worth repeating follows from its code, unless the message was given up
        or cancelled: then a detail says that it is not."""
        for number, (outcome, code, ends) in enumerate(
            ((DECLINED, Code.NOT_FOUND, False), (DEAD, Code.INTERNAL, True), (CANCELLED, Code.CANCELLED, True))
        ):
            with self.assertRaises(BookdError) as caught:
                answer(post(), self.ended(number, outcome))
            self.assertEqual(caught.exception.code, code)
            told = detail(caught.exception, message_pb2.Outcome)
            self.assertEqual(told is not None, ends)
            if told is not None:
                self.assertEqual((told.message_id, told.method), (number_id(number), SEND))

    def test_in_one_line(self) -> None:
        """An operator reads a bounded line."""
        self.assertEqual(operations.in_one_line(Internal("broken")), "INTERNAL: broken")
        self.assertEqual(len(operations.in_one_line(Internal("x" * 9999))), 1000)
