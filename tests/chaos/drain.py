"""The scenario `drain`: orders is down, and thousands of orders are accepted all the same; then it is back.

Three acts. In the first, customers place orders directly: that is the rate to compare with. In the second, orders is
down, customers place as many, and orders comes back: when is the first one delivered, and how fast do the others follow?
In the third there are many more, and the MOM and orders are killed again and again while they are delivered. In the end
each order must be there once, in the order in which its customer placed it.
"""

import socket
import time
from collections.abc import Sequence
from random import Random
from typing import Any
from uuid import UUID

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.chaos import effects
from tests.chaos.checker import check, order_lane
from tests.chaos.client import BUSY, NOBODY, Client, Request, Silence, Somebody, message_id
from tests.chaos.history import History, Operation
from tests.chaos.mix import make_report, prepare, quiet, register
from tests.chaos.report import Report
from tests.chaos.theatre import Theatre
from tests.chaos.workload import Shelf, order_told

KILLS = 5
# Seconds in which everything kept has to be delivered after the last kill.
REST = 240.0


@frozen
class DrainPlan:
    """How a run is to be: `orders` are kept in the third act, `compared` in the first and in the second."""

    seed: int
    orders: int = 10_000
    compared: int = 2_000
    customers: int = 48
    books: int = 8


class Drain:
    """One run on a theatre that stands."""

    def __init__(self, reactor: Any, theatre: Theatre, history: History, plan: DrainPlan) -> None:
        self._reactor = reactor
        self._theatre = theatre
        self._history = history
        self._plan = plan
        self._chance = Random(plan.seed)
        self._clients: list[Client] = []

    async def run(self) -> Report:
        """The three acts and their report."""
        self._theatre.start()
        _, shelf = await prepare(self._reactor, self._theatre, self._plan.books, self._client, 10_000_000)
        customers = [
            self._client(await register(self._reactor, self._client(NOBODY), f"customer{number}"))
            for number in range(self._plan.customers)
        ]
        figures: dict[str, Any] = {}
        direct = await self._place(customers, shelf, self._plan.compared)
        figures["direct orders a second"] = round(direct)
        await self._settled()
        figures |= await self._compared(customers, shelf, direct)
        figures |= await self._killed(customers, shelf)
        await self._follow(customers)
        await self._close()
        await self._theatre.stop()
        verdict = check(self._history.operations, effects.read(self._theatre.data), shelf.stock)
        return make_report(
            f"drain: seed {self._plan.seed}, {self._plan.orders:,} orders", self._theatre, verdict, figures
        )

    async def _compared(self, customers: Sequence[Client], shelf: Shelf, direct: float) -> dict[str, Any]:
        """The second act."""
        before = effects.placed(self._theatre.data)
        await self._theatre.daemons["orders"].stop()
        await self._place(customers, shelf, self._plan.compared)
        self._theatre.daemons["orders"].start()
        back = await self._listens("orders")
        await self._until_placed(before.count + self._plan.compared)
        await self._settled()
        first, last = effects.placed(self._theatre.data, after=before.seq).times
        drained = self._plan.compared / (last - first)
        return {
            "seconds from return to first delivery": round(first - back, 2),
            "drained orders a second": round(drained),
            "drained to direct": round(drained / direct, 2),
        }

    async def _killed(self, customers: Sequence[Client], shelf: Shelf) -> dict[str, Any]:
        """The third act."""
        before = effects.placed(self._theatre.data)
        orders, mom = self._theatre.daemons["orders"], self._theatre.daemons["mom"]
        await orders.stop()
        accepting = await self._place(customers, shelf, self._plan.orders)
        orders.start()
        begun = self._reactor.seconds()
        for number in range(KILLS):
            await self._until_placed(before.count + self._plan.orders * (number + 1) // (KILLS + 2))
            for daemon in self._chance.sample([orders, mom], 2):
                await deferLater(self._reactor, self._chance.uniform(0, 0.1))
                self._history.note("fault", kind="kill", target=daemon.name)
                self._theatre.struck["kill"] += 1
                await daemon.kill()
            for daemon in self._chance.sample([orders, mom], 2):
                await deferLater(self._reactor, self._chance.uniform(0, 1.0))
                daemon.start()
        await self._until_placed(before.count + self._plan.orders)
        figures = {
            "accepted a second while it was down": round(accepting),
            "seconds of the drain with kills": round(self._reactor.seconds() - begun, 1),
        }
        await self._settled()
        return figures | {"orders in the end": effects.placed(self._theatre.data).count - before.count}

    async def _place(self, customers: Sequence[Client], shelf: Shelf, count: int) -> float:
        """Have so many orders placed, each customer one after the other; answers how many a second it were."""
        begun = self._reactor.seconds()
        numbers = iter(range(count))

        async def work(client: Client) -> None:
            for number in numbers:
                await self._order(client, shelf, number)

        await gatherResults([Deferred.fromCoroutine(work(client)) for client in customers])
        return float(count / (self._reactor.seconds() - begun))

    async def _order(self, client: Client, shelf: Shelf, number: int) -> None:
        book_id = shelf.books[number % len(shelf.books)]
        marker = f"address {self._chance.getrandbits(64):016x}"
        body = {"items": [{"book_id": book_id, "quantity": 1}], "shipping_address": marker}
        key = str(UUID(int=self._chance.getrandbits(128), version=4))
        operation = self._history.invoke(
            "order.create",
            order_lane(client.who.user_id),
            message_id(client.who, key),
            marker=marker,
            items={book_id: 1},
        )
        while operation.accepted is None:
            operation.attempts += 1
            try:
                answer = await client.ask(Request("POST", "/v1/orders", body, key))
            except Silence:
                continue
            if answer.status == 202:
                self._history.accept(operation, answer.body["name"])
            elif answer.status == 201:
                self._history.ok(operation, **order_told(answer.body))
            elif answer.status not in BUSY:
                self._history.refused(operation, answer.status, answer.reason)
                return
            else:
                await deferLater(self._reactor, 0.2)

    async def _follow(self, customers: Sequence[Client]) -> None:
        """Ask what became of all that was kept."""
        by_lane = {order_lane(client.who.user_id): client for client in customers}
        waiting = iter([each for each in self._history.operations if each.name and each.outcome == "unknown"])

        async def work() -> None:
            for operation in waiting:
                await self._ask(by_lane[operation.lane], operation)

        await gatherResults([Deferred.fromCoroutine(work()) for _ in range(16)])

    async def _ask(self, client: Client, operation: Operation) -> None:
        for _ in range(5):
            try:
                answer = await client.ask(Request("GET", f"/v1/{operation.name}"))
            except Silence:
                continue
            if answer.status == 200:
                client.ended(operation, answer.body, order_told)
                return
            if answer.status not in BUSY:
                self._history.refused(operation, answer.status, answer.reason)
                return

    async def _until_placed(self, count: int) -> None:
        until = self._reactor.seconds() + REST
        while effects.placed(self._theatre.data).count < count and self._reactor.seconds() < until:
            await deferLater(self._reactor, 0.05)

    async def _settled(self) -> None:
        await quiet(self._reactor, self._theatre.data, REST)

    async def _listens(self, name: str) -> float:
        """When the daemon takes connections, in seconds since the epoch."""
        while True:
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self._theatre.ports[name])) == 0:
                    return time.time()
            await deferLater(self._reactor, 0.005)

    def _client(self, who: Somebody) -> Client:
        client = Client(
            self._reactor,
            self._theatre.url,
            self._theatre.authority,
            who,
            self._history,
            Random(self._chance.random()),
            lambda: False,
        )
        self._clients.append(client)
        return client

    async def _close(self) -> None:
        for client in self._clients:
            await client.close()
