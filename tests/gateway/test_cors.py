"""Pages of other origins."""

from typing import ClassVar

from tests.gateway.kites import SERVICE
from tests.gateway.serving import Answer, GatewayTestCase, bearer

SHOP = "https://shop.example"


def crossing(answer: Answer) -> list[str]:
    """The names of the headers by which a response lets pages of other origins in."""
    return [
        name.decode() for name, _ in answer.headers.getAllRawHeaders() if name.lower().startswith(b"access-control-")
    ]


class ClosedTests(GatewayTestCase):
    """Without a configured origin."""

    async def test_nothing_is_allowed(self) -> None:
        """No response has a word for other origins, and none depends on them."""
        self.channel.answers[SERVICE + "GetKite"] = b""
        for verb in ("GET", "OPTIONS"):
            sent = {"Origin": SHOP, "Access-Control-Request-Method": "GET"}
            answer = await self.ask(verb, "/kites/v1/kites/7", headers=sent)
            self.assertEqual((crossing(answer), answer.header("Vary")), ([], None))


class OpenTests(GatewayTestCase):
    """With two origins."""

    origins: ClassVar[list[str]] = [SHOP, "https://other.example"]

    async def test_answers(self) -> None:
        """A page of an allowed origin sees answers, problems and their headers; credentials of the browser never count."""
        self.channel.answers[SERVICE + "GetKite"] = b""
        for path in ("/kites/v1/kites/7", "/nothing", "/openapi.json", "/healthz", "//"):
            answer = await self.ask("GET", path, headers={"Origin": SHOP})
            self.assertEqual(answer.header("Access-Control-Allow-Origin"), SHOP, path)
            self.assertIn("X-Request-Id", answer.header("Access-Control-Expose-Headers") or "")
            self.assertEqual(answer.header("Vary"), "Origin")
            self.assertIsNone(answer.header("Access-Control-Allow-Credentials"))

    async def test_others(self) -> None:
        """Pages of other origins get nothing, and caches are told that it depends."""
        for origin in ("https://evil.example", "null", f"{SHOP}.evil.example", SHOP.upper(), f"{SHOP}, {SHOP}"):
            answer = await self.ask("GET", "/healthz", headers={"Origin": origin})
            self.assertEqual((crossing(answer), answer.header("Vary")), ([], "Origin"), origin)

    async def test_preflight(self) -> None:
        """The browser is told the verbs of the path and the headers that may be sent."""
        sent = {"Origin": SHOP, "Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "x"}
        answer = await self.ask("OPTIONS", "/kites/v1/kites/7", headers=sent)
        self.assertEqual(answer.status, 204)
        self.assertEqual(answer.header("Access-Control-Allow-Methods"), "DELETE, GET, HEAD, OPTIONS")
        self.assertIn("Idempotency-Key", answer.header("Access-Control-Allow-Headers") or "")
        plain = await self.ask("OPTIONS", "/kites/v1/kites/7", headers={"Origin": SHOP})
        self.assertIsNone(plain.header("Access-Control-Allow-Methods"))

    async def test_private(self) -> None:
        """What depends on who asks says so too."""
        self.channel.answers[SERVICE + "ListOwn"] = b""
        answer = await self.ask("GET", "/kites/v1/owners/ada/kites", headers=bearer("ada"))
        self.assertEqual((answer.status, answer.header("Vary")), (200, "Authorization, Origin"))


class EverybodyTests(GatewayTestCase):
    """With "*"."""

    origins: ClassVar[list[str]] = ["*"]

    async def test_everybody(self) -> None:
        """Every origin is answered alike, so that the answer does not depend on it."""
        answer = await self.ask("GET", "/healthz", headers={"Origin": "https://anybody.example"})
        self.assertEqual((answer.header("Access-Control-Allow-Origin"), answer.header("Vary")), ("*", None))
