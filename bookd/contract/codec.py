"""JSON and messages: the proto3 JSON mapping, compiled once for each message type from its descriptor.

What comes in is taken strictly. Field names in both spellings (`book_id`, `bookId`), one of them at a time; an unknown
field, a value of another type, a number out of range, two members of one oneof, nesting deeper than 64 levels are
violations, all told at once (at most 20), each with its path (`items[0].quantity`). null means absent. Integers of 64
bits come as strings or as numbers, enums by name or number, bytes in either base64 alphabet. A FieldMask may spell its
paths either way.

What goes out has the names of the proto (`book_id`). Emitted always, even at their default: fields without presence,
that is plain scalars, strings and enums (`"stock": 0`), and lists and maps, empty or not. Omitted when unset: messages,
`optional` fields and members of a oneof. Integers of 64 bits go out as strings, enums by name, or by number when the
name is not known. An Any goes out with `@type` and its members; when its type is not in the pool, with `@type` and its
bytes in base64 as `value`.

https://protobuf.dev/programming-guides/json/
"""

import json
from typing import Final, NoReturn

from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from bookd.contract.codec_decode import MAX_DEPTH, MAX_VIOLATIONS, Decoder
from bookd.contract.codec_encode import Encoder
from bookd.errors import InvalidArgument, Violation

__all__ = ["MAX_DEPTH", "MAX_VIOLATIONS", "Decoder", "Encoder", "decode_json", "encode"]

_MAX_NAME: Final = 100


def encode(message: Message, pool: DescriptorPool | None = None) -> bytes:
    """The message as JSON text; for one whose type is met now and then. `pool` is where the types of Any are found."""
    return Encoder(type(message), pool).encode_bytes(message)


def decode_json(data: bytes) -> object:
    """What the JSON text in `data` says (RFC 8259). Raises `InvalidArgument` saying where it is no JSON.

    Refused although Python would take them: NaN and infinities, a name that one object has twice. Brackets may be
    nested as deep as they like, up to what Python's parser bears; messages have a narrower limit.
    """
    try:
        value: object = _PARSER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _refused(f"must be UTF-8; byte {error.start + 1} is not") from None
    except json.JSONDecodeError as error:
        raise _refused(f"must be JSON; line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _refused("is nested too deeply") from None
    except ValueError:
        # Python converts no integer of more than some thousand digits.
        raise _refused("has a number with too many digits") from None
    return value


def _refused(description: str) -> InvalidArgument:
    return InvalidArgument(f"the body {description}", reason="NOT_JSON", violations=[Violation("", description)])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                shown = name[:_MAX_NAME].encode("utf-8", "replace").decode("utf-8")
                raise InvalidArgument.field(shown, "is given twice in one object")
            seen.add(name)
    return found


def _no_constant(name: str) -> NoReturn:
    raise _refused(f"must be JSON, which has no {name}; write it as a string")


_PARSER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
