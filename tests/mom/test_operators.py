"""Tests for `bookd.mom.operators` over gRPC: queues, pausing, dead letters; and that nobody else may."""

from time import perf_counter
from typing import Any
from uuid import uuid4

from google.longrunning.operations_pb2 import GetOperationRequest
from sqlalchemy import Connection

from bookd.contract import metadata
from bookd.contract.status import detail
from bookd.errors import (
    BookdError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from bookd.mom import settling, store
from bookd.mom.rates import WINDOW
from bookd.wire.mom.v1 import mom_pb2
from bookd.wire.mom.v1.message_pb2 import Deferred as Told
from bookd.wire.mom.v1.mom_pb2_grpc import MomServiceStub
from tests.mom.room import CAREFULLY, DAY, DEAD, DESTINATION, LOOK, OTHER, SEND, TAKE, draft, letter, post, receipt
from tests.mom.running import RunningTestCase, who

ASYNC = (metadata.RESPOND_ASYNC, "1")
ADMIN = who("root", "admin")
NAME = f"queues/{DESTINATION}"


class OperatorsTestCase(RunningTestCase):
    """Short ways to ask."""

    async def ask(self, verb: str, request: Any = None, *carried: Any) -> Any:
        """Call an rpc as an administrator, unless somebody else is given."""
        if request is None:
            request = getattr(mom_pb2, f"{verb}Request")()
        return await getattr(MomServiceStub(self.client), verb)(request, timeout=5, metadata=list(carried) or [ADMIN])

    async def queue(self) -> mom_pb2.Queue:
        """The queue of the post."""
        found: mom_pb2.Queue = await self.ask("GetQueue", mom_pb2.GetQueueRequest(name=NAME))
        return found

    async def letters(self, destination: str = "", **page: Any) -> mom_pb2.ListDeadLettersResponse:
        """Dead letters."""
        request = mom_pb2.ListDeadLettersRequest(destination=destination, **page)
        found: mom_pb2.ListDeadLettersResponse = await self.ask("ListDeadLetters", request)
        return found


class QueuesTests(OperatorsTestCase):
    """Queues."""

    settings = {"queue_messages": 5, "queue_bytes": 1000}  # noqa: RUF012

    async def test_list(self) -> None:
        """Every destination has a queue, that nothing was kept for too; depth, bytes, lanes, age and breaker are told."""
        await self.close_post()
        for text, box in (("a", "x"), ("b", "x"), ("c", "y")):
            await self.kept(self.call(text, box))
        barn, found = (await self.ask("ListQueues")).queues
        self.assertEqual((barn.name, barn.depth, barn.lanes), (f"queues/{OTHER}", 0, 0))
        self.assertFalse(barn.HasField("oldest_at"))
        self.assertEqual((found.name, found.destination), (NAME, DESTINATION))
        self.assertEqual((found.depth, found.lanes, found.bytes), (3, 2, 3 * len(letter("a", "x"))))
        self.assertEqual((found.max_depth, found.max_bytes), (5, 1000))
        self.assertEqual(found.breaker, mom_pb2.BREAKER_STATE_OPEN)
        self.assertTrue(found.HasField("oldest_at"))
        self.assertEqual((found.kept_per_second, found.finished_per_second), (3 / WINDOW, 0.0))
        self.assertEqual(await self.queue(), found)
        await self.reopen_post()
        await self.until(lambda: len(self.post.texts) == 3)
        while (await self.queue()).depth:
            await self.pause(0.01)
        found = await self.queue()
        self.assertEqual(found.breaker, mom_pb2.BREAKER_STATE_CLOSED)
        self.assertEqual((found.kept_per_second, found.finished_per_second), (3 / WINDOW, 3 / WINDOW))

    async def test_full(self) -> None:
        """A queue that is full refuses calls, with a time to come again and without a promise; ids that it has are
        answered; when there is room calls are kept again. Other destinations and reads do not suffer."""
        await self.close_post()
        ids = [str(uuid4()) for _ in range(6)]
        for message_id in ids[:5]:
            await self.kept(self.call("a", "x", message_id=message_id))
        for timeout in (5.0, None):
            with self.assertRaises(Unavailable) as caught:
                await self.call("a", "x", message_id=ids[5], timeout=timeout)
            self.assertEqual((caught.exception.reason, caught.exception.retry_after), ("QUEUE_FULL", 5.0))
            self.assertIsNone(detail(caught.exception, Told))
        await self.kept(self.call("a", "x", message_id=ids[0]))
        self.assertEqual((await self.queue()).depth, 5)
        await self.reopen_post()
        await self.until(lambda: len(self.post.texts) == 5)
        self.assertNotIn(ids[5], [context.message_id for context in self.post.came])
        await self.until(self.serving)
        self.assertEqual(await self.call("late", message_id=ids[5]), receipt("got late"))

    async def test_full_of_bytes(self) -> None:
        """Likewise one that holds too many bytes."""
        await self.close_post()
        await self.kept(self.call("a", parcel=bytes(900)))
        with self.assertRaises(Unavailable) as caught:
            await self.call("b", parcel=bytes(200))
        self.assertEqual(caught.exception.reason, "QUEUE_FULL")
        await self.kept(self.call("c"))

    async def test_pause(self) -> None:
        """A paused destination gets no delivery, and calls are kept though it is there; reads go through. It stays
        paused over a restart, and all is delivered once it goes on."""
        paused = await self.ask("PauseQueue", mom_pb2.PauseQueueRequest(name=NAME))
        self.assertTrue(paused.HasField("paused_at"))
        await self.kept(self.call("a", "x"))
        await self.kept(self.call("b", "y"))
        self.assertEqual(await self.call("r", path=LOOK), receipt("got r"))
        await self.stop_mom()
        await self.start_mom()
        await self.until(self.serving)
        await self.kept(self.call("c", "x"))
        self.assertEqual([context.method for context in self.post.came], [LOOK])
        self.assertTrue((await self.queue()).HasField("paused_at"))
        resumed = await self.ask("ResumeQueue", mom_pb2.ResumeQueueRequest(name=NAME))
        self.assertFalse(resumed.HasField("paused_at"))
        await self.until(lambda: len(self.post.came) == 4)
        self.assertEqual([text for text in self.post.texts if text in "ac"], ["a", "c"])

    async def test_unknown(self) -> None:
        """A queue that is none."""
        for name in ("queues/nobody.Service", DESTINATION, ""):
            for verb in ("GetQueue", "PauseQueue", "ResumeQueue"):
                with self.assertRaises(NotFound):
                    await self.ask(verb, getattr(mom_pb2, f"{verb}Request")(name=name))

    async def test_admins_only(self) -> None:
        """Every one of these rpcs is for administrators."""
        for verb in (
            "ListQueues",
            "GetQueue",
            "PauseQueue",
            "ResumeQueue",
            "ListDeadLetters",
            "GetDeadLetter",
            "RetryDeadLetter",
            "RetryDeadLetters",
            "DiscardDeadLetter",
        ):
            with self.assertRaises(PermissionDenied):
                await self.ask(verb, None, who("ada", "staff", "customer"))
            with self.assertRaises(Unauthenticated):
                await self.ask(verb, None, (metadata.REQUEST_ID, "r"))


class BrokenTestCase(OperatorsTestCase):
    """A post that makes dead letters."""

    async def setUp(self) -> None:
        """The post fails at letters that say so."""
        await super().setUp()
        self.broken = True

        def answer(letter: Any, context: Any) -> bytes:
            if self.broken and letter.text.startswith("bad"):
                raise Internal("broken", reason="BROKEN")
            return receipt(f"got {letter.text}")

        self.post.answer = answer

    async def die(self, text: str, box: str = "", path: str = SEND, *carried: Any) -> str:
        """Let a message become a dead letter; its id."""
        operation = await self.kept(self.call(text, box, path=path, carried=[ASYNC, *carried]))
        message_id = operation.name.removeprefix("operations/")
        while message_id not in [each.message_id for each in (await self.letters()).dead_letters]:
            await self.pause(0.02)
        return message_id


class OldLettersTests(BrokenTestCase):
    """Dead letters that are too old as soon as they are dead."""

    settings = {"retry_within": 0.001}  # noqa: RUF012

    async def test_too_old(self) -> None:
        """A letter that its service may have applied and forgotten is not retried, alone or with the others: it can be
        seen, and discarded."""
        name = f"deadletters/{await self.die('bad')}"
        self.broken = False
        with self.assertRaises(FailedPrecondition) as caught:
            await self.ask("RetryDeadLetter", mom_pb2.RetryDeadLetterRequest(name=name))
        self.assertEqual(caught.exception.reason, "DEAD_LETTER_TOO_OLD")
        self.assertEqual((await self.ask("RetryDeadLetters")).retried, 0)
        await self.ask("GetDeadLetter", mom_pb2.GetDeadLetterRequest(name=name))
        await self.ask("DiscardDeadLetter", mom_pb2.DiscardDeadLetterRequest(name=name))
        self.assertEqual(((await self.letters()).total_size, self.post.texts), (0, []))


class DeadLettersTests(BrokenTestCase):
    """Dead letters."""

    async def test_whole_life(self) -> None:
        """A poisoned message is a dead letter after its attempts, its neighbours untouched; the operator sees it with its
        request, mends the service, retries, and it is done; its sender hears of both ends."""
        message_id = await self.die("bad", "x", SEND, (metadata.REPLY_TO, TAKE))
        await self.call("good", "x")
        self.assertEqual(self.post.texts, ["good"])
        (listed,) = (await self.letters()).dead_letters
        self.assertEqual((listed.method, listed.destination, listed.lane), (SEND, DESTINATION, "x"))
        self.assertEqual((listed.error.code, listed.error.message), (13, "broken"))
        self.assertEqual((listed.attempts, listed.blocks_lane, listed.HasField("request")), (3, False, False))
        name = f"deadletters/{message_id}"
        shown = await self.ask("GetDeadLetter", mom_pb2.GetDeadLetterRequest(name=name))
        self.assertEqual(shown.request.type_url, "type.googleapis.com/post.v1.Letter")
        self.assertEqual(post().methods[SEND].request.FromString(shown.request.value).text, "bad")
        self.assertEqual((await self.queue()).dead_letters, 1)
        self.broken = False
        operation = await self.ask("RetryDeadLetter", mom_pb2.RetryDeadLetterRequest(name=name))
        self.assertEqual(operation.name, f"operations/{message_id}")
        await self.until(lambda: "bad" in self.post.texts)
        await self.until(lambda: len(self.post.taken) == 2)
        outcomes = [post().methods[TAKE].request.FromString(each).outcome for each in self.post.taken]
        self.assertEqual([outcome.status.code for outcome in outcomes], [13, 0])
        self.assertEqual((await self.letters()).total_size, 0)
        done = await self.ask("GetOperation", GetOperationRequest(name=operation.name))
        self.assertTrue(done.HasField("response"))

    async def test_retry_all(self) -> None:
        """All are put back, or all of one destination; each lane in its old order."""
        for number in range(3):
            await self.die(f"bad {number}", "x")
        self.broken = False
        request = mom_pb2.RetryDeadLettersRequest(destination=OTHER)
        self.assertEqual((await self.ask("RetryDeadLetters", request)).retried, 0)
        self.assertEqual((await self.ask("RetryDeadLetters")).retried, 3)
        await self.until(lambda: len(self.post.texts) == 3)
        self.assertEqual(self.post.texts, ["bad 0", "bad 1", "bad 2"])
        self.assertEqual((await self.letters()).total_size, 0)

    async def test_retry_thousands(self) -> None:
        """Thousands are put back soon, though deliveries begin with the first of them; each lane keeps its order, and each
        letter arrives once."""
        lanes, depth = 40, 60

        def work(connection: Connection) -> None:
            now = self.spool.now()
            for number in range(lanes * depth):
                made = draft(number, f"lane {number % lanes}", expire_at=now + DAY)
                kept, _ = store.keep(connection, made, now)
                settling.finish(connection, kept.seq, DEAD, now)

        await self.spool.desk.write(work)
        began = perf_counter()
        self.assertEqual((await self.ask("RetryDeadLetters")).retried, lanes * depth)
        self.assertLess(perf_counter() - began, 5.0)
        await self.until(lambda: len(self.post.texts) == lanes * depth)
        self.assertEqual(len(self.post.came), lanes * depth)
        for lane in range(lanes):
            came = [int(text) for text in self.post.texts if int(text) % lanes == lane]
            self.assertEqual(came, sorted(came))

    async def test_discard(self) -> None:
        """A discarded letter is forgotten, and so is its operation; the lane that it blocked moves on."""
        message_id = await self.die("bad", "x", CAREFULLY)
        await self.kept(self.call("behind", "x"))
        self.assertTrue((await self.letters()).dead_letters[0].blocks_lane)
        self.assertEqual(self.post.texts, [])
        name = f"deadletters/{message_id}"
        await self.ask("DiscardDeadLetter", mom_pb2.DiscardDeadLetterRequest(name=name))
        await self.until(lambda: self.post.texts == ["behind"])
        for verb in ("GetDeadLetter", "RetryDeadLetter", "DiscardDeadLetter"):
            with self.assertRaises(NotFound):
                await self.ask(verb, getattr(mom_pb2, f"{verb}Request")(name=name))
        with self.assertRaises(NotFound):
            await self.ask("GetOperation", GetOperationRequest(name=f"operations/{message_id}"))

    async def test_pages(self) -> None:
        """Newest first, page by page, by destination."""
        ids = [await self.die(f"bad {number}") for number in range(3)]
        first = await self.letters(DESTINATION, page_size=2)
        self.assertEqual([each.message_id for each in first.dead_letters], [ids[2], ids[1]])
        self.assertEqual(first.total_size, 3)
        rest = await self.letters(DESTINATION, page_size=2, page_token=first.next_page_token)
        self.assertEqual([each.message_id for each in rest.dead_letters], [ids[0]])
        self.assertEqual(rest.next_page_token, "")
        self.assertEqual((await self.letters(OTHER)).total_size, 0)
        with self.assertRaises(InvalidArgument):
            await self.letters(OTHER, page_token=first.next_page_token)

    async def test_no_dead_letter(self) -> None:
        """A message that is none, and a name that is none."""
        await self.ask("PauseQueue", mom_pb2.PauseQueueRequest(name=NAME))
        operation = await self.kept(self.call("good", carried=[ASYNC]))
        message_id = operation.name.removeprefix("operations/")
        for name in (f"deadletters/{message_id}", operation.name, "deadletters/x", ""):
            for verb in ("GetDeadLetter", "RetryDeadLetter", "DiscardDeadLetter"):
                with self.assertRaises(BookdError) as caught:
                    await self.ask(verb, getattr(mom_pb2, f"{verb}Request")(name=name))
                self.assertIsInstance(caught.exception, NotFound)
        found = await self.ask("GetOperation", GetOperationRequest(name=operation.name))
        self.assertFalse(found.done)
