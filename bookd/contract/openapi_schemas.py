"""JSON schemas (draft 2020-12, which OpenAPI 3.1 speaks) of messages, from their descriptors.

Each message has two. What comes out is the proto JSON mapping as the codec writes it: members without presence are
always there, integers of 64 bits are strings, enums names. Further members may come with a later version. What goes in
is what the codec takes, which is more: integers as strings too, enums by number too, null for what is absent; but no
unknown member, and what the protos' bounds allow. REQUIRED and OUTPUT_ONLY (google/api/field_behavior.proto) and the comments
of the protos are in both.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from bookd.contract.codec_decode import is_map, map_entry
from bookd.contract.comments import prose
from bookd.contract.openapi_rules import asked, behaves, is_required, items, standards

Schema = dict[str, Any]


class Way(Enum):
    """Which way a message goes; the value is the end of its schema's name. No proto name has a hyphen."""

    OUT = ""
    IN = "-input"


_INT32: Final = {"format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_UINT32: Final = {"format": "uint32", "minimum": 0, "maximum": 2**32 - 1}
_INT64: Final = {"format": "int64", "minimum": -(2**63), "maximum": 2**63 - 1}
_UINT64: Final = {"format": "uint64", "minimum": 0, "maximum": 2**64 - 1}
_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: _INT32,
    FieldDescriptor.CPPTYPE_UINT32: _UINT32,
    FieldDescriptor.CPPTYPE_INT64: _INT64,
    FieldDescriptor.CPPTYPE_UINT64: _UINT64,
}
_LONG: Final = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
_DOUBLES: Final = {FieldDescriptor.CPPTYPE_DOUBLE: "double", FieldDescriptor.CPPTYPE_FLOAT: "float"}
_NUMBER_TEXT: Final = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_UNWRITABLE: Final = "NaN|-?Infinity"
_PATH: Final = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
_TIME: Final = {"type": "string", "format": "date-time"}
_DURATION: Final = {
    "type": "string",
    "pattern": r"^-?([0-9]{1,11}|[12][0-9]{11})(\.[0-9]{1,9})?s$",
    "examples": ["1.5s"],
}
_MASK: Final = {"type": "string", "pattern": f"^({_PATH}(,{_PATH})*)?$"}
_ANY: Final = {
    "type": "object",
    "properties": {"@type": {"type": "string", "description": "URL that ends with the full name of a message."}},
}
# The messages whose JSON form is not an object of their fields. Wrappers are made below.
_WELL_KNOWN: Final[Mapping[str, Schema]] = {
    "google.protobuf.Timestamp": _TIME,
    "google.protobuf.Duration": _DURATION,
    "google.protobuf.FieldMask": _MASK,
    "google.protobuf.Any": _ANY,
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
}
_WRAPPERS: Final = "google/protobuf/wrappers.proto"
_NULL: Final = "google.protobuf.NullValue"
# A oneof of more members than this is told in words only.
_TOLD_IN_PAIRS: Final = 6


def comment_name(field: FieldDescriptor) -> str:
    """Where the comment of a field is found."""
    return f"{field.containing_type.full_name}.{field.name}" if field.containing_type is not None else ""


def one_value(kind: Descriptor) -> bool:
    """Whether a message's JSON form is a single text, number or the like."""
    return kind.file.name == _WRAPPERS or kind.full_name in (
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
        "google.protobuf.FieldMask",
    )


def text(field: FieldDescriptor, enum: Callable[[EnumDescriptor], Schema]) -> Schema:
    """The schema of a value of `field`, a scalar or `one_value`, in a path or a query, where everything is text."""
    kind = field.message_type
    if kind is not None:
        inner = kind.fields_by_name.get("value")
        return (
            text(inner, enum)
            if kind.file.name == _WRAPPERS and inner is not None
            else dict(_WELL_KNOWN[kind.full_name])
        )
    if field.enum_type is not None:
        return {"anyOf": [enum(field.enum_type), _numbers(field.enum_type)]}
    if field.cpp_type in _INTEGERS:
        schema: Schema = {"type": "integer", **_INTEGERS[field.cpp_type]}
    else:
        schema = _scalar(field, Way.OUT)
    return schema | standards(field) | asked(field, required=is_required(field))


class Schemas:
    """The schemas that were asked for and those that they refer to, in `components`, by name."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Schema] = {}

    def message(self, kind: Descriptor, way: Way) -> Schema:
        """The schema of a message: a reference, unless it is a well-known type."""
        if kind.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[kind.full_name])
        if kind.file.name == _WRAPPERS:
            return _scalar(kind.fields_by_name["value"], way)
        name = kind.full_name + way.value
        if name not in self.components:
            self.components[name] = {}  # a message may hold itself
            self.components[name] = self.members(kind, way)
        return {"$ref": f"#/components/schemas/{name}"}

    def enum(self, kind: EnumDescriptor) -> Schema:
        """A reference to the schema of an enum's names."""
        if kind.full_name not in self.components:
            lines = [
                f"- `{value.name}`: {about}"
                for value in kind.values
                if (about := prose(self._comments, f"{kind.full_name}.{value.name}"))
            ]
            about = "\n".join([prose(self._comments, kind.full_name), *([""] if lines else []), *lines])
            self.components[kind.full_name] = _described(
                {"type": "string", "enum": [value.name for value in kind.values]}, about.strip()
            )
        return {"$ref": f"#/components/schemas/{kind.full_name}"}

    def members(
        self, kind: Descriptor, way: Way, without: frozenset[str] = frozenset(), *, partial: bool = False
    ) -> Schema:
        """The schema of the object, written out: `without` some fields; `partial`, when no field is required."""
        fields = [field for field in kind.fields if field.name not in without]
        schema: Schema = {
            "type": "object",
            "properties": {field.name: self.field(field, way, partial=partial) for field in fields},
        }
        if way is Way.OUT:
            always = [field.name for field in fields if not field.has_presence]
        else:
            always = [] if partial else [field.name for field in fields if is_required(field)]
            schema["additionalProperties"] = False
            pairs = _exclusive(kind)
            if pairs:
                schema["not"] = {"anyOf": pairs}
        if always:
            schema["required"] = always
        return _described(schema, prose(self._comments, kind.full_name))

    def field(self, field: FieldDescriptor, way: Way, *, partial: bool = False) -> Schema:
        """The schema of a field's value."""
        required = is_required(field) and not partial
        schema = self._value(field, way) | standards(field)
        if way is Way.IN:
            schema |= asked(field, required=required)
        if is_map(field):
            schema = {"type": "object", "additionalProperties": self._value(map_entry(field)[1], way)}
        elif field.is_repeated:
            schema = {"type": "array", "items": schema}
            if way is Way.IN:
                schema |= items(field, required=required)
        if way is Way.IN and not required:
            schema = _or_null(schema)
        if behaves(field, field_behavior_pb2.OUTPUT_ONLY):
            schema["readOnly"] = True
        return _described(schema, prose(self._comments, comment_name(field)))

    def _value(self, field: FieldDescriptor, way: Way) -> Schema:
        if field.message_type is not None:
            return {} if is_map(field) else self.message(field.message_type, way)
        if field.enum_type is None:
            return _scalar(field, way)
        if field.enum_type.full_name == _NULL:
            return {"type": "null"}
        names = self.enum(field.enum_type)
        return names if way is Way.OUT else {"anyOf": [names, _numbers(field.enum_type)]}


def _scalar(field: FieldDescriptor, way: Way) -> Schema:
    kind = field.cpp_type
    if kind in _INTEGERS:
        if way is Way.IN:
            return {"type": ["integer", "string"], **_INTEGERS[kind], "pattern": f"^{_NUMBER_TEXT}$"}
        if kind in _LONG:
            return {"type": "string", "format": _INTEGERS[kind]["format"], "pattern": "^-?[0-9]+$"}
        return {"type": "integer", **_INTEGERS[kind]}
    if kind in _DOUBLES:
        words = f"^({_UNWRITABLE})$" if way is Way.OUT else f"^({_UNWRITABLE}|{_NUMBER_TEXT})$"
        return {"type": ["number", "string"], "format": _DOUBLES[kind], "pattern": words}
    if field.type == FieldDescriptor.TYPE_BYTES:
        alphabets = "A-Za-z0-9+/" if way is Way.OUT else "A-Za-z0-9+/_-"
        return {"type": "string", "contentEncoding": "base64", "pattern": f"^[{alphabets}]*={{0,2}}$"}
    return {"type": "boolean" if kind == FieldDescriptor.CPPTYPE_BOOL else "string"}


def _numbers(kind: EnumDescriptor) -> Schema:
    return {"type": "integer", "enum": sorted({value.number for value in kind.values})}


def _exclusive(kind: Descriptor) -> list[Schema]:
    """The pairs of members that must not come together."""
    return [
        {"required": [one.name, other.name]}
        for oneof in kind.oneofs
        if len(oneof.fields) <= _TOLD_IN_PAIRS
        for index, one in enumerate(oneof.fields)
        for other in oneof.fields[index + 1 :]
    ]


def _or_null(schema: Schema) -> Schema:
    kind = schema.get("type")
    if not schema or kind == "null":
        return schema
    if kind is None:
        return {"anyOf": [*schema.get("anyOf", [schema]), {"type": "null"}]}
    return {**schema, "type": [*(kind if isinstance(kind, list) else [kind]), "null"]}


def _described(schema: Schema, about: str) -> Schema:
    return {**schema, "description": about} if about else schema
