"""A MOM to test: a migrated database, drafts of messages, and the proto of a service that the suite never heard of."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Connection, Engine, select, text
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.descriptors import Contract
from bookd.errors import BookdError, Cancelled, Internal, NotFound
from bookd.mom import operations, store
from bookd.mom.machine import Event, MessageState, Policy
from bookd.mom.records import Draft, Kept, Outcome
from bookd.mom.schema import blockers, lanes, messages
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from tests.gateway.kites import contract as contract_of

T = TypeVar("T")

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
DAY = 86_400 * SECOND
DESTINATION = "post.v1.PostService"
OTHER = "post.v1.BarnService"
POLICY = Policy(max_attempts=3, initial_backoff=SECOND, max_backoff=10 * SECOND, expire_after=DAY)

POST = """
syntax = "proto3";
package post.v1;
import "bookd/mom/v1/message.proto";
import "bookd/policy/v1/policy.proto";

service PostService {
  rpc Send(Letter) returns (Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
    option (bookd.policy.v1.delivery) = {deferrable: true ordering_fields: ["box"]};
  }
  rpc SendCarefully(Letter) returns (Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
    option (bookd.policy.v1.delivery) = {
      deferrable: true
      ordering_fields: ["box"]
      retry: {max_attempts: 2 initial_backoff: {seconds: 4} max_backoff: {seconds: 6}}
      expire_after: {seconds: 60}
      dead_letter_blocks_lane: true
    };
  }
  rpc SendOwn(Letter) returns (Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_USER roles: ["clerk"]};
    option (bookd.policy.v1.delivery) = {deferrable: true ordering_subject: true};
  }
  rpc Look(Letter) returns (Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
  rpc Follow(Letter) returns (stream Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
  rpc Collect(stream Letter) returns (Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
  rpc Chat(stream Letter) returns (stream Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
  }
}

service BarnService {
  rpc TakeOutcome(TakeOutcomeRequest) returns (Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_INTERNAL};
    option (bookd.policy.v1.delivery) = {deferrable: true ordering_fields: ["outcome.message_id"]};
  }
  rpc Store(Letter) returns (Receipt) {
    option (bookd.policy.v1.access) = {audience: AUDIENCE_PUBLIC};
    option (bookd.policy.v1.delivery) = {deferrable: true};
  }
}

message Letter { string box = 1; string text = 2; bytes parcel = 3; }
message Receipt { string text = 1; bytes parcel = 2; }
message TakeOutcomeRequest { bookd.mom.v1.Outcome outcome = 1; }
"""

SEND, CAREFULLY, OWN = (f"/{DESTINATION}/{name}" for name in ("Send", "SendCarefully", "SendOwn"))
LOOK, FOLLOW, COLLECT, CHAT = (f"/{DESTINATION}/{name}" for name in ("Look", "Follow", "Collect", "Chat"))
TAKE, STORE = (f"/{OTHER}/{name}" for name in ("TakeOutcome", "Store"))


@cache
def post() -> Contract:
    """The contract of the post beside that of the bookstore."""
    return contract_of(POST)


def letter(text: str = "", box: str = "", **fields: Any) -> bytes:
    """A serialized Letter."""
    made: Message = post().methods[SEND].request(text=text, box=box, **fields)
    return made.SerializeToString(deterministic=True)


def receipt(text: str = "", **fields: Any) -> bytes:
    """A serialized Receipt."""
    return post().methods[SEND].response(text=text, **fields).SerializeToString(deterministic=True)


def read_letter(data: bytes) -> Any:
    """The Letter in `data`."""
    return post().methods[SEND].request.FromString(data)


def read_receipt(data: bytes) -> Any:
    """The Receipt in `data`."""
    return post().methods[SEND].response.FromString(data)


def number_id(number: int) -> str:
    """A message id."""
    return str(UUID(int=number))


def draft(number: int, lane: str = "lane", **changes: Any) -> Draft:
    """A message that tells one number from another."""
    values: dict[str, Any] = {
        "message_id": number_id(number),
        "destination": DESTINATION,
        "lane": lane,
        "method": SEND,
        "request": letter(str(number)),
        "fingerprint": number.to_bytes(32, "big"),
        "principal": b"",
        "subject": "ada",
        "metadata": {"bookd-request-id": f"r{number}"},
        "reply_to": None,
        "expire_at": NOW + DAY,
    }
    return Draft(**values | changes)


def done(text: str = "fine") -> Outcome:
    """The destination said OK."""
    return operations.succeeded(receipt(text))


def ended(event: Event, error: BookdError) -> Outcome:
    """The message left the queue with an error."""
    return operations.ended(event, error)


DEAD = ended(Event.GIVEN_UP, Internal("broken"))
DECLINED = ended(Event.DECLINED, NotFound("no such box"))
CANCELLED = ended(Event.CANCELLED, Cancelled("cancelled"))


class StoreTestCase(SynchronousTestCase):
    """A test with a database of its own in memory."""

    def setUp(self) -> None:
        """Migrate an empty database."""
        self.engine = self.open(":memory:")

    def open(self, database: str | Path) -> Engine:
        """A migrated database, closed after the test."""
        engine = open_engine(database)
        self.addCleanup(engine.dispose)
        upgrade(engine, "bookd.mom")
        return engine

    def do(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run `work(connection, …)` in a transaction of its own; whatever it did, the store is sound afterwards."""
        with self.engine.begin() as connection:
            answer = work(connection, *args, **kwargs)
            self.assertEqual(unsound(connection), [])
        return answer

    def keep(self, number: int, lane: str = "lane", now: int = NOW, **changes: Any) -> Kept:
        """Keep a message."""
        kept, is_new = self.do(store.keep, draft(number, lane, **changes), now)
        self.assertTrue(is_new)
        return kept

    def found(self, message_id: str) -> Kept:
        """The message with this id, which must be there."""
        kept = self.do(store.find, message_id)
        assert kept is not None
        return kept

    def heads(self, now: int = NOW, limit: int = 100, destination: str = DESTINATION) -> list[str]:
        """Ids of the messages that may be delivered."""
        return [kept.message_id for kept in self.do(store.ready, destination, now, limit).messages]


def unsound(connection: Connection) -> list[str]:
    """What is wrong with the lanes: each has a row exactly if something of it waits, or a dead letter blocks it, and the row
    names the first of these; or with the counts of the queues."""
    first: dict[tuple[str, str], Any] = {}
    queued = select(messages).where(messages.c.state == MessageState.QUEUED).order_by(messages.c.seq)
    for row in connection.execute(queued):
        first.setdefault((row.destination, row.lane), row)
    faults = []
    blocking: dict[tuple[str, str], int] = {}
    for row in connection.execute(select(blockers).order_by(blockers.c.seq.desc())):
        blocking[row.destination, row.lane] = row.seq
        letter = connection.execute(select(messages).where(messages.c.seq == row.seq)).one()
        if (letter.state, letter.destination, letter.lane) != (MessageState.DEAD, row.destination, row.lane):
            faults.append(f"{letter.message_id} blocks {row.lane}, and is no dead letter of it")
    for row in connection.execute(select(lanes)):
        lane = (row.destination, row.lane)
        waiting = first.pop(lane, None)
        blocker = blocking.pop(lane, None)
        if row.blocked != (blocker is not None and (waiting is None or blocker < waiting.seq)):
            faults.append(f"{lane} is {'' if row.blocked else 'not '}blocked, by no right")
        elif row.blocked:
            if row.head_seq != blocker:
                faults.append(f"{lane} is not blocked by its first blocker")
        elif waiting is None:
            faults.append(f"{lane} is empty")
        elif (row.head_seq, row.ready_at) != (waiting.seq, waiting.ready_at):
            faults.append(f"{lane} has not its first message")
    faults += [f"{lane} is missing" for lane in {**first, **blocking}]
    counted = (
        "SELECT destination FROM queues q WHERE (depth, bytes, dead) <> (SELECT coalesce(sum(state = 1), 0),"
        " coalesce(sum(CASE state WHEN 1 THEN length(request) END), 0), coalesce(sum(state = 4), 0)"
        " FROM messages m WHERE m.destination = q.destination) UNION SELECT destination FROM messages WHERE destination"
        " NOT IN (SELECT destination FROM queues)"
    )
    return faults + [f"the queue of {name} is miscounted" for name in connection.execute(text(counted)).scalars()]
