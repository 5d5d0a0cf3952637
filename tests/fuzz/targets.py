"""What is fuzzed: each target takes bytes that somebody may send, and raises when a promise about them does not hold.

An error that is meant for such bytes is no failure. What fails is any other exception, and what is wrong about an answer.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import grpc.aio
from google.protobuf.message import DecodeError, Message

from bookd.bridge import exchange, reactor
from bookd.command.catalogue import Defaults, Refused, Repeated, Row, read
from bookd.command.home import CommandError
from bookd.contract import paging, template
from bookd.contract.binding import Binding, bindings
from bookd.contract.codec import Decoder, Encoder, decode_json
from bookd.contract.descriptors import load, shipped
from bookd.errors import BookdError, InvalidArgument
from bookd.gateway import headers
from bookd.mom import seals
from bookd.wire.bridge.v1.trunk_pb2 import Frame
from tests.contract.kinds import kind

_KEY = bytes(range(32))
SEEDS = Path(__file__).with_name("seeds")


def text_of(data: bytes) -> str:
    """Bytes as text: whatever they are, something comes out."""
    return data.decode("utf-8", "replace")


def templates(data: bytes) -> None:
    """The path-template compiler and the router: a template, and below it paths.

    What is compiled has the text it was made of; template and router agree on every path, and each variable has a value.
    """
    first, *paths = text_of(data).split("\n")
    try:
        compiled = template.compile(first)
    except template.TemplateError:
        return
    assert compiled.text == first
    router: template.Router[str] = template.Router()
    router.add("GET", compiled, "target")
    for path in (*paths[:4], first, quote(first)):
        found = compiled.match(path)
        routed = router.match("GET", path)
        assert (None if found is None else ("target", found)) == routed, path
        assert found is None or router.allowed(path) == ("GET",), path
        if found is not None:
            assert set(found) == set(compiled.variables)


def transcoder(data: bytes) -> None:
    """JSON → message → JSON: what is read is written so that it is read as the same again, and any JSON tells it."""
    try:
        message = Decoder(kind("Kinds")).decode(decode_json(data))
    except InvalidArgument as error:
        assert error.violations
        _tellable(error)
        return
    written = Encoder(type(message)).encode_bytes(message)
    json.loads(written)
    again = Decoder(kind("Kinds")).decode(decode_json(written))
    assert _packed(again) == _packed(message), written


def messages(data: bytes) -> None:
    """Message → JSON → message: what a service answers can be told as JSON, or has a value in it that JSON cannot tell, such as
    a time after the year 9999. The JSON is read as what is written the same again, or refused, as an Any of an unknown type is.
    """
    try:
        message = kind("Kinds").FromString(data)
        written = Encoder(type(message)).encode_bytes(message)
    except (DecodeError, ValueError):
        return
    json.loads(written)
    try:
        again = Encoder(kind("Kinds")).encode_bytes(Decoder(kind("Kinds")).decode(decode_json(written)))
    except InvalidArgument:
        return
    # The path of a mask that no field can have changes its spelling once. Of an Any that is broken inside, the bytes are told.
    assert again == written or b'"mask"' in written or b"@type" in written
    assert (
        b"@type" in written
        or Encoder(kind("Kinds")).encode_bytes(Decoder(kind("Kinds")).decode(decode_json(again))) == again
    )


def _packed(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


@cache
def _bookstore() -> list[Binding]:
    return [each for each in bindings(load([shipped()])) if not each.method.server_streaming]


def requests(data: bytes) -> None:
    """The request of a bookstore's rpc: the first byte chooses it, then a line for the path's variables, one for the query,
    and the body. It is refused by name, or is a message that goes over the wire and back, and into JSON."""
    binding = _bookstore()[data[0] % len(_bookstore()) if data else 0]
    variable, _, rest = text_of(data[1:]).partition("\n")
    query, _, body = rest.partition("\n")
    variables = dict.fromkeys(binding.template.variables, variable)
    try:
        message = binding.bind(variables, query, body.encode("utf-8", "replace"))
    except BookdError as error:
        _tellable(binding.spelled(error))
        return
    packed = _packed(message)
    assert _packed(type(message).FromString(packed)) == packed
    Encoder(type(message)).encode_bytes(message)


def _tellable(error: BookdError) -> None:
    json.dumps([error.message, *((each.field, each.description) for each in error.violations)]).encode("ascii")
    for each in (error.message, *(each.field for each in error.violations)):
        each.encode("utf-8")


def idempotency_keys(data: bytes) -> None:
    """`Idempotency-Key`: one value is a key of bounded length, which spelled with quotes is the same key; or is refused."""
    values = data.decode("latin-1").split("\n")
    try:
        key = headers.idempotency_key(values)
    except InvalidArgument as error:
        _tellable(error)
        return
    assert key is not None
    assert len(values) == 1
    assert 1 <= len(key) <= headers.KEY_LENGTH
    assert all("\x20" <= each <= "\x7e" for each in key)
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')
    assert headers.idempotency_key([f'"{quoted}"']) == key


def preferences(data: bytes) -> None:
    """`Prefer`: never refused, and a wait is a number of seconds that has a bound."""
    values = data.decode("latin-1").split("\n")
    found = headers.preferences(values)
    assert found.wait is None or 0 <= found.wait < 10**8
    assert isinstance(found.respond_async, bool)
    again = ", ".join(
        (["respond-async"] if found.respond_async else []) + ([f"wait={found.wait}"] if found.wait is not None else [])
    )
    assert headers.preferences([again]) == found


def other_headers(data: bytes) -> None:
    """The other headers that are read: understood, or refused by name."""
    values = data.decode("latin-1").split("\n")
    with suppress(InvalidArgument):
        named = headers.deadline(values[0], values[-1] if len(values) > 1 else None)
        assert named is None or 0 < named < 10**9 * 3600
    with suppress(InvalidArgument):
        tag = headers.if_match(values)
        assert tag is None or tag.startswith('"')
    headers.matches(values, '"a"')
    headers.is_json(values[0], values[-1])
    headers.wants_events(values)
    made: Callable[[], str] = lambda: "01900000-0000-7000-8000-000000000001"  # noqa: E731
    assert headers.request_id(values[0], made).isascii()
    assert len(headers.traceparent(values[0])) == 55


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="bookd-fuzz-")


def catalogues(data: bytes) -> None:
    """`bookd import`: the first byte chooses whether a price is given for rows without one; the rest is the file. It is refused
    as a whole, or its rows come in order, each once, as books that JSON can tell of, or with a reason."""
    path = Path(_folder().name) / "books.csv"
    path.write_bytes(data[1:])
    defaults = Defaults(stock=1, price=Decimal("1.5") if data[:1] == b"p" else None)
    last = 0
    try:
        rows: Iterator[Row | Refused | Repeated] = read(path, defaults)
        for row in rows:
            assert row.number > last, (row, last)
            last = row.number
            if isinstance(row, Row):
                json.dumps(row.body()).encode()
                assert 0 <= row.stock < 2**31
                assert row.title
                assert row.author
                assert len(row.price["currency_code"]) < 200_000
                assert 0 <= int(row.price["units"]) <= 10**12
                assert 0 <= row.price["nanos"] < 10**9
            elif isinstance(row, Refused):
                assert row.reason
            else:
                assert row.earlier < row.number
    except CommandError as error:
        assert str(error)


def page_tokens(data: bytes) -> None:
    """Page tokens: refused, or a position of the right kind that makes a token which is good for the same list only."""
    token = data.decode("latin-1")
    try:
        position = paging.decode(token, "list", str, int)
    except InvalidArgument as error:
        _tellable(error)
    else:
        assert position is None or [type(each) for each in position] == [str, int]
    for filter_ in ("list", "other"):
        try:
            made = paging.encode([text_of(data), len(data)], "list")
            again = paging.decode(made, filter_, str, int)
        except InvalidArgument:
            assert filter_ == "other" or len(made) > 4096
        else:
            assert (again, filter_) == ([text_of(data), len(data)], "list")


def sealed(data: bytes) -> None:
    """Kept calls: what is sealed opens as itself, bound as it was; changed in any place, cut, or bound otherwise it does not,
    and neither does anything that was never sealed. A file of anything is a key, or is said to be none."""
    try:
        seals.open_(_KEY, data, b"bound")
    except seals.Broken:
        pass
    else:
        raise AssertionError("it was never sealed")
    box = seals.close(_KEY, data, data[:9])
    assert seals.open_(_KEY, box, data[:9]) == data
    place = len(data) * 31 % len(box)
    changed = bytearray(box)
    changed[place] ^= 1 << len(data) % 8
    for broken, bound in (
        (bytes(changed), data[:9]),
        (box[:place], data[:9]),
        (box + b"x", data[:9]),
        (box, data[:9] + b"x"),
    ):
        try:
            seals.open_(_KEY, broken, bound)
        except seals.Broken:
            continue
        raise AssertionError("it was changed, and opened")
    if data[:6] == b"Seals ":
        path = Path(_folder().name) / "0123456789abcdef.key"
        path.write_bytes(data)
        path.chmod(0o600)
        with suppress(seals.SealsError):
            seals.load(path.parent)


class _Answers:
    """A server with one method, in the exchange's place for one."""

    max_message = 4 * 1024 * 1024
    shape = "unary_unary"

    def unary(self, path: str) -> Any:
        return self if path == "/a" else None

    def context(self, path: str, peer: str, invocation: Mapping[str, Any], timing: Any) -> Any:
        timing.time_remaining()

    def told(self, path: str, error: Exception) -> BookdError:
        assert isinstance(error, BookdError), error
        return error

    def ended(self, path: str, code: str, began: float) -> None: ...

    def deserialize(self, request: bytes) -> bytes:
        return request

    serialize = deserialize

    def run(self, request: bytes, context: Any) -> bytes:
        return request


class _Stream:
    """A stream on which one frame comes."""

    def __init__(self, data: bytes, end: object) -> None:
        self._coming = [data, end]
        self.frames: list[Frame] = []

    async def read(self) -> Any:
        return self._coming.pop(0)

    async def write(self, frame: Frame) -> None:
        self.frames.append(frame)


def trunk_frames(data: bytes) -> None:
    """A frame on a trunk: the trunk ends, or each call in the frame is answered once."""
    stream = _Stream(data, grpc.aio.EOF)

    async def serve() -> None:
        line = exchange._Line(_Answers(), "peer", stream)
        try:
            await line.carry()
        except InvalidArgument as error:
            _tellable(error)
            return
        frame = Frame.FromString(data)
        answered = [answer.id for each in stream.frames for answer in each.answers]
        assert answered == [call.id for call in frame.calls]

    reactor.install()
    reactor.loop().run_until_complete(serve())


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        templates,
        transcoder,
        messages,
        requests,
        idempotency_keys,
        preferences,
        other_headers,
        catalogues,
        page_tokens,
        trunk_frames,
        sealed,
    )
}


def kept(name: str) -> list[bytes]:
    """The inputs that are kept for a target: its seeds, and what once made it fail."""
    return [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]
