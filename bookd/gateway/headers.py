"""What request headers ask for, read strictly: a value is understood, or refused by name.

Pure functions of header values. Preferences are the exception to the strictness: RFC 7240 has them ignored when they
make no sense.
"""

import re
from collections.abc import Callable, Sequence
from random import getrandbits

from attrs import frozen

from bookd.errors import InvalidArgument

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_SECONDS = re.compile(r"[0-9]{1,8}(\.[0-9]{1,9})?")
# A structured-field string (RFC 9651, section 3.3.3): printable ASCII, with \" and \\ as its only escapes.
_QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:/=@-]+")
_ETAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')
_PREFERENCE = re.compile(r'([A-Za-z0-9!#$%&\'*+.^_`|~-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s;,"]*)))?')

KEY_LENGTH = 255


@frozen
class Preferences:
    """What the client would like (RFC 7240): an answer at once, or a wait of so many seconds for the outcome."""

    respond_async: bool = False
    wait: int | None = None


_NONE = Preferences()


def request_id(given: str | None, new_id: Callable[[], str]) -> str:
    """The request's id: the client's when it is well formed, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else new_id()


def traceparent(given: str | None) -> str:
    """The W3C trace context: the client's when it is well formed, else that of a new, unsampled trace."""
    match = _TRACEPARENT.fullmatch(given.strip()) if given is not None else None
    if match is not None:
        version, trace, parent, flags, rest = match.groups()
        zero = not trace.strip("0") or not parent.strip("0")
        if version != "ff" and not zero and not (version == "00" and rest):
            return f"00-{trace}-{parent}-{flags}"
    made = f"{getrandbits(192):048x}"
    return f"00-{made[:32]}-{made[32:]}-00"


def deadline(grpc_timeout: str | None, request_timeout: str | None) -> float | None:
    """The seconds that the client gives the call, the shorter when both headers do; None when it names none."""
    named = []
    if grpc_timeout is not None:
        match = _GRPC_TIMEOUT.fullmatch(grpc_timeout.strip())
        if match is None or not int(match[1]):
            raise InvalidArgument.field("Grpc-Timeout", "must be 1 to 8 digits, not zero, and one of H M S m u n")
        named.append(int(match[1]) * _UNITS[match[2]])
    if request_timeout is not None:
        text = request_timeout.strip()
        if not _SECONDS.fullmatch(text) or not float(text):
            raise InvalidArgument.field("Request-Timeout", "must be a positive number of seconds")
        named.append(float(text))
    return min(named, default=None)


def idempotency_key(values: Sequence[str]) -> str | None:
    """The key that `Idempotency-Key` names (draft-ietf-httpapi-idempotency-key-header), with or without quotes."""
    if not values:
        return None
    text = values[0].strip()
    quoted = _QUOTED.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted is not None else text
    if len(values) > 1 or not key or len(key) > KEY_LENGTH or (quoted is None and not _BARE.fullmatch(key)):
        raise InvalidArgument.field("Idempotency-Key", f'must be one string of 1 to {KEY_LENGTH} characters, as in "…"')
    return key


def preferences(values: Sequence[str]) -> Preferences:
    """What `Prefer` asks for; of a preference that stands twice the first counts."""
    if not values:
        return _NONE
    found: dict[str, str] = {}
    for part in ",".join(values).split(","):
        match = _PREFERENCE.match(part.strip())
        if match is not None:
            found.setdefault(match[1].lower(), match[2] or match[3] or "")
    wait = found.get("wait", "")
    return Preferences(
        respond_async="respond-async" in found,
        wait=int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 9 else None,
    )


def matches(if_none_match: Sequence[str], etag: str) -> bool:
    """Whether one of the tags, or `*`, names `etag`, by weak comparison (RFC 9110, section 8.8.3.2)."""
    text = ",".join(if_none_match)
    return text.strip() == "*" or etag.removeprefix("W/") in _ETAG.findall(text)


def if_match(values: Sequence[str]) -> str | None:
    """The one strong tag that `If-Match` names, with its quotes; None for none and for `*`."""
    text = ",".join(values).strip()
    if text in ("", "*"):
        return None
    if not _ETAG.fullmatch(text) or text.startswith("W/"):
        raise InvalidArgument.field("If-Match", 'must be one strong entity tag, as in "…", or *')
    return text


def is_json(content_type: str | None, encoding: str | None) -> bool:
    """Whether a body that is declared so can be read as JSON: application/json in UTF-8, or nothing declared."""
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        return False
    if content_type is None or content_type == "application/json":
        return True
    kind, *parameters = (part.strip().lower() for part in content_type.split(";"))
    charsets = [part[len("charset=") :].strip('"') for part in parameters if part.startswith("charset=")]
    return kind in ("application/json", "application/merge-patch+json") and set(charsets) <= {"utf-8", "us-ascii"}


def wants_events(accept: Sequence[str]) -> bool:
    """Whether the client asks for server-sent events by name."""
    return any(
        kind.strip().lower() == "text/event-stream"
        for kind, _, _ in (part.partition(";") for part in ",".join(accept).split(","))
    )
