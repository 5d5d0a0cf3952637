"""Tests for `bookd.mom.servicer`: operations as their owners see them, through both services; a clock that is pushed."""

from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from bookd.bridge.context import Context
from bookd.errors import Code, FailedPrecondition, Internal, InvalidArgument, NotFound, Unauthenticated
from bookd.mom import records, settling, store
from bookd.mom.machine import Event, MessageState
from bookd.mom.records import Kept
from bookd.mom.servicer import SET_ASIDE, MomServicer, OperationsServicer, Waiting
from bookd.mom.spool import Spool
from bookd.testing.desk import ImmediateDesk
from bookd.wire.mom.v1 import message_pb2, mom_pb2
from tests.mom.calls import context
from tests.mom.room import (
    NOW,
    OTHER,
    POLICY,
    SECOND,
    TAKE,
    StoreTestCase,
    done,
    draft,
    ended,
    number_id,
    post,
    read_receipt,
)

QUEUED, SUCCEEDED, FAILED, DEAD, CANCELLED = (int(state) for state in MessageState)


def name(number: int) -> str:
    """The name of an operation."""
    return f"operations/{number_id(number)}"


class ServicerTestCase(StoreTestCase):
    """Both services over an empty store."""

    def setUp(self) -> None:
        """Wire them."""
        super().setUp()
        self.clock = Clock()
        self.clock.advance(NOW / 1e6)
        self.spool = Spool(ImmediateDesk(self.engine), lambda: round(self.clock.seconds() * 1e6))
        self.mom = MomServicer(self.clock, post(), self.spool, {}, POLICY, longest_wait=30.0)
        self.operations = OperationsServicer(self.mom)
        self.ada = context(None, "ada", "customer")
        self.eve = context(None, "eve", "customer", "staff")
        self.admin = context(None, "root", "admin")
        self.nobody = context()

    def tearDown(self) -> None:
        """Nobody waits any more."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.spool._waiters, {})

    def begin(self, verb: str, request: Any, who: Context | None = None) -> Deferred[Any]:
        """Call an rpc."""
        return Deferred.fromCoroutine(getattr(self.operations, verb)(request, who or self.ada))

    def ask(self, verb: str, request: Any, who: Context | None = None) -> Any:
        """Call an rpc and take its answer."""
        return self.successResultOf(self.begin(verb, request, who))

    def get(self, number: int, who: Context | None = None) -> operations_pb2.Operation:
        """An operation."""
        found: operations_pb2.Operation = self.ask(
            "GetOperation", operations_pb2.GetOperationRequest(name=name(number)), who
        )
        return found

    def told(self, operation: operations_pb2.Operation) -> message_pb2.OperationMetadata:
        """What it says of its message."""
        unpacked = message_pb2.OperationMetadata()
        self.assertTrue(operation.metadata.Unpack(unpacked))
        return unpacked

    def finish(self, kept: Kept, outcome: records.Outcome) -> None:
        """End a message, through the spool."""
        self.successResultOf(Deferred.fromCoroutine(self.spool.finish(kept, outcome)))


class GetTests(ServicerTestCase):
    """One operation."""

    def test_queued(self) -> None:
        """One that waits is not done, and tells of its message."""
        kept = self.keep(1)
        self.do(settling.postpone, kept.seq, Event.FAILED, NOW + 1, "INTERNAL: broken", NOW + SECOND)
        found = self.get(1)
        self.assertEqual((found.name, found.done, found.WhichOneof("result")), (name(1), False, None))
        told = self.told(found)
        self.assertEqual(
            (told.message_id, told.method, told.destination), (number_id(1), kept.method, kept.destination)
        )
        self.assertEqual((told.state, told.attempts, told.last_error), (QUEUED, 1, "INTERNAL: broken"))
        self.assertEqual(told.created_at.ToMicroseconds(), NOW)
        self.assertEqual(told.updated_at.ToMicroseconds(), NOW + SECOND)
        self.assertEqual(told.expire_time.ToMicroseconds(), kept.expire_at)

    def test_done(self) -> None:
        """One that is done has the response, or the error with all that was said."""
        self.finish(self.keep(1), done("fine"))
        self.finish(self.keep(2), ended(Event.DECLINED, NotFound("no such box", reason="BOX")))
        self.finish(self.keep(3), ended(Event.GIVEN_UP, Internal("broken")))
        first, second, third = (self.get(number) for number in (1, 2, 3))
        self.assertEqual(first.response.type_url, "type.googleapis.com/post.v1.Receipt")
        self.assertEqual(read_receipt(first.response.value).text, "fine")
        self.assertEqual((second.error.code, second.error.message), (Code.NOT_FOUND, "no such box"))
        self.assertEqual(len(second.error.details), 1)
        self.assertEqual((third.done, third.error.code, self.told(third).state), (True, Code.INTERNAL, DEAD))

    def test_owner(self) -> None:
        """An operation is its owner's and the administrators'; for others, and for nobody, it does not exist, and they
        cannot tell it from one that is not there."""
        self.keep(1)
        self.get(1, self.admin)
        said = set()
        for who in (self.eve, self.nobody):
            for verb in ("Get", "Wait", "Cancel", "Delete"):
                request = getattr(operations_pb2, f"{verb}OperationRequest")(name=name(1))
                error = self.failureResultOf(self.begin(f"{verb}Operation", request, who), NotFound).value
                said.add((error.reason, error.message.replace(number_id(1), "")))
                request.name = name(2)
                error = self.failureResultOf(self.begin(f"{verb}Operation", request, who), NotFound).value
                said.add((error.reason, error.message.replace(number_id(2), "")))
        self.assertEqual(len(said), 1)
        self.assertIs(self.found(number_id(1)).state, MessageState.QUEUED)

    def test_nobodys(self) -> None:
        """What was sent for nobody is the administrators' only."""
        self.keep(1, subject="")
        self.get(1, self.admin)
        for who in (self.ada, self.nobody):
            request = operations_pb2.GetOperationRequest(name=name(1))
            self.failureResultOf(self.begin("GetOperation", request, who), NotFound)

    def test_bad_names(self) -> None:
        """What is no name of an operation is not found; another spelling of the id is the same one."""
        self.keep(255)
        for bad in ("", "operations/", "operations/x", number_id(255), "operations/" + "x" * 10_000):
            request = operations_pb2.GetOperationRequest(name=bad)
            error = self.failureResultOf(self.begin("GetOperation", request), NotFound).value
            self.assertLess(len(error.message), 200)
        self.ask(
            "GetOperation",
            operations_pb2.GetOperationRequest(name=name(255).upper().replace("OPERATIONS", "operations")),
        )

    def test_method_is_gone(self) -> None:
        """The outcome of a method that is in no descriptor set any more is told as bytes."""
        self.finish(self.keep(1, method="/gone.Service/Send"), done("fine"))
        self.assertEqual(self.get(1).response.type_url, "type.googleapis.com/google.protobuf.BytesValue")


class ListTests(ServicerTestCase):
    """Pages."""

    def listed(self, who: Context | None = None, **fields: Any) -> Any:
        """A page of google.longrunning."""
        return self.ask("ListOperations", operations_pb2.ListOperationsRequest(**fields), who)

    def ids(self, page: Any) -> list[str]:
        """The names on a page."""
        return [each.name for each in page.operations]

    def test_own(self) -> None:
        """Everybody sees their own, newest first; an administrator sees all; nobody sees nothing."""
        for number in range(6):
            self.keep(number, str(number), subject="ada" if number % 2 else "eve")
        self.assertEqual(self.ids(self.listed()), [name(number) for number in (5, 3, 1)])
        self.assertEqual(self.ids(self.listed(self.eve)), [name(number) for number in (4, 2, 0)])
        self.assertEqual(len(self.ids(self.listed(self.admin))), 6)
        request = operations_pb2.ListOperationsRequest()
        self.failureResultOf(self.begin("ListOperations", request, self.nobody), Unauthenticated)

    @settings(max_examples=20, deadline=None)
    @given(st.integers(0, 12), st.integers(1, 5))
    def test_pages(self, count: int, size: int) -> None:
        """Page by page, whatever the size: all of them, once, in order."""
        with self.engine.begin() as connection:
            for number in range(count):
                store.keep(connection, draft(number, str(number)), NOW)
        token, seen = "", []
        while True:
            page = self.listed(page_size=size, page_token=token)
            self.assertLessEqual(len(page.operations), size)
            seen += self.ids(page)
            token = page.next_page_token
            if not token:
                break
        self.assertEqual(seen, [name(number) for number in reversed(range(count))])
        with self.engine.begin() as connection:
            for table in ("lanes", "messages", "queues"):
                connection.exec_driver_sql(f"DELETE FROM {table}")

    def test_filter(self) -> None:
        """By state, in both services' words; the token of one list is refused by another, and by another caller."""
        for number in range(4):
            kept = self.keep(number, str(number))
            if number < 2:
                self.finish(kept, done())
        self.assertEqual(self.ids(self.listed(filter="state=SUCCEEDED")), [name(1), name(0)])
        self.assertEqual(self.ids(self.listed(filter=" state = QUEUED ")), [name(3), name(2)])
        response = self.successResultOf(
            Deferred.fromCoroutine(
                self.mom.ListOperations(
                    mom_pb2.ListOperationsRequest(state="MESSAGE_STATE_QUEUED", page_size=1), self.ada
                )
            )
        )
        self.assertEqual((len(response.operations), response.total_size), (1, 2))
        token = response.next_page_token
        for who, fields in (
            (self.ada, {"page_token": token}),
            (self.eve, {"page_token": token, "filter": "state=QUEUED"}),
            (self.ada, {"page_token": "x"}),
            (self.ada, {"filter": "state=GONE"}),
            (self.ada, {"filter": "colour=red"}),
            (self.ada, {"page_size": -1}),
            (self.ada, {"name": "books"}),
        ):
            request = operations_pb2.ListOperationsRequest(**fields)  # type: ignore[arg-type]
            self.failureResultOf(self.begin("ListOperations", request, who), InvalidArgument)
        request = mom_pb2.ListOperationsRequest(state=99)  # type: ignore[arg-type]
        self.failureResultOf(Deferred.fromCoroutine(self.mom.ListOperations(request, self.ada)), InvalidArgument)

    def test_large_responses(self) -> None:
        """A page is never larger than a message of gRPC may be; it ends early, and nothing is left out."""
        for number in range(5):
            self.finish(
                self.keep(number, str(number)), records.Outcome(Event.ANSWERED, Code.OK, response=bytes(900_000))
            )
        token, seen = "", []
        for _ in range(5):
            page = self.listed(page_size=5, page_token=token)
            self.assertLess(page.ByteSize(), 2_000_000)
            seen += self.ids(page)
            token = page.next_page_token
        self.assertEqual((seen, token), ([name(number) for number in (4, 3, 2, 1, 0)], ""))


class WaitTests(ServicerTestCase):
    """Waiting for an operation."""

    def wait(self, number: int, seconds: float | None = 5, who: Context | None = None) -> Deferred[Any]:
        """Begin to wait."""
        request = operations_pb2.WaitOperationRequest(name=name(number))
        if seconds is not None:
            request.timeout.CopyFrom(Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds)))
        return self.begin("WaitOperation", request, who or context(None, "ada", remaining=None))

    def test_done_already(self) -> None:
        """One that is done is answered at once."""
        self.finish(self.keep(1), done())
        self.assertTrue(self.successResultOf(self.wait(1)).done)

    def test_becomes_done(self) -> None:
        """All who wait are answered as soon as it is done."""
        kept = self.keep(1)
        waiting = [self.wait(1), self.wait(1)]
        self.clock.advance(4)
        self.finish(kept, done())
        for each in waiting:
            self.assertTrue(self.successResultOf(each).done)

    def test_time_is_over(self) -> None:
        """When the time is over it is answered as it is; without one asked for, after the longest there is."""
        self.keep(1)
        for seconds, bound in ((0, 0), (2.5, 2.5), (100, 30), (None, 30)):
            waiting = self.wait(1, seconds)
            if bound:
                self.clock.advance(bound - 0.01)
                self.assertNoResult(waiting)
            self.clock.advance(0.01)
            self.assertFalse(self.successResultOf(waiting).done)

    def test_deadline(self) -> None:
        """The answer comes before the caller's deadline does."""
        self.keep(1)
        waiting = self.wait(1, 20, context(None, "ada", remaining=2.0))
        self.clock.advance(2.0 - SET_ASIDE)
        self.assertFalse(self.successResultOf(waiting).done)

    def test_leaves(self) -> None:
        """A caller that goes away leaves nothing behind."""
        self.keep(1)
        waiting = self.wait(1)
        waiting.addErrback(lambda failure: None)
        waiting.cancel()

    def test_stop(self) -> None:
        """When the MOM stops all who wait are answered at once, as it is; and who comes then does not wait."""
        self.keep(1)
        self.keep(2)
        ends = Waiting(self.spool)
        ends.startService()
        waiting = [self.wait(1), self.wait(1), self.wait(2)]
        ends.stopService()
        for each in [*waiting, self.wait(2)]:
            self.assertFalse(self.successResultOf(each).done)


class CancelTests(ServicerTestCase):
    """Cancelling, and forgetting."""

    def cancel(self, number: int) -> None:
        """Cancel."""
        self.ask("CancelOperation", operations_pb2.CancelOperationRequest(name=name(number)))

    def test_queued(self) -> None:
        """One that waits ends as CANCELLED; who waits for it hears of it, and so does its sender."""
        self.keep(1, reply_to=TAKE)
        request = operations_pb2.WaitOperationRequest(name=name(1))
        waiting = self.begin("WaitOperation", request)
        self.cancel(1)
        self.assertEqual(self.successResultOf(waiting).error.code, Code.CANCELLED)
        self.assertEqual(self.told(self.get(1)).state, CANCELLED)
        (reply,) = self.do(store.ready, OTHER, NOW + SECOND, 9).messages
        self.assertEqual(reply.method, TAKE)

    def test_being_delivered(self) -> None:
        """One that is being delivered goes on."""
        kept = self.keep(1)
        self.spool.in_flight.add(kept.seq)
        self.cancel(1)
        self.assertIs(self.found(number_id(1)).state, MessageState.QUEUED)

    def test_done(self) -> None:
        """One that is done stays as it is."""
        self.finish(self.keep(1), done())
        self.cancel(1)
        self.assertIs(self.found(number_id(1)).state, MessageState.SUCCEEDED)

    def test_delete(self) -> None:
        """One that is done is forgotten; one that waits is not."""
        kept = self.keep(1)
        request = operations_pb2.DeleteOperationRequest(name=name(1))
        self.failureResultOf(self.begin("DeleteOperation", request), FailedPrecondition)
        self.finish(kept, done())
        self.ask("DeleteOperation", request)
        self.failureResultOf(self.begin("DeleteOperation", request), NotFound)
