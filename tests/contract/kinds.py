"""A proto with a field of every kind, in a pool of its own, and random messages of it."""

import struct
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import google.type
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from grpc_tools import protoc
from hypothesis import strategies as st

KINDS = """
syntax = "proto3";
package kinds.v1;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/type/money.proto";

enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_RED = 1; COLOUR_BLUE = -2; }

message Kinds {
  int32 an_int32 = 1; sint32 a_sint32 = 2; sfixed32 an_sfixed32 = 3;
  int64 an_int64 = 4; sint64 a_sint64 = 5; sfixed64 an_sfixed64 = 6;
  uint32 a_uint32 = 7; fixed32 a_fixed32 = 8; uint64 a_uint64 = 9; fixed64 a_fixed64 = 10;
  float a_float = 11; double a_double = 12; bool a_bool = 13; string a_string = 14; bytes a_bytes = 15;
  Colour colour = 16;
  Kinds inner = 17;
  optional int32 maybe_int = 18; optional string maybe_text = 19; optional Colour maybe_colour = 20;
  oneof choice { string by_name = 21; int64 by_number = 22; Kinds by_kind = 23; google.protobuf.NullValue nothing = 24; }
  repeated int32 ints = 30; repeated int64 longs = 31; repeated string texts = 32; repeated bytes blobs = 33;
  repeated Colour colours = 34; repeated Kinds kinds = 35; repeated double doubles = 36;
  map<string, int32> counts = 40; map<int64, string> by_long = 41; map<bool, Kinds> by_bool = 42;
  map<string, google.protobuf.Value> values_by_name = 43; map<uint32, Colour> colour_by_id = 44;
  google.protobuf.Timestamp time = 50; google.protobuf.Duration duration = 51; google.protobuf.FieldMask mask = 52;
  google.protobuf.Struct struct = 53; google.protobuf.Value value = 54; google.protobuf.ListValue list = 55;
  google.protobuf.Any any = 56; google.protobuf.Empty empty = 57; google.type.Money money = 58;
  repeated google.protobuf.Timestamp times = 59; repeated google.protobuf.Value values = 60;
  google.protobuf.DoubleValue w_double = 61; google.protobuf.FloatValue w_float = 62;
  google.protobuf.Int64Value w_int64 = 63; google.protobuf.UInt64Value w_uint64 = 64;
  google.protobuf.Int32Value w_int32 = 65; google.protobuf.UInt32Value w_uint32 = 66;
  google.protobuf.BoolValue w_bool = 67; google.protobuf.StringValue w_string = 68;
  google.protobuf.BytesValue w_bytes = 69; repeated google.protobuf.StringValue w_strings = 70;
}

message Update { Kinds kinds = 1; google.protobuf.FieldMask update_mask = 2; string note = 3; }
"""


@cache
def pool() -> DescriptorPool:
    """A pool that knows the proto above and what it imports, apart from the process's own."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "kinds.proto").write_text(KINDS)
        made = Path(folder) / "kinds.binpb"
        includes = [folder, str(files("grpc_tools") / "_proto"), str(Path(next(iter(google.type.__path__))).parents[1])]
        flags = ["--include_imports", f"--descriptor_set_out={made}"]
        if protoc.main(["protoc", *(f"-I{path}" for path in includes), *flags, "kinds.proto"]) != 0:
            raise AssertionError("protoc failed")
        files_ = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes())
    found = DescriptorPool()
    for file in files_.file:
        found.Add(file)
    return found


def kind(name: str) -> type[Any]:
    """The class of a message in the pool; without a dot in the name, one of the proto above."""
    full = name if "." in name else f"kinds.v1.{name}"
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full))


def _single(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


TEXT = st.text(max_size=8)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
# A NaN equals nothing, itself included, and is tested by itself.
DOUBLE = st.floats(allow_nan=False)
FLOAT = st.floats(width=32, allow_nan=False).map(_single)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
BYTES = st.binary(max_size=8)
COLOUR = st.sampled_from([0, 1, -2, 77])
SECONDS = st.integers(-62_135_596_800, 253_402_300_799)
NANOS = st.sampled_from([0, 1, 999_999_999, 120_000_000, 123_456_000, 7_000])
JSON = st.recursive(
    st.none() | st.booleans() | FINITE | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def _fill_free(message: Any, value: Any) -> None:
    """Set a Value by hand, without any JSON code."""
    if value is None:
        message.null_value = 0
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, list):
        message.list_value.SetInParent()
        for item in value:
            _fill_free(message.list_value.values.add(), item)
    elif isinstance(value, dict):
        message.struct_value.SetInParent()
        for key, item in value.items():
            _fill_free(message.struct_value.fields[key], item)
    else:
        message.number_value = value


@st.composite
def free(draw: st.DrawFn) -> Message:
    """A random google.protobuf.Value."""
    message = kind("google.protobuf.Value")()
    _fill_free(message, draw(JSON))
    return message


SCALARS = {
    "an_int32": INT32, "a_sint32": INT32, "an_sfixed32": INT32, "an_int64": INT64, "a_sint64": INT64,
    "an_sfixed64": INT64, "a_uint32": UINT32, "a_fixed32": UINT32, "a_uint64": UINT64, "a_fixed64": UINT64,
    "a_float": FLOAT, "a_double": DOUBLE, "a_bool": st.booleans(), "a_string": TEXT, "a_bytes": BYTES,
    "colour": COLOUR, "maybe_int": INT32, "maybe_text": TEXT, "maybe_colour": COLOUR,
}  # fmt: skip
LISTS = {"ints": INT32, "longs": INT64, "texts": TEXT, "blobs": BYTES, "colours": COLOUR, "doubles": DOUBLE}
MAPS = {
    "counts": st.dictionaries(TEXT, INT32, max_size=3),
    "by_long": st.dictionaries(INT64, TEXT, max_size=3),
    "colour_by_id": st.dictionaries(UINT32, COLOUR, max_size=3),
}
WRAPPED = {
    "w_double": DOUBLE, "w_float": FLOAT, "w_int64": INT64, "w_uint64": UINT64, "w_int32": INT32, "w_uint32": UINT32,
    "w_bool": st.booleans(), "w_string": TEXT, "w_bytes": BYTES,
}  # fmt: skip
SPECIAL = (
    "time",
    "duration",
    "mask",
    "struct",
    "value",
    "list",
    "any",
    "empty",
    "money",
    "times",
    "values",
    "w_strings",
)
NESTED = ("inner", "kinds", "by_bool", "by_kind")
PATHS = st.sampled_from(["a", "a_b", "some_field.other_one", "x.y.z"])


@st.composite
def messages(draw: st.DrawFn, depth: int = 0) -> Message:
    """A random Kinds, with some of its fields set."""
    message = kind("Kinds")()
    usual = [*SCALARS, *LISTS, *MAPS, *WRAPPED, *SPECIAL, "by_name", "by_number", "nothing", "values_by_name"]
    chosen = draw(st.lists(st.sampled_from([*usual, *(NESTED if depth < 2 else ())]), unique=True, max_size=8))
    for name in chosen:
        _set(draw, message, name, depth)
    return message


def _set(draw: st.DrawFn, message: Any, name: str, depth: int) -> None:
    if name in SCALARS:
        setattr(message, name, draw(SCALARS[name]))
    elif name in LISTS:
        getattr(message, name).extend(draw(st.lists(LISTS[name], max_size=3)))
    elif name in MAPS:
        for key, value in draw(MAPS[name]).items():
            getattr(message, name)[key] = value
    elif name in WRAPPED:
        getattr(message, name).SetInParent()
        getattr(message, name).value = draw(WRAPPED[name])
    elif name in ("inner", "by_kind"):
        getattr(message, name).CopyFrom(draw(messages(depth + 1)))
    elif name == "kinds":
        message.kinds.extend(draw(st.lists(messages(depth + 1), max_size=2)))
    elif name == "by_bool":
        message.by_bool[draw(st.booleans())].CopyFrom(draw(messages(depth + 1)))
    elif name == "by_name":
        message.by_name = draw(TEXT)
    elif name == "by_number":
        message.by_number = draw(INT64)
    elif name == "nothing":
        message.nothing = 0
    elif name == "values_by_name":
        message.values_by_name[draw(TEXT)].CopyFrom(draw(free()))
    else:
        _set_special(draw, message, name)


def _set_special(draw: st.DrawFn, message: Any, name: str) -> None:
    if name in ("empty", "struct", "list", "time", "duration", "mask", "money"):
        getattr(message, name).SetInParent()
    if name == "time":
        message.time.seconds, message.time.nanos = draw(SECONDS), draw(NANOS)
    elif name == "times":
        message.times.add(seconds=draw(SECONDS), nanos=draw(NANOS))
    elif name == "duration":
        seconds, nanos = draw(st.integers(0, 315_576_000_000 - 1)), draw(NANOS)
        sign = draw(st.sampled_from([1, -1]))
        message.duration.seconds, message.duration.nanos = sign * seconds, sign * nanos
    elif name == "mask":
        message.mask.paths.extend(draw(st.lists(PATHS, max_size=3)))
    elif name == "struct":
        message.struct.fields[draw(TEXT)].CopyFrom(draw(free()))
    elif name == "value":
        message.value.CopyFrom(draw(free()))
    elif name == "list":
        message.list.values.append(draw(free()))
    elif name == "values":
        message.values.append(draw(free()))
    elif name == "w_strings":
        message.w_strings.add(value=draw(TEXT))
    elif name == "any":
        held = draw(st.sampled_from(["google.type.Money", "google.protobuf.Duration", "kinds.v1.Update"]))
        inner = kind(held)()
        if held != "kinds.v1.Update":
            inner.nanos = draw(NANOS)
        message.any.Pack(inner)
    elif name == "money":
        message.money.units = draw(INT64)
