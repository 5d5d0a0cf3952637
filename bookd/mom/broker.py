"""Publish and subscribe: takes events, makes messages of them for the rpcs that subscribe, and lets streams follow.

An event, and a message to each subscribing rpc, are written in one transaction, and nobody is told before that is on
disk. Followers are told that there is something new for them and read it from the journal; memory holds who follows, no
events.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from attrs import frozen
from google.protobuf.message import DecodeError, Message
from twisted.application.service import Service
from twisted.internet.defer import Deferred

from bookd.contract.call import fingerprint
from bookd.contract.descriptors import Contract, Method, Topic
from bookd.contract.names import named
from bookd.contract.policy import value_at
from bookd.errors import InvalidArgument, Unavailable, Violation
from bookd.mom import journal
from bookd.mom.journal import Fact, Filter, Page, Published, Record
from bookd.mom.machine import Policy
from bookd.mom.records import Draft
from bookd.mom.replies import enclosed, lane_of
from bookd.mom.spool import Spool
from bookd.wire.mom.v1.event_pb2 import Event

SPECVERSION = "1.0"
LONGEST_ID, LONGEST_NAME = 128, 255
# Events that are read from the journal at a time.
BATCH = 50
_NAMESPACE = uuid5(NAMESPACE_URL, "https://bookd/event")


@frozen
class _Subscriber:
    method: Method
    types: frozenset[str]


class Broker(Service):
    """The broker of one MOM. It stops before the server does, so that streams do not hold up the draining."""

    def __init__(self, contract: Contract, spool: Spool, policy: Policy) -> None:
        self.topics = contract.topics
        self._contract = contract
        self._spool = spool
        self._policy = policy
        self._subscribers = [
            _Subscriber(method, frozenset(method.subscription.types))
            for method in contract.methods.values()
            if method.subscription.types
        ]
        self._newest = 0  # at least; what an earlier run has published is found by reading
        self._waiting: dict[Deferred[None], Filter] = {}

    def stopService(self) -> Any:
        """End all streams that follow."""
        stopped = super().stopService()
        self._tell(lambda _: True)
        return stopped

    @property
    def followers(self) -> int:
        """How many streams wait for news."""
        return len(self._waiting)

    def subscribers(self, topic: str) -> list[str]:
        """Paths of the rpcs that get the events of a type."""
        return sorted(each.method.path for each in self._subscribers if topic in each.types)

    # Publishing.

    def publish(self, events: Sequence[Event]) -> Deferred[Published]:
        """Write events that `check` has let pass; fires once they are on disk. Fails with `Unavailable`, reason QUEUE_FULL,
        and nothing written, when the queue of a subscriber is full."""
        facts = [
            Fact(event.source, event.id, event.type, event.subject, event.SerializeToString(deterministic=True))
            for event in events
        ]
        most = sum(each.type in one.types for each in facts for one in self._subscribers)
        publishing = self._spool.fan_out(most, journal.publish, facts, self._messages, self._spool.bounds)

        def published(result: Published) -> Published:
            self._newest = max(self._newest, *result.seqs)
            self._tell(lambda wanted: any(wanted.wants(fact) for fact in facts))
            return result

        return publishing.addCallback(published)

    def _messages(self, fact: Fact, seq: int) -> list[Draft]:
        return [self._message(each.method, fact, seq) for each in self._subscribers if fact.type in each.types]

    def _message(self, method: Method, fact: Fact, seq: int) -> Draft:
        request = enclosed(method, numbered(Record(seq, fact.event)))
        message_id = named(_NAMESPACE, f"{fact.source}\n{fact.event_id}\n{method.path}")
        return Draft(
            message_id=message_id,
            destination=method.service,
            lane=lane_of(method, None, request, message_id),
            method=method.path,
            request=request.SerializeToString(deterministic=True),
            fingerprint=fingerprint(method.path, request),
            principal=b"",
            subject="",
            metadata={},
            reply_to=None,
            expire_at=self._spool.now() + self._policy.of(method.delivery).expire_after,
        )

    # Following.

    async def start(self, after: int | None) -> int:
        """The place to follow from, as `journal.start` has it."""
        place: int = await self._spool.desk.read(journal.start, after)
        return place

    async def follow(self, after: int, wanted: Filter) -> AsyncIterator[Event]:
        """The events that match, behind the place `after`, for ever. Raises `Unavailable` when the MOM stops."""
        while True:
            page = await self.read(after, wanted, BATCH)
            after = page.upto
            for record in page.records:
                yield numbered(record)
            if not page.records:
                await self.news(after, wanted)

    def read(self, after: int, wanted: Filter, limit: int) -> Deferred[Page]:
        """At most `limit` events that match, behind the place `after`."""
        return self._spool.desk.read(journal.page, after, wanted, limit)

    async def news(self, after: int, wanted: Filter) -> None:
        """Wait until there may be events that match behind the place `after`. Raises `Unavailable` when the MOM stops."""
        self.require_running()
        if self._newest <= after:
            waiter: Deferred[None] = Deferred(self._forget)
            self._waiting[waiter] = wanted
            await waiter
            self.require_running()

    def require_running(self) -> None:
        """Raise `Unavailable` unless the MOM runs."""
        if not self.running:
            raise Unavailable("the MOM is stopping", reason="STOPPING", retry_after=1.0)

    def _forget(self, waiter: Deferred[None]) -> None:
        self._waiting.pop(waiter, None)

    def _tell(self, concerns: Callable[[Filter], bool]) -> None:
        told = [waiter for waiter, wanted in self._waiting.items() if concerns(wanted)]
        for waiter in told:
            del self._waiting[waiter]
        for waiter in told:
            waiter.callback(None)


def numbered(record: Record) -> Event:
    """The event with its place."""
    event = Event.FromString(record.event)
    event.sequence = f"{record.seq:020}"
    return event


def check(topics: Callable[[str], Topic | None], event: Event, where: str) -> None:
    """Raise `InvalidArgument` that names every attribute at fault; `where` is the path of the event in the request.
    A subject that is not given is taken from the data."""
    faults = [Violation(f"{where}.{name}", text) for name, text in _faults(topics, event)]
    if faults:
        raise InvalidArgument(f"{faults[0].field}: {faults[0].description}", violations=faults)


def _faults(topics: Callable[[str], Topic | None], event: Event) -> list[tuple[str, str]]:
    faults = []
    if not 1 <= len(event.id) <= LONGEST_ID:
        faults.append(("id", f"must have 1 to {LONGEST_ID} characters"))
    if not 1 <= len(event.source) <= LONGEST_NAME:
        faults.append(("source", f"must have 1 to {LONGEST_NAME} characters"))
    if event.specversion != SPECVERSION:
        faults.append(("specversion", f'must be "{SPECVERSION}"'))
    if not event.HasField("time"):
        faults.append(("time", "must be given"))
    if event.sequence:
        faults.append(("sequence", "is given by the MOM"))
    topic = topics(event.type)
    if topic is None:
        return [*faults, ("type", f"{event.type[:LONGEST_NAME]!r} is no topic")]
    if event.data.TypeName() != topic.name:
        return [*faults, ("data", f"must be a {topic.name}")]
    try:
        data: Message = topic.message.FromString(event.data.value)
    except DecodeError:
        return [*faults, ("data", f"is no serialized {topic.name}")]
    subject = str(value_at(data, topic.subject_field))
    if event.subject not in ("", subject):
        faults.append(("subject", f"must be {topic.subject_field} of the data, or empty"))
    elif not 1 <= len(subject) <= LONGEST_NAME:
        faults.append(("data", f"{topic.subject_field} must have 1 to {LONGEST_NAME} characters"))
    event.subject = subject
    return faults
