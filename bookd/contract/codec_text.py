"""The leaves of the proto3 JSON mapping: how one scalar is written, and read again.

A reader takes what the JSON parser made of a value and answers with what the field takes; it raises ValueError with
what was expected. The value itself is never repeated in the error: it may be a secret, and it may be huge.
"""

import math
import re
import struct
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

Reader = Callable[[object], object]
Writer = Callable[[object], object]

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]{1,400})?(?:[eE][+-]?[0-9]{1,4})?")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,19})")
_TIMESTAMP = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DURATION = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s")
_MASK = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)")
_URLSAFE = str.maketrans("-_", "+/")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = _EPOCH.replace(tzinfo=None)
# 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
_FIRST_SECOND: Final = -62_135_596_800
_LAST_SECOND: Final = 253_402_300_799
_FLOAT: Final = struct.Struct("<f")
_LARGEST_FLOAT: Final = _FLOAT.unpack(b"\xff\xff\x7f\x7f")[0]
_UNWRITABLE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

# Any integer type has at most 20 digits; a number that is written longer is not one of them.
_LONGEST_INTEGER: Final = 64


def integer(low: int, high: int) -> Reader:
    """Reads an integer: a JSON number or a string, with an exponent or a fraction as long as the value is whole."""
    expected = f"must be an integer from {low:,} to {high:,}"

    def read(value: object) -> int:
        if type(value) is int:
            number = value
        elif (type(value) is str and _INTEGER.fullmatch(value)) or (type(value) is float and value.is_integer()):
            number = int(value)
        elif type(value) is str and len(value) <= _LONGEST_INTEGER and _NUMBER.fullmatch(value):
            exact = Decimal(value)
            if exact.adjusted() > 20 or exact != exact.to_integral_value():
                raise ValueError(expected)
            number = int(exact)
        else:
            raise ValueError(expected)
        if not low <= number <= high:
            raise ValueError(expected)
        return number

    return read


def double(value: object) -> float:
    """Reads a finite number, or one of the strings NaN, Infinity and -Infinity."""
    if type(value) is float or type(value) is int:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    elif type(value) is str and value in _UNWRITABLE:
        return _UNWRITABLE[value]
    elif type(value) is str and _NUMBER.fullmatch(value):
        number = float(value)
    else:
        raise ValueError("must be a number")
    if not math.isfinite(number):
        raise ValueError("must be a number that a double can hold")
    return number


def single(value: object) -> float:
    """Reads a number that 32 bits can hold, or one of the strings NaN, Infinity and -Infinity."""
    number = double(value)
    try:
        _FLOAT.pack(number)
    except OverflowError:
        raise ValueError("must be a number that a float can hold") from None
    return number


def boolean(value: object) -> bool:
    """Reads true or false."""
    if value is True or value is False:
        return value
    raise ValueError("must be true or false")


def boolean_text(value: object) -> bool:
    """Reads the strings true and false."""
    if value in ("true", "false"):
        return value == "true"
    raise ValueError("must be true or false")


def string(value: object) -> str:
    """Reads a string. Half a surrogate pair is no character."""
    if type(value) is not str:
        raise ValueError("must be a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("must be a string of Unicode characters, not half a surrogate pair") from None
    return value


def octets(value: object) -> bytes:
    """Reads base64, of either alphabet, padded or not."""
    expected = "must be a base64 string"
    if type(value) is not str or not value.isascii():
        raise ValueError(expected)
    bare = value.rstrip("=")
    if len(value) - len(bare) > 2:
        raise ValueError(expected)
    try:
        return a2b_base64(bare.translate(_URLSAFE) + "=" * (-len(bare) % 4), strict_mode=True)
    except Base64Error:
        raise ValueError(expected) from None


def enumeration(descriptor: EnumDescriptor) -> Reader:
    """Reads the name of an enum value, or its number; an open enum takes any number."""
    names: Mapping[str, int] = {value.name: value.number for value in descriptor.values}
    numbers = frozenset(names.values())
    shown = list(names)[:10]
    expected = "must be one of " + ", ".join(shown) + (" …" if len(names) > len(shown) else "")
    number = integer(-(2**31), 2**31 - 1)

    def read(value: object) -> int:
        if type(value) is str:
            if value not in names:
                raise ValueError(expected)
            return names[value]
        if type(value) is bool:
            raise ValueError(expected)
        try:
            found = number(value)
        except ValueError:
            raise ValueError(expected) from None
        if descriptor.is_closed and found not in numbers:
            raise ValueError(expected)
        return found  # type: ignore[return-value]

    return read


def enumeration_text(descriptor: EnumDescriptor) -> Reader:
    """Reads the name of an enum value, or its number as text."""
    read = enumeration(descriptor)

    def read_text(value: object) -> object:
        return read(int(value) if type(value) is str and _INTEGER.fullmatch(value) else value)

    return read_text


# Timestamps are read and written here, not by protobuf's own Python code, for they fill every page of a list.


def fill_timestamp(message: Any, value: object) -> None:
    """Reads RFC 3339, with any offset and at most nine digits of a second, into a Timestamp."""
    found = _TIMESTAMP.fullmatch(value) if type(value) is str else None
    try:
        if found is None:
            raise ValueError
        time, fraction, offset = found.groups()
        since = datetime.fromisoformat(time + offset) - _EPOCH
        seconds = since.days * 86400 + since.seconds
        if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
            raise ValueError
    except ValueError:
        raise ValueError("must be a time such as 2026-01-31T23:59:59Z") from None
    message.seconds = seconds
    message.nanos = int(fraction.ljust(9, "0")) if fraction else 0


def write_timestamp(message: Any) -> str:
    """RFC 3339 in UTC, with three, six or nine digits of a second where it has any. ValueError for no such time."""
    seconds, nanos = message.seconds, message.nanos
    if not (_FIRST_SECOND <= seconds <= _LAST_SECOND and 0 <= nanos < 10**9):
        raise ValueError(f"{seconds} s and {nanos} ns are no Timestamp")
    if not nanos:
        return _second(seconds) + "Z"
    if not nanos % 1_000_000:
        return f"{_second(seconds)}.{nanos // 1_000_000:03}Z"
    if not nanos % 1000:
        return f"{_second(seconds)}.{nanos // 1000:06}Z"
    return f"{_second(seconds)}.{nanos:09}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """A whole second. Most of what is written happened just now, or comes twice in one message."""
    return (_NAIVE_EPOCH + timedelta(0, seconds)).isoformat()


def fill_duration(message: Any, value: object) -> None:
    """Reads seconds with an "s" behind them into a Duration."""
    expected = "must be a duration such as 1.5s, of 10,000 years at most"
    if type(value) is not str or not _DURATION.fullmatch(value):
        raise ValueError(expected)
    try:
        message.FromJsonString(value)
    except (ValueError, OverflowError):
        raise ValueError(expected) from None


def fill_mask(message: Any, value: object) -> None:
    """Reads comma-separated field paths, in either spelling, into a FieldMask."""
    expected = "must be field paths separated by commas"
    if type(value) is not str:
        raise ValueError(expected)
    paths = value.split(",") if value else []
    if not all(_MASK.fullmatch(path) for path in paths):
        raise ValueError(expected)
    message.paths[:] = [_snake(path) for path in paths]


def _snake(path: str) -> str:
    # A path that has an underscore is spelled as in the proto already.
    return path if "_" in path else re.sub(r"[A-Z]", lambda found: "_" + found.group().lower(), path)


def write_mask(message: Any) -> str:
    """The paths as the mapping wants them (lowerCamel), or as they are when they cannot be spelled so and read again."""
    try:
        text: str = message.ToJsonString()
    except ValueError:
        text = ",".join(message.paths)
    return text


def write_double(value: float) -> float | str:
    """A finite number as it is, the others by name."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def write_single(value: float) -> float | str:
    """The shortest number that reads back as the same 32 bits."""
    if not math.isfinite(value):
        return write_double(value)
    packed = _FLOAT.pack(value)
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        # The largest float is not rounded up: json_format refuses what is above it.
        if abs(short) <= _LARGEST_FLOAT and _FLOAT.pack(short) == packed:
            return short
    return value


def write_octets(value: bytes) -> str:
    """Base64 of the standard alphabet, padded."""
    return b64encode(value).decode()


# How the value of a scalar field is read from JSON. Enums are read by `enumeration`.
READERS: Final[Mapping[int, Reader]] = {
    FieldDescriptor.CPPTYPE_INT32: integer(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: integer(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: integer(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: integer(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: double,
    FieldDescriptor.CPPTYPE_FLOAT: single,
    FieldDescriptor.CPPTYPE_BOOL: boolean,
    FieldDescriptor.CPPTYPE_STRING: string,
}


def reader(field: FieldDescriptor) -> Reader:
    """What reads one value of a scalar `field` from JSON."""
    if field.enum_type is not None:
        return enumeration(field.enum_type)
    return octets if field.type == FieldDescriptor.TYPE_BYTES else READERS[field.cpp_type]


def text_reader(field: FieldDescriptor) -> Reader:
    """What reads one value of a scalar `field` from plain text: a path, a query, the key of a map."""
    if field.enum_type is not None:
        return enumeration_text(field.enum_type)
    return boolean_text if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else reader(field)


def writer(field: FieldDescriptor) -> Writer | None:
    """What turns one value of a scalar `field` into its JSON form; None when it is its own."""
    if field.enum_type is not None:
        if field.enum_type.full_name == "google.protobuf.NullValue":
            return lambda value: None
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda value: names.get(value, value)  # type: ignore[call-overload]
    if field.type == FieldDescriptor.TYPE_BYTES:
        return write_octets  # type: ignore[return-value]
    return {
        FieldDescriptor.CPPTYPE_INT64: str,
        FieldDescriptor.CPPTYPE_UINT64: str,
        FieldDescriptor.CPPTYPE_DOUBLE: write_double,
        FieldDescriptor.CPPTYPE_FLOAT: write_single,
    }.get(field.cpp_type)  # type: ignore[return-value]
