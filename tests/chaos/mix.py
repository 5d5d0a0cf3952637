"""The scenario `mix`: clients write while a nemesis strikes; then all is healed, and the history is checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.chaos import effects
from tests.chaos.checker import Anomaly, Fault, Seen, Verdict, check
from tests.chaos.client import NOBODY, Client, Request, Somebody
from tests.chaos.history import History
from tests.chaos.nemesis import KINDS, PACE, schedule
from tests.chaos.report import Report
from tests.chaos.theatre import Theatre
from tests.chaos.workload import PRICE, CustomerHand, Hand, Shelf, StaffHand, insist

# Seconds after the healing in which every operation has to end, and the suite to come to rest.
REST = 60.0
# Seconds that the suite must have nothing to do before it counts as quiet.
STILL = 1.0
# Writes that are sent once more in the end.
REPEATED = 200
PASSWORD = "correct horse battery"


@frozen
class Plan:
    """How a run is to be."""

    seed: int
    seconds: float
    kinds: Sequence[str] = tuple(KINDS)
    customers: int = 10
    staff: int = 4
    books: int = 24
    pause: float = 0.05
    pace: float = PACE
    rest: float = REST


class Mix:
    """One run on a theatre that stands."""

    def __init__(self, reactor: Any, theatre: Theatre, history: History, plan: Plan) -> None:
        self._reactor = reactor
        self._theatre = theatre
        self._history = history
        self._plan = plan
        self._over_at = float("inf")
        self._clients: list[Client] = []

    async def run(self) -> Report:
        """Prepare, work and strike, heal, and check."""
        hands, shelf = await self.prepare()
        self._theatre.perform(schedule(self._plan.seed, self._plan.seconds, self._plan.kinds, self._plan.pace))
        begun = self._reactor.seconds()
        working = [Deferred.fromCoroutine(hand.work(self._plan.pause)) for hand in hands]
        await deferLater(self._reactor, self._plan.seconds)
        for hand in hands:
            hand.stopped = True
        await self._theatre.heal()
        healed = self._reactor.seconds()
        self._over_at = healed + self._plan.rest
        await gatherResults(working)
        await quiet(self._reactor, self._theatre.data, self._plan.rest)
        rested = self._reactor.seconds()
        repeated = await self._repeat()
        seen = await self._look()
        await self.close()
        await self._theatre.stop()
        verdict = check(self._history.operations, effects.read(self._theatre.data), shelf.stock, seen)
        acknowledged = verdict.counts["acknowledged"]
        figures = {
            "writes a second": round(acknowledged / (healed - begun)),
            "seconds to rest": round(rested - healed, 1),
            "answers 500": sum(note["event"] == "broken" for note in self._history.notes),
            "critical in the logs": self._theatre.cries(),
        }
        title = f"mix: seed {self._plan.seed}, {self._plan.seconds:g} s, {len(hands)} hands"
        found = [*verdict.anomalies, *(Anomaly(Fault.UNEXPECTED, each) for each in repeated)]
        return make_report(title, self._theatre, evolve(verdict, anomalies=found), figures, self._plan.kinds)

    async def prepare(self) -> tuple[list[Hand], Shelf]:
        """Start the daemons; make the users and the books of the run."""
        self._theatre.start()
        staff, shelf = await prepare(self._reactor, self._theatre, self._plan.books, self.client)
        hands: list[Hand] = []
        for number in range(self._plan.customers):
            customer = await self.customer(number)
            hands += [
                CustomerHand(self._reactor, f"c{number}.{side}", customer, self._chance(f"c{number}.{side}"), shelf)
                for side in range(2)
            ]
        hands += [
            StaffHand(self._reactor, f"s{number}", staff, self._chance(f"s{number}"), shelf)
            for number in range(self._plan.staff)
        ]
        return hands, shelf

    async def customer(self, number: int) -> Client:
        """A client for a new user."""
        return self.client(await register(self._reactor, self.client(NOBODY, "register"), f"customer{number}"))

    def client(self, who: Somebody, name: str = "") -> Client:
        """A client that gives up when the run is over."""
        client = Client(
            self._reactor,
            self._theatre.url,
            self._theatre.authority,
            who,
            self._history,
            self._chance(f"client {name or who.user_id}"),
            lambda: self._reactor.seconds() > self._over_at,
        )
        self._clients.append(client)
        return client

    async def close(self) -> None:
        """Close the clients' connections."""
        for client in self._clients:
            await client.close()

    async def _repeat(self) -> list[str]:
        """Send some of what has ended once more, all refusals among it; answers what was wrong with the answers."""
        self._over_at = self._reactor.seconds() + self._plan.rest
        sent = [(client, each) for client in self._clients for each in client.sent]
        chosen = self._chance("repeat").sample(sent, min(REPEATED, len(sent)))
        chosen += [each for each in sent if each[1].operation.outcome == "refused"]
        return [wrong for client, each in chosen if (wrong := await client.repeat(each))]

    async def _look(self) -> Seen:
        staff = next(client for client in self._clients if client.who.token)
        books = await everything(self._reactor, staff, "books")
        orders = await everything(self._reactor, staff, "orders")
        return Seen(
            {book["book_id"]: book.get("stock", 0) for book in books},
            {order["order_id"]: order["status"].removeprefix("ORDER_STATUS_") for order in orders},
        )

    def _chance(self, name: str) -> Random:
        return Random(f"{self._plan.seed} {name}")


async def prepare(
    reactor: Any, theatre: Theatre, books: int, client_of: Any, stock: int = 100_000
) -> tuple[Client, Shelf]:
    """Wait until the suite answers, log the administrator in, and add books, one in six of them scarce."""
    await insist(reactor, client_of(NOBODY), Request("GET", "/v1/books"), 40.0)
    credentials = effects.administrator(theatre.home)
    session = await insist(reactor, client_of(NOBODY), Request("POST", "/v1/sessions", credentials))
    staff = client_of(Somebody(session["user_id"], session["access_token"]))
    held: dict[str, int] = {}
    for number in range(books):
        copies = 10 if number % 6 == 5 else stock
        body = {"title": f"Book {number}", "author": "Somebody", "price": PRICE, "stock": copies}
        made = await insist(reactor, staff, Request("POST", "/v1/books", body, key=str(uuid4())))
        held[made["book_id"]] = copies
    theatre.history.note("stock", books=held)
    return staff, Shelf(held)


async def register(reactor: Any, client: Client, name: str) -> Somebody:
    """A new user with a session."""
    who = {"username": name, "password": PASSWORD}
    body = {**who, "email": f"{name}@example.org", "address": "1 Main St"}
    await insist(reactor, client, Request("POST", "/v1/users", body, key=str(uuid4())))
    session = await insist(reactor, client, Request("POST", "/v1/sessions", who))
    return Somebody(session["user_id"], session["access_token"])


async def quiet(reactor: Any, data: Path, seconds: float) -> Mapping[str, int]:
    """Wait until nothing is left to do, or for so many seconds; answers what is left."""
    until = reactor.seconds() + seconds
    since = None
    while True:
        left = effects.unsettled(data)
        now = reactor.seconds()
        since = None if left else since or now
        if (since is not None and now - since >= STILL) or now > until:
            return left
        await deferLater(reactor, 0.2)


async def everything(reactor: Any, client: Client, kind: str) -> list[Any]:
    """All books, or all orders, page by page."""
    found: list[Any] = []
    token = ""
    while True:
        page = await insist(reactor, client, Request("GET", f"/v1/{kind}?page_size=500&page_token={token}"))
        found += page.get(kind, [])
        token = page.get("next_page_token", "")
        if not token:
            return found


def make_report(
    title: str, theatre: Theatre, verdict: Verdict, figures: Mapping[str, Any], asked: Sequence[str] = ()
) -> Report:
    """The report of a run on a theatre, where faults of the kinds `asked` were to be."""
    complaints = [*theatre.ended_alone, *theatre.tardy, *effects.sound(theatre.data)]
    skipped = {kind: why for kind, why in theatre.skipped.items() if kind in asked}
    return Report(title, verdict, dict(sorted(theatre.struck.items())), skipped, complaints, figures)
