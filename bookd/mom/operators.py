"""What operators see and do: queues, which may be paused, and dead letters, which may be retried or discarded.

The server lets nobody call these rpcs who has not the role `admin`.
"""

from collections.abc import Mapping
from uuid import UUID

from google.longrunning import operations_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import BytesValue
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from bookd.bridge.context import Context
from bookd.bridge.crossing import shield
from bookd.contract import paging
from bookd.contract.descriptors import Contract
from bookd.contract.redaction import redact
from bookd.errors import FailedPrecondition, NotFound
from bookd.mom import overview, records
from bookd.mom.destination import Destination
from bookd.mom.machine import IllegalTransition, MessageState, Policy, second_expiry
from bookd.mom.operations import operation
from bookd.mom.records import Kept
from bookd.mom.spool import Spool
from bookd.wire.mom.v1 import mom_pb2

QUEUES, DEAD_LETTERS = "queues/", "deadletters/"
# Dead letters that are put back in one transaction when all are: the writer is busy for some milliseconds with them.
BATCH = 50
_TYPES = "type.googleapis.com/"


class Queues:
    """The rpcs about queues."""

    def __init__(self, spool: Spool, destinations: Mapping[str, Destination]) -> None:
        self._spool = spool
        self._destinations = destinations

    async def ListQueues(self, request: mom_pb2.ListQueuesRequest, context: Context) -> mom_pb2.ListQueuesResponse:
        """The queue of each destination, by name."""

        def read(connection: Connection) -> list[records.Queue]:
            names = sorted(self._destinations.keys() | set(overview.destinations(connection)))
            return [overview.queue(connection, name) for name in names]

        found = await self._spool.desk.read(read)
        return mom_pb2.ListQueuesResponse(queues=[self._queue(each) for each in found])

    async def GetQueue(self, request: mom_pb2.GetQueueRequest, context: Context) -> mom_pb2.Queue:
        """The queue of one destination."""
        return await self._read(self._destination(request.name))

    async def PauseQueue(self, request: mom_pb2.PauseQueueRequest, context: Context) -> mom_pb2.Queue:
        """Stop deliveries to a destination."""
        name = self._destination(request.name)
        await shield(Deferred.fromCoroutine(self._spool.pause(name)))
        return await self._read(name)

    async def ResumeQueue(self, request: mom_pb2.ResumeQueueRequest, context: Context) -> mom_pb2.Queue:
        """Take deliveries to a destination up again."""
        name = self._destination(request.name)
        await shield(Deferred.fromCoroutine(self._spool.resume(name)))
        return await self._read(name)

    def _destination(self, name: str) -> str:
        destination = name.removeprefix(QUEUES)
        if not name.startswith(QUEUES) or destination not in self._destinations:
            raise NotFound(f"there is no queue {name[:300]!r}", reason="QUEUE_UNKNOWN")
        return destination

    async def _read(self, destination: str) -> mom_pb2.Queue:
        return self._queue(await self._spool.desk.read(overview.queue, destination))

    def _queue(self, found: records.Queue) -> mom_pb2.Queue:
        bounds, rate = self._spool.bounds, self._spool.rates.of(found.destination)
        queue = mom_pb2.Queue(
            name=QUEUES + found.destination,
            destination=found.destination,
            depth=found.depth,
            bytes=found.bytes,
            lanes=found.lanes,
            dead_letters=found.dead,
            max_depth=bounds.depth,
            max_bytes=bounds.bytes,
            kept_per_second=rate.kept,
            finished_per_second=rate.finished,
        )
        if found.destination in self._destinations:
            queue.breaker = int(self._destinations[found.destination].breaker.state)  # type: ignore[assignment]
        if found.oldest is not None:
            queue.oldest_at.FromMicroseconds(found.oldest)
        if found.paused_at is not None:
            queue.paused_at.FromMicroseconds(found.paused_at)
        return queue


class DeadLetters:
    """The rpcs about dead letters."""

    def __init__(self, contract: Contract, spool: Spool, policy: Policy) -> None:
        self._contract = contract
        self._spool = spool
        self._policy = policy

    async def ListDeadLetters(
        self, request: mom_pb2.ListDeadLettersRequest, context: Context
    ) -> mom_pb2.ListDeadLettersResponse:
        """A page of dead letters, newest first."""
        query = f"dead letters of {request.destination!r}"
        position = paging.decode(request.page_token, query, int)
        before = None if position is None else int(position[0])
        limit = paging.size(request.page_size)

        def read(connection: Connection) -> tuple[list[mom_pb2.DeadLetter], list[Kept], int]:
            found, total = overview.page(
                connection, None, MessageState.DEAD, before, limit + 1, request.destination or None
            )
            letters = [self._letter(kept, blocks=overview.blocks(connection, kept.seq)) for kept in found[:limit]]
            return letters, found, total

        letters, found, total = await self._spool.desk.read(read)
        token = paging.encode([found[limit - 1].seq], query) if len(found) > limit else ""
        return mom_pb2.ListDeadLettersResponse(dead_letters=letters, next_page_token=token, total_size=total)

    async def GetDeadLetter(self, request: mom_pb2.GetDeadLetterRequest, context: Context) -> mom_pb2.DeadLetter:
        """A dead letter with its request."""
        kept = await self._find(request.name)
        letter = self._letter(kept, blocks=await self._spool.desk.read(overview.blocks, kept.seq))
        if not kept.fault:
            letter.request.CopyFrom(self._request(kept))
        return letter

    async def RetryDeadLetter(
        self, request: mom_pb2.RetryDeadLetterRequest, context: Context
    ) -> operations_pb2.Operation:
        """Put a dead letter back into its lane."""
        kept = await self._find(request.name)
        if self._second_expiry(kept) is None:
            raise FailedPrecondition(
                "it is too old: its service may have forgotten by now whether it took effect",
                reason="DEAD_LETTER_TOO_OLD",
            )
        if not await self._revive(kept):
            raise FailedPrecondition("it is no dead letter any more", reason="NOT_DEAD")
        now_kept = await self._spool.find(kept.message_id)
        if now_kept is None:
            raise _unknown(request.name)
        return operation(self._contract, now_kept)

    async def RetryDeadLetters(
        self, request: mom_pb2.RetryDeadLettersRequest, context: Context
    ) -> mom_pb2.RetryDeadLettersResponse:
        """Put all dead letters back that there are now and that are not too old, the oldest first: deliveries begin with the
        first batch, and each lane keeps its order."""
        retried = after = 0
        while True:
            found = await self._spool.desk.read(overview.dead, after, BATCH, request.destination or None)
            expiries = [(kept.message_id, self._second_expiry(kept)) for kept in found]
            letters = [(message_id, expire_at) for message_id, expire_at in expiries if expire_at is not None]
            if letters:
                retried += await shield(Deferred.fromCoroutine(self._spool.revive_all(letters)))
            if len(found) < BATCH:
                return mom_pb2.RetryDeadLettersResponse(retried=retried)
            after = found[-1].seq

    async def DiscardDeadLetter(self, request: mom_pb2.DiscardDeadLetterRequest, context: Context) -> Empty:
        """Forget a dead letter."""
        kept = await self._find(request.name)
        await shield(Deferred.fromCoroutine(self._spool.forget(kept.message_id, MessageState.DEAD)))
        return Empty()

    async def _revive(self, kept: Kept) -> bool:
        """Whether it was a dead letter still."""
        expire_at = self._second_expiry(kept)
        if expire_at is None:
            return False
        try:
            await shield(Deferred.fromCoroutine(self._spool.revive(kept.message_id, expire_at)))
        except (IllegalTransition, NotFound):  # somebody else was faster
            return False
        return True

    def _second_expiry(self, kept: Kept) -> int | None:
        method = self._contract.methods.get(kept.method)
        policy = self._policy if method is None else self._policy.of(method.delivery)
        return second_expiry(kept.created_at, self._spool.now(), policy)

    async def _find(self, name: str) -> Kept:
        try:
            message_id = str(UUID(name.removeprefix(DEAD_LETTERS)))
        except ValueError:
            raise _unknown(name) from None
        kept = await self._spool.find(message_id) if name.startswith(DEAD_LETTERS) else None
        if kept is None or kept.state is not MessageState.DEAD:
            raise _unknown(name)
        return kept

    def _letter(self, kept: Kept, *, blocks: bool) -> mom_pb2.DeadLetter:
        letter = mom_pb2.DeadLetter(
            name=DEAD_LETTERS + kept.message_id,
            message_id=kept.message_id,
            method=kept.method,
            destination=kept.destination,
            lane=kept.lane,
            subject=kept.subject,
            attempts=kept.attempts,
            blocks_lane=blocks,
        )
        letter.error.ParseFromString(kept.status or b"")
        letter.created_at.FromMicroseconds(kept.created_at)
        letter.died_at.FromMicroseconds(kept.finished_at or 0)
        return letter

    def _request(self, kept: Kept) -> AnyMessage:
        method = self._contract.methods.get(kept.method)
        if method is None:  # its descriptor set was taken out of the configuration
            packed = AnyMessage()
            packed.Pack(BytesValue(value=kept.request))
            return packed
        shown = method.request.FromString(kept.request)
        redact(shown)
        return AnyMessage(type_url=_TYPES + shown.DESCRIPTOR.full_name, value=shown.SerializeToString())


def _unknown(name: str) -> NotFound:
    return NotFound(f"there is no dead letter {name[:100]!r}", reason="DEAD_LETTER_UNKNOWN")
