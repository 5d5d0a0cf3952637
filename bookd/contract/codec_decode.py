"""From parsed JSON to messages: each message type is compiled once into a table of its fields.

Everything that is wrong is found in one pass and reported with its path, up to a limit. A value that was wrong leaves
its field unset; nothing is to be done with a message whose report is not empty.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

from attrs import frozen
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.message_factory import GetMessageClass

from bookd.contract import codec_text
from bookd.errors import InvalidArgument, Violation

MAX_DEPTH: Final = 64
MAX_VIOLATIONS: Final = 20
_MAX_PATH: Final = 200

_NO_OBJECT = "must be an object"
_NO_ARRAY = "must be an array"
_NO_NULL = "must not be null here"


class Report:
    """What is wrong with a request, with the paths that the client sees; and how deep messages may be nested in it,
    `MAX_DEPTH` at most."""

    def __init__(self, max_depth: int = MAX_DEPTH) -> None:
        self.violations: list[Violation] = []
        self.max_depth = max_depth

    def too_deep(self, path: str) -> None:
        """Note that what stands at `path` is nested too deeply."""
        self.add(path, f"is nested deeper than {self.max_depth} levels")

    def add(self, path: str, description: str) -> None:
        """Note that the value at `path` is wrong. The violations after the last one that is told are dropped."""
        if len(self.violations) < MAX_VIOLATIONS:
            shown = path if len(path) <= _MAX_PATH else path[:_MAX_PATH] + "…"
            # A name that came as half a surrogate pair could not be sent back.
            shown = shown.encode("utf-8", "replace").decode("utf-8")
            self.violations.append(Violation(shown, description))

    @property
    def full(self) -> bool:
        """Whether a further violation would not be told."""
        return len(self.violations) >= MAX_VIOLATIONS

    def done(self) -> None:
        """Raise `InvalidArgument` with all violations, if there are any."""
        if self.violations:
            first = self.violations[0]
            what = first.field or "the body"
            raise InvalidArgument(f"{what}: {first.description}", violations=self.violations)


# Fills a message from a JSON value: (message, value, path, report, depth).
Fill = Callable[[Any, Any, str, Report, int], None]
# Sets one field of a message; the path is that of the message.
Store = Callable[[Any, Any, str, Report, int], None]


def join(path: str, name: str) -> str:
    """The path of the member `name` of what stands at `path`."""
    return f"{path}.{name}" if path else name


@frozen
class _Field:
    name: str
    store: Store
    takes_null: bool
    oneof: str  # the real oneof that it is a member of, or ""


class Decoder:
    """Makes messages of one type from parsed JSON. `pool` is where the types of Any are found."""

    def __init__(self, kind: type[Message], pool: DescriptorPool | None = None) -> None:
        self._kind = kind
        self._fill = filler(kind.DESCRIPTOR, pool or kind.DESCRIPTOR.file.pool)

    def decode(self, value: object, path: str = "") -> Message:
        """The message that `value` is the JSON form of. Raises `InvalidArgument` with every violation found.

        `path` is where the value stands in what the client sent.
        """
        message, report = self._kind(), Report()
        self._fill(message, value, path, report, 1)
        report.done()
        return message


@cache
def filler(descriptor: Descriptor, pool: DescriptorPool) -> Fill:
    """What fills a message of the type from JSON; made once for each type and pool."""
    special = _WELL_KNOWN.get(descriptor.full_name)
    return special(descriptor, pool) if special is not None else _plain(descriptor, pool)


def _plain(descriptor: Descriptor, pool: DescriptorPool) -> Fill:
    fields: dict[str, _Field] = {}

    def fill(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        if type(value) is not dict:
            report.add(path, _NO_OBJECT)
            return
        if depth > report.max_depth:
            report.too_deep(path)
            return
        if not fields:
            # Compiled at its first use, since a type may hold itself.
            fields.update(_table(descriptor, pool))
        for key, item in value.items():
            field = fields.get(key)
            if report.full:
                return
            if field is None:
                report.add(join(path, key), "is not a known field")
            elif key != field.name and field.name in value:
                report.add(join(path, field.name), f"is given twice, as {key} too")
            elif item is not None or field.takes_null:
                if field.oneof and message.WhichOneof(field.oneof) is not None:
                    other = message.WhichOneof(field.oneof)
                    report.add(join(path, field.name), f"must not be given together with {other}")
                else:
                    field.store(message, item, path, report, depth)

    return fill


def _table(descriptor: Descriptor, pool: DescriptorPool) -> dict[str, _Field]:
    entries = [
        (field, _Field(field.name, store(field, pool), _takes_null(field), _oneof(field)))
        for field in descriptor.fields
    ]
    # Should one field's JSON name be another's name, then the name counts.
    return {field.json_name: entry for field, entry in entries} | {field.name: entry for field, entry in entries}


def _oneof(field: FieldDescriptor) -> str:
    oneof = field.containing_oneof
    # A oneof of one member, such as an `optional` field is made of, excludes nobody.
    return oneof.name if oneof is not None and len(oneof.fields) > 1 else ""


def _takes_null(field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return False
    if field.message_type is not None:
        return field.message_type.full_name == "google.protobuf.Value"
    return _is_null(field)


def _is_null(field: FieldDescriptor) -> bool:
    return field.enum_type is not None and field.enum_type.full_name == "google.protobuf.NullValue"


def is_map(field: FieldDescriptor) -> bool:
    """Whether `field` is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def map_entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """The fields that the key and the value of a map have in its entries."""
    kind: Any = field.message_type
    return kind.fields_by_name["key"], kind.fields_by_name["value"]


def store(field: FieldDescriptor, pool: DescriptorPool) -> Store:
    """What sets `field` of a message from its JSON form."""
    if is_map(field):
        return _map(field, pool)
    if field.message_type is not None:
        return _messages(field, pool) if field.is_repeated else _message(field, pool)
    return _scalars(field) if field.is_repeated else _scalar(field)


def _scalar(field: FieldDescriptor) -> Store:
    name, read = field.name, _reader(field)

    def put(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        try:
            setattr(message, name, read(value))
        except ValueError as error:
            report.add(join(path, name), str(error))

    return put


def _reader(field: FieldDescriptor) -> codec_text.Reader:
    read = codec_text.reader(field)
    return (lambda value: 0 if value is None else read(value)) if _is_null(field) else read


def _scalars(field: FieldDescriptor) -> Store:
    name, read, null = field.name, _reader(field), _is_null(field)

    def put(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        if type(value) is not list:
            report.add(join(path, name), _NO_ARRAY)
            return
        append = getattr(message, name).append
        for index, item in enumerate(value):
            try:
                if item is None and not null:
                    raise ValueError(_NO_NULL)
                append(read(item))
            except ValueError as error:
                report.add(f"{join(path, name)}[{index}]", str(error))
                if report.full:
                    return

    return put


def _message(field: FieldDescriptor, pool: DescriptorPool) -> Store:
    name, fill = field.name, filler(field.message_type, pool)

    def put(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        inner = getattr(message, name)
        inner.SetInParent()
        fill(inner, value, f"{path}.{name}" if path else name, report, depth + 1)

    return put


def _messages(field: FieldDescriptor, pool: DescriptorPool) -> Store:
    kind: Any = field.message_type
    name, fill = field.name, filler(kind, pool)
    null = kind.full_name == "google.protobuf.Value"

    def put(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        at = join(path, name)
        if type(value) is not list:
            report.add(at, _NO_ARRAY)
            return
        add = getattr(message, name).add
        for index, item in enumerate(value):
            if item is None and not null:
                report.add(f"{at}[{index}]", _NO_NULL)
            else:
                fill(add(), item, f"{at}[{index}]", report, depth + 1)
            if report.full:
                return

    return put


def _map(field: FieldDescriptor, pool: DescriptorPool) -> Store:
    name = field.name
    key_field, value_field = map_entry(field)
    read_key = codec_text.text_reader(key_field)
    fill = filler(value_field.message_type, pool) if value_field.message_type is not None else None
    read = _reader(value_field) if fill is None else None
    null = _takes_null(value_field)

    def put(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        at = join(path, name)
        if type(value) is not dict:
            report.add(at, _NO_OBJECT)
            return
        entries = getattr(message, name)
        for text, item in value.items():
            here = f"{at}[{text[:_MAX_PATH]}]"
            try:
                key = read_key(text)
            except ValueError as error:
                report.add(here, f"has a wrong key: {error}")
                continue
            if key in entries:
                report.add(here, "is given twice")
            elif item is None and not null:
                report.add(here, _NO_NULL)
            elif fill is not None:
                fill(entries[key], item, here, report, depth + 1)
            elif read is not None:
                try:
                    entries[key] = read(item)
                except ValueError as error:
                    report.add(here, str(error))
            if report.full:
                return

    return put


# The well-known types, each with a JSON form of its own.


def _from_string(convert: Callable[[Any, object], None]) -> Callable[[Descriptor, DescriptorPool], Fill]:
    def fill(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        try:
            convert(message, value)
        except ValueError as error:
            report.add(path, str(error))

    return lambda descriptor, pool: fill


def _wrapper(descriptor: Descriptor, pool: DescriptorPool) -> Fill:
    read = codec_text.reader(descriptor.fields_by_name["value"])

    def fill(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        try:
            message.value = read(value)
        except ValueError as error:
            report.add(path, str(error))

    return fill


def _struct(descriptor: Descriptor, pool: DescriptorPool) -> Fill:
    def fill(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        if type(value) is not dict:
            report.add(path, _NO_OBJECT)
            return
        if depth > report.max_depth:
            report.too_deep(path)
            return
        for key, item in value.items():
            here = join(path, key)
            try:
                codec_text.string(key)
            except ValueError as error:
                report.add(here, f"has a wrong key: {error}")
                continue
            _fill_value(message.fields[key], item, here, report, depth + 1)

    return fill


def _list(descriptor: Descriptor, pool: DescriptorPool) -> Fill:
    def fill(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        if type(value) is not list:
            report.add(path, _NO_ARRAY)
            return
        if depth > report.max_depth:
            report.too_deep(path)
            return
        for index, item in enumerate(value):
            _fill_value(message.values.add(), item, f"{path}[{index}]", report, depth + 1)

    return fill


def _fill_value(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
    try:
        if value is None:
            message.null_value = 0
        elif type(value) is bool:
            message.bool_value = value
        elif type(value) is str:
            message.string_value = codec_text.string(value)
        elif type(value) is dict:
            message.struct_value.SetInParent()
            _fill_struct(message.struct_value, value, path, report, depth)
        elif type(value) is list:
            message.list_value.SetInParent()
            _fill_list(message.list_value, value, path, report, depth)
        else:
            message.number_value = codec_text.double(value)
    except ValueError as error:
        report.add(path, str(error))


_fill_struct = _struct(None, None)  # type: ignore[arg-type]
_fill_list = _list(None, None)  # type: ignore[arg-type]


def _any(descriptor: Descriptor, pool: DescriptorPool) -> Fill:
    def fill(message: Any, value: Any, path: str, report: Report, depth: int) -> None:
        if type(value) is not dict:
            report.add(path, _NO_OBJECT)
            return
        if depth > report.max_depth:
            report.too_deep(path)
            return
        if not value:
            return
        url = value.get("@type")
        at = join(path, "@type")
        try:
            name = codec_text.string(url).rpartition("/")[2]
            held = pool.FindMessageTypeByName(name)
        except ValueError as error:
            report.add(at, str(error))
            return
        except KeyError:
            report.add(at, "is not a known message type")
            return
        inner = GetMessageClass(held)()
        members = {key: item for key, item in value.items() if key != "@type"}
        if name in _WELL_KNOWN:
            for key in members.keys() - {"value"}:
                report.add(join(path, key), "is not a known field")
            if "value" not in members:
                report.add(join(path, "value"), "is missing")
                return
            filler(held, pool)(inner, members["value"], join(path, "value"), report, depth + 1)
        else:
            filler(held, pool)(inner, members, path, report, depth + 1)
        message.type_url = url
        try:
            message.value = inner.SerializeToString(deterministic=True)
        except (EncodeError, DecodeError):
            report.too_deep(path)

    return fill


_WELL_KNOWN: Final[dict[str, Callable[[Descriptor, DescriptorPool], Fill]]] = {
    "google.protobuf.Timestamp": _from_string(codec_text.fill_timestamp),
    "google.protobuf.Duration": _from_string(codec_text.fill_duration),
    "google.protobuf.FieldMask": _from_string(codec_text.fill_mask),
    "google.protobuf.Struct": _struct,
    "google.protobuf.Value": lambda descriptor, pool: _fill_value,
    "google.protobuf.ListValue": _list,
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
