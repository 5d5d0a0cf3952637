"""Operations and queues: MomService for the gateway, google.longrunning.Operations for gRPC clients, one implementation.

An operation is shown to the subject whose call it is, and to the role `admin`; to others it does not exist.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred

from bookd.bridge.context import Context
from bookd.bridge.crossing import shield
from bookd.contract import paging
from bookd.contract.descriptors import Contract
from bookd.contract.policy import may_see
from bookd.errors import Cancelled, InvalidArgument, Unauthenticated
from bookd.mom import operations, overview
from bookd.mom.destination import Destination
from bookd.mom.machine import Event, IllegalTransition, MessageState, Policy
from bookd.mom.operations import message_id, operation, unknown
from bookd.mom.operators import DeadLetters, Queues
from bookd.mom.patience import within
from bookd.mom.records import Kept
from bookd.mom.replies import reply
from bookd.mom.spool import Spool
from bookd.wire.mom.v1 import mom_pb2

ADMIN = "admin"
# Seconds before a caller's deadline at which a wait is answered.
SET_ASIDE = 0.3
# Bytes of requests and responses that one page holds, about: a message of gRPC has a limit.
PAGE_BYTES = 1_000_000


class MomServicer:
    """The rpcs of MomService."""

    def __init__(
        self,
        clock: Any,
        contract: Contract,
        spool: Spool,
        destinations: Mapping[str, Destination],
        policy: Policy,
        *,
        longest_wait: float = 60.0,
    ) -> None:
        self._clock = clock
        self._contract = contract
        self._spool = spool
        self._policy = policy
        self._longest_wait = longest_wait
        queues = Queues(spool, destinations)
        self.ListQueues, self.GetQueue = queues.ListQueues, queues.GetQueue
        self.PauseQueue, self.ResumeQueue = queues.PauseQueue, queues.ResumeQueue
        letters = DeadLetters(contract, spool, policy)
        self.ListDeadLetters, self.GetDeadLetter = letters.ListDeadLetters, letters.GetDeadLetter
        self.RetryDeadLetter, self.RetryDeadLetters = letters.RetryDeadLetter, letters.RetryDeadLetters
        self.DiscardDeadLetter = letters.DiscardDeadLetter

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """The operation, if the caller may see it."""
        return operation(self._contract, await self._find(request.name, context))

    async def ListOperations(
        self, request: mom_pb2.ListOperationsRequest, context: Context
    ) -> mom_pb2.ListOperationsResponse:
        """A page of the caller's operations, or of everybody's for an admin."""
        found, token, total = await self._page(int(request.state), request.page_size, request.page_token, context)
        return mom_pb2.ListOperationsResponse(
            operations=[operation(self._contract, kept) for kept in found], next_page_token=token, total_size=total
        )

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> operations_pb2.Operation:
        """The operation once it is done, or as it is when the time is over or the MOM stops."""
        kept = await self._find(request.name, context)
        if kept.state is MessageState.QUEUED:
            finished = self._spool.finished(kept.message_id)
            try:
                # It may have finished between the look and the waiting.
                kept = await self._find(request.name, context)
                patience = self._patience(request, context)
                if kept.state is MessageState.QUEUED and await within(patience, self._clock, finished):
                    kept = await self._find(request.name, context)
            finally:
                if not finished.called:
                    finished.addErrback(lambda failure: failure.trap(CancelledError))
                    finished.cancel()
        return operation(self._contract, kept)

    async def CancelOperation(self, request: operations_pb2.CancelOperationRequest, context: Context) -> Empty:
        """Withdraw the message, unless it is being delivered or done."""
        kept = await self._find(request.name, context)
        if kept.state is MessageState.QUEUED:
            outcome = operations.ended(
                Event.CANCELLED, Cancelled("cancelled by its owner", reason="OPERATION_CANCELLED")
            )
            told = reply(self._contract, self._policy, kept, outcome, self._spool.now())
            with suppress(IllegalTransition):  # it was delivered meanwhile
                await shield(Deferred.fromCoroutine(self._spool.withdraw(kept, outcome, told)))
        return Empty()

    async def DeleteOperation(self, request: operations_pb2.DeleteOperationRequest, context: Context) -> Empty:
        """Forget the message, if it is done."""
        kept = await self._find(request.name, context)
        await shield(Deferred.fromCoroutine(self._spool.forget(kept.message_id)))
        return Empty()

    async def _find(self, name: str, context: Context) -> Kept:
        kept = await self._spool.find(message_id(name))
        if kept is None or not may_see(kept.subject, context.principal, ADMIN):
            raise unknown(name)
        return kept

    async def _page(self, state: int, size: int, token: str, context: Context) -> tuple[list[Kept], str, int]:
        """At most `size` operations that the caller may see, the token of the next page, and how many there are."""
        principal = context.principal
        if principal is None or not principal.subject:
            raise Unauthenticated("operations need an access token", reason="TOKEN_MISSING")
        try:
            wanted = MessageState(state) if state else None
        except ValueError:
            raise InvalidArgument.field("state", "is no state of a message") from None
        subject = None if ADMIN in principal.roles else principal.subject
        query = f"{subject!r} {wanted!r}"
        position = paging.decode(token, query, int)
        limit = paging.size(size)
        found, total = await self._spool.desk.read(
            overview.page, subject, wanted, None if position is None else int(position[0]), limit + 1
        )
        fitting = _fitting(found[:limit])
        more = len(fitting) < len(found)
        return fitting, paging.encode([fitting[-1].seq], query) if more else "", total

    def _patience(self, request: operations_pb2.WaitOperationRequest, context: Context) -> float:
        asked = request.timeout.ToMicroseconds() / 1e6 if request.HasField("timeout") else self._longest_wait
        remaining = context.time_remaining()
        bounds = [asked, self._longest_wait] + ([] if remaining is None else [remaining - SET_ASIDE])
        return max(min(bounds), 0.0)


def _fitting(found: list[Kept]) -> list[Kept]:
    """As many of the first ones as make a response of a size that travels; one at least, if there is one."""
    fitting: list[Kept] = []
    size = 0
    for kept in found:
        size += len(kept.response or b"") + len(kept.status or b"")
        if fitting and size > PAGE_BYTES:
            break
        fitting.append(kept)
    return fitting


class Waiting(Service):
    """Those who wait for operations. They are answered when this stops, which is before the server does: a wait would
    hold up its draining, and the client can wait on with whoever serves next."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def stopService(self) -> None:
        """Let all go that wait."""
        super().stopService()
        self._spool.leave()


class OperationsServicer:
    """google.longrunning.Operations, as gRPC clients know it. `filter` may be `state=QUEUED` and the like."""

    def __init__(self, servicer: MomServicer) -> None:
        self._servicer = servicer
        self.GetOperation: Callable[..., Any] = servicer.GetOperation
        self.WaitOperation: Callable[..., Any] = servicer.WaitOperation
        self.CancelOperation: Callable[..., Any] = servicer.CancelOperation
        self.DeleteOperation: Callable[..., Any] = servicer.DeleteOperation

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Context
    ) -> operations_pb2.ListOperationsResponse:
        """A page of the caller's operations."""
        if request.name not in ("", "operations"):
            raise InvalidArgument.field("name", 'must be "operations" or empty')
        response = await self._servicer.ListOperations(
            mom_pb2.ListOperationsRequest(
                state=_state(request.filter),  # type: ignore[arg-type]
                page_size=request.page_size,
                page_token=request.page_token,
            ),
            context,
        )
        return operations_pb2.ListOperationsResponse(
            operations=response.operations, next_page_token=response.next_page_token
        )


def _state(text: str) -> int:
    if not text.strip():
        return 0
    key, _, name = (part.strip() for part in text.partition("="))
    if key != "state" or name not in MessageState.__members__:
        raise InvalidArgument.field("filter", f"must be state={'|'.join(MessageState.__members__)}")
    return int(MessageState[name])
