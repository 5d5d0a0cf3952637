"""Pages of other origins (CORS, the Fetch standard). None may ask until the configuration names its origin.

Access tokens travel in a header that a page sets itself, so credentials of the browser are never allowed, and "*" for
every origin is harmless.
"""

from collections.abc import Sequence
from typing import Any

ANY = "*"
# What a page may send beyond the ordinary, and what it may see of a response.
_SENT = (
    "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, Request-Timeout, "
    "X-Request-Id, traceparent"
)
_SEEN = "ETag, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, WWW-Authenticate, X-Request-Id"
# Seconds that a browser need not ask again.
_REMEMBERED = "600"


class Cors:
    """The origins ("https://shop.example") whose pages may ask."""

    def __init__(self, origins: Sequence[str] = ()) -> None:
        self._origins = frozenset(origins)

    def mark(self, request: Any) -> None:
        """Put on the response to a page of an allowed origin what lets the page see it."""
        if not self._origins:
            return
        everybody = ANY in self._origins
        if not everybody:
            request.vary.add("Origin")
        origin = request.every("origin")
        if len(origin) == 1 and (everybody or origin[0] in self._origins):
            request.setHeader("Access-Control-Allow-Origin", ANY if everybody else origin[0])
            request.setHeader("Access-Control-Expose-Headers", _SEEN)

    def allow(self, request: Any, verbs: str) -> None:
        """Answer the question that a browser asks before the request of a page, on an allowed origin's behalf."""
        marked = request.responseHeaders.hasHeader("Access-Control-Allow-Origin")
        if marked and request.every("access-control-request-method"):
            request.setHeader("Access-Control-Allow-Methods", verbs)
            request.setHeader("Access-Control-Allow-Headers", _SENT)
            request.setHeader("Access-Control-Max-Age", _REMEMBERED)
