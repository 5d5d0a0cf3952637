"""The numbers of five real daemons."""

import tomllib
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.threads import deferToThread

from tests.integration.running import SuiteTestCase

CREATE = "/bookd.inventory.v1.InventoryService/CreateBook"
INVENTORY = "bookd.inventory.v1.InventoryService"


def fetched(url: str) -> tuple[int, str]:
    """Status and body of what is at an address."""
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, ""


class MetricsTests(SuiteTestCase):
    """What an agent on the host collects."""

    async def fetch(self, daemon: str, page: str) -> tuple[int, str]:
        """A page of a daemon."""
        port = tomllib.loads(self.config.read_text())[daemon]["metrics_port"]
        answer: tuple[int, str] = await deferToThread(fetched, f"http://127.0.0.1:{port}/{page}")
        return answer

    async def numbers(self, daemon: str) -> dict[tuple[str, ...], float]:
        """The numbers of a daemon, by name and by the values of their labels in the order of the labels' names."""
        status, text = await self.fetch(daemon, "metrics")
        self.assertEqual(status, 200)
        return {
            (each.name, *(value for _, value in sorted(each.labels.items()))): each.value
            for family in text_string_to_metric_families(text)
            for each in family.samples
        }

    async def test_every_daemon(self) -> None:
        """Each tells which it is, how it is and when its certificates end; a request is counted by all that it passes."""
        before = {name: await self.numbers(name) for name in ("gateway", "mom", "inventory")}
        await self.book()
        after = {name: await self.numbers(name) for name in before}
        for name, key in (
            ("gateway", ("bookd_http_requests_total", "201", "/v1/books", "POST")),
            ("mom", ("bookd_grpc_requests_total", "OK", CREATE)),
            ("inventory", ("bookd_grpc_requests_total", "OK", CREATE)),
        ):
            self.assertEqual(after[name].get(key, 0) - before[name].get(key, 0), 1, (key, sorted(after[name])))
        for name in ("gateway", "mom", "inventory", "orders", "users"):
            self.assertEqual((await self.fetch(name, "healthz"))[0], 200)
            self.assertEqual((await self.fetch(name, "readyz"))[0], 200)
            numbers = await self.numbers(name)
            self.assertEqual(numbers["bookd_daemon", f"bookd-{name}"], 1)
            self.assertGreater(numbers["bookd_certificate_ends_timestamp_seconds", f"pki/{name}.pem"], 1.7e9)
            self.assertGreater(numbers[("process_resident_memory_bytes",)], 1e6)

    async def test_outage(self) -> None:
        """While a service is away its breaker is open, and what waits for it is counted; afterwards it is not."""
        book_id = await self.book()
        await self.take("inventory", "stop")
        await self.ask("PATCH", f"/v1/books/{book_id}", {"title": "Later"}, self.admin)

        async def away() -> bool:
            numbers: Any = await self.numbers("mom")
            return bool(
                numbers["bookd_mom_queued_messages", INVENTORY] == 1
                and numbers["bookd_mom_breaker", "inventory", "open"]
            )

        await self.until(away)
        self.give_back("inventory")

        async def back() -> bool:
            numbers: Any = await self.numbers("mom")
            return bool(
                numbers["bookd_mom_queued_messages", INVENTORY] == 0
                and numbers["bookd_mom_breaker", "inventory", "closed"]
            )

        await self.until(back)
