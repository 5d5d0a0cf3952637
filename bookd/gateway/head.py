"""Heads of HTTP/1.1, read and written at once.

Most requests are alike: one head that comes in one piece, no body or one whose length it says, and nothing in it that wants
thought. `plain` reads such a head in one go, which costs a fraction of Twisted's way line by line. It refuses nothing. Whatever
it does not take goes the long way (`bookd.gateway.connection`), where all rules are; and what it takes means the same there,
which a test holds.

`written` makes the head of a whole response from text. What would break out of its line is not written here either.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from re import compile as pattern
from typing import NamedTuple

from twisted.web.http import RESPONSES

_END = "\r\n"
_LAST = b"\r\n\r\n"
_FIRST = pattern(r"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[!-~]*) HTTP/1\.1")
_LENGTH = pattern(r"0|[1-9][0-9]{0,17}")
_NAME = pattern(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Without a body, always. The others have one, if only an empty one.
_BODILESS = frozenset({"GET", "HEAD"})
# They say that there is a body of unknown length, or ask for something before the answer.
_LONG_WAY = frozenset({"transfer-encoding", "expect", "upgrade", "cookie"})
# Names that are remembered, and the length of one that is.
_NAMES, _LONGEST_NAME = 1024, 64


class Head(NamedTuple):
    """The head of a request, and what of its body has come with it. `fields` are the values of each header by its name in
    small letters, as `bookd.gateway.request.Request.every` tells them."""

    verb: bytes
    uri: bytes
    fields: dict[str, list[str]]
    body: bytes = b""
    # Bytes of the body that are still to come.
    missing: int = 0

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return len(self.body) + self.missing


def plain(data: bytes, longest: int, most: int, largest: int = 0) -> Head | None:
    """The request that `data` begins, when it is a plain one, and nothing else has come: its head whole, of `longest` bytes and
    `most` headers at most, its body of `largest` bytes at most. None for anything else."""
    end = data.find(_LAST, 0, longest)
    if end < 0:
        return None
    text = data[:end].decode("latin-1")
    first, *lines = text.split(_END)
    ends = len(lines)
    # No end of a line but these, and nothing that ends a string elsewhere.
    if ends > most or text.count("\r") != ends or text.count("\n") != ends or "\0" in text:
        return None
    found = _FIRST.fullmatch(first)
    fields = _fields(lines) if found is not None else None
    if found is None or fields is None:
        return None
    verb, uri = found.groups()
    body = data[end + len(_LAST) :]
    length = _length(verb, fields.get("content-length"))
    if not len(body) <= length <= largest:
        return None
    return Head(verb.encode(), uri.encode(), fields, body, length - len(body))


def _length(verb: str, given: list[str] | None) -> int:
    """Bytes that the body has; less than none when it cannot be told here."""
    if verb in _BODILESS:
        return -1 if given else 0
    return int(given[0]) if given and len(given) == 1 and _LENGTH.fullmatch(given[0]) else -1


def _fields(lines: Iterable[str]) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        known = _known(name) if colon else ""
        if not known:
            return None
        found.setdefault(known, []).append(value.strip(" \t"))
    lasts = all(value.lower() == "keep-alive" for value in found.get("connection", ()))
    return found if lasts and len(found.get("host", ())) == 1 else None


def _known(name: str) -> str:
    return _remembered(name) if len(name) <= _LONGEST_NAME else ""


@lru_cache(maxsize=_NAMES)
def _remembered(name: str) -> str:
    """The name in small letters; empty for one that goes the long way."""
    small = name.lower()
    return small if _NAME.fullmatch(name) and small not in _LONG_WAY else ""


def written(version: bytes, code: int, fields: Mapping[str, str]) -> bytes | None:
    """The head of a response, up to the end of its last header; None when a value holds the end of a line."""
    text = _END.join([_first(version, code), *map(": ".join, fields.items())])
    ends = len(fields)
    return text.encode() if text.count("\n") == ends and text.count("\r") == ends else None


@lru_cache(maxsize=256)
def _first(version: bytes, code: int) -> str:
    phrase = RESPONSES.get(code, b"Unknown Status")
    return f"{version.decode('ascii')} {code} {phrase.decode('ascii')}"
