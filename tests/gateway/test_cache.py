"""Answers that are given again: when, to whom, and never once they may be old."""

from typing import Any

from klein import Response
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.descriptors import Method
from bookd.errors import NotFound, Unavailable
from bookd.gateway.cache import Cache, Reading
from bookd.wire.mom.v1 import message_pb2
from tests.gateway import kites
from tests.gateway.kites import SERVICE
from tests.gateway.serving import Answer, GatewayTestCase, bearer

KITE = "/kites/v1/kites/7"
CHANGED = "kites.v1.KiteChanged"
SERVED = "kites.v1.KiteService"
HIT, STALE = "bookd; hit", "bookd; hit; detail=stale-if-error"


class CacheTests(SynchronousTestCase):
    """The cache by itself."""

    def setUp(self) -> None:
        self.methods = kites.contract(kites.KITES).methods
        self.now = 0.0
        self.cache = Cache(1.0, 10.0, 50_000, lambda: self.now)

    def method(self, name: str = "GetKite") -> Method:
        return self.methods[SERVICE + name]

    def begin(self, kite: str) -> Reading:
        method = self.method()
        reading = self.cache.reading(b"/" + kite.encode(), method, method.request(kite_id=kite))
        assert reading is not None
        return reading

    def keep(self, *names: str, size: int = 10) -> None:
        for kite in names:
            self.cache.keep(self.begin(kite), "/{kite}", Response(200, {}, bytes(size)), "")

    def fresh(self) -> set[str]:
        """The names of the kites whose answers would be given again."""
        return {kept.reading.subject for kept in self.cache._kept.values() if kept.fresh}

    def test_others_are_not_kept(self) -> None:
        """What is not for everybody, and what no event makes stale, is not kept."""
        for name in ("ListOwn", "TugKite", "DeleteKite", "WatchWind"):
            method = self.method(name)
            self.assertIsNone(self.cache.reading(b"/", method, method.request()))

    def test_change_meanwhile(self) -> None:
        """What was read while something changed is not kept: nobody knows which it saw first."""
        for change in (
            lambda: self.cache.wrote(SERVED),
            lambda: self.cache.happened(CHANGED, "1"),
            lambda: self.cache.happened(CHANGED, "2"),
            self.cache.clear,
        ):
            reading = self.begin("1")
            change()
            self.cache.keep(reading, "/", Response(200, {}, b""), "")
            self.assertEqual(len(self.cache), 0)
        reading = self.begin("1")
        self.cache.wrote("somebody.else.Service")
        self.cache.keep(reading, "/", Response(200, {}, b""), "")
        self.assertEqual(len(self.cache), 1)

    def test_events(self) -> None:
        """An event makes stale what is about its subject, and what is about no subject; no more."""
        method = self.method("ListKites")
        reading = self.cache.reading(b"/all", method, method.request())
        assert reading is not None
        self.cache.keep(reading, "/", Response(200, {}, b""), "")
        self.keep("1", "2")
        self.cache.happened("kites.v1.Other", "1")
        self.assertEqual(self.fresh(), {"", "1", "2"})
        self.cache.happened(CHANGED, "1")
        self.assertEqual(self.fresh(), {"2"})
        self.assertEqual(len(self.cache), 3)

    def test_writes(self) -> None:
        """A write drops all of its service, stale ones too, and nothing of others."""
        self.keep("1", "2")
        self.cache.wrote("somebody.else.Service")
        self.assertEqual(self.fresh(), {"1", "2"})
        self.cache.wrote(SERVED)
        self.assertEqual((len(self.cache), self.cache.size), (0, 0))

    def test_bounded(self) -> None:
        """Memory is bounded: what was not asked for the longest goes, and an answer that is too large is not kept."""
        self.keep(*(f"{number}" for number in range(100)), size=1000)
        self.assertLess(self.cache.size, 50_000)
        self.assertIn("99", self.fresh())
        self.assertNotIn("0", self.fresh())
        self.keep("huge", size=100_000)
        self.assertEqual((len(self.cache), self.cache.size), (0, 0))
        self.assertEqual((self.cache._of, self.cache._about), ({}, {}))

    def test_kept_again(self) -> None:
        """An answer replaces the one before."""
        self.keep("1", size=100)
        size = self.cache.size
        for _ in range(5):
            self.keep("1", size=100)
        self.assertEqual((len(self.cache), self.cache.size), (1, size))


class GivenAgainTests(GatewayTestCase):
    """The cache behind the gateway."""

    fresh, stale = 5.0, 60.0

    def setUp(self) -> None:
        super().setUp()
        self.kite: Any = self.message("Kite", kite_id="7")
        self.kite.colour = "old"
        for name in ("GetKite", "TugKite", "DeleteKite", "CreateKite"):
            self.channel.answers[SERVICE + name] = lambda call: self.kite
        self.channel.answers[SERVICE + "ListKites"] = lambda call: self.message("ListKitesResponse", kites=[self.kite])

    async def get(self, path: str = KITE, status: int = 200, **headers: str) -> Answer:
        answer = await self.ask("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        self.assertEqual(answer.status, status, answer.body)
        return answer

    async def colour(self) -> tuple[str, str | None]:
        """The kite's colour, and how its answer came to be."""
        answer = await self.get()
        return answer.json["colour"], answer.header("Cache-Status")

    async def test_again(self) -> None:
        """The same answer, with its age, and all that every response has; the service is not asked."""
        first = await self.get()
        self.cache_seconds = 3.7
        second = await self.get()
        self.assertEqual(len(self.channel.calls), 1)
        self.assertEqual(second.body, first.body)
        self.assertEqual((second.header("Age"), second.header("Cache-Status")), ("3", HIT))
        self.assertEqual((first.header("Age"), first.header("Cache-Status")), (None, None))
        for name in ("ETag", "Content-Type", "Cache-Control", "Server", "Strict-Transport-Security"):
            self.assertEqual(second.header(name), first.header(name), name)
        for name in ("X-Request-Id", "RateLimit", "Date"):
            self.assertTrue(second.header(name), name)

    async def test_validators(self) -> None:
        """A client that has it already hears so, and HEAD has no body."""
        etag = (await self.get()).header("ETag")
        assert etag is not None
        answer = await self.get(status=304, If_None_Match=etag)
        self.assertEqual((answer.body, answer.header("ETag"), answer.header("Content-Type")), (b"", etag, None))
        head = await self.ask("HEAD", KITE)
        self.assertEqual((head.status, head.body, head.header("Cache-Status")), (200, b"", HIT))
        self.assertEqual(len(self.channel.calls), 1)

    async def test_not_for_long(self) -> None:
        """After its seconds the service is asked again."""
        await self.get()
        self.kite.colour = "new"
        self.cache_seconds = 5.0
        self.assertEqual(await self.colour(), ("new", None))

    async def test_own_wishes(self) -> None:
        """A client that wants no kept answer, or names a time, gets its own; one that says nonsense hears so."""
        await self.get()
        for name, value in (("Cache-Control", "no-cache"), ("Pragma", "no-cache"), ("Request-Timeout", "5")):
            answer = await self.ask("GET", KITE, headers={name: value})
            self.assertEqual((answer.status, answer.header("Cache-Status")), (200, None), name)
        self.assert_problem(await self.ask("GET", KITE, headers={"Request-Timeout": "x"}), 400, "INVALID_ARGUMENT")
        self.assertEqual(len(self.channel.calls), 4)

    async def test_tokens_count(self) -> None:
        """A kept answer is no way round a refused token, nor round the rates."""
        await self.get()
        self.assert_problem(await self.ask("GET", KITE, headers=bearer("ada", exp=1)), 401, "UNAUTHENTICATED")
        answer = await self.ask("GET", KITE, headers=bearer("ada"))
        self.assertEqual((answer.status, answer.header("Cache-Status")), (200, HIT))
        self.assertIn("principal", answer.header("RateLimit") or "")

    async def test_own_write(self) -> None:
        """Who has written, by whatever verb, never reads what was there before: neither from what was kept, nor from what
        was read while the write was under way."""
        self.assertEqual(await self.colour(), ("old", None))
        for verb, path, body in (("POST", f"{KITE}:tug", {}), ("DELETE", KITE, None)):
            reading: Deferred[Any] = Deferred()
            self.channel.answers[SERVICE + "GetKite"] = lambda call, reading=reading: reading
            known = len(self.channel.calls)
            slow = Deferred.fromCoroutine(self.ask("GET", KITE, headers={"Cache-Control": "no-cache"}))
            await self.until(lambda known=known: len(self.channel.calls) > known)
            before = self.kite.SerializeToString()
            self.kite.colour += "er"
            await self.ask(verb, path, body, headers=bearer("ada"))
            reading.callback(before)
            await slow
            self.channel.answers[SERVICE + "GetKite"] = lambda call: self.kite
            self.assertEqual(await self.colour(), (self.kite.colour, None))
            self.assertEqual(await self.colour(), (self.kite.colour, HIT))

    async def test_write_that_ends_late(self) -> None:
        """A write whose client has left counts when it ends."""
        writing: Deferred[Any] = Deferred()
        self.channel.answers[SERVICE + "TugKite"] = lambda call: writing
        client = await self.raw(b"POST /kites/v1/kites/7:tug HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        await self.until(lambda: len(self.channel.calls) == 1)
        client.transport.abortConnection()
        await client.closed
        self.assertEqual(await self.colour(), ("old", None))
        self.assertEqual(await self.colour(), ("old", HIT))
        self.kite.colour = "new"
        writing.callback(b"")
        self.assertEqual(await self.colour(), ("new", None))

    async def test_kept_write(self) -> None:
        """A write that was kept drops answers when it is accepted, and again when its client may know that it is done."""
        kept = message_pb2.Deferred()
        kept.operation.name = "operations/1"
        self.channel.answers[SERVICE + "TugKite"] = Unavailable("away", details=[kept])
        await self.get()
        self.assertEqual((await self.ask("POST", f"{KITE}:tug", {})).status, 202)
        self.assertEqual(await self.colour(), ("old", None))
        self.kite.colour = "new"
        self.channel.answers["/bookd.mom.v1.MomService/GetOperation"] = b""
        self.assertEqual((await self.ask("GET", "/v1/operations/1", headers=bearer("ada"))).status, 200)
        self.assertEqual(await self.colour(), ("new", None))

    async def test_event(self) -> None:
        """An event that the kite changed has the service asked again, also for lists."""
        await self.get()
        await self.get("/kites/v1/kites")
        self.kite.colour = "new"
        self.cache.happened(CHANGED, "7")
        self.assertEqual(await self.colour(), ("new", None))
        self.assertIn(b"new", (await self.get("/kites/v1/kites")).body)

    async def test_failures_are_not_kept(self) -> None:
        """No problem is given again."""
        self.channel.answers[SERVICE + "GetKite"] = NotFound("no such kite")
        await self.get(status=404)
        self.channel.answers[SERVICE + "GetKite"] = lambda call: self.kite
        self.assertEqual(await self.colour(), ("old", None))

    async def test_stale_if_error(self) -> None:
        """While the service is away the last answer is given, for some time, with its age; what the service itself says
        stands, and after an own write nothing old is given."""
        await self.get()
        self.cache.happened(CHANGED, "7")
        self.cache_seconds = 59.0
        self.channel.answers[SERVICE + "GetKite"] = Unavailable("away")
        answer = await self.get()
        self.assertEqual((answer.header("Age"), answer.header("Cache-Status")), ("59", STALE))
        await self.get(status=503, Cache_Control="no-cache")
        self.channel.answers[SERVICE + "GetKite"] = NotFound("gone")
        await self.get(status=404)
        self.channel.answers[SERVICE + "GetKite"] = Unavailable("away")
        self.cache_seconds = 60.0
        await self.get(status=503)
        self.cache_seconds = 59.0
        await self.get()
        await self.ask("DELETE", KITE, headers=bearer("ada"))
        await self.get(status=503)


class OffTests(GatewayTestCase):
    """The gateway as it comes: without a cache."""

    async def test_off(self) -> None:
        """Each read asks the service."""
        self.channel.answers[SERVICE + "GetKite"] = b""
        for _ in range(3):
            await self.ask("GET", KITE)
        self.assertEqual((len(self.channel.calls), len(self.cache)), (3, 0))
