"""Takes out of a message what no operator needs to see: the values of fields that are marked `debug_redact` in the proto.

Such fields carry passwords and tokens. What carries them is never kept by the bookstore's own rules; this stands behind
them, and holds for the protos of others too.
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

REDACTED = "[REDACTED]"


def redact(message: Message) -> None:
    """Replace the values of marked fields, however deep: text by `REDACTED`, anything else by nothing. Fields that this
    contract does not know go too: nobody can tell what they carry. What is packed in an Any stays as it is."""
    message.DiscardUnknownFields()  # type: ignore[attr-defined]
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            message.ClearField(field.name)
            if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
                setattr(message, field.name, REDACTED)
        elif field.type in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_GROUP):
            for each in _messages(field, value):
                redact(each)


def _messages(field: FieldDescriptor, value: Any) -> Iterable[Message]:
    if not field.is_repeated:
        return [value]
    of = field.message_type
    if of is not None and of.GetOptions().map_entry:
        return list(value.values()) if of.fields_by_name["value"].message_type is not None else []
    return list(value)
