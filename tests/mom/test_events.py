"""Publish and subscribe over gRPC: what is told, to whom, in which order, and again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from bookd.bridge.channel import Channel
from bookd.bridge.server import Server
from bookd.contract.descriptors import load, shipped
from bookd.errors import Aborted, BookdError, InvalidArgument, NotFound, OutOfRange, PermissionDenied, Unavailable
from bookd.mom import journal, ledger, overview
from bookd.mom.broker import Broker
from bookd.mom.event_servicer import EventServicer
from bookd.mom.machine import Policy
from bookd.mom.records import Bounds
from bookd.mom.schema import metadata
from bookd.mom.spool import Spool
from bookd.storage.engine import open_engine
from bookd.testing.desk import ImmediateDesk
from bookd.wire.inventory.v1.events_pb2 import BookChanged, StockLow
from bookd.wire.mom.v1 import events_pb2
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2_grpc import EventServiceStub, add_EventServiceServicer_to_server
from bookd.wire.orders.v1.orders_pb2 import TakeUserDeletedRequest
from bookd.wire.policy.v1.policy_pb2 import Principal
from bookd.wire.users.v1.events_pb2 import UserDeleted
from tests.mom.room import done

NOW = 1_700_000_000_000_000
CONTRACT = load([shipped()])
POLICY = Policy(3, 100_000, 1_000_000, 60_000_000)
STOCK_LOW = "bookd.inventory.v1.StockLow"


def event(event_id: str, data: Message | None = None, **attributes: Any) -> Event:
    """An event that says that book b runs out, unless it has other data."""
    data = StockLow(book_id="b", stock=1) if data is None else data
    made = Event(id=event_id, source="here", specversion="1.0", type=data.DESCRIPTOR.full_name)
    made.time.FromMicroseconds(NOW)
    made.data.Pack(data)
    made.MergeFrom(Event(**attributes))
    return made


def as_role(role: str) -> list[tuple[str, bytes]]:
    """The metadata of a call by somebody with a role."""
    return [("bookd-principal-bin", Principal(subject="u", roles=[role]).SerializeToString())]


class Client:
    """The client of a durable subscription: what it says goes out at once, what comes is kept in `events`."""

    def __init__(self, stub: Any, **opened: Any) -> None:
        self._steps: DeferredQueue[events_pb2.SubscribeRequest | None] = DeferredQueue()
        self._steps.put(events_pb2.SubscribeRequest(open=events_pb2.SubscribeRequest.Open(**opened)))
        self.events: list[Event] = []
        self.error: BookdError | None = None
        self.responses = stub.Subscribe(self._said())
        self.ended = Deferred.fromCoroutine(self._listen())

    def say(self, **step: Any) -> None:
        """Acknowledge or refuse."""
        self._steps.put(events_pb2.SubscribeRequest(**step))

    def close(self) -> Deferred[None]:
        """Leave."""
        self.responses.cancel()
        self._steps.put(None)
        return self.ended

    def ids(self) -> list[str]:
        """The ids of the events that came."""
        return [each.id for each in self.events]

    async def _said(self) -> AsyncIterator[events_pb2.SubscribeRequest]:
        while (step := await self._steps.get()) is not None:
            yield step

    async def _listen(self) -> None:
        try:
            async for each in self.responses:
                self.events.append(each)
        except BookdError as error:
            self.error = error
        except CancelledError:
            pass  # by close()


class EventsTestCase(TestCase):
    """A server with an EventServicer, and a stub."""

    timeout = 20

    async def setUp(self) -> None:
        """Start on a new database in a file."""
        self.engine = open_engine(Path(self.mktemp()) / "mom.sqlite")
        self.addCleanup(self.engine.dispose)
        metadata.create_all(self.engine)
        self.time = NOW
        self.desk = ImmediateDesk(self.engine)
        await self.start()
        self.addCleanup(self.stop)

    async def start(self) -> None:
        """Start, or start again over the same database."""
        spool = self.spool = Spool(self.desk, lambda: self.time)
        self.arrived: list[str] = []
        for name in CONTRACT.services():
            spool.on_arrival(name, lambda name=name: self.arrived.append(name))
        self.broker = Broker(CONTRACT, spool, POLICY)
        self.server = Server("127.0.0.1", 0, contract=CONTRACT, grace=0.5)
        servicer: Any = EventServicer(reactor, self.broker, spool)
        add_EventServiceServicer_to_server(servicer, self.server)
        self.broker.startService()
        self.server.startService()
        await self.server.started
        self.channel = Channel([f"127.0.0.1:{self.server.port}"])
        self.channel.startService()
        self.stub = EventServiceStub(self.channel)

    async def stop(self) -> None:
        """Stop as the daemon does: streams first."""
        self.broker.stopService()
        await self.server.stopService()
        await self.channel.stopService()

    async def publish(self, *events: Event) -> list[str]:
        """Publish; answer the places."""
        response = await self.stub.Publish(events_pb2.PublishRequest(events=events), timeout=5)
        return list(response.sequences)

    async def until(self, condition: Any) -> None:
        """Turn the reactor until the condition holds."""
        while not condition():
            await deferLater(reactor, 0.005)

    def subscribe(self, **opened: Any) -> Client:
        """Open a subscription's stream."""
        client = Client(self.stub, **{"subscription": "n", "from_oldest": True, **opened})
        self.addCleanup(client.close)
        return client

    def standing(self, name: str = "n") -> journal.Standing:
        """The subscription as it is stored."""
        with self.engine.connect() as connection:
            found = journal.find(connection, "", name)
        assert found is not None
        return found


class PublishTests(EventsTestCase):
    """Publish."""

    async def test_places(self) -> None:
        """Events get places in the order of publication; one that is published again keeps its place."""
        self.assertEqual(await self.publish(event("1"), event("2")), ["0" * 19 + "1", "0" * 19 + "2"])
        self.assertEqual(await self.publish(event("2"), event("3")), ["0" * 19 + "2", "0" * 19 + "3"])

    async def test_wrong(self) -> None:
        """Each attribute at fault is named, and nothing is published."""
        cases = [
            (event(""), "id"),
            (event("x" * 129), "id"),
            (event("1", source="s" * 256), "source"),
            (event("1", specversion="0.3"), "specversion"),
            (event("1", type="bookd.orders.v1.Order"), "type"),
            (event("1", BookChanged(), type=STOCK_LOW), "data"),
            (event("1", StockLow()), "data"),
            (event("1", subject="other"), "subject"),
            (event("1", sequence="1"), "sequence"),
        ]
        nameless, timeless, broken = event("1"), event("1"), event("1")
        nameless.source = ""
        timeless.ClearField("time")
        broken.data.value = b"\xff\xff"
        cases += [(nameless, "source"), (timeless, "time"), (broken, "data")]
        for wrong, name in cases:
            with self.assertRaises(InvalidArgument) as caught:
                await self.publish(event("0"), wrong)
            self.assertEqual([each.field for each in caught.exception.violations], [f"events[1].{name}"])
        for number in (0, 101):
            with self.assertRaises(InvalidArgument):
                await self.publish(*(event(str(each)) for each in range(number)))
        with self.engine.connect() as connection:
            self.assertEqual(journal.bounds(connection), (1, 0))

    async def test_full(self) -> None:
        """While the queue of a subscriber is full its events are refused, with a time to come again; the publisher comes
        again, and once there is room they are taken. Events that it does not get go on."""
        self.spool.bounds = Bounds(1, 1000)
        await self.publish(event("1", UserDeleted(user_id="u1")))
        with self.assertRaises(Unavailable) as caught:
            await self.publish(event("2", UserDeleted(user_id="u2")))
        self.assertEqual((caught.exception.reason, caught.exception.retry_after), ("QUEUE_FULL", ledger.FULL_RETRY))
        await self.publish(event("3"))
        with self.engine.connect() as connection:
            (kept,) = overview.page(connection, None, None, None, 10)[0]
        await self.spool.finish(kept, done())
        await self.publish(event("2", UserDeleted(user_id="u2")))
        with self.engine.connect() as connection:
            self.assertEqual(overview.queue(connection, kept.destination).depth, 1)

    async def test_push(self) -> None:
        """An rpc that subscribes gets each event as one message, in the lane of the subject, with the event inside."""
        gone = event("1", UserDeleted(user_id="u7"))
        for _ in range(2):
            await self.publish(gone, event("2"))
        with self.engine.connect() as connection:
            kept = overview.page(connection, None, None, None, 10)[0]
        (message,) = kept
        self.assertEqual(message.method, "/bookd.orders.v1.OrdersService/TakeUserDeleted")
        self.assertEqual((message.destination, message.lane), ("bookd.orders.v1.OrdersService", "u7"))
        taken = TakeUserDeletedRequest.FromString(message.request).event
        told = UserDeleted()
        self.assertTrue(taken.data.Unpack(told))
        self.assertEqual((told.user_id, taken.id, taken.sequence, taken.subject), ("u7", "1", "0" * 19 + "1", "u7"))
        self.assertEqual(self.arrived, ["bookd.orders.v1.OrdersService"])


class StreamTests(EventsTestCase):
    """StreamEvents."""

    def follow(self, role: str = "staff", **wanted: Any) -> tuple[Any, list[str], Deferred[Any]]:
        """A stream, the ids of the events that came, and what ends it."""
        responses = self.stub.StreamEvents(events_pb2.StreamEventsRequest(**wanted), metadata=as_role(role))
        ids: list[str] = []

        async def listen() -> None:
            async for each in responses:
                ids.append(each.id)  # noqa: PERF401 - seen while it grows

        ended = Deferred.fromCoroutine(listen())
        ended.addErrback(lambda failure: failure.value)
        self.addCleanup(responses.cancel)
        return responses, ids, ended

    async def test_as_they_happen(self) -> None:
        """From now on by default, from the oldest, or from where the client was."""
        sequences = await self.publish(event("1"), event("2"))
        _, new, _ = self.follow()
        _, everything, _ = self.follow(after="0")
        _, rest, _ = self.follow(after=sequences[0])
        await self.until(lambda: everything == ["1", "2"] and rest == ["2"])
        await deferLater(reactor, 0.1)
        await self.publish(event("3"))
        await self.until(lambda: (new, everything, rest) == (["3"], ["1", "2", "3"], ["2", "3"]))

    async def test_filter(self) -> None:
        """Types and subject narrow it; a caller sees the types that are for its roles, without being told of others."""
        await self.publish(event("1"), event("2", UserDeleted(user_id="u")), event("3", StockLow(book_id="c")))
        _, staff, _ = self.follow(after="0")
        _, admin, _ = self.follow("admin", after="0")
        _, narrow, _ = self.follow(after="0", types=[STOCK_LOW], subject="c")
        await self.until(lambda: (staff, admin, narrow) == (["1", "3"], ["1", "2", "3"], ["3"]))

    async def test_refused(self) -> None:
        """What is no topic, no place, forgotten, or not for the caller."""
        await self.publish(event("1"))
        for role, wanted, kind in (
            ("staff", {"types": ["nothing"]}, InvalidArgument),
            ("staff", {"after": "x"}, InvalidArgument),
            ("staff", {"after": "1" * 21}, InvalidArgument),
            ("staff", {"after": "2"}, OutOfRange),
            ("staff", {"types": ["bookd.users.v1.UserDeleted"]}, PermissionDenied),
            ("customer", {}, PermissionDenied),
        ):
            _, _, ended = self.follow(role, **wanted)
            self.assertIsInstance(await ended, kind)

    async def test_stop(self) -> None:
        """When the MOM stops, streams are ended at once, with a word that they may come again."""
        _, ids, ended = self.follow(after="0")
        await self.publish(event("1"))
        await self.until(lambda: ids)
        self.broker.stopService()
        error = await ended
        self.assertIsInstance(error, Unavailable)
        self.assertIsNotNone(error.retry_after)

    async def test_leaving(self) -> None:
        """A client that leaves is forgotten."""
        responses, ids, _ = self.follow(after="0")
        await self.publish(event("1"))
        await self.until(lambda: ids and self.broker.followers == 1)
        responses.cancel()
        await self.until(lambda: self.broker.followers == 0)


class SubscribeTests(EventsTestCase):
    """Subscribe."""

    async def test_resume(self) -> None:
        """What was acknowledged does not come again, the rest does, also after a restart of the MOM."""
        sequences = await self.publish(*(event(str(number)) for number in range(5)))
        client = self.subscribe()
        await self.until(lambda: len(client.events) == 5)
        client.say(ack=sequences[1])
        await self.until(lambda: self.standing().cursor == 2)
        await client.close()
        await self.stop()
        await self.start()
        client = self.subscribe()
        await self.until(lambda: client.ids() == ["2", "3", "4"])

    async def test_away(self) -> None:
        """A subscriber that was away gets everything that happened, in order, however old."""
        client = self.subscribe(from_oldest=False)
        await self.until(lambda: self.broker.followers == 1)
        await client.close()
        for start in range(0, 300, 100):
            await self.publish(*(event(str(number)) for number in range(start, start + 100)))
        self.time += 86400_000_000
        with self.engine.begin() as connection:
            self.assertEqual(journal.purge(connection, self.time, 1000), 0)
        client = self.subscribe(credit=1000)
        await self.until(lambda: len(client.events) == 300)
        self.assertEqual(client.ids(), [str(number) for number in range(300)])

    async def test_credit(self) -> None:
        """No more is sent beyond the last acknowledged event than the client has room for."""
        sequences = await self.publish(*(event(str(number)) for number in range(10)))
        client = self.subscribe(credit=3)
        for acknowledged in (3, 4, 7):
            await self.until(lambda acknowledged=acknowledged: len(client.events) == min(acknowledged, 10))
            await deferLater(reactor, 0.05)
            self.assertEqual(len(client.events), acknowledged)
            client.say(ack=sequences[{3: 0, 4: 3, 7: 6}[acknowledged]])
        await self.until(lambda: len(client.events) == 10)
        self.assertEqual(client.ids(), [str(number) for number in range(10)])

    async def test_refusal(self) -> None:
        """A refused event and all behind it come again, in order, after a pause that grows."""
        sequences = await self.publish(*(event(str(number)) for number in range(4)))
        client = self.subscribe()
        await self.until(lambda: len(client.events) == 4)
        for times in (1, 2):
            began = reactor.seconds()  # type: ignore[attr-defined]
            client.say(nack=sequences[2])
            await self.until(lambda times=times: len(client.events) == 4 + 2 * times)
            self.assertGreaterEqual(reactor.seconds() - began, 0.1 * times - 0.01)  # type: ignore[attr-defined]
        self.assertEqual(client.ids(), ["0", "1", "2", "3", "2", "3", "2", "3"])
        client.say(ack=sequences[3])
        client.say(nack=sequences[2])
        await self.until(lambda: self.standing().cursor == 4)
        await deferLater(reactor, 0.2)
        self.assertEqual(len(client.events), 8)

    async def test_filter(self) -> None:
        """A subscription gets its types and its subject only, and those from the moment it was made."""
        await self.publish(event("1"))
        client = self.subscribe(from_oldest=False, types=[STOCK_LOW], subject="c")
        await self.until(lambda: self.broker.followers == 1)
        for number, data in enumerate((StockLow(book_id="b"), StockLow(book_id="c"), UserDeleted(user_id="c"))):
            await self.publish(event(f"n{number}", data))
        await self.until(lambda: client.events)
        await deferLater(reactor, 0.05)
        self.assertEqual(client.ids(), ["n1"])

    async def test_not_concerned(self) -> None:
        """An event that a follower does not want makes nobody read for it; what it wants comes, also after that."""
        client = self.subscribe(from_oldest=False, types=[STOCK_LOW])
        await self.until(lambda: self.broker.followers == 1)
        reads: list[int] = []
        read = self.broker.read
        self.patch(self.broker, "read", lambda *args: reads.append(1) or read(*args))
        for number in range(5):
            await self.publish(event(f"n{number}", UserDeleted(user_id="c")))
        self.assertEqual((reads, self.broker.followers), ([], 1))
        await self.publish(event("wanted", StockLow(book_id="b")))
        await self.until(lambda: client.ids() == ["wanted"])

    async def test_one_stream(self) -> None:
        """A second stream of a subscription ends the first."""
        first = self.subscribe()
        await self.until(lambda: self.broker.followers == 1)
        second = self.subscribe()
        await first.ended
        self.assertIsInstance(first.error, Aborted)
        await self.publish(event("1"))
        await self.until(lambda: second.ids() == ["1"])

    async def test_wrong(self) -> None:
        """A client that says what makes no sense is told so, and its stream ends."""
        (sequence,) = await self.publish(event("1"))
        for opened in (
            {"subscription": ""},
            {"subscription": "A b"},
            {"credit": -1},
            {"credit": 1001},
            {"types": ["nothing"]},
        ):
            client = self.subscribe(**opened)
            await client.ended
            self.assertIsInstance(client.error, InvalidArgument, opened)
        for step in (
            {"ack": "x"},
            {"ack": "0" * 19 + "9"},
            {"nack": ""},
            {},
            {"open": events_pb2.SubscribeRequest.Open()},
        ):
            client = self.subscribe()
            await self.until(lambda client=client: client.events)
            client.say(**step)
            await client.ended
            self.assertIsInstance(client.error, InvalidArgument, step)
        responses = self.stub.Subscribe(_steps(events_pb2.SubscribeRequest(ack=sequence)))
        with self.assertRaises(InvalidArgument):
            await anext(aiter(responses))

    async def test_listed_and_deleted(self) -> None:
        """An admin sees the subscriptions and ends one, which ends its stream."""
        client = self.subscribe(types=[STOCK_LOW])
        await self.until(lambda: self.broker.followers == 1)
        listed = await self.stub.ListSubscriptions(
            events_pb2.ListSubscriptionsRequest(), timeout=5, metadata=as_role("admin")
        )
        (found,) = listed.subscriptions
        self.assertEqual((list(found.types), found.connected, found.acknowledged), ([STOCK_LOW], True, "0" * 20))
        self.assertEqual(found.created_at.ToMicroseconds(), NOW)
        # Without TLS the peer has no name, as a real one has.
        with self.engine.begin() as connection:
            journal.subscribe(connection, "gateway", "g", journal.Filter(), from_oldest=True, now=NOW)
        for name, kind in (("subscriptions/x", InvalidArgument), ("subscriptions/gateway/none", NotFound)):
            with self.assertRaises(kind):
                await self.delete(name)
        await self.delete("subscriptions/gateway/g")
        self.assertEqual(client.error, None)

    def delete(self, name: str) -> Deferred[Any]:
        """DeleteSubscription as an admin."""
        request = events_pb2.DeleteSubscriptionRequest(name=name)
        deleting: Deferred[Any] = self.stub.DeleteSubscription(request, timeout=5, metadata=as_role("admin"))
        return deleting

    async def test_topics(self) -> None:
        """The topics are those of the descriptors, with what their protos say."""
        response = await self.stub.ListTopics(events_pb2.ListTopicsRequest(), timeout=5, metadata=as_role("staff"))
        topics = {each.type: each for each in response.topics}
        self.assertEqual(list(topics), sorted(topics))
        gone = topics["bookd.users.v1.UserDeleted"]
        self.assertEqual(list(gone.subscribers), ["/bookd.orders.v1.OrdersService/TakeUserDeleted"])
        self.assertEqual(list(gone.roles), ["admin"])
        self.assertIn("gone", gone.description)


async def _steps(*steps: events_pb2.SubscribeRequest) -> AsyncIterator[events_pb2.SubscribeRequest]:
    for step in steps:
        yield step
