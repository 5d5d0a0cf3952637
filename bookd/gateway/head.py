"""Heads of HTTP/1.1, read and written at once.

Most requests are alike: one head that comes in one piece, no body, and nothing in it that wants thought. `plain` reads such a
head in one go, which costs a fraction of Twisted's way line by line. It refuses nothing. Whatever it does not take goes the
long way (`bookd.gateway.connection`), where all rules are; and what it takes means the same there, which a test holds.

`written` makes the head of a whole response from text. What would break out of its line is not written here either.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from re import compile as pattern
from typing import NamedTuple

from twisted.web.http import RESPONSES

_END = "\r\n"
_FIRST = pattern(r"(GET|HEAD) (/[!-~]*) HTTP/1\.1")
_NAME = pattern(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# They say that there is a body, or ask for something before the answer.
_LONG_WAY = frozenset({"content-length", "transfer-encoding", "expect", "upgrade", "cookie"})
# Names that are remembered, and the length of one that is.
_NAMES, _LONGEST_NAME = 1024, 64


class Head(NamedTuple):
    """The head of a request without a body. `fields` are the values of each header by its name in small letters, as
    `bookd.gateway.request.Request.every` tells them."""

    verb: bytes
    uri: bytes
    fields: dict[str, list[str]]


def plain(data: bytes, longest: int, most: int) -> Head | None:
    """The request that `data` is, when it is a plain one, whole, and nothing else: of `longest` bytes and `most` headers at
    most. None for anything else."""
    if len(data) > longest or data[-4:] != b"\r\n\r\n":
        return None
    text = data.decode("latin-1")
    first, *lines = text[:-4].split(_END)
    ends = len(lines) + 2
    # No end of a line but these, and nothing that ends a string elsewhere.
    if len(lines) > most or text.count("\r") != ends or text.count("\n") != ends or "\0" in text:
        return None
    found = _FIRST.fullmatch(first)
    fields = _fields(lines)
    return None if found is None or fields is None else Head(found[1].encode(), found[2].encode(), fields)


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
