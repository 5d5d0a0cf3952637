"""A real MOM over a file, in front of real servers on this host, without TLS."""

from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

import msgspec
from google.longrunning.operations_pb2 import Operation
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge.channel import Channel
from bookd.bridge.context import Context
from bookd.bridge.methods import RawMethod
from bookd.bridge.metrics import Metrics
from bookd.bridge.server import Server
from bookd.bridge.vitals import Vitals
from bookd.config import Mom
from bookd.contract import metadata
from bookd.contract.status import detail
from bookd.errors import BookdError, Unavailable
from bookd.mom import tap
from bookd.mom.destination import Destination
from bookd.mom.spool import Spool
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from bookd.wire.mom.v1 import message_pb2
from bookd.wire.policy.v1.policy_pb2 import Principal
from tests.mom.room import CHAT, COLLECT, DESTINATION, FOLLOW, OTHER, SEND, letter, post, read_letter, receipt

Answer = Callable[[Any, Context], Any]


def who(subject: str, *roles: str) -> tuple[str, bytes]:
    """The metadata that says who asks."""
    return (metadata.PRINCIPAL, Principal(subject=subject, roles=roles).SerializeToString())


class Post(Server):
    """The service behind the MOM: notes what comes, and answers as the test says. Its inbox knows each id."""

    def __init__(self, port: int = 0, grace: float = 0.2) -> None:
        super().__init__("127.0.0.1", port, grace=grace)
        self.came: list[Context] = []
        self.letters: list[Any] = []
        self.texts: list[str] = []  # of letters, each id once
        self.taken: list[bytes] = []  # by TakeOutcome
        self.cancelled = 0
        self.answer: Callable[[Any, Context], Any] = lambda letter, context: receipt(f"got {letter.text}")
        self._inbox: set[str | None] = set()
        self.add_generic(self.lookup, [DESTINATION, OTHER])

    def lookup(self, path: str) -> RawMethod | None:
        """All methods of the post and of its barn."""
        if path not in post().methods:
            return None
        method = post().methods[path]
        shapes: dict[str, Callable[..., Any]] = {FOLLOW: self.follow, COLLECT: self.collect, CHAT: self.chat}
        return RawMethod(method.client_streaming, method.server_streaming, shapes.get(path, self.once))

    async def once(self, request: bytes, context: Context) -> bytes:
        """A call with one request and one response."""
        self.came.append(context)
        if context.method.endswith("TakeOutcome"):
            self.taken.append(request)
            return receipt()
        told = read_letter(request)
        self.letters.append(told)
        try:
            answer = self.answer(told, context)
            response: bytes = await answer if isinstance(answer, Deferred) else answer
        except BookdError:
            raise
        except BaseException:
            self.cancelled += 1
            raise
        if context.message_id is None or context.message_id not in self._inbox:
            self._inbox.add(context.message_id)
            self.texts.append(told.text)
        return response

    async def follow(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Receipts until the text says where to end; without a number it never does."""
        self.came.append(context)
        told = read_letter(request)
        try:
            for number in count():
                if told.text and number == int(told.text):
                    return
                yield receipt(str(number))
                await deferLater(reactor, 0.002)
        finally:
            self.cancelled += not told.text

    async def collect(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """One receipt for all letters."""
        self.came.append(context)
        return receipt(" ".join([read_letter(each).text async for each in requests]))

    async def chat(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """A receipt for each letter, as it comes."""
        self.came.append(context)
        async for each in requests:
            yield self.answer(read_letter(each), context)


class RunningTestCase(TestCase):
    """Each test has a MOM, a client of it, and a post that may be stopped and started again on its port."""

    timeout = 30
    settings: dict[str, Any] = {}  # noqa: RUF012 - of [mom]; not changed

    async def setUp(self) -> None:
        """Start all."""
        self.path = Path(self.mktemp()) / "mom.sqlite"
        self.post = Post()
        self.services: list[Any] = []
        self.addCleanup(self.stop_all)
        await self.open_post()
        self.post_port = self.post.port
        await self.start_mom()

    async def stop_all(self) -> None:
        """Stop what a test left running, the client first."""
        for service in reversed(self.services):
            if service.running:
                await service.stopService()

    async def open_post(self, port: int = 0) -> None:
        """Start the post that is noted as `post`."""
        self.services.append(self.post)
        self.post.startService()
        await self.post.started

    async def reopen_post(self) -> None:
        """A new post on the port of the first, which is stopped if it is not."""
        if self.post.running:
            await self.post.stopService()
        fresh = Post(self.post_port)
        fresh.answer = self.post.answer
        self.post = fresh
        await self.open_post()

    async def close_post(self) -> None:
        """Stop the post, and wait until the MOM knows."""
        await self.post.stopService()
        await self.until(lambda: not self.serving())

    def serving(self) -> bool:
        """Whether the MOM believes that the post answers."""
        return self.destination.breaker.state.name == "CLOSED"

    async def start_mom(self) -> None:
        """A MOM over the file, and a client."""
        engine = open_engine(self.path)
        upgrade(engine, "bookd.mom")
        engine.dispose()
        self.table = msgspec.convert(
            {
                "grpc": {"identity": {"certificate": "", "private_key": ""}, "port": 0, "peers": [], "trusted": []},
                "destinations": [
                    {
                        "peer": {"name": "post", "addresses": [f"127.0.0.1:{self.post_port}"]},
                        "services": [DESTINATION, OTHER],
                    }
                ],
                "initial_backoff": 0.05,
                "max_backoff": 0.2,
                "max_attempts": 3,
                **self.settings,
            },
            Mom,
        )
        server = Server("127.0.0.1", 0, contract=post(), grace=self.table.grpc.grace)
        channels = [Channel(each.peer.addresses, grace=tap.GRACE) for each in self.table.destinations]
        destinations: dict[str, Destination] = {}

        def spooled(*arguments: Any) -> Spool:
            self.spool = Spool(*arguments)
            return self.spool

        self.patch(tap, "Spool", spooled)
        self.patch(tap, "Destination", lambda name, *rest: destinations.setdefault(name, Destination(name, *rest)))
        self.metrics = Metrics("bookd-mom")
        vitals = Vitals(reactor, None, self.metrics)
        self.mom = tap.assembled(reactor, self.table, post(), engine, channels, server, self.metrics, vitals)
        self.destination = destinations[DESTINATION]
        self.mom.startService()
        self.services.append(self.mom)
        await server.started
        self.client = Channel([f"127.0.0.1:{server.port}"], grace=0.0)
        self.client.startService()
        self.services.append(self.client)

    async def stop_mom(self) -> None:
        """Stop the MOM and its client."""
        await self.client.stopService()
        await self.mom.stopService()

    def call(
        self,
        text: str = "",
        box: str = "",
        *,
        path: str = SEND,
        message_id: str | None = "",
        timeout: float | None = 5.0,
        carried: Any = (),
        **fields: Any,
    ) -> Deferred[bytes]:
        """Call a method of the post through the MOM; under a new id unless one is given or None."""
        values: list[tuple[str, str | bytes]] = list(carried)
        if message_id is not None:
            values.append((metadata.MESSAGE_ID, message_id or str(uuid4())))
        return self.client.unary_unary(path)(letter(text, box, **fields), timeout=timeout, metadata=values)

    async def kept(self, calling: Deferred[bytes]) -> Operation:
        """The operation of a call that has to be kept."""
        try:
            answered = await calling
        except Unavailable as error:
            deferred = detail(error, message_pb2.Deferred)
            self.assertIsNotNone(deferred, error.message)
            assert deferred is not None
            self.assertEqual(error.reason, "DEFERRED")
            self.assertTrue(error.retry_after)
            return deferred.operation
        raise AssertionError(f"not kept, but answered {answered!r}")

    async def until(self, condition: Callable[[], Any], within: float = 10.0) -> float:
        """Turn the reactor until the condition holds; answers how many seconds that took."""
        began = perf_counter()
        while not condition():
            if perf_counter() - began > within:
                raise AssertionError(f"not within {within} s")
            await deferLater(reactor, 0.005)
        return perf_counter() - began

    def pause(self, seconds: float) -> Deferred[None]:
        """Fires after a while."""
        return deferLater(reactor, seconds)
