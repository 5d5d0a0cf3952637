"""What every response says and does not say, and what verbs and types do to a request."""

from tests.gateway.kites import SERVICE
from tests.gateway.serving import Answer, GatewayTestCase, bearer

KITE = "/kites/v1/kites/7"
BANNERS = (b"twisted", b"klein", b"python", b"grpc")


class HygieneTests(GatewayTestCase):
    """The gateway as browsers, caches and curious people see it."""

    def setUp(self) -> None:
        super().setUp()
        for name in ("GetKite", "ListKites", "ListOwn", "TugKite", "DeleteKite", "CreateKite"):
            self.channel.answers[SERVICE + name] = b""

    async def everything(self) -> list[Answer]:
        """One answer of each kind."""
        owner = bearer("ada")
        return [
            await self.ask("GET", KITE),
            await self.ask("GET", "/kites/v1/owners/ada/kites", headers=owner),
            await self.ask("DELETE", KITE, headers=owner),
            await self.ask("POST", f"{KITE}:tug", {}),
            await self.ask("POST", f"{KITE}:tug", b"{", {"Content-Type": "application/json"}),
            await self.ask("GET", "/kites/v1/owners/ada/kites"),
            await self.ask("GET", "/nothing"),
            await self.ask("GET", "//"),
            await self.ask("PUT", KITE, {}),
            await self.ask("OPTIONS", KITE),
            await self.ask("HEAD", KITE),
            await self.ask("GET", "/openapi.json"),
            await self.ask("GET", "/healthz"),
        ]

    async def test_always(self) -> None:
        """Every response forbids guessing its type, insists on HTTPS, has an id, and names no software's version."""
        for answer in await self.everything():
            self.assertEqual(answer.header("X-Content-Type-Options"), "nosniff")
            self.assertRegex(answer.header("Strict-Transport-Security") or "", "^max-age=[0-9]{8}")
            self.assertTrue(answer.header("X-Request-Id"))
            self.assertTrue(answer.header("Cache-Control"), answer.status)
            said = repr([*answer.headers.getAllRawHeaders()]).lower().encode()
            self.assertEqual(answer.header("Server"), "bookd")
            self.assertEqual([banner for banner in BANNERS if banner in said], [])

    async def test_private(self) -> None:
        """What depends on who asks is nobody else's: not stored, and told to vary."""
        answer = await self.ask("GET", "/kites/v1/owners/ada/kites", headers=bearer("ada"))
        self.assertEqual((answer.header("Cache-Control"), answer.header("Vary")), ("no-store", "Authorization"))
        refused = await self.ask("GET", "/kites/v1/owners/ada/kites")
        self.assertEqual((refused.header("Cache-Control"), refused.header("Vary")), ("no-store", "Authorization"))
        public = await self.ask("GET", KITE)
        self.assertEqual((public.header("Cache-Control"), public.header("Vary")), ("no-cache", None))

    async def test_types(self) -> None:
        """A body of another type, of another encoding, or packed, is 415, whatever the verb; one without a type is JSON."""
        wrong = (
            "text/plain",
            "application/xml",
            "application/json-seq",
            "multipart/form-data; boundary=x",
            "json",
            "*/*",
        )
        for kind in (*wrong, "application/json; charset=utf-16"):
            answer = await self.ask("POST", f"{KITE}:tug", b"{}", {"Content-Type": kind})
            self.assert_problem(answer, 415, "INVALID_ARGUMENT")
        for packed in ("gzip", "deflate", "br", "identity, gzip"):
            sent = {"Content-Type": "application/json", "Content-Encoding": packed}
            self.assert_problem(await self.ask("POST", f"{KITE}:tug", b"\x1f\x8b", sent), 415, "INVALID_ARGUMENT")
        self.assertEqual(self.channel.calls, [])
        for kind in ("application/json", "Application/JSON", 'application/json; charset="UTF-8"'):
            answer = await self.ask("POST", f"{KITE}:tug", b"{}", {"Content-Type": kind})
            self.assertEqual(answer.status, 200)

    async def test_head(self) -> None:
        """HEAD is GET without the body: the same status and headers, and what GET does not answer HEAD does not."""
        got, head = await self.ask("GET", KITE), await self.ask("HEAD", KITE)
        self.assertEqual((head.status, head.body), (200, b""))
        for name in ("Content-Type", "Cache-Control", "ETag", "Vary"):
            self.assertEqual(head.header(name), got.header(name), name)
        tug = await self.ask("HEAD", f"{KITE}:tug")
        self.assertEqual((tug.status, tug.header("Allow"), tug.body), (405, "OPTIONS, POST", b""))

    async def test_options(self) -> None:
        """OPTIONS tells the verbs of a path and calls nothing; nowhere is TRACE or CONNECT answered."""
        answer = await self.ask("OPTIONS", KITE)
        self.assertEqual((answer.status, answer.header("Allow")), (204, "DELETE, GET, HEAD, OPTIONS"))
        for verb in ("TRACE", "CONNECT", "PROPFIND"):
            self.assertEqual((await self.ask(verb, KITE)).status, 405, verb)
        self.assertEqual(self.channel.calls, [])

    async def test_bytes_that_are_no_text(self) -> None:
        """Headers of any bytes are read or refused, and never break anything."""
        for name in ("If-Match", "Prefer", "Idempotency-Key", "X-Request-Id", "Authorization", "traceparent", "Origin"):
            for value in (b"\x84", b"\xff\xfe", "é".encode(), b"\xed\xa0\x80"):
                answer = await self.ask("POST", f"{KITE}:tug", b"{}", {name: value, "Content-Type": "application/json"})
                self.assertIn(answer.status, (200, 400, 401), (name, value))
        for value in (b"\x84", b"\xff"):
            answer = await self.ask("GET", "/kites/v1/wind", headers={"Last-Event-ID": value})
            self.assert_problem(answer, 400, "INVALID_ARGUMENT")
