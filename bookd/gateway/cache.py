"""Answers that are given again: what the gateway keeps of reads that everybody may see.

An rpc says in its policy which events make its answers stale (`bookd.policy.v1.rest`, `stale_after`); those of others are
never kept. A kept answer is given again while it is fresh: until `fresh` seconds have passed, until such an event comes, or
until this gateway has passed on a write to the same service. What was read while any of this happened is not kept at all: it
may be from before. So who writes through a gateway, and has the answer, never reads from it what was there before. Changes
that come another way (through another gateway; by a service on its own, as when an order takes stock) show when their event
comes, and after `fresh` seconds at the latest.

A stale answer is good for one thing more: while the service does not answer, it is better than none (stale-if-error, RFC
5861, section 4), for `stale` seconds, and says its age. What a write has made stale is not kept for that.

Answers are found by the address as the client wrote it, so that nothing of a request has to be understood before. Memory is
bounded by `most` bytes; the answers that were not asked for the longest go first.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from attrs import define, frozen
from google.protobuf.message import Message
from klein import Response

from bookd.contract import policy
from bookd.contract.descriptors import Method
from bookd.wire.policy.v1 import policy_pb2

# Bytes that an answer takes beside its body and its address, about.
_AROUND = 2048
# Request headers by which a client asks for more than the answer: it gets that, and no kept one.
_OWN_WISHES = (
    "cache-control",
    "pragma",
    "grpc-timeout",
    "request-timeout",
    "content-type",
    "content-encoding",
    "range",
)


@frozen
class Reading:
    """A read that is under way, and whose answer may be kept."""

    address: bytes
    method: Method
    # What an event's subject is when it makes the answer stale; empty: any event does.
    subject: str
    # How many changes had been noted when it began: writes to the service, and events.
    changes: tuple[int, int]


@define(eq=False)
class Kept:
    """An answer. `made` is in seconds, of the cache's clock."""

    reading: Reading
    route: str
    response: Response
    etag: str
    made: float
    fresh: bool = True

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.response.body) + len(self.reading.address) + _AROUND


class Cache:
    """The answers that are kept. `fresh` and `stale` are seconds, 0 for never; `seconds` is the clock."""

    def __init__(self, fresh: float, stale: float, most: int, seconds: Callable[[], float]) -> None:
        self._fresh = fresh
        self._stale = stale
        self._most = most
        self._seconds = seconds
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0
        # Writes to each service that were noted, and events.
        self._writes: dict[str, int] = {}
        self._events = 0
        # The addresses of the answers of each service, and of the fresh ones with each subject.
        self._of: dict[str, set[bytes]] = {}
        self._about: dict[str, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes that the kept answers take, about."""
        return self._bytes

    @property
    def used(self) -> bool:
        """Whether anything is ever kept."""
        return self._fresh > 0 or self._stale > 0

    def find(self, request: Any) -> Kept | None:
        """The answer to give again; None when there is none that is fresh, or the client wants its own."""
        kept = self._kept.get(request.uri)
        if kept is None or not kept.fresh or request.method not in (b"GET", b"HEAD"):
            return None
        if self._seconds() - kept.made >= self._fresh:
            return None
        if _insists(request):
            return None
        self._kept.move_to_end(request.uri)
        return kept

    def last_resort(self, request: Any) -> Kept | None:
        """The answer to give when there is no other to be had."""
        kept = self._kept.get(request.uri)
        if kept is None or self._seconds() - kept.made >= self._stale or _insists(request):
            return None
        return kept

    def age(self, kept: Kept) -> int:
        """Whole seconds since the answer was made (RFC 9111, section 5.1)."""
        return int(self._seconds() - kept.made)

    def reading(self, address: bytes, method: Method, message: Message) -> Reading | None:
        """A read begins; None when its answer is not to be kept."""
        rest = method.rest
        if not self.used or not rest.stale_after or method.access.audience != policy_pb2.AUDIENCE_PUBLIC:
            return None
        subject = str(policy.value_at(message, rest.stale_after_subject)) if rest.stale_after_subject else ""
        return Reading(address, method, subject, self._noted(method.service))

    def keep(self, reading: Reading, route: str, response: Response, etag: str) -> None:
        """The read has been answered. Nothing is kept if anything has changed since it began."""
        if self._noted(reading.method.service) != reading.changes:
            return
        self._drop(reading.address)
        kept = self._kept[reading.address] = Kept(reading, route, response, etag, self._seconds())
        self._bytes += kept.size
        self._of.setdefault(reading.method.service, set()).add(reading.address)
        self._about.setdefault(reading.subject, set()).add(reading.address)
        while self._bytes > self._most:
            self._drop(next(iter(self._kept)))

    def wrote(self, service: str) -> None:
        """A write to a service begins, or has ended: its answers are gone, stale ones too."""
        self._writes[service] = self._writes.get(service, 0) + 1
        for address in list(self._of.get(service, ())):
            self._drop(address)

    def happened(self, kind: str, subject: str) -> None:
        """An event has come: the answers that it makes stale are not fresh any more."""
        self._events += 1
        for about in {"", subject}:
            for address in list(self._about.get(about, ())):
                kept = self._kept[address]
                if kind in kept.reading.method.rest.stale_after:
                    self._stale_now(kept)

    def clear(self) -> None:
        """Anything may have changed, unheard: nothing is fresh any more."""
        self._events += 1
        for kept in self._kept.values():
            self._stale_now(kept)

    def _noted(self, service: str) -> tuple[int, int]:
        return self._writes.get(service, 0), self._events

    def _stale_now(self, kept: Kept) -> None:
        kept.fresh = False
        _discard(self._about, kept.reading.subject, kept.reading.address)

    def _drop(self, address: bytes) -> None:
        kept = self._kept.pop(address, None)
        if kept is not None:
            self._bytes -= kept.size
            _discard(self._of, kept.reading.method.service, address)
            _discard(self._about, kept.reading.subject, address)


def _insists(request: Any) -> bool:
    return any(request.every(name) for name in _OWN_WISHES)


def _discard(index: dict[str, set[bytes]], key: str, address: bytes) -> None:
    found = index.get(key)
    if found is not None:
        found.discard(address)
        if not found:
            del index[key]
