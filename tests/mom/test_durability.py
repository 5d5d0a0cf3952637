"""Nothing lost, nothing doubled: a real MOM, a service that comes and goes, and a MOM that is killed."""

import sqlite3
from time import perf_counter
from typing import Any
from uuid import uuid4

from google.longrunning.operations_pb2 import (
    CancelOperationRequest,
    GetOperationRequest,
    Operation,
    WaitOperationRequest,
)
from google.longrunning.operations_pb2_grpc import OperationsStub
from google.protobuf.duration_pb2 import Duration
from twisted.internet.defer import Deferred, gatherResults

from bookd.contract import metadata
from bookd.errors import BookdError, InvalidArgument, NotFound, Unavailable
from bookd.wire.mom.v1.message_pb2 import MessageState, OperationMetadata, Outcome
from tests.mom.room import LOOK, OWN, TAKE, post, read_receipt, receipt
from tests.mom.running import RunningTestCase, who

ASYNC = (metadata.RESPOND_ASYNC, "1")


class DurabilityTestCase(RunningTestCase):
    """Short ways to ask for operations."""

    async def wait(self, operation: Operation, seconds: int = 5, *carried: Any) -> Operation:
        """The operation once it is done."""
        found: Operation = await OperationsStub(self.client).WaitOperation(
            WaitOperationRequest(name=operation.name, timeout=Duration(seconds=seconds)),
            timeout=seconds + 5,
            metadata=list(carried) or [who("root", "admin")],
        )
        return found

    def told(self, operation: Operation) -> OperationMetadata:
        """What the operation says of its message."""
        unpacked = OperationMetadata()
        self.assertTrue(operation.metadata.Unpack(unpacked))
        return unpacked

    def text(self, operation: Operation) -> str:
        """The receipt of an operation that is done."""
        self.assertTrue(operation.done)
        self.assertEqual(operation.response.type_url, "type.googleapis.com/post.v1.Receipt")
        text: str = read_receipt(operation.response.value).text
        return text

    def stored(self) -> int:
        """How many messages are on disk, as another process sees it."""
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True) as connection:
            found: int = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
            return found


class KeepTests(DurabilityTestCase):
    """When calls are kept."""

    async def test_nothing_written_on_success(self) -> None:
        """A call that succeeds, or that is refused for good, leaves nothing on disk."""
        await self.call("a")

        def refuse(letter: Any, context: Any) -> bytes:
            raise NotFound("no such box")

        self.post.answer = refuse
        with self.assertRaises(NotFound):
            await self.call("b")
        self.assertEqual(self.stored(), 0)

    async def test_down(self) -> None:
        """While nobody is there a call is kept at once, on disk before it is told; it is delivered, marked as a
        redelivery, when somebody is; then the same id gets the answer."""
        await self.close_post()
        message_id = str(uuid4())
        began = perf_counter()
        operation = await self.kept(self.call("a", "box", message_id=message_id, carried=[(metadata.REQUEST_ID, "r")]))
        self.assertLess(perf_counter() - began, 1.0)
        self.assertEqual(self.stored(), 1)
        self.assertEqual(operation.name, f"operations/{message_id}")
        self.assertFalse(operation.done)
        self.assertEqual(self.told(operation).state, MessageState.MESSAGE_STATE_QUEUED)
        await self.reopen_post()
        done = await self.wait(operation)
        self.assertEqual(self.text(done), "got a")
        self.assertEqual(self.told(done).attempts, 0)
        (context,) = self.post.came
        self.assertEqual(context.message_id, message_id)
        self.assertEqual(context.metadata[metadata.REDELIVERY], "1")
        self.assertEqual(context.request_id, "r")
        self.assertEqual(await self.call("a", "box", message_id=message_id), receipt("got a"))
        self.assertEqual(len(self.post.came), 1)

    async def test_order(self) -> None:
        """What is kept of a lane is delivered in the order it was kept, and calls that come meanwhile queue behind."""
        await self.close_post()
        for number in range(8):
            await self.kept(self.call(f"a{number}", "a"))
            await self.kept(self.call(f"b{number}", "b"))
        await self.reopen_post()
        await self.until(self.serving)
        later = [
            self.call(f"a{number}", "a").addErrback(lambda failure: failure.trap(Unavailable)) for number in (8, 9)
        ]
        await gatherResults(later)
        await self.until(lambda: len(self.post.texts) == 18)
        self.assertEqual([text for text in self.post.texts if text[0] == "a"], [f"a{number}" for number in range(10)])
        self.assertEqual([text for text in self.post.texts if text[0] == "b"], [f"b{number}" for number in range(8)])

    async def test_deadline(self) -> None:
        """A call whose time runs out while the service works on it is kept before its caller gives up; the service gets
        it again under the same id, and its inbox makes that harmless."""
        first: Deferred[bytes] = Deferred()
        answers = [first, receipt("second")]
        self.post.answer = lambda letter, context: answers.pop(0)
        operation = await self.kept(self.call("slow", timeout=1.0))
        self.assertEqual(self.text(await self.wait(operation)), "second")
        ids = {context.message_id for context in self.post.came}
        self.assertEqual((len(self.post.came), len(ids)), (2, 1))

    async def test_breaks(self) -> None:
        """A call whose service dies under it is kept, and its caller told, long before its deadline."""
        self.post.answer = lambda letter, context: Deferred()
        calling = self.call("a", timeout=20)
        await self.until(lambda: self.post.came)
        began = perf_counter()
        await self.post.stopService()
        operation = await self.kept(calling)
        self.assertLess(perf_counter() - began, 2.0)
        self.post.answer = lambda letter, context: receipt("at last")
        await self.reopen_post()
        self.assertEqual(self.text(await self.wait(operation)), "at last")

    async def test_respond_async(self) -> None:
        """A caller that wants no waiting gets an operation at once, though the service is there."""
        held: Deferred[bytes] = Deferred()
        self.post.answer = lambda letter, context: held
        operation = await self.kept(self.call("a", carried=[ASYNC]))
        self.assertFalse((await self.wait(operation, 0)).done)
        waiting = Deferred.fromCoroutine(self.wait(operation))
        await self.until(lambda: self.post.came)
        held.callback(receipt("done"))
        self.assertEqual(self.text(await waiting), "done")

    async def test_disk_refuses(self) -> None:
        """When the disk refuses, the caller is told UNAVAILABLE without a promise, and may come again."""
        await self.close_post()
        with sqlite3.connect(self.path) as connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(ROLLBACK, 'full'); END"
            )
        with self.assertRaises(Unavailable) as caught:
            await self.call("a")
        self.assertEqual((caught.exception.reason, caught.exception.details), ("STORAGE", ()))
        with sqlite3.connect(self.path) as connection:
            connection.execute("DROP TRIGGER full")
        await self.kept(self.call("a"))
        self.assertEqual(self.stored(), 1)


class SameIdTests(DurabilityTestCase):
    """The same id, many times at once."""

    async def same(self, times: int, message_id: str, text: str = "a") -> list[Any]:
        """What so many calls with one id get."""
        calls = [self.call(text, "box", message_id=message_id) for _ in range(times)]
        return await gatherResults([call.addErrback(lambda failure: failure.value) for call in calls])

    async def test_up(self) -> None:
        """All get the answer, and the service's inbox has it once."""
        self.assertEqual(await self.same(20, str(uuid4())), [receipt("got a")] * 20)
        self.assertEqual(self.post.texts, ["a"])
        self.assertEqual(self.stored(), 0)

    async def test_down(self) -> None:
        """All get the same operation, and it is delivered once."""
        await self.close_post()
        message_id = str(uuid4())
        for error in await self.same(20, message_id):
            operation = await self.kept(_failing(error))
            self.assertEqual(operation.name, f"operations/{message_id}")
        self.assertEqual(self.stored(), 1)
        await self.reopen_post()
        await self.wait(operation)
        self.assertEqual([context.message_id for context in self.post.came], [message_id])

    async def test_coming_up(self) -> None:
        """While the service comes back: each gets the operation or the answer, and it takes effect once."""
        await self.close_post()
        message_id = str(uuid4())
        await self.same(5, message_id)
        await self.reopen_post()
        got: list[Any] = []
        while receipt("got a") not in got:
            got = await self.same(5, message_id)
            for each in got:
                if each != receipt("got a"):
                    await self.kept(_failing(each))
        self.assertEqual(self.post.texts, ["a"])

    async def test_other_request(self) -> None:
        """An id that was used for another request is refused, and so is another subject's."""
        await self.close_post()
        message_id = str(uuid4())
        await self.kept(self.call("a", path=OWN, message_id=message_id, carried=[who("ada", "clerk")]))
        for text, path, subject in (("b", OWN, "ada"), ("a", OWN, "eve")):
            with self.assertRaises(InvalidArgument) as caught:
                await self.call(text, path=path, message_id=message_id, carried=[who(subject, "clerk")])
            self.assertEqual(caught.exception.reason, "IDEMPOTENCY_KEY_REUSED")


def _failing(error: BookdError) -> Deferred[bytes]:
    failing: Deferred[bytes] = Deferred()
    failing.errback(error)
    return failing


class RestartTests(DurabilityTestCase):
    """A MOM that stops, or dies, and is started again over its file."""

    async def test_kept(self) -> None:
        """What was kept is delivered by the next one, in order, whether the service is there before it or after."""
        await self.close_post()
        operations = [await self.kept(self.call(str(number), "box")) for number in range(5)]
        await self.stop_mom()
        await self.reopen_post()
        await self.start_mom()
        for number, operation in enumerate(operations):
            self.assertEqual(self.text(await self.wait(operation)), f"got {number}")
        self.assertEqual(self.post.texts, [str(number) for number in range(5)])

    async def test_in_flight(self) -> None:
        """What was being delivered when the MOM stopped is delivered again under the same id."""
        self.post.answer = lambda letter, context: Deferred()
        operations = [await self.kept(self.call(str(number), str(number), carried=[ASYNC])) for number in range(4)]
        await self.until(lambda: len(self.post.came) >= 1)
        began = perf_counter()
        await self.stop_mom()
        self.assertLess(perf_counter() - began, 3.0)
        self.post.answer = lambda letter, context: receipt("again")
        await self.start_mom()
        for operation in operations:
            self.assertEqual(self.text(await self.wait(operation)), "again")
        self.assertEqual(sorted(self.post.texts), ["0", "1", "2", "3"])

    async def test_stops_soon(self) -> None:
        """With calls, streams and waits under way the MOM is gone within 3 s, and leaves nothing behind."""
        self.post.answer = lambda letter, context: Deferred()
        operation = await self.kept(self.call("kept", "x", carried=[ASYNC]))
        pending: list[Deferred[Any]] = [
            self.call("a", "a", timeout=30),
            self.call("behind", "a", timeout=30),
            self.call("b", path=LOOK, timeout=30),
            Deferred.fromCoroutine(self.follow()),
            Deferred.fromCoroutine(self.wait(operation, 30)),
        ]
        ended = gatherResults([each.addErrback(lambda failure: failure.value) for each in pending])
        await self.until(lambda: len(self.post.came) == 4)
        began = perf_counter()
        await self.mom.stopService()
        took = perf_counter() - began
        self.assertLess(took, 3.0)
        for each in await ended:
            if isinstance(each, Operation):
                self.assertFalse(each.done)
            else:
                self.assertIsInstance(each, BookdError)

    async def test_waits_do_not_hold_it_up(self) -> None:
        """Who waits for an operation is answered when the MOM stops, and does not use up its grace."""
        await self.close_post()
        operation = await self.kept(self.call("kept", "x"))
        waiting = [Deferred.fromCoroutine(self.wait(operation, 30)) for _ in range(3)]
        await self.until(lambda: len(self.spool_waiters()) == 3)
        began = perf_counter()
        await self.mom.stopService()
        self.assertLess(perf_counter() - began, self.table.grpc.grace / 2)
        for each in await gatherResults(waiting):
            self.assertFalse(each.done)

    def spool_waiters(self) -> list[Any]:
        """Those who wait for operations."""
        return [waiter for each in self.spool._waiters.values() for waiter in each]

    async def follow(self) -> None:
        """A stream without end."""
        async for _ in self.client.unary_stream("/post.v1.PostService/Follow")(b"", timeout=30):
            pass


class ReplyTests(DurabilityTestCase):
    """Messages whose sender wants to know."""

    async def outcome(self) -> Outcome:
        """The one outcome that was told."""
        await self.until(lambda: self.post.taken)
        request = post().methods[TAKE].request.FromString(self.post.taken[0])
        return Outcome.FromString(request.outcome.SerializeToString())

    async def test_answered(self) -> None:
        """The response goes to the method that the sender named."""
        operation = await self.kept(self.call("a", carried=[ASYNC, (metadata.REPLY_TO, TAKE)]))
        outcome = await self.outcome()
        self.assertEqual(outcome.message_id, operation.name.removeprefix("operations/"))
        self.assertEqual((outcome.method, outcome.response), ("/post.v1.PostService/Send", receipt("got a")))
        self.assertEqual(outcome.status.code, 0)

    async def test_declined(self) -> None:
        """So does a refusal."""

        def refuse(letter: Any, context: Any) -> bytes:
            raise NotFound("no such box", reason="BOX")

        self.post.answer = refuse
        await self.kept(self.call("a", carried=[ASYNC, (metadata.REPLY_TO, TAKE)]))
        outcome = await self.outcome()
        self.assertEqual((outcome.status.code, outcome.status.message), (5, "no such box"))
        self.assertEqual(outcome.response, b"")

    async def test_cancelled(self) -> None:
        """And the cancellation of a message that nobody delivered."""
        await self.close_post()
        operation = await self.kept(self.call("a", carried=[(metadata.REPLY_TO, TAKE)]))
        admin = [who("root", "admin")]
        stub = OperationsStub(self.client)
        await stub.CancelOperation(CancelOperationRequest(name=operation.name), timeout=5, metadata=admin)
        found = await stub.GetOperation(GetOperationRequest(name=operation.name), timeout=5, metadata=admin)
        self.assertEqual(self.told(found).state, MessageState.MESSAGE_STATE_CANCELLED)
        self.assertEqual(found.error.code, 1)
        await self.reopen_post()
        self.assertEqual((await self.outcome()).status.code, 1)
        self.assertEqual(self.post.texts, [])

    async def test_nobody_takes_it(self) -> None:
        """A method that takes no replies is refused at once."""
        for path in (LOOK, "/nowhere.Service/Take", "", "x"):
            with self.assertRaises(InvalidArgument):
                await self.call("a", carried=[(metadata.REPLY_TO, path)])
