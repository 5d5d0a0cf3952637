"""How often who may ask: token buckets, and what the client is told of them.

A bucket holds at most `burst` tokens, is full at first, and gets `rate` tokens a second. A request takes one; when there
is none it is refused with 429 and the time after which there will be one. Each response says how the bucket that counted
stands: `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10).

    address     every request, by where it comes from, before anything is believed
    principal   every request with a token, by its subject
    open        writes that need no token (log-ins, registrations), by where they come from: each may cost a password
                hash, and nobody needs many

Who has no token left for the latter two is told so a moment later (`bookd.gateway.refusals`).

Buckets are kept for the clients seen last, up to a bound: one that is forgotten is as good as full. So memory is bounded,
whoever asks.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from math import ceil
from typing import NamedTuple

from attrs import frozen

from bookd.contract.descriptors import Method
from bookd.errors import ResourceExhausted
from bookd.gateway import problem
from bookd.gateway.origin import Proxies, client_key
from bookd.gateway.request import Request
from bookd.wire.policy.v1 import policy_pb2


@frozen
class Quota:
    """The requests of one client: `burst` at once, `rate` a second in the long run."""

    name: str
    rate: float
    burst: int

    @cached_property
    def policy(self) -> str:
        """The value of RateLimit-Policy: so many requests in the seconds that fill an empty bucket."""
        return f'"{self.name}";q={self.burst};w={max(1, ceil(self.burst / self.rate))}'


class Standing(NamedTuple):
    """How a bucket stands after a request asked for a token."""

    quota: Quota
    granted: bool
    # Whole tokens left, and the seconds until the bucket is full, or until it has a token when it has none.
    left: int
    seconds: float

    def marks(self) -> Mapping[str, str]:
        """What the response says of it."""
        told = f'"{self.quota.name}";r={self.left};t={ceil(self.seconds)}'
        return {"RateLimit-Policy": self.quota.policy, "RateLimit": told}


class Buckets:
    """The buckets of one quota, `most` at a time. `seconds` is any clock that only goes forward."""

    def __init__(self, quota: Quota, most: int, seconds: Callable[[], float]) -> None:
        self.quota = quota
        self._most = most
        self._seconds = seconds
        # Tokens, and when they were counted, by client; the ones seen last stand last.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> Standing:
        """Take a token for `client`, if there is one."""
        now, rate, burst = self._seconds(), self.quota.rate, self.quota.burst
        buckets = self._buckets
        tokens, counted = buckets.get(client) or (float(burst), now)
        tokens += (now - counted) * rate
        if tokens > burst:
            tokens = float(burst)
        granted = tokens >= 1
        tokens -= granted
        buckets[client] = (tokens, now)
        buckets.move_to_end(client)
        if len(buckets) > self._most:
            buckets.popitem(last=False)
        return Standing(self.quota, granted, int(tokens), ((1 if tokens < 1 else burst) - tokens) / rate)

    def __len__(self) -> int:
        return len(self._buckets)


class Rates:
    """Counts requests. `arrived` and `identified` raise `ResourceExhausted` for one too many."""

    def __init__(self, address: Buckets, principal: Buckets, strangers: Buckets, proxies: Proxies) -> None:
        self._address = address
        self._principal = principal
        self._strangers = strangers
        self._proxies = proxies

    def arrived(self, request: Request) -> None:
        """Count a request that has just come."""
        request.address = self._proxies.client(request.channel.host, request.every("x-forwarded-for"))
        _take(self._address, request, client_key(request.address))

    def identified(
        self, request: Request, method: Method, principal: policy_pb2.Principal | None, *, read: bool
    ) -> None:
        """Count a request of which it is known who asks for what."""
        if not read and method.access.audience == policy_pb2.AUDIENCE_PUBLIC:
            _take(self._strangers, request, client_key(request.address))
        elif principal is not None:
            _take(self._principal, request, principal.subject)


def _take(buckets: Buckets, request: Request, client: str) -> None:
    request.standing = standing = buckets.take(client)
    if not standing.granted:
        raise ResourceExhausted(
            "too many requests", reason=problem.TOO_MANY_REQUESTS, retry_after=max(standing.seconds, 0.001)
        )
