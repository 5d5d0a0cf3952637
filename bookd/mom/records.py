"""What the functions on the MOM's database take and answer. Times are in microseconds; `schema` explains the fields."""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from bookd.errors import Code
from bookd.mom.machine import Event, MessageState


@frozen
class Draft:
    """A message that is to be kept."""

    message_id: str
    destination: str
    lane: str
    method: str
    request: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    principal: bytes = field(repr=False)
    subject: str
    metadata: Mapping[str, str]
    reply_to: str | None
    expire_at: int


@frozen
class Kept:
    """A message that is on disk: a row of `messages`."""

    seq: int
    message_id: str
    destination: str
    lane: str
    method: str
    request: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    principal: bytes = field(repr=False)
    subject: str
    metadata: Mapping[str, str]
    reply_to: str | None
    state: MessageState = field(converter=MessageState)
    attempts: int
    refusals: int
    ready_at: int
    expire_at: int
    last_error: str
    created_at: int
    updated_at: int
    finished_at: int | None
    status_code: int | None
    status: bytes | None
    response: bytes | None = field(repr=False)
    fault: str = ""  # why what is secret of it cannot be opened, and is not told here; for operators


@frozen
class Outcome:
    """What became of a message: how it left the queue, and the response or the serialized google.rpc.Status."""

    event: Event
    code: Code
    response: bytes | None = field(default=None, repr=False)
    status: bytes | None = None
    error: str = ""  # for a person
    counts: bool = False  # it ended with an attempt that decided nothing


@frozen
class Place:
    """Where a queued message stands, for whom does not need all of it."""

    seq: int
    message_id: str
    destination: str
    lane: str


@frozen
class Ready:
    """Lane heads that may be delivered, and when the next of those that may not yet is ready (None: there is none)."""

    messages: Sequence[Kept]
    next_at: int | None


@frozen
class Bounds:
    """What the queue of one destination takes: messages, and bytes of their requests."""

    depth: int
    bytes: int


@frozen
class Queue:
    """What waits for one destination."""

    destination: str
    depth: int
    bytes: int
    lanes: int
    dead: int
    oldest: int | None  # microseconds
    paused_at: int | None  # microseconds
