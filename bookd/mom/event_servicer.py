"""Answers the rpcs of EventService: publish, follow, subscribe."""

import re
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from twisted.internet.defer import CancelledError, Deferred

from bookd.bridge.context import Context
from bookd.bridge.crossing import shield
from bookd.errors import Aborted, BookdError, InvalidArgument, PermissionDenied
from bookd.mom import broker, journal
from bookd.mom.broker import Broker
from bookd.mom.journal import Filter, Standing
from bookd.mom.spool import Spool
from bookd.mom.subscriber import Subscriber
from bookd.wire.mom.v1 import events_pb2
from bookd.wire.mom.v1.event_pb2 import Event

MOST_EVENTS = 100
CREDIT, MOST_CREDIT = 100, 1000
_NAME = re.compile(r"[a-z0-9._-]{1,64}")
_SUBSCRIPTION = re.compile(r"subscriptions/([^/]+)/([^/]+)")


class EventServicer:
    """The rpcs of EventService."""

    def __init__(self, clock: Any, broker: Broker, spool: Spool) -> None:
        self._clock = clock
        self._broker = broker
        self._spool = spool
        self._streams: dict[tuple[str, str], Subscriber] = {}

    async def Publish(self, request: events_pb2.PublishRequest, context: Context) -> events_pb2.PublishResponse:
        """Write the events; answer their places."""
        if not 1 <= len(request.events) <= MOST_EVENTS:
            raise InvalidArgument.field("events", f"must be 1 to {MOST_EVENTS}")
        for number, event in enumerate(request.events):
            broker.check(self._broker.topics.get, event, f"events[{number}]")
        published = await shield(self._broker.publish(request.events))
        return events_pb2.PublishResponse(sequences=[f"{seq:020}" for seq in published.seqs])

    async def StreamEvents(self, request: events_pb2.StreamEventsRequest, context: Context) -> AsyncIterator[Event]:
        """The events that the caller may see, as they happen."""
        visible = self._visible(context)
        unseen = [each for each in request.types if each not in visible]
        if unseen:
            self._require_topic(unseen[0], "types")
            raise PermissionDenied(f"events of type {unseen[0]} are not for you", reason="ROLE_MISSING")
        after = None if not request.after else _sequence(request.after, "after")
        start = await self._broker.start(after)
        wanted = Filter(tuple(request.types) or tuple(sorted(visible)), request.subject)
        async for event in self._broker.follow(start, wanted):
            yield event

    async def Subscribe(
        self, requests: AsyncIterator[events_pb2.SubscribeRequest], context: Context
    ) -> AsyncIterator[Event]:
        """The stream of a durable subscription."""
        standing, credit = await self._open(await anext(requests, None), context)
        key = (standing.peer, standing.name)
        stream = Subscriber(self._clock, self._broker, self._spool.desk, standing, credit, self._spool.now)
        if key in self._streams:
            self._streams[key].end(Aborted("another stream of this subscription was opened", reason="REPLACED"))
        self._streams[key] = stream
        taking = Deferred.fromCoroutine(_take(stream, requests))
        try:
            async for event in stream.events():
                yield event
        finally:
            taking.cancel()
            if self._streams.get(key) is stream:
                del self._streams[key]
            await stream.close()

    async def ListTopics(
        self, request: events_pb2.ListTopicsRequest, context: Context
    ) -> events_pb2.ListTopicsResponse:
        """All topics, by type."""
        response = events_pb2.ListTopicsResponse()
        for name, topic in sorted(self._broker.topics.items()):
            response.topics.add(
                type=name, description=topic.comment, roles=topic.roles, subscribers=self._broker.subscribers(name)
            )
        return response

    async def ListSubscriptions(
        self, request: events_pb2.ListSubscriptionsRequest, context: Context
    ) -> events_pb2.ListSubscriptionsResponse:
        """All durable subscriptions, by name."""
        response = events_pb2.ListSubscriptionsResponse()
        for each in await self._spool.desk.read(journal.standings):
            made = response.subscriptions.add(
                name=f"subscriptions/{each.peer}/{each.name}",
                types=each.wanted.types,
                subject=each.wanted.subject,
                acknowledged=f"{each.cursor:020}",
                connected=(each.peer, each.name) in self._streams,
            )
            made.created_at.FromMicroseconds(each.created_at)
            made.seen_at.FromMicroseconds(each.seen_at)
        return response

    async def DeleteSubscription(self, request: events_pb2.DeleteSubscriptionRequest, context: Context) -> Empty:
        """End a durable subscription."""
        match = _SUBSCRIPTION.fullmatch(request.name)
        if match is None:
            raise InvalidArgument.field("name", 'must be "subscriptions/{peer}/{name}"')
        peer, name = match.groups()
        await shield(self._spool.desk.write(journal.unsubscribe, peer, name))
        if (peer, name) in self._streams:
            self._streams[peer, name].end(Aborted("the subscription was deleted", reason="DELETED"))
        return Empty()

    async def _open(self, request: events_pb2.SubscribeRequest | None, context: Context) -> tuple[Standing, int]:
        if request is None or not request.HasField("open"):
            raise InvalidArgument.field("open", "must be the first step")
        opened = request.open
        if not _NAME.fullmatch(opened.subscription):
            raise InvalidArgument.field("open.subscription", "must have 1 to 64 characters of a-z 0-9 - _ .")
        if not 0 <= opened.credit <= MOST_CREDIT:
            raise InvalidArgument.field("open.credit", f"must be 1 to {MOST_CREDIT}")
        for number, each in enumerate(opened.types):
            self._require_topic(each, f"open.types[{number}]")
        self._broker.require_running()
        standing: Standing = await self._spool.desk.write(
            journal.subscribe,
            context.peer,
            opened.subscription,
            Filter(tuple(opened.types), opened.subject),
            from_oldest=opened.from_oldest,
            now=self._spool.now(),
        )
        return standing, opened.credit or CREDIT

    def _visible(self, context: Context) -> set[str]:
        roles = set(context.principal.roles) if context.principal is not None else set()
        return {name for name, topic in self._broker.topics.items() if roles & set(topic.roles)}

    def _require_topic(self, name: str, where: str) -> None:
        if name not in self._broker.topics:
            raise InvalidArgument.field(where, f"{name[:255]!r} is no topic")


async def _take(stream: Subscriber, requests: AsyncIterator[events_pb2.SubscribeRequest]) -> None:
    """Give the stream what its client says, until that says no more. A client that is wrong ends the stream."""
    try:
        async for request in requests:
            step = request.WhichOneof("step")
            if step == "ack":
                stream.acknowledge(request.ack, step)
            elif step == "nack":
                stream.refuse(request.nack, step)
            else:
                raise InvalidArgument.field(step or "step", "must be ack or nack, once the stream is open")
    except BookdError as error:
        stream.end(error)
    except CancelledError:
        pass  # the stream has ended


def _sequence(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise InvalidArgument.field(where, "must be the sequence of an event")
    return int(text)
