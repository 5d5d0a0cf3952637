"""Tells what happened: an event goes into the outbox in the transaction that made it true, and from there to the MOM.

Events of one subject go in one lane of the outbox, so that they are published in their order; and in another lane than
the calls to other services, so that they do not wait behind these.
"""

from uuid import NAMESPACE_URL, uuid5

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from sqlalchemy import Connection

from bookd.contract.names import named
from bookd.contract.times import timestamp
from bookd.storage import outbox
from bookd.storage.outbox import PUBLISH, Trace
from bookd.wire.mom.v1.events_pb2 import PublishRequest

_NAMESPACE = uuid5(NAMESPACE_URL, "https://bookd/announce")
_NO_TRACE = Trace()
# What stands in front of the name of a type in a google.protobuf.Any.
_TYPE = "type.googleapis.com/"


def announce(
    connection: Connection, source: str, data: Message, subject: str, number: str, now: int, trace: Trace = _NO_TRACE
) -> None:
    """Publish `data`, a message with a topic, from `source`, the full name of the service.

    `subject` is what it happened to; `number` tells apart what happens to one subject, such as its version. `now` is in
    microseconds since the epoch.
    """
    kind = data.DESCRIPTOR
    event_id = f"{kind.name}/{subject}/{number}"
    request = PublishRequest()
    request.events.add(
        id=event_id,
        source=source,
        specversion="1.0",
        type=kind.full_name,
        subject=subject,
        datacontenttype="application/protobuf",
        time=timestamp(now),
        data=Any(type_url=_TYPE + kind.full_name, value=data.SerializeToString(deterministic=True)),
    )
    outbox.put(
        connection,
        outbox.Message(
            message_id=named(_NAMESPACE, f"{source}\n{event_id}"),
            lane=f"event {subject}",
            method=PUBLISH,
            request=request.SerializeToString(deterministic=True),
            trace=trace,
        ),
        now,
    )
