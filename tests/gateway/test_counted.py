"""What the gateway counts: each request once, under names that clients cannot make up."""

from typing import Any

from bookd.bridge.metrics import Metrics
from bookd.contract.descriptors import Contract, load, shipped
from bookd.wire.inventory.v1 import inventory_pb2
from tests.bridge.test_metrics import samples
from tests.gateway.serving import GatewayTestCase

GET = "/bookd.inventory.v1.InventoryService/GetBook"


class CountedTests(GatewayTestCase):
    """The bookstore's gateway, counting."""

    def contract(self) -> Contract:
        """The bookstore's."""
        return load([shipped()])

    def setUp(self) -> None:
        super().setUp()
        self.metrics = Metrics("bookd-gateway")
        self.site.count = self.metrics.requests("http", ("verb", "route"))
        self.channel.answers[GET] = inventory_pb2.Book(book_id="1")

    def counted(self) -> dict[Any, float]:
        """How many requests, by code, route and verb."""
        told = samples(self.metrics).items()
        return {key[1:]: number for key, number in told if key[0] == "bookd_http_requests_total"}

    async def test_names(self) -> None:
        """By the template of the route, the verb and the status; what has no route, and verbs that are none, together."""
        for number in range(20):
            await self.ask("GET", f"/v1/books/{number}")
            await self.ask("GET", f"/v1/nothing/{number}")
            await self.ask(f"X{number}", "/v1/books/1")
        await self.ask("GET", "/v1/users")
        counted = self.counted()
        self.assertEqual(counted["200", "/v1/books/{book_id}", "GET"], 20)
        self.assertEqual(counted["404", "other", "GET"], 20)
        self.assertEqual(counted["401", "/v1/users", "GET"], 1)
        self.assertEqual(sum(number for key, number in counted.items() if key[2] == "other"), 20)
        self.assertEqual(sum(counted.values()), 61)
        self.assertLess(len(counted), 7)

    async def test_refused(self) -> None:
        """What is no request is counted too."""
        for data in (b"junk\r\n\r\n", b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"):
            client = await self.raw(data)
            await client.closed
        self.assertEqual({key[0]: number for key, number in self.counted().items()}, {"400": 1, "414": 1})
