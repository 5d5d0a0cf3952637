"""Tests for `bookd.contract.codec`, with protobuf's own json_format as the other party."""

import json
import math
import time
from typing import Any

from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import codec, descriptors
from bookd.contract.codec import Decoder, Encoder, decode_json
from bookd.errors import InvalidArgument, Violation
from tests.contract.kinds import JSON, kind, messages, pool

BOOKS = "/bookd.inventory.v1.InventoryService/ListBooks"
RANDOM = settings(max_examples=150, deadline=None)


def decoded(value: object, name: str = "Kinds") -> Any:
    return Decoder(kind(name)).decode(value)


def encoded(message: Any) -> Any:
    return Encoder(type(message)).encode(message)


class AgainstJsonFormatTests(SynchronousTestCase):
    """Both codecs understand each other."""

    @given(messages())
    @RANDOM
    def test_what_we_write(self, message: Any) -> None:
        """json_format reads what the encoder writes as the same message."""
        text = Encoder(type(message)).encode_bytes(message)
        self.assertEqual(json_format.Parse(text, type(message)(), descriptor_pool=pool()), message)

    @given(messages(), st.booleans(), st.booleans())
    @RANDOM
    def test_what_we_read(self, message: Any, names: bool, defaults: bool) -> None:
        """The decoder reads what json_format writes, in either spelling, as the same message."""
        text = json_format.MessageToJson(
            message,
            preserving_proto_field_name=names,
            always_print_fields_with_no_presence=defaults,
            descriptor_pool=pool(),
        )
        self.assertEqual(decoded(decode_json(text.encode())), message)

    @given(messages())
    @RANDOM
    def test_round_trip(self, message: Any) -> None:
        """What the encoder writes, the decoder reads as the same message."""
        self.assertEqual(decoded(decode_json(Encoder(type(message)).encode_bytes(message))), message)

    @given(messages())
    @RANDOM
    def test_same_members(self, message: Any) -> None:
        """The encoder emits the very members that json_format emits when it is told to emit defaults."""
        other = json_format.MessageToDict(
            message,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
            descriptor_pool=pool(),
        )
        # A message inside an Any says its defaults here too; json_format's does not.
        self.assertEqual(encoded(message).keys(), other.keys())

    @given(st.dictionaries(st.sampled_from([*kind("Kinds").DESCRIPTOR.fields_by_name, "else"]), JSON, max_size=4))
    @RANDOM
    def test_any_json(self, value: dict[str, object]) -> None:
        """Whatever JSON comes, it is either read, and then as json_format reads it, or refused as it should be."""
        try:
            message = decoded(value)
        except InvalidArgument as error:
            self.assertTrue(error.violations)
            return
        # We take more spellings of a mask, and json_format stumbles over null for a list of Values.
        if "mask" not in value and value.get("values", []) is not None and value.get("values_by_name", {}) is not None:
            self.assertEqual(json_format.ParseDict(value, kind("Kinds")(), descriptor_pool=pool()), message)


class ReadTests(SynchronousTestCase):
    """What is taken."""

    def test_both_spellings(self) -> None:
        """A field answers to its proto name and to its JSON name."""
        self.assertEqual(decoded({"an_int32": 3}), decoded({"anInt32": 3}))

    def test_integers(self) -> None:
        """Integers come as numbers, strings, and in any notation that means a whole number."""
        for value in (1500, "1500", 1500.0, "1500.0", "1.5e3", "15E2", 1.5e3):
            self.assertEqual(decoded({"an_int64": value}).an_int64, 1500, value)
        for value in (2**63 - 1, str(2**63 - 1), "9223372036854775807.0"):
            self.assertEqual(decoded({"an_int64": value}).an_int64, 2**63 - 1, value)

    def test_floats(self) -> None:
        """Doubles come as numbers, as text, and by the names of what JSON has no number for."""
        for value, number in ((1, 1.0), ("1.5", 1.5), ("-1e3", -1000.0), ("Infinity", math.inf)):
            self.assertEqual(decoded({"a_double": value}).a_double, number)
        self.assertTrue(math.isnan(decoded({"a_float": "NaN"}).a_float))
        self.assertEqual(encoded(decoded({"a_float": "NaN", "a_double": "-Infinity"}))["a_float"], "NaN")

    def test_bytes(self) -> None:
        """Bytes come in both alphabets, padded or not."""
        for text in ("+/8=", "-_8=", "+/8", "-_8"):
            self.assertEqual(decoded({"a_bytes": text}).a_bytes, b"\xfb\xff", text)

    def test_enums(self) -> None:
        """Enums come by name, or by number, known or not."""
        for value, number in (("COLOUR_BLUE", -2), (-2, -2), (1.0, 1), (77, 77)):
            self.assertEqual(decoded({"colour": value}).colour, number)

    def test_null_is_absent(self) -> None:
        """null leaves a field unset, except where null is a value."""
        message = decoded({"an_int32": None, "inner": None, "ints": None, "by_name": None, "by_number": 4})
        self.assertEqual(message, decoded({"by_number": 4}))
        self.assertTrue(decoded({"value": None}).HasField("value"))
        self.assertEqual(decoded({"nothing": None}).WhichOneof("choice"), "nothing")

    def test_presence(self) -> None:
        """An optional field at its default is set, an empty message is set."""
        message = decoded({"maybe_int": 0, "inner": {}, "empty": {}, "w_int32": 0})
        for name in ("maybe_int", "inner", "empty", "w_int32"):
            self.assertTrue(message.HasField(name), name)

    def test_times(self) -> None:
        """Times come with any offset."""
        whole = decoded({"time": "2026-01-31T23:59:59Z"})
        self.assertEqual(decoded({"time": "2026-02-01T01:29:59+01:30"}), whole)
        self.assertEqual(decoded({"time": "2026-01-31T15:59:59.000-08:00"}), whole)

    def test_field_mask(self) -> None:
        """The paths of a mask come in either spelling."""
        self.assertEqual(
            decoded({"mask": "fullName,some_field.x,a.bC"}).mask.paths, ["full_name", "some_field.x", "a.b_c"]
        )

    def test_any(self) -> None:
        """An Any holds what its type says, if the pool knows that type."""
        money = {"@type": "type.googleapis.com/google.type.Money", "currency_code": "USD", "units": "3"}
        message = decoded({"any": money})
        inner = kind("google.type.Money")()
        self.assertTrue(message.any.Unpack(inner))
        self.assertEqual((inner.currency_code, inner.units), ("USD", 3))
        self.assertEqual(decoded({"any": {}}).any.type_url, "")


class RefusalTests(SynchronousTestCase):
    """What is refused, and how that is told."""

    def violations(self, value: object, name: str = "Kinds") -> list[Violation]:
        return list(self.assertRaises(InvalidArgument, decoded, value, name).violations)

    def fields(self, value: object) -> list[str]:
        return [violation.field for violation in self.violations(value)]

    def test_paths(self) -> None:
        """A violation names the whole path, through lists, maps and messages."""
        value = {
            "kinds": [{}, {"inner": {"foo": 1}}],
            "by_bool": {"true": {"an_int32": "x"}},
            "counts": {"a b": "many"},
            "ints": [1, 2, "three"],
            "struct": {"a": [1, math.inf]},
            "times": ["yesterday"],
        }
        self.assertEqual(
            self.fields(value),
            ["kinds[1].inner.foo", "by_bool[true].an_int32", "counts[a b]", "ints[2]", "struct.a[1]", "times[0]"],
        )

    def test_expectations(self) -> None:
        """A violation says what was expected, never what came."""
        self.assertEqual(
            [violation.description for violation in self.violations({"a_bool": "secret", "colour": "secret"})],
            ["must be true or false", "must be one of COLOUR_UNSPECIFIED, COLOUR_RED, COLOUR_BLUE"],
        )

    def test_wrong_values(self) -> None:
        """Each kind of field refuses what it cannot hold."""
        wrong: dict[str, list[object]] = {
            "an_int32": [2**31, -(2**31) - 1, 1.5, "1.5", "", " 1", "1_0", "0x1", "٣", True, [], {}, "1e999", 10**400],
            "a_uint32": [-1, 2**32, "-1"],
            "an_int64": [2**63, str(2**63), "1" * 70, 1e300],
            "a_uint64": [2**64, -1],
            "a_double": ["nan", "inf", "1_0", " 1", "", True, [], 10**400, math.inf, "1e999", "0x1p3"],
            "a_float": [1e39, "1e39"],
            "a_bool": [0, 1, "true", [], ""],
            "a_string": [0, True, [], {}, "\ud800"],
            "a_bytes": ["a", "!!!!", "====", 1, "ab==cd", "é"],
            "colour": ["RED", "1", True, 2**31, 1.5, []],
            "inner": [[], "x", 1, True],
            "ints": [{}, 1, "1", [None], [[1]]],
            "kinds": [{}, [None], [1]],
            "counts": [[], {"a": None}, {"a": "x"}],
            "by_long": [{"x": "a"}, {"1.5": "a"}, {"": "a"}],
            "by_bool": [{"True": {}}, {"1": {}}],
            "time": ["2026-01-31", "2026-13-01T00:00:00Z", "2026-01-31T23:59:59", "2026-01-31 23:59:59Z", 0,
                     "2026-01-31T23:59:59.1234567890Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"],
            "duration": ["1", "s", "1.s", "315576000001s", "1e3s", 1, "--1s", "1.0000000001s"],
            "mask": ["a,,b", "a b", 1, [], "a.", ".a"],
            "struct": [[], "x", 1],
            "list": [{}, "x"],
            "empty": [[], {"a": 1}],
            "w_int32": ["x", 2**31, {"value": 1}],
            "any": [1, {"a": 1}, {"@type": 3}, {"@type": "x/nobody.knows.It"}, {"@type": ""},
                    {"@type": "x/google.protobuf.Duration"}, {"@type": "x/google.protobuf.Duration", "value": 1},
                    {"@type": "x/google.type.Money", "units": "x"}],
        }  # fmt: skip
        for name, values in wrong.items():
            for value in values:
                fields = self.fields({name: value})
                self.assertTrue(fields[0].startswith(name), (name, str(value)[:40], fields))

    def test_given_twice(self) -> None:
        """A field comes in one spelling, one member of a oneof at most, one key of a map once."""
        self.assertEqual(self.fields({"an_int32": 1, "anInt32": 1}), ["an_int32"])
        self.assertEqual(self.fields({"by_name": "a", "by_number": 1}), ["by_number"])
        self.assertEqual(self.fields({"by_name": "a", "nothing": None}), ["nothing"])
        self.assertEqual(self.fields({"by_long": {"1": "a", "-0": "b", "0": "c"}}), ["by_long[0]"])

    def test_root(self) -> None:
        """What is no object has no field to blame."""
        for value in (None, [], "x", 1):
            self.assertEqual(self.violations(value), [Violation("", "must be an object")])

    def test_at_most_twenty(self) -> None:
        """However much is wrong, twenty violations are told, and soon."""
        started = time.monotonic()
        self.assertEqual(len(self.fields({f"x{number}": 1 for number in range(200_000)})), codec.MAX_VIOLATIONS)
        self.assertEqual(len(self.fields({"ints": ["x"] * 200_000})), codec.MAX_VIOLATIONS)
        self.assertEqual(len(self.fields({"counts": {str(n): "x" for n in range(200_000)}})), codec.MAX_VIOLATIONS)
        self.assertEqual(len(self.fields({"values": [math.inf] * 200_000})), codec.MAX_VIOLATIONS)
        self.assertEqual(len(self.fields({"struct": {str(n): math.inf for n in range(200_000)}})), codec.MAX_VIOLATIONS)
        self.assertTrue(time.monotonic() - started < 5)

    def test_names_are_cut(self) -> None:
        """A huge or broken name is told in a form that can be sent."""
        self.assertTrue(len(self.fields({"x" * 100_000: 1})[0]) < 300)
        self.assertEqual(self.fields({"\ud800": 1}), ["?"])

    def test_depth(self) -> None:
        """64 levels are taken, 65 are not, in messages as in free JSON."""

        def nested(name: str, levels: int) -> dict[str, object]:
            value: dict[str, object] = {}
            for _ in range(levels - 1):
                value = {name: value}
            return value

        decoded(nested("inner", codec.MAX_DEPTH))
        self.assertIn("deeper", self.violations(nested("inner", codec.MAX_DEPTH + 1))[0].description)
        decoded({"struct": nested("a", codec.MAX_DEPTH - 1)})
        self.assertIn("deeper", self.violations({"struct": nested("a", codec.MAX_DEPTH)})[0].description)
        self.assertIn("deeper", self.violations({"value": nested("a", 500)})[0].description)
        any_ = {"@type": "x/google.protobuf.Any", "value": {}}
        for _ in range(100):
            any_ = {"@type": "x/google.protobuf.Any", "value": any_}
        self.assertIn("deeper", self.violations({"any": any_})[0].description)


class WriteTests(SynchronousTestCase):
    """What goes out."""

    def test_defaults(self) -> None:
        """Fields without presence and lists are always there, fields with presence when they are set."""
        found = encoded(kind("Kinds")())
        self.assertEqual(found["an_int32"], 0)
        self.assertEqual(found["an_int64"], "0")
        self.assertEqual(found["a_string"], "")
        self.assertEqual(found["colour"], "COLOUR_UNSPECIFIED")
        self.assertEqual(found["ints"], [])
        self.assertEqual(found["counts"], {})
        for name in ("inner", "maybe_int", "by_name", "time", "w_int32"):
            self.assertNotIn(name, found)
        self.assertEqual(encoded(kind("Kinds")(maybe_int=0))["maybe_int"], 0)

    def test_order(self) -> None:
        """Members stand in the order of the proto, the keys of a map in their own."""
        message = kind("Kinds")(counts={"b": 1, "a": 2})
        message.inner.an_int32 = 1
        names = list(encoded(message))
        self.assertEqual(names, [name for name in type(message).DESCRIPTOR.fields_by_name if name in names])
        self.assertEqual(list(encoded(message)["counts"]), ["a", "b"])

    def test_money(self) -> None:
        """Money has its units as a string."""
        money = kind("google.type.Money")(currency_code="USD", units=15, nanos=990_000_000)
        self.assertEqual(
            Encoder(type(money)).encode_bytes(money), b'{"currency_code":"USD","units":"15","nanos":990000000}'
        )

    def test_floats(self) -> None:
        """A float of 32 bits goes out as short as it can be read back."""
        self.assertEqual(encoded(kind("Kinds")(a_float=0.1))["a_float"], 0.1)
        self.assertEqual(encoded(kind("Kinds")(a_float=16777217.0))["a_float"], 16777216.0)

    def test_unknown_enum(self) -> None:
        """An enum value without a name goes out as its number."""
        self.assertEqual(encoded(kind("Kinds")(colour=77, colours=[1, 77]))["colours"], ["COLOUR_RED", 77])

    def test_unknown_any(self) -> None:
        """An Any whose type is not known, or whose bytes are broken, goes out with its bytes."""
        message = kind("Kinds")()
        message.any.type_url, message.any.value = "x/nobody.knows.It", b"\x01"
        self.assertEqual(encoded(message)["any"], {"@type": "x/nobody.knows.It", "value": "AQ=="})
        message.any.type_url, message.any.value = "x/google.type.Money", b"\xff"
        self.assertEqual(encoded(message)["any"], {"@type": "x/google.type.Money", "value": "/w=="})

    def test_any_from_another_pool(self) -> None:
        """A message of the process's own pool may hold what another pool knows."""
        from google.longrunning.operations_pb2 import Operation

        operation = Operation(name="operations/1", done=True)
        operation.response.Pack(kind("Update")(note="x"))
        found = json.loads(codec.encode(operation, pool()))
        self.assertEqual(found["response"], {"@type": "type.googleapis.com/kinds.v1.Update", "note": "x"})
        self.assertNotIn("error", found)

    def test_field_mask_that_has_no_json_name(self) -> None:
        """A mask path that cannot be spelled in lowerCamel goes out as it is."""
        message = kind("Kinds")()
        message.mask.paths.extend(["a_b", "c__d"])
        self.assertEqual(encoded(message)["mask"], "a_b,c__d")

    def test_page_of_books(self) -> None:
        """A page of the bookstore goes out with everything that its clients rely on."""
        page = descriptors.load([descriptors.shipped()]).methods[BOOKS].response
        self.assertEqual(encoded(page()), {"books": [], "next_page_token": "", "total_size": 0})
        book = encoded(decoded_as(page, {"books": [{"title": "T", "created_at": "2026-01-31T00:00:00.5Z"}]}))["books"][
            0
        ]
        self.assertEqual(book["stock"], 0)
        self.assertEqual(book["created_at"], "2026-01-31T00:00:00.500Z")


def decoded_as(message_class: Any, value: object) -> Any:
    return Decoder(message_class).decode(value)


class JsonTextTests(SynchronousTestCase):
    """`decode_json`."""

    def refused(self, data: bytes) -> str:
        error = self.assertRaises(InvalidArgument, decode_json, data)
        self.assertTrue(error.violations)
        return error.message

    def test_values(self) -> None:
        """Any JSON value is read."""
        for text in ("{}", "[1, 2.5, null]", '"é\\ud83d\\ude00"', " true "):
            self.assertEqual(decode_json(text.encode()), json.loads(text))

    def test_position(self) -> None:
        """What is no JSON is told with its line and column."""
        self.assertIn("line 2, column 8", self.refused(b'{\n  "a": nope}'))
        for data in (
            b"",
            b" ",
            b"{",
            b'{"a":1,}',
            b"[1 2]",
            b"'a'",
            b"{}{}",
            b'{"a"}',
            b'"\n"',
            b"01",
            b"\xef\xbb\xbf{}",
        ):
            self.assertIn("must be JSON", self.refused(data))

    def test_encoding(self) -> None:
        """Only UTF-8 is taken."""
        self.assertIn("byte 3", self.refused(b'{"\xff": 1}'))
        self.refused('{"a": 1}'.encode("utf-16"))
        self.refused(b'"\xed\xa0\x80"')

    def test_constants(self) -> None:
        """NaN and infinities are no JSON."""
        for data in (b"NaN", b"[Infinity]", b'{"a": -Infinity}'):
            self.assertIn("has no", self.refused(data))

    def test_given_twice(self) -> None:
        """A name comes once in an object, however deep."""
        self.assertEqual(self.refused(b'{"a": [{"b": 1, "c": 2, "b": 3}]}'), "b: is given twice in one object")
        decode_json(b'{"a": {"a": 1}}')

    def test_hostile(self) -> None:
        """What is made to hurt is refused within a moment."""
        started = time.monotonic()
        for data in (b"[" * 100_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000, b"9" * 1_000_000):
            self.refused(data)
        self.assertEqual(decode_json(b"1e999"), math.inf)
        self.assertEqual(
            self.refused(b'{"' + b"x" * 500_000 + b'":1,"' + b"x" * 500_000 + b'":1}')[-24:],
            "given twice in one object"[-24:],
        )
        self.assertTrue(time.monotonic() - started < 5)

    @given(st.binary(max_size=60) | st.text('{}[]",:-+.eE0123456789ntrufalsINy\\ \n', max_size=60).map(str.encode))
    @settings(max_examples=300, deadline=None)
    def test_any_bytes(self, data: bytes) -> None:
        """Whatever bytes come, the answer is a value or an InvalidArgument."""
        try:
            decode_json(data)
        except InvalidArgument as error:
            self.assertTrue(error.message)
