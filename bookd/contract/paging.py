"""Page sizes and page tokens (AIP-158).

A token says where the page before ended (the sort key of its last row), never how many rows came before. So a list can
grow and shrink between two pages and nothing is shown twice or left out. The token also holds a digest of the filter it
belongs to: it is refused for another query. It is no secret and no proof; what it names is looked up with the rights of
whoever sends it.
"""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

import msgspec

from bookd.errors import InvalidArgument

DEFAULT_SIZE = 50
LARGEST_SIZE = 1000

# A token longer than this was not made here: sort keys are ids, numbers and times.
_LONGEST_TOKEN = 4096
_DIGEST = 16
_INT64 = 1 << 63


def size(requested: int) -> int:
    """How many rows to answer with. Raises `InvalidArgument` for a negative number."""
    if requested < 0:
        raise InvalidArgument.field("page_size", "must not be negative")
    return min(requested or DEFAULT_SIZE, LARGEST_SIZE)


def encode(position: Sequence[str | int], filter: str) -> str:  # noqa: A002 - AIP-160's word
    """The token that continues after `position` in the list that `filter` selects."""
    body = _digest(filter) + msgspec.json.encode(list(position))
    return urlsafe_b64encode(body).decode().rstrip("=")


def decode(token: str, filter: str, *shape: type) -> list[str | int] | None:  # noqa: A002
    """The position in `token`; None when it is empty, which is the first page.

    `shape` names the type of each element, str or int, for callers that put them into SQL as they are. Raises
    `InvalidArgument` for a token that was not made by `encode`, or for another filter.
    """
    if not token:
        return None
    try:
        body = (
            b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            if len(token) <= _LONGEST_TOKEN
            else b""
        )
        position = msgspec.json.decode(body[_DIGEST:], type=list[str | int])
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument.field("page_token", "is not a page token of this list") from error
    fits = not shape or (
        len(shape) == len(position) and all(type(value) is kind for value, kind in zip(position, shape, strict=True))
    )
    small = all(isinstance(value, str) or -_INT64 <= value < _INT64 for value in position)
    if not (fits and small):
        raise InvalidArgument.field("page_token", "is not a page token of this list")
    if body[:_DIGEST] != _digest(filter):
        raise InvalidArgument.field("page_token", "belongs to another query")
    return position


def _digest(filter: str) -> bytes:  # noqa: A002
    return sha256(filter.encode()).digest()[:_DIGEST]
