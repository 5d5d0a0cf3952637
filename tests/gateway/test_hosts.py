"""For which host a request is."""

import json
import re

from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway.hosts import Hosts, origin_form
from tests.gateway.kites import SERVICE
from tests.gateway.serving import GatewayTestCase

GET = SERVICE + "GetKite"
# Values of the header, and what is wrong with them.
MALFORMED = (
    b"", b"a..b", b".a", b"a b", b"a,b", b"a/b", b"a@b", b"user:word@a", b"a:b", b"a:65536", b"a:-1", b"a:+1",
    b"a:8081:8081", b"a?b", b"a#b", b"a\\b", b"\xff", "ü.example".encode(), b"%61", b"*", b"*.a", b"'", b"<a>", b"[", b"[]",
    b"[::1", b"::1", b"[::1]a", b"[::g]", b"[1.2.3.4]", b"[fe80::1%25eth0]", b"https://a", b"a" * 64, b"a." * 130 + b"a", b"a" * 10_000,
)  # fmt: skip
WELL_FORMED = (
    b"localhost", b"LOCALHOST", b"localhost.", b"localhost:8081", b"localhost:", b"shop.example", b"xn--bcher-kva.example", b"192.0.2.1",
    b"my_container:80", b"[::1]", b"[::1]:8081", b"[2001:DB8::1]", b"[::ffff:192.0.2.1]", b"a" * 63,
)  # fmt: skip


class HostsTests(SynchronousTestCase):
    """What is read in the header, and compared."""

    def status(self, hosts: Hosts, host: bytes | None) -> str:
        """What a request for a host is told."""
        error = hosts.judge(host)
        return "" if error is None else error.reason or error.code.name

    def test_any(self) -> None:
        """Without a list every name is served, and what is no name is refused."""
        for host in MALFORMED:
            self.assertEqual(self.status(Hosts(), host), "INVALID_ARGUMENT", host)
        for host in (*WELL_FORMED, None):
            self.assertEqual(self.status(Hosts(), host), "", host)

    def test_listed(self) -> None:
        """With one, those on it are: whatever the case, the port, the spelling of an address, and the dot of the root."""
        hosts = Hosts(["Shop.Example", "*.books.example", "192.0.2.1", "2001:db8::1"])
        for host in (
            b"shop.example", b"SHOP.example:444", b"shop.example.", b"a.books.example", b"a.b.books.example", b"192.0.2.1:1",
            b"[2001:db8:0::1]", b"[2001:DB8::1]:8081",
        ):  # fmt: skip
            self.assertEqual(self.status(hosts, host), "", host)
        for other in (
            b"evil.example", b"localhost", b"shop.example.evil.example", b"xshop.example", b"a.shop.example", b"books.example",
            b"xbooks.example", b"192.0.2.2", b"[::1]", None,
        ):  # fmt: skip
            self.assertEqual(self.status(hosts, other), "MISDIRECTED_REQUEST", other)
        self.assertEqual(self.status(hosts, b"shop.example:x"), "INVALID_ARGUMENT")

    def test_no_names(self) -> None:
        """What is no name cannot be configured."""
        for name in (
            "",
            "*",
            "https://shop.example",
            "shop.example/x",
            "a b",
            "a.*.b",
            "shop..example",
            "bücher.example",
        ):
            self.assertRaises(ValueError, Hosts, [name])

    def test_absolute(self) -> None:
        """A target in absolute form means its path, where the header says the same host."""
        for target, path in (
            (b"https://a/v1?x=/", b"/v1?x=/"), (b"HTTPS://A", b"/"), (b"https://a?x", b"/?x"), (b"https://a//b", b"//b"),
        ):  # fmt: skip
            self.assertEqual(origin_form(target, b"a"), path)
        for other in (
            b"https://b/", b"http://a/", b"https://x@a/", b"https://a:1/", b"https:///", b"ftp://a/", b"a:443", b"https:/a", b"x",
        ):  # fmt: skip
            self.assertIsNone(origin_form(other, b"a"), other)
        self.assertIsNone(origin_form(b"https://a/", None))


class ServedTests(GatewayTestCase):
    """Requests on a connection."""

    async def told(self, *lines: bytes) -> tuple[int, dict[str, object]]:
        """The status and the body of the answer to a request."""
        self.channel.answers[GET] = self.message("Kite", kite_id="7")
        client = await self.raw(b"".join(line + b"\r\n" for line in (*lines, b"Connection: close", b"")))
        await self.until(lambda: re.search(rb"\r\n\r\n.", client.received))
        await client.closed
        head, _, body = bytes(client.received).partition(b"\r\n\r\n")
        return int(head[9:12]), json.loads(body)

    async def test_host(self) -> None:
        """Malformed hosts are 400, and so are two and none; others are served."""
        line = b"GET /kites/v1/kites/7 HTTP/1.1"
        for host in (b"", b"a b", b"user@a", b"[::1", b"a:x"):
            self.assertEqual((await self.told(line, b"Host: " + host))[0], 400, host)
        self.assertEqual((await self.told(line))[0], 400)
        self.assertEqual((await self.told(line, b"Host: a", b"Host: a"))[0], 400)
        self.assertEqual((await self.told(line, b"Host: a", b"host: b"))[0], 400)
        self.assertEqual(self.channel.calls, [])
        for host in (b"evil.example", b"localhost:1", b"[::1]:8081"):
            self.assertEqual(await self.told(line, b"Host: " + host), (200, {**(await self.kite())}), host)
        self.assertEqual((await self.told(b"GET /kites/v1/kites/7 HTTP/1.0"))[0], 200)

    async def kite(self) -> dict[str, object]:
        """What is answered."""
        answer: dict[str, object] = (await self.ask("GET", "/kites/v1/kites/7")).json
        return answer

    async def test_absolute(self) -> None:
        """A target in absolute form is understood; for another host than the header's it is 400."""
        line = b"GET https://shop.example/kites/v1/kites/7?view=x HTTP/1.1"
        status, told = await self.told(line.replace(b"?view=x", b""), b"Host: Shop.example")
        self.assertEqual((status, told), (200, await self.kite()))
        self.assertEqual((await self.told(line, b"Host: evil.example"))[0], 400)
        self.assertEqual((await self.told(line.replace(b"https", b"http"), b"Host: shop.example"))[0], 400)
        self.assertEqual((await self.told(b"GET https://a/healthz HTTP/1.1", b"Host: a"))[0], 200)
        status, told = await self.told(line, b"Host: shop.example")
        self.assertEqual((status, told["violations"][0]["field"]), (400, "view"))  # type: ignore[index]


class ListedTests(ServedTests):
    """A gateway that serves its own names only."""

    hosts = ["shop.example", "127.0.0.1"]  # noqa: RUF012

    async def test_host(self) -> None:
        """Another name is 421, whatever is asked for, by a page or with a body; malformed is 400 nevertheless."""
        for line in (
            b"GET /kites/v1/kites/7 HTTP/1.1",
            b"GET /healthz HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"GET /x HTTP/1.1",
        ):
            status, told = await self.told(line, b"Host: evil.example:8081", b"Origin: https://evil.example:8081")
            self.assertEqual((status, told["type"]), (421, "urn:bookd:problem:MISDIRECTED_REQUEST"), line)
            self.assertEqual((await self.told(line, b"Host: a b"))[0], 400, line)
        self.assertEqual((await self.told(b"GET /healthz HTTP/1.0"))[0], 421)
        self.assertEqual(self.channel.calls, [])
        self.assertEqual((await self.told(b"GET /kites/v1/kites/7 HTTP/1.1", b"Host: SHOP.example:444"))[0], 200)

    async def test_absolute(self) -> None:
        """A target does not help."""
        told = await self.told(b"GET https://evil.example/healthz HTTP/1.1", b"Host: evil.example")
        self.assertEqual(told[0], 421)
        told = await self.told(b"GET https://shop.example/healthz HTTP/1.1", b"Host: shop.example")
        self.assertEqual(told[0], 200)
