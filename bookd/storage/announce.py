"""Tells what happened: an event goes into the outbox in the transaction that made it true, and from there to the MOM.

Events of one subject go in one lane of the outbox, so that they are published in their order; and in another lane than
the calls to other services, so that they do not wait behind these.
"""

from uuid import NAMESPACE_URL, uuid5

from google.protobuf.message import Message
from sqlalchemy import Connection

from bookd.contract.names import named
from bookd.storage import outbox
from bookd.storage.outbox import PUBLISH, Trace
from bookd.wire.mom.v1.event_pb2 import Event
from bookd.wire.mom.v1.events_pb2 import PublishRequest

_NAMESPACE = uuid5(NAMESPACE_URL, "https://bookd/announce")
_NO_TRACE = Trace()


def announce(
    connection: Connection, source: str, data: Message, subject: str, number: str, now: int, trace: Trace = _NO_TRACE
) -> None:
    """Publish `data`, a message with a topic, from `source`, the full name of the service.

    `subject` is what it happened to; `number` tells apart what happens to one subject, such as its version. `now` is in
    microseconds since the epoch.
    """
    event_id = f"{data.DESCRIPTOR.name}/{subject}/{number}"
    event = Event(
        id=event_id,
        source=source,
        specversion="1.0",
        type=data.DESCRIPTOR.full_name,
        subject=subject,
        datacontenttype="application/protobuf",
    )
    event.time.FromMicroseconds(now)
    event.data.Pack(data, deterministic=True)
    outbox.put(
        connection,
        outbox.Message(
            message_id=named(_NAMESPACE, f"{source}\n{event_id}"),
            lane=f"event {subject}",
            method=PUBLISH,
            request=PublishRequest(events=[event]).SerializeToString(deterministic=True),
            trace=trace,
        ),
        now,
    )
