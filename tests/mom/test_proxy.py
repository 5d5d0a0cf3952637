"""The MOM as a transparent proxy: a real MOM between a real client and a real server."""

import json
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any
from uuid import uuid4

from google.protobuf.wrappers_pb2 import StringValue
from twisted.internet.defer import CancelledError, Deferred

from bookd.contract import metadata
from bookd.contract.status import detail
from bookd.errors import (
    BookdError,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    Violation,
)
from tests.mom.room import CHAT, COLLECT, FOLLOW, LOOK, OWN, letter, read_receipt, receipt
from tests.mom.running import RunningTestCase, who

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def letters(*texts: str) -> AsyncIterator[bytes]:
    """A stream of letters."""
    for text in texts:
        yield letter(text)


class ShapesTests(RunningTestCase):
    """The four shapes of calls."""

    async def test_unary(self) -> None:
        """One request, one response, with an id and without."""
        self.assertEqual(await self.call("a"), receipt("got a"))
        self.assertEqual(await self.call("b", message_id=None), receipt("got b"))
        self.assertEqual(await self.call("c", path=LOOK), receipt("got c"))

    async def test_server_stream(self) -> None:
        """A stream of responses, in order and to its end."""
        responses = self.client.unary_stream(FOLLOW)(letter("20"), timeout=5)
        self.assertEqual([read_receipt(each).text async for each in responses], [str(n) for n in range(20)])

    async def test_client_stream(self) -> None:
        """A stream of requests."""
        response = await self.client.stream_unary(COLLECT)(letters("a", "b", "c"), timeout=5)
        self.assertEqual(read_receipt(response).text, "a b c")

    async def test_both_streams(self) -> None:
        """A conversation: each response comes before the next request is sent."""
        said: list[str] = []
        heard: list[str] = []
        more: list[Deferred[None]] = [Deferred() for _ in range(3)]

        async def talk() -> AsyncIterator[bytes]:
            for number, answered in enumerate(more):
                said.append(str(number))
                yield letter(str(number))
                await answered

        async for each in self.client.stream_stream(CHAT)(talk(), timeout=5):
            heard.append(read_receipt(each).text)
            self.assertEqual(len(said), len(heard))
            more[len(heard) - 1].callback(None)
        self.assertEqual(heard, ["got 0", "got 1", "got 2"])

    async def test_unknown(self) -> None:
        """A method that no service behind the MOM has."""
        with self.assertRaises(Unimplemented):
            await self.client.unary_unary("/post.v1.PostService/Burn")(b"", timeout=5)

    async def test_big(self) -> None:
        """A message of nearly the largest size passes both ways; a larger one is refused, not kept."""
        parcel = bytes(4_000_000)
        self.post.answer = lambda letter, context: receipt(parcel=letter.parcel)
        self.assertEqual(len(read_receipt(await self.call(parcel=parcel)).parcel), len(parcel))
        with self.assertRaises(ResourceExhausted):
            await self.call(parcel=bytes(5_000_000))


class PassingTests(RunningTestCase):
    """What goes along with a call."""

    async def test_metadata(self) -> None:
        """Id, principal, request id and trace pass; what the MOM does not know does not, nor does a forged one."""
        message_id = str(uuid4())
        await self.call(
            path=OWN,
            message_id=message_id,
            carried=[who("ada", "clerk"), (metadata.REQUEST_ID, "r1"), (metadata.TRACEPARENT, TRACE), ("x-mine", "1")],
        )
        (context,) = self.post.came
        assert context.principal is not None
        self.assertEqual((context.principal.subject, list(context.principal.roles)), ("ada", ["clerk"]))
        self.assertEqual((context.message_id, context.request_id), (message_id, "r1"))
        self.assertEqual(context.metadata[metadata.TRACEPARENT], TRACE)
        self.assertNotIn("x-mine", context.metadata)
        self.assertNotIn(metadata.REDELIVERY, context.metadata)

    async def test_rich_errors(self) -> None:
        """An error that decides passes unchanged: code, message, reason, fields, and details nobody here knows."""

        def refuse(letter: Any, context: Any) -> bytes:
            raise FailedPrecondition(
                "the box is full: \u00fc",
                reason="BOX_FULL",
                info={"box": "7"},
                violations=[Violation("box", "is full")],
                details=[StringValue(value="further")],
            )

        self.post.answer = refuse
        for path, message_id in ((LOOK, None), (LOOK, str(uuid4())), ("/post.v1.PostService/Send", str(uuid4()))):
            with self.assertRaises(FailedPrecondition) as caught:
                await self.call(path=path, message_id=message_id)
            error = caught.exception
            self.assertEqual(error.message, "the box is full: \u00fc")
            self.assertEqual((error.reason, error.info), ("BOX_FULL", {"box": "7"}))
            self.assertEqual(error.violations, (Violation("box", "is full"),))
            further = detail(error, StringValue)
            self.assertEqual(further and further.value, "further")

    async def test_errors_of_streams(self) -> None:
        """So does the error that ends a stream, after what came before it."""
        heard = []

        def answer(letter: Any, context: Any) -> bytes:
            if letter.text == "b":
                raise InvalidArgument.field("text", "is b")
            return receipt(letter.text)

        self.post.answer = answer
        with self.assertRaises(InvalidArgument) as caught:
            async for each in self.client.stream_stream(CHAT)(letters("a", "b", "c"), timeout=5):
                heard.append(each)  # noqa: PERF401 - the loop ends with an error
        self.assertEqual(heard, [receipt("a")])
        self.assertEqual(caught.exception.violations[0].field, "text")

    async def test_unavailable_service(self) -> None:
        """A read that the service itself refuses gets that refusal, and others go on being served."""

        def refuse(letter: Any, context: Any) -> bytes:
            if letter.text == "busy":
                raise Unavailable("too busy", retry_after=7.0)
            return receipt()

        self.post.answer = refuse
        with self.assertRaises(Unavailable) as caught:
            await self.call("busy", path=LOOK)
        self.assertEqual((caught.exception.message, caught.exception.retry_after), ("too busy", 7.0))
        self.assertEqual(await self.call(path=LOOK), receipt())

    async def test_deadline(self) -> None:
        """A read that takes too long ends when the caller said, and the service hears of it."""
        self.post.answer = lambda letter, context: Deferred()
        began = perf_counter()
        with self.assertRaises(DeadlineExceeded):
            await self.call(path=LOOK, timeout=0.3)
        self.assertLess(perf_counter() - began, 1.0)
        remaining = self.post.came[0].time_remaining()
        assert remaining is not None
        self.assertLess(remaining, 0.3)
        await self.until(lambda: self.post.cancelled)

    async def test_cancellation(self) -> None:
        """A caller that goes away cancels the call at the service: a read, a stream."""
        self.post.answer = lambda letter, context: Deferred()
        reading = self.call(path=LOOK)
        await self.until(lambda: self.post.came)
        reading.cancel()
        with self.assertRaises(CancelledError):
            await reading
        await self.until(lambda: self.post.cancelled == 1)
        responses = self.client.unary_stream(FOLLOW)(letter(), timeout=20)
        await anext(responses)
        responses.cancel()
        await self.until(lambda: self.post.cancelled == 2)

    async def test_access(self) -> None:
        """What a caller may not do is not kept either, whether the service is up or not."""
        for _ in range(2):
            with self.assertRaises(Unauthenticated):
                await self.call(path=OWN)
            with self.assertRaises(PermissionDenied):
                await self.call(path=OWN, carried=[who("ada", "customer")])
            if self.post.running:
                await self.close_post()
        self.assertEqual(self.post.came, [])

    async def test_garbage(self) -> None:
        """A request that is no message of its type is told so, when it would have to be kept; an id that is none too."""
        with self.assertRaises(InvalidArgument):
            await self.client.unary_unary("/post.v1.PostService/Send")(
                b"\xff\xff\xff", timeout=5, metadata=[(metadata.MESSAGE_ID, str(uuid4()))]
            )
        with self.assertRaises(InvalidArgument):
            await self.call(message_id="mine")

    async def test_health(self) -> None:
        """The MOM's own health does not depend on what stands behind it."""
        await self.close_post()
        answer = await self.client.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)
        self.assertEqual(answer, b"\x08\x01")


class DownTests(RunningTestCase):
    """What calls that cannot be kept get while nobody is there."""

    async def test_at_once(self) -> None:
        """Every shape is refused at once, with a time to come again and without a promise."""
        await self.close_post()

        async def stream(responses: Any) -> None:
            async for _ in responses:
                pass

        for calling in (
            self.call(path=LOOK),
            self.call(message_id=None),
            Deferred.fromCoroutine(stream(self.client.unary_stream(FOLLOW)(letter(), timeout=5))),
            self.client.stream_unary(COLLECT)(letters("a"), timeout=5),
            Deferred.fromCoroutine(stream(self.client.stream_stream(CHAT)(letters("a"), timeout=5))),
        ):
            began = perf_counter()
            with self.assertRaises(Unavailable) as caught:
                await calling
            self.assertEqual(caught.exception.reason, "DESTINATION_DOWN")
            self.assertEqual(caught.exception.retry_after, 1.0)
            self.assertEqual(caught.exception.details, ())
            self.assertLess(perf_counter() - began, 1.0)

    async def test_stream_breaks(self) -> None:
        """A stream whose service goes away ends with an error, soon."""
        responses = self.client.unary_stream(FOLLOW)(letter(), timeout=20)
        await anext(responses)
        await self.post.stopService()
        began = perf_counter()
        with self.assertRaises(BookdError) as caught:
            async for _ in responses:
                pass
        self.assertIn(caught.exception.code.name, ("UNAVAILABLE", "CANCELLED"))
        self.assertLess(perf_counter() - began, 2.0)

    async def test_found_again(self) -> None:
        """A service that is back is found within a second, wherever in the MOM's rhythm it comes."""
        took = []
        for number in range(4):
            await self.close_post()
            await self.pause(0.37 * number)
            await self.reopen_post()
            took.append(await self.until(self.serving))
        self.assertLess(max(took), 1.0, json.dumps(took))


class PoisonTests(RunningTestCase):
    """Errors that decide nothing."""

    async def test_not_kept(self) -> None:
        """A forwarded call that fails without a decision is the caller's to repeat: nothing was promised."""

        def fail(letter: Any, context: Any) -> bytes:
            raise Internal("broken")

        self.post.answer = fail
        with self.assertRaises(Internal):
            await self.call("a", "box")
        self.assertEqual(self.post.texts, [])
