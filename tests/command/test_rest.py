"""The REST client against a suite over TLS: tokens, retries, and what it says when there is no answer."""

import gc
from datetime import UTC, datetime
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater

from bookd.command import rest as module
from bookd.command.answer import Call, Refusal, Unreachable
from bookd.command.home import CommandError
from bookd.command.session import Session, Tokens
from bookd.pki import make_authority
from tests.command.suite import BROKEN, CREDENTIALS, ENDLESS, HUNG, Asked, Says, SuiteCase, problem, tokens

BOOK = Call("POST", "/v1/books", {"title": "T"})
READ = Call("GET", "/v1/books/b")
ENDED = problem(401, "UNAUTHENTICATED", "ended", "TOKEN_EXPIRED")


def script(*says: Any) -> Any:
    """Answers one after another; the last goes on."""
    left = list(says)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


class CallTests(SuiteCase):
    """One call."""

    async def test_asks_as_the_caller_says(self) -> None:
        """Verb, path, query and body arrive, with the token and a key for the write; the answer is decoded."""
        url = self.plays(script(Says(201, {"book_id": "b"})))
        session = Session()
        session.tokens = Tokens("u1", "a1", "r1", 9e12)
        answer = await self.rest(url, session).call(
            Call("POST", "/v1/books", {"title": "é"}, {"book_id": "b&c"}), key="k1"
        )
        self.assertEqual((answer.status, answer.body), (201, {"book_id": "b"}))
        self.assertEqual(self.asked, [Asked("POST", "/v1/books?book_id=b%26c", {"title": "é"}, '"k1"', "a1")])

    async def test_public_calls_bear_no_token(self) -> None:
        """A token that may have ended is not sent where none is needed; a read has no key."""
        url = self.plays(script(Says(200, {})))
        session = Session()
        session.tokens = Tokens("u1", "a1", "r1", 9e12)
        await self.rest(url, session).call(Call("GET", "/v1/books", public=True))
        self.assertEqual(self.asked, [Asked("GET", "/v1/books", None, None, None)])

    async def test_refusal_bears_the_problem(self) -> None:
        """A refusal has its status, code, reason and words."""
        url = self.plays(script(problem(404, "NOT_FOUND", "no book b", "BOOK_NOT_FOUND")))
        refusal = await self.assertFailure(ensureDeferred(self.rest(url).call(READ)), Refusal)
        self.assertEqual((refusal.status, refusal.code, refusal.reason), (404, "NOT_FOUND", "BOOK_NOT_FOUND"))
        self.assertEqual(str(refusal), "no book b")

    async def test_answer_that_is_no_problem(self) -> None:
        """An error page of something in between is a refusal that shows its beginning."""
        url = self.plays(script(Says(500, b"<html>oops")))
        refusal = await self.assertFailure(ensureDeferred(self.rest(url).call(READ)), Refusal)
        self.assertEqual(dict(refusal.problem), {"title": "HTTP status 500", "detail": "<html>oops"})


class PatienceTests(SuiteCase):
    """Trying again."""

    async def test_busy_suite_is_asked_again_under_the_same_key(self) -> None:
        """503, 429 and 504 are followed by another attempt with the same key, when the caller is patient."""
        busy = problem(503, "UNAVAILABLE", "later", retry_after="0")
        url = self.plays(script(busy, problem(429, "RESOURCE_EXHAUSTED", ""), problem(504, "", ""), Says(201, {})))
        rest = self.rest(url, patience=20.0)
        answer = await rest.call(BOOK)
        self.assertEqual((answer.status, rest.retried), (201, 3))
        self.assertEqual(len({asked.key for asked in self.asked}), 1)

    async def test_impatient_caller_hears_at_once(self) -> None:
        """Without patience a 503 is a refusal, with its Retry-After."""
        url = self.plays(script(problem(503, "UNAVAILABLE", "later", retry_after="7")))
        refusal = await self.assertFailure(ensureDeferred(self.rest(url).call(BOOK)), Refusal)
        self.assertEqual(refusal.answer.retry_after(1.0), 7.0)
        self.assertEqual(len(self.asked), 1)

    async def test_broken_connection_gets_a_second_attempt(self) -> None:
        """A connection that breaks before the answer is replaced once, with the same key."""
        url = self.plays(script(BROKEN, Says(201, {})))
        self.assertEqual((await self.rest(url).call(BOOK)).status, 201)
        self.assertEqual(self.asked[0].key, self.asked[1].key)

    async def test_call_that_is_given_up(self) -> None:
        """A call that its caller cancels is not made again."""
        url = self.plays(script(HUNG))
        calling = ensureDeferred(self.rest(url).call(BOOK))
        while not self.asked:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        calling.cancel()
        await self.assertFailure(calling, CancelledError)
        await deferLater(reactor, 0.05)  # type: ignore[arg-type]
        self.assertEqual(len(self.asked), 1)

    async def test_clients_that_are_forgotten(self) -> None:
        """Calls that wait for one renewal and that nobody holds any more are collected in any order, and wake nobody."""

        class Silent:
            def request(self, *arguments: Any, **options: Any) -> Deferred[Any]:
                return Deferred()

        rest: Any = self.rest("https://localhost:1", credentials=CREDENTIALS)
        rest._http, rest._clock = Silent(), Clock()
        calls = [rest.call(READ) for _ in range(3)]
        waiting = [Deferred.fromCoroutine(each) for each in calls]
        for each in reversed(calls):  # as the garbage collector does, in an order of its own
            each.close()
        self.assertEqual([each.called for each in waiting], [False] * 3)
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_connection_that_breaks_each_time(self) -> None:
        """A suite that hangs up again and again is unreachable."""
        url = self.plays(script(BROKEN))
        error = await self.assertFailure(ensureDeferred(self.rest(url).call(BOOK)), Unreachable)
        self.assertIn("broke the connection", str(error))


class SessionTests(SuiteCase):
    """Access tokens that end."""

    def session(self, expires_at: float = 9e12) -> Session:
        """An open session in a file."""
        session = Session(self.folder / "client" / "session.json")
        session.keep(Tokens("u1", "a0", "r0", expires_at))
        return session

    def keeper(self, good: str) -> Any:
        """A suite that takes the access token `good` only, and gives it for r0."""

        def answers(asked: Asked) -> Says:
            if asked.path == "/v1/sessions:refresh":
                return tokens(1) if asked.body == {"refresh_token": "r0"} else ENDED
            return Says(200, {}) if asked.token == good else ENDED

        return answers

    async def test_token_that_has_ended_is_replaced_before_the_call(self) -> None:
        """A token without life left is refreshed first, once for all calls at a time, and kept."""
        url = self.plays(self.keeper("a1"))
        session = self.session(expires_at=0)
        rest = self.rest(url, session)
        await gatherResults([ensureDeferred(rest.call(READ)) for _ in range(5)])
        self.assertEqual([asked.path for asked in self.asked].count("/v1/sessions:refresh"), 1)
        self.assertEqual(len(self.asked), 6)
        self.assertEqual(Session(session.path).tokens, session.tokens)

    async def test_token_that_is_refused_is_replaced(self) -> None:
        """After a 401 the token is refreshed and the call made again."""
        url = self.plays(self.keeper("a1"))
        self.assertEqual((await self.rest(url, self.session()).call(READ)).status, 200)
        self.assertEqual([asked.token for asked in self.asked], ["a0", None, "a1"])

    async def test_session_that_has_ended(self) -> None:
        """When the refresh token is refused too, the person is told to log in, and the session is forgotten."""
        url = self.plays(lambda asked: ENDED)
        session = self.session()
        refusal = await self.assertFailure(ensureDeferred(self.rest(url, session).call(READ)), Refusal)
        self.assertIn("log in again", str(refusal))
        self.assertFalse(session.path is not None and session.path.exists())

    async def test_another_process_was_quicker(self) -> None:
        """A refresh takes over the tokens that another process has written meanwhile."""
        url = self.plays(self.keeper("a7"))
        session = self.session(expires_at=0)
        Session(session.path).keep(Tokens("u1", "a7", "r7", 9e12))
        await self.rest(url, session).call(READ)
        self.assertEqual([asked.token for asked in self.asked], ["a7"])

    async def test_credentials_log_in_by_themselves(self) -> None:
        """With credentials the first call logs in, and a refused refresh logs in again."""
        live = {"a1"}

        def answers(asked: Asked) -> Says:
            if asked.path == "/v1/sessions":
                live.add("a2")
                return tokens(1 if len(self.asked) == 1 else 2)
            return Says(200, {}) if asked.token in live else ENDED

        rest = self.rest(self.plays(answers), credentials=CREDENTIALS)
        await rest.call(READ)
        live.clear()
        await rest.call(READ)
        self.assertEqual([asked.path for asked in self.asked].count("/v1/sessions"), 2)

    async def test_log_out(self) -> None:
        """Logging out revokes the refresh token and forgets the session; a second time it does nothing."""
        rest = self.rest(self.plays(script(Says(200, {}))), self.session())
        await rest.log_out()
        await rest.log_out()
        self.assertEqual(
            [(asked.path, asked.body) for asked in self.asked], [("/v1/sessions:revoke", {"refresh_token": "r0"})]
        )
        self.assertIsNone(rest.session.tokens)


class FollowTests(SuiteCase):
    """Operations."""

    async def test_follows_to_the_response(self) -> None:
        """An operation is asked for until it is done; a suite that is away meanwhile does no harm."""
        undone = Says(200, {"name": "operations/o1", "done": False})
        done = Says(200, {"name": "operations/o1", "done": True, "response": {"@type": "t", "book_id": "b"}})
        url = self.plays(script(undone, problem(503, "UNAVAILABLE", ""), BROKEN, BROKEN, done))
        self.assertEqual(await self.rest(url).follow("operations/o1"), {"book_id": "b"})
        self.assertEqual({asked.path for asked in self.asked}, {"/v1/operations/o1"})

    async def test_kept_call_that_was_refused(self) -> None:
        """The error of an operation is a refusal with code, reason and fields."""
        details = [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "OUT_OF_STOCK"},
            {
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "field_violations": [{"field": "f", "description": "d"}],
            },
        ]
        error = {"code": 9, "message": "sold out", "details": details}
        url = self.plays(script(Says(200, {"done": True, "error": error})))
        refusal = await self.assertFailure(ensureDeferred(self.rest(url).follow("operations/o1")), Refusal)
        self.assertEqual(
            (refusal.code, refusal.reason, str(refusal)), ("FAILED_PRECONDITION", "OUT_OF_STOCK", "sold out")
        )
        self.assertEqual(refusal.problem["violations"], [{"field": "f", "description": "d"}])

    async def test_suite_that_stays_away(self) -> None:
        """Whoever follows hears of a suite that does not come back."""
        self.patch(module, "AWAY_SECONDS", 0.1)
        error = await self.assertFailure(
            ensureDeferred(self.rest("https://localhost:1").follow("operations/o1")), Unreachable
        )
        self.assertIn("cannot be reached", str(error))

    async def test_patience_with_an_operation_ends(self) -> None:
        """An operation that is not done in time is named."""
        url = self.plays(script(Says(200, {"done": False})))
        error = await self.assertFailure(ensureDeferred(self.rest(url).follow("operations/o1", 0.1)), Unreachable)
        self.assertEqual(str(error), "operations/o1 is not done yet")


class UnreachableTests(SuiteCase):
    """Suites that do not answer, each told in one line."""

    async def told(self, url: str, **options: Any) -> str:
        """What the client says."""
        error = await self.assertFailure(ensureDeferred(self.rest(url, **options).call(READ)), Unreachable)
        self.assertNotIn("\n", str(error))
        return str(error)

    async def test_nobody_listens(self) -> None:
        """A refused connection."""
        self.assertIn("cannot be reached", await self.told("https://localhost:1"))

    async def test_no_such_host(self) -> None:
        """A name that nobody has."""
        self.assertIn("cannot be reached", await self.told("https://no-such-host.invalid"))

    async def test_another_authority(self) -> None:
        """A certificate of another authority, with the option that names the right one."""
        other = self.folder / "other.pem"
        other.write_bytes(make_authority(datetime.now(UTC)).certificate_pem)
        self.assertIn("--ca", await self.told(self.plays(script(Says(200, {}))), ca=other))

    async def test_no_tls(self) -> None:
        """A server that does not speak TLS."""

        class Plain(Protocol):
            def connectionMade(self) -> None:
                assert self.transport is not None
                self.transport.write(b"220 this is no TLS\r\n")

        port = reactor.listenTCP(0, Factory.forProtocol(Plain), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        self.assertIn("TLS", await self.told(f"https://localhost:{port.getHost().port}"))

    async def test_silence(self) -> None:
        """A suite that takes the request and says nothing."""
        self.patch(module, "ANSWER_SECONDS", 0.2)
        self.assertIn("did not answer", await self.told(self.plays(script(HUNG))))

    async def test_endless_answer(self) -> None:
        """An answer that is larger than any that is meant."""
        self.patch(module, "LARGEST_ANSWER", 1000)
        self.assertIn("larger", await self.told(self.plays(script(ENDLESS))))

    async def test_answer_that_is_no_json(self) -> None:
        """A web page with status 200."""
        self.assertIn("not JSON", await self.told(self.plays(script(Says(200, b"<html>")))))

    async def test_log_in_at_something_else(self) -> None:
        """JSON that is no session."""
        url = self.plays(script(Says(200, ["?"])))
        error = await self.assertFailure(ensureDeferred(self.rest(url).log_in("a", "b")), Unreachable)
        self.assertIn("not as a bookd suite", str(error))

    def test_no_address(self) -> None:
        """Addresses that cannot be a suite's are refused before anything is sent."""
        for url in ("http://localhost", "localhost:8081", "https://", "https://h/path", "ftp://x"):
            self.assertIn("is not the address", str(self.assertRaises(CommandError, self.rest, url)))

    def test_authority_file(self) -> None:
        """A file without a certificate, and none at all, are named."""
        empty = self.folder / "empty.pem"
        empty.write_text("")
        for ca in (empty, self.folder / "missing.pem", self.folder):
            error = self.assertRaises(CommandError, self.rest, "https://localhost:1", ca=ca)
            self.assertIn(str(ca), error.message)
