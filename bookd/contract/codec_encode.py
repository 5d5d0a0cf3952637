"""From messages to JSON: each message type is compiled once into one getter for all its fields and the conversions
that some of them need."""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from bookd.contract import codec_text
from bookd.contract.codec_decode import is_map, map_entry

Write = Callable[[Any], Any]

_JSON = msgspec.json.Encoder()


class Encoder:
    """Makes the JSON form of messages of one type. `pool` is where the types of Any are found."""

    def __init__(self, kind: type[Message], pool: DescriptorPool | None = None) -> None:
        self._write = writer(kind.DESCRIPTOR, pool or kind.DESCRIPTOR.file.pool)

    def encode(self, message: Message) -> object:
        """The message as dicts, lists, strings, numbers, true, false and None."""
        return self._write(message)

    def encode_bytes(self, message: Message) -> bytes:
        """The message as JSON text in UTF-8."""
        return _JSON.encode(self._write(message))


@cache
def writer(descriptor: Descriptor, pool: DescriptorPool) -> Write:
    """What makes the JSON form of a message of the type; made once for each type and pool."""
    special = _WELL_KNOWN.get(descriptor.full_name)
    return special(descriptor, pool) if special is not None else _plain(descriptor, pool)


def _plain(descriptor: Descriptor, pool: DescriptorPool) -> Write:
    names = tuple(field.name for field in descriptor.fields)
    if not names:
        return lambda message: {}
    # attrgetter of a single name answers with the value itself, so that it is asked for the first one twice.
    values = attrgetter(*names, names[0])
    always: list[tuple[str, Write]] = []
    present: list[tuple[str, Write | None]] = []
    compiled = False

    def write(message: Any) -> dict[str, Any]:
        nonlocal compiled
        if not compiled:
            # At its first use, since a type may hold itself.
            compiled = True
            for field in descriptor.fields:
                convert = field_writer(field, pool)
                if field.has_presence:
                    present.append((field.name, convert))
                elif convert is not None:
                    always.append((field.name, convert))
        found = dict(zip(names, values(message), strict=False))
        for name, convert in always:
            found[name] = convert(found[name])
        has = message.HasField
        for name, maybe in present:
            if not has(name):
                del found[name]
            elif maybe is not None:
                found[name] = maybe(found[name])
        return found

    return write


def field_writer(field: FieldDescriptor, pool: DescriptorPool) -> Write | None:
    """What makes the JSON form of the value of `field`; None when the value is its own."""
    if is_map(field):
        return _map(field, pool)
    one = codec_text.writer(field) if field.message_type is None else writer(field.message_type, pool)
    if not field.is_repeated:
        return one
    if one is None:
        return list
    return lambda values: [one(value) for value in values]


def _map(field: FieldDescriptor, pool: DescriptorPool) -> Write:
    key_field, value_field = map_entry(field)
    key: Write = (lambda value: "true" if value else "false") if key_field.cpp_type == _BOOL else str
    value = field_writer(value_field, pool) or (lambda value: value)
    # In the order of the keys, so that equal messages have equal bytes.
    return lambda entries: {key(name): value(entries[name]) for name in sorted(entries)}


_BOOL: Final = FieldDescriptor.CPPTYPE_BOOL


# The well-known types, each with a JSON form of its own.


def _duration(message: Any) -> Any:
    return message.ToJsonString()


def _wrapper(descriptor: Descriptor, pool: DescriptorPool) -> Write:
    convert = codec_text.writer(descriptor.fields_by_name["value"])
    return (lambda message: message.value) if convert is None else (lambda message: convert(message.value))


def _write_struct(message: Any) -> Any:
    fields = message.fields
    return {key: _write_value(fields[key]) for key in sorted(fields)}


def _write_list(message: Any) -> Any:
    return [_write_value(value) for value in message.values]


def _write_value(message: Any) -> Any:
    kind = message.WhichOneof("kind")
    if kind == "struct_value":
        return _write_struct(message.struct_value)
    if kind == "list_value":
        return _write_list(message.list_value)
    if kind == "number_value":
        return codec_text.write_double(message.number_value)
    return None if kind is None or kind == "null_value" else getattr(message, kind)


def _any(descriptor: Descriptor, pool: DescriptorPool) -> Write:
    def write(message: Any) -> Any:
        if not message.type_url and not message.value:
            return {}
        name = message.type_url.rpartition("/")[2]
        try:
            held = pool.FindMessageTypeByName(name)
            inner = GetMessageClass(held).FromString(message.value)
        except (KeyError, DecodeError):
            # A type that nobody told us of is no reason to withhold the rest of the message.
            return {"@type": message.type_url, "value": codec_text.write_octets(message.value)}
        found = writer(held, pool)(inner)
        if name in _WELL_KNOWN:
            return {"@type": message.type_url, "value": found}
        return {"@type": message.type_url, **found}

    return write


_WELL_KNOWN: Final[dict[str, Callable[[Descriptor, DescriptorPool], Write]]] = {
    "google.protobuf.Timestamp": lambda descriptor, pool: codec_text.write_timestamp,
    "google.protobuf.Duration": lambda descriptor, pool: _duration,
    "google.protobuf.FieldMask": lambda descriptor, pool: codec_text.write_mask,
    "google.protobuf.Struct": lambda descriptor, pool: _write_struct,
    "google.protobuf.Value": lambda descriptor, pool: _write_value,
    "google.protobuf.ListValue": lambda descriptor, pool: _write_list,
    "google.protobuf.Any": _any,
    "google.protobuf.DoubleValue": _wrapper,
    "google.protobuf.FloatValue": _wrapper,
    "google.protobuf.Int64Value": _wrapper,
    "google.protobuf.UInt64Value": _wrapper,
    "google.protobuf.Int32Value": _wrapper,
    "google.protobuf.UInt32Value": _wrapper,
    "google.protobuf.BoolValue": _wrapper,
    "google.protobuf.StringValue": _wrapper,
    "google.protobuf.BytesValue": _wrapper,
}
