"""What the clients of a run want: customers who order, cancel and move house, and staff who keep the catalogue.

Each customer has two hands and each member of the staff works on the same few books, so that calls of one lane come at
the same time. A client goes on once it has been told that its write is kept, and follows the operation aside. What is
done next follows from the seed; when, and with which answers, does not.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any
from uuid import UUID

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from tests.chaos.checker import book_lane, order_lane, user_lane
from tests.chaos.client import BUSY, Client, Request, Silence, message_id

# Operations of one client that may be under way aside.
ASIDE = 24
PRICE = {"currency_code": "EUR", "units": "12", "nanos": 500_000_000}


@frozen
class Shelf:
    """What is in the catalogue when the run begins: books by id, with their copies."""

    stock: Mapping[str, int]

    @property
    def books(self) -> Sequence[str]:
        """Their ids."""
        return sorted(self.stock)


def order_told(body: Any) -> Mapping[str, Any]:
    """What an order's answer tells."""
    return {"order_id": body["order_id"], "status": body["status"]}


def book_told(body: Any) -> Mapping[str, Any]:
    """What a book's answer tells."""
    return {"version": _version(body), "title": body["title"], "stock": body.get("stock", 0)}


def user_told(body: Any) -> Mapping[str, Any]:
    """What a user's answer tells."""
    return {
        "version": _version(body),
        "address": body.get("address", ""),
        "full_name": body.get("full_name", ""),
    }


def _version(body: Any) -> int:
    return int(str(body["etag"]).strip('"').rpartition("-")[2])


class Hand:
    """One sequence of operations of a client. `name` is unique in the run."""

    def __init__(self, reactor: Any, name: str, client: Client, chance: Random, shelf: Shelf) -> None:
        self.reactor = reactor
        self.name = name
        self.client = client
        self.chance = chance
        self.shelf = shelf
        self.stopped = False
        self._aside: set[Deferred[None]] = set()

    async def work(self, pause: float) -> None:
        """Do one thing after the other until stopped, with pauses of about so many seconds."""
        while not self.stopped:
            await self.next()
            await deferLater(self.reactor, self.chance.uniform(0, 2 * pause))
            while len(self._aside) >= ASIDE and not self.stopped:
                await deferLater(self.reactor, 0.05)
        while self._aside:
            await DeferredList(list(self._aside))

    async def next(self) -> None:
        """The next thing."""
        raise NotImplementedError

    async def write(
        self,
        kind: str,
        lane: str,
        verb: str,
        path: str,
        body: Any,
        told: Callable[[Any], Mapping[str, Any]],
        **arguments: Any,
    ) -> None:
        """Begin a write; returns once it is acknowledged, or refused."""
        key = str(UUID(int=self.chance.getrandbits(128), version=4))
        prefer = "respond-async" if self.chance.random() < 0.05 else ""
        who = self.client.who
        operation = self.client.history.invoke(kind, lane, message_id(who, key), **arguments)
        going_on: Deferred[None] = Deferred()

        def go_on(_: Any = None) -> Any:
            if not going_on.called:
                going_on.callback(None)
            return _

        written = Deferred.fromCoroutine(
            self.client.write(operation, Request(verb, path, body, key, prefer), told, accepted=go_on)
        )
        self._aside.add(written)
        written.addBoth(go_on)
        written.addBoth(partial(self._over, written))
        await going_on

    def _over(self, written: Deferred[None], result: Any) -> Any:
        self._aside.discard(written)
        return result

    async def look_at_book(self, book_id: str) -> None:
        """Read a book."""
        operation = self.client.history.invoke("book.read", book_lane(book_id), "")
        await self.client.read(operation, f"/v1/books/{book_id}", book_told)

    def marker(self, what: str) -> str:
        """A text that nobody else uses."""
        return f"{what} {self.name} {self.chance.getrandbits(40):010x}"


class CustomerHand(Hand):
    """Orders, cancels, moves house, and looks."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.placed: list[str] = []

    async def next(self) -> None:
        """The next thing."""
        dice = self.chance.random()
        if dice < 0.55:
            await self._order()
        elif dice < 0.68 and self.placed:
            await self._cancel()
        elif dice < 0.82:
            await self._move()
        elif dice < 0.91:
            await self._look_at_self()
        else:
            await self.look_at_book(self.chance.choice(self.shelf.books))

    async def _order(self) -> None:
        user_id = self.client.who.user_id
        books = self.chance.sample(self.shelf.books, self.chance.choice((1, 1, 2, 3)))
        items = {book_id: self.chance.randint(1, 3) for book_id in books}
        marker = self.marker("address")
        body = {
            "items": [{"book_id": book_id, "quantity": copies} for book_id, copies in items.items()],
            "shipping_address": marker,
        }
        await self.write(
            "order.create", order_lane(user_id), "POST", "/v1/orders", body, self._remember, marker=marker, items=items
        )

    def _remember(self, body: Any) -> Mapping[str, Any]:
        self.placed.append(body["order_id"])
        return order_told(body)

    async def _cancel(self) -> None:
        order_id = self.placed[self.chance.randrange(len(self.placed))]
        if self.chance.random() < 0.9:
            self.placed.remove(order_id)
        lane, path = order_lane(self.client.who.user_id), f"/v1/orders/{order_id}:cancel"
        await self.write("order.cancel", lane, "POST", path, {}, order_told, order_id=order_id)

    async def _move(self) -> None:
        user_id = self.client.who.user_id
        field = self.chance.choice(("address", "full_name"))
        body = {field: self.marker(field)}
        await self.write("user.patch", user_lane(user_id), "PATCH", f"/v1/users/{user_id}", body, user_told, **body)

    async def _look_at_self(self) -> None:
        user_id = self.client.who.user_id
        operation = self.client.history.invoke("user.read", user_lane(user_id), "")
        await self.client.read(operation, f"/v1/users/{user_id}", user_told)


class StaffHand(Hand):
    """Adjusts the stock, renames books, adds new ones, and looks."""

    async def next(self) -> None:
        """The next thing."""
        dice, book_id = self.chance.random(), self.chance.choice(self.shelf.books)
        if dice < 0.40:
            copies = self.chance.choice((-7, -3, 1, 2, 5, 10))
            await self.write(
                "book.adjust",
                book_lane(book_id),
                "POST",
                f"/v1/books/{book_id}:adjustStock",
                {"quantity_change": copies},
                book_told,
                book_id=book_id,
                copies=copies,
            )
        elif dice < 0.70:
            body = {"title": self.marker("title")}
            await self.write("book.patch", book_lane(book_id), "PATCH", f"/v1/books/{book_id}", body, book_told, **body)
        elif dice < 0.80:
            marker = self.marker("new")
            book = {"title": marker, "author": "Anybody", "price": PRICE, "stock": 5}
            await self.write("book.create", f"new {marker}", "POST", "/v1/books", book, book_told, marker=marker)
        else:
            await self.look_at_book(book_id)


class Refused(Exception):
    """What a run needs before it can begin was refused."""


async def insist(reactor: Any, client: Client, request: Request, seconds: float = 20.0) -> Any:
    """The body of a 2xx answer, asked for until it comes. Raises `Refused`."""
    until = reactor.seconds() + seconds
    said: object = ""
    while reactor.seconds() < until:
        try:
            answer = await client.ask(request)
        except Silence as silence:
            said = silence
        else:
            if 200 <= answer.status < 300 and answer.status != 202:
                return answer.body
            if answer.status not in BUSY:
                raise Refused(f"{request.verb} {request.path}: {answer.status} {answer.body}")
            said = answer
        await deferLater(reactor, 0.2)
    raise Refused(f"{request.verb} {request.path}: {said}")
