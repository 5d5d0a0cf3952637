"""The proxy: every method of the services behind the MOM, bytes in, bytes out.

A deferrable call that bears a message id goes through these steps, one call of a lane at a time:

1. its id is known: it is answered from the store;
2. its lane holds messages, its destination is down or paused, or the caller wants no waiting: it is kept;
3. otherwise it is forwarded. OK and errors that decide go straight back, and nothing is written;
4. if the destination is not there, or time runs out (so that nobody knows whether it took effect), it is kept.

Where no call of its lane is under way, and it is plain from the start that a call has to be kept, or that it can be
forwarded, nobody needs to be asked: then the steps are one, and cost a fraction of what they do one after another.

The turn in the lane ends once the keeping is under way, not once it is on disk: the desk writes in the order it is asked,
so the calls behind are kept in order too, and their messages share an fsync. Nobody is told before the message is on disk.
A caller that goes away does not undo the keeping.

All other calls are forwarded, and fail at once while their destination is down.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from attrs import frozen
from google.protobuf.message import DecodeError, Message
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from bookd.bridge.context import Context
from bookd.bridge.methods import RawMethod
from bookd.contract import metadata
from bookd.contract.call import fingerprint
from bookd.contract.descriptors import Contract, Method
from bookd.contract.policy import authorize
from bookd.errors import BookdError, InvalidArgument
from bookd.mom import operations
from bookd.mom.breaker import BreakerState
from bookd.mom.destination import Destination
from bookd.mom.lanes import Lane, Lanes
from bookd.mom.machine import WORTH_KEEPING, Policy
from bookd.mom.patience import within
from bookd.mom.records import Draft, Kept
from bookd.mom.replies import lane_of, require_taker
from bookd.mom.spool import Spool

# Seconds of a caller's deadline that are set aside for keeping its call; at most half of what there is.
SET_ASIDE = 0.3


@frozen
class _Call:
    """A call that must not be lost; `lane` is its destination's and its own."""

    method: Method
    lane: Lane
    request: bytes
    parsed: Message
    context: Context


@frozen
class _Forward:
    """The call may be forwarded."""


@frozen
class _Keep:
    """The call must be kept."""


class Router:
    """Finds the destination of each method, and carries its calls there. `patience` is how long, in seconds, a
    deferrable call without a deadline is forwarded before it is kept."""

    def __init__(
        self,
        clock: Any,
        contract: Contract,
        destinations: Mapping[str, Destination],
        spool: Spool,
        lanes: Lanes,
        policy: Policy,
        *,
        patience: float,
    ) -> None:
        self._clock = clock
        self._contract = contract
        self._destinations = destinations
        self._spool = spool
        self._lanes = lanes
        self._policy = policy
        self._patience = patience
        self._expiries: dict[str, int] = {}

    def lookup(self, path: str) -> RawMethod | None:
        """The raw method that serves `path`; None when it belongs to no destination."""
        method = self._contract.methods.get(path)
        if method is None or method.service not in self._destinations:
            return None
        destination = self._destinations[method.service]

        def once(request: Any, context: Context) -> Any:
            if method.delivery.deferrable and context.message_id is not None and isinstance(request, bytes):
                return self._deferrable(method, destination, request, context)
            return self._forwarded(method, destination, request, context)

        def stream(request: Any, context: Context) -> Any:
            return self._streamed(method, destination, request, context)

        return RawMethod(method.client_streaming, method.server_streaming, stream if method.server_streaming else once)

    # Calls that are forwarded or fail.

    async def _forwarded(self, method: Method, destination: Destination, request: Any, context: Context) -> bytes:
        if destination.breaker.state is not BreakerState.CLOSED and not await destination.answers():
            raise destination.breaker.refusal()
        return await destination.call(method.path, request, context.time_remaining(), carried(context))

    async def _streamed(
        self, method: Method, destination: Destination, request: Any, context: Context
    ) -> AsyncIterator[bytes]:
        if not await destination.answers():
            raise destination.breaker.refusal()
        responses = destination.stream(method.path, request, context.time_remaining(), carried(context))
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()  # type: ignore[attr-defined]

    # Calls that must not be lost.

    def _deferrable(self, method: Method, destination: Destination, request: bytes, context: Context) -> Any:
        assert context.message_id is not None
        parsed = _parse(method, request)
        authorize(method, context.principal, parsed)
        reply_to = context.metadata.get(metadata.REPLY_TO)
        if reply_to is not None:
            require_taker(self._contract, str(reply_to))
        lane = (method.service, lane_of(method, context.principal, parsed, context.message_id))
        call = _Call(method, lane, request, parsed, context)
        if self._lanes.is_free(lane):
            if self._has_to_wait(lane, destination, context):
                return self._spool.keep(self._draft(call)).addCallback(self._answer)
            if destination.breaker.state is BreakerState.CLOSED and self._spool.is_empty:
                return self._at_once(call, destination)
        return self._in_turn(call, destination)

    def _at_once(self, call: _Call, destination: Destination) -> Deferred[bytes]:
        """Forward a call whose lane is free, and whose id cannot be known: `_in_turn` for most calls."""
        self._lanes.enter(call.lane)
        self._lanes.forward(call.lane)
        until = self._until(call.context)

        def ended(result: Any) -> Any:
            try:
                if isinstance(result, Failure) and _worth_keeping(result.value):
                    result = self._spool.keep(self._draft(call)).addCallback(self._answer)
            finally:
                self._left(call.lane)
            return result

        try:
            forwarding = self._forward(call, destination, until)
        except Exception:
            self._left(call.lane)
            raise
        return forwarding.addBoth(ended)

    def _forward(self, call: _Call, destination: Destination, until: float) -> Deferred[bytes]:
        return destination.call(call.method.path, call.request, self._share(until), carried(call.context))

    def _has_to_wait(self, lane: Lane, destination: Destination, context: Context) -> bool:
        """Whether a call has to be kept in any case, so that nobody needs to be asked."""
        # The store looks for the id itself when it keeps. It is asked before only if that may save keeping.
        return (
            self._spool.keeping(lane)
            or self._spool.is_paused(lane[0])
            or bool(context.metadata.get(metadata.RESPOND_ASYNC))
            or destination.breaker.state is BreakerState.OPEN
        )

    async def _in_turn(self, call: _Call, destination: Destination) -> bytes:
        until = self._until(call.context)
        if not await self._turn(call.lane, until):
            # Those in front of it take too long. It is kept while one of them is under way, which nobody is told of yet.
            return await self._kept(self._spool.keep(self._draft(call)))
        try:
            keeping = await self._forward_or_keep(call, destination, until)
        finally:
            self._left(call.lane)
        return keeping if isinstance(keeping, bytes) else await self._kept(keeping)

    async def _forward_or_keep(self, call: _Call, destination: Destination, until: float) -> bytes | Deferred[Kept]:
        draft = self._draft(call)
        decision = await self._decide(call, draft, destination, until)
        if isinstance(decision, Kept):
            return self._answer(decision)
        if isinstance(decision, _Forward):
            self._lanes.forward(call.lane)
            try:
                return await self._forward(call, destination, until)
            except BookdError as error:
                if not _worth_keeping(error):
                    raise
        return self._spool.keep(draft)

    async def _decide(
        self, call: _Call, draft: Draft, destination: Destination, until: float
    ) -> Kept | _Forward | _Keep:
        if self._has_to_wait(call.lane, destination, call.context):
            return _Keep()
        if destination.breaker.state is BreakerState.HALF_OPEN:
            answers = Deferred.fromCoroutine(destination.answers()).addTimeout(
                self._share(until), self._clock, onTimeoutCancel=lambda *_: False
            )
            if not await answers:
                return _Keep()
        known, lane_is_busy = await self._spool.look(draft)
        if known is not None:
            return known
        return _Keep() if lane_is_busy else _Forward()

    async def _turn(self, lane: tuple[str, str], until: float) -> bool:
        """Wait for the turn in a lane; False if that takes too long."""
        place = self._lanes.enter(lane)
        return place.called or await within(self._share(until), self._clock, place)

    def _left(self, lane: Lane) -> None:
        """Pass the turn in a lane on."""
        if self._lanes.leave(lane):
            self._spool.arrived(lane[0])

    def _until(self, context: Context) -> float:
        """The time by which a call has to be answered, by the clock."""
        remaining = context.time_remaining()
        return float(self._clock.seconds()) + (self._patience if remaining is None else max(remaining, 0.0))

    async def _kept(self, keeping: Deferred[Kept]) -> bytes:
        return self._answer(await keeping)

    def _answer(self, kept: Kept) -> bytes:
        return operations.answer(self._contract, kept)

    def _share(self, until: float) -> float:
        """How many of the seconds left may be spent before the call has to be kept."""
        left: float = max(until - self._clock.seconds(), 0.0)
        return max(left - SET_ASIDE, left / 2)

    def _draft(self, call: _Call) -> Draft:
        method, context = call.method, call.context
        assert context.message_id is not None
        principal = context.principal
        reply_to = context.metadata.get(metadata.REPLY_TO)
        destination, lane = call.lane
        return Draft(
            message_id=context.message_id,
            destination=destination,
            lane=lane,
            method=method.path,
            request=call.request,
            fingerprint=fingerprint(method.path, call.parsed),
            principal=b"" if principal is None else principal.SerializeToString(deterministic=True),
            subject="" if principal is None else principal.subject,
            metadata=dict(passed_on(context)),
            reply_to=None if reply_to is None else str(reply_to),
            expire_at=self._spool.now() + self._expire_after(method),
        )

    def _expire_after(self, method: Method) -> int:
        found = self._expiries.get(method.path)
        if found is None:
            found = self._expiries[method.path] = self._policy.of(method.delivery).expire_after
        return found


def _worth_keeping(error: BaseException | None) -> bool:
    return isinstance(error, BookdError) and error.code in WORTH_KEEPING


def _parse(method: Method, request: bytes) -> Message:
    try:
        return method.request.FromString(request)
    except DecodeError:
        raise InvalidArgument(f"the request is no {method.request.DESCRIPTOR.full_name}") from None


def carried(context: Context) -> list[tuple[str, str | bytes]]:
    """The metadata of a call that goes on with it. The principal is what the caller was believed to speak for."""
    values: list[tuple[str, str | bytes]] = []
    if context.message_id is not None:
        values.append((metadata.MESSAGE_ID, context.message_id))
    if context.principal is not None:
        values.append((metadata.PRINCIPAL, context.principal.SerializeToString()))
    values += passed_on(context)
    return values


def passed_on(context: Context) -> list[tuple[str, str]]:
    """What else is passed on, and stored with a kept call. The client's address is what the caller was believed of it."""
    values = [
        (key, str(context.metadata[key]))
        for key in (metadata.REQUEST_ID, metadata.TRACEPARENT)
        if key in context.metadata
    ]
    if context.client_address:
        values.append((metadata.CLIENT_ADDRESS, context.client_address))
    return values
