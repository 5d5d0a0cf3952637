"""The keys of an issuer elsewhere, fetched over HTTPS and kept fresh.

They are fetched at the start, every `refresh` seconds, and when a token names a key that is not among them: an issuer that
begins to sign with a new key at once is believed soon. Strangers can name any key, so that this happens once in a while only. A
failure is followed by another attempt, after pauses that grow. Meanwhile the last good set serves, for `keep` seconds; after
that, and before the first one, tokens of the issuer can neither be believed nor refused, and their bearers are told to come
again. Nothing else waits for an issuer.

What is fetched is bounded in time and in bytes, head and all, must be answered by the address itself (no redirect is
followed) with 200, and must not be compressed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from bookd.errors import Unavailable
from bookd.gateway.keys import Key, parse
from bookd.gateway.remote import Refused, reason

# Seconds that a fetch may take.
PATIENCE = 10.0
# Seconds after a fetch before an unknown key is reason for another.
EAGER = 10.0
# The pause after the first failure, and the longest.
PAUSE, LONGEST_PAUSE = 1.0, 300.0

Fetch = Callable[[], "Deferred[bytes]"]


class FetchedKeys(Service):
    """The keys of one issuer. `issuer` is its name, for people; `fetch` answers the text of its JWK set; `fraction` is a
    random number below 1, so that many gateways do not come back all at once; times are in seconds."""

    log = Logger()

    def __init__(
        self,
        issuer: str,
        fetch: Fetch,
        algorithms: Sequence[str],
        clock: Any,
        *,
        refresh: float,
        keep: float,
        fraction: Callable[[], float],
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._algorithms = algorithms
        self._clock = clock
        self._refresh = refresh
        self._keep = keep
        self._fraction = fraction
        self._text: bytes | None = None
        self._keys: Mapping[str, Key] = {}
        self._began = self._got = clock.seconds()
        self._failures = 0
        self._timer: IDelayedCall | None = None
        self._fetching: Deferred[None] | None = None

    def startService(self) -> None:
        """Fetch for the first time; nobody waits for that."""
        super().startService()
        self._begin()

    def stopService(self) -> Deferred[None] | None:
        """Fires when nothing is being fetched any more."""
        super().stopService()
        self._no_timer()
        fetching = self._fetching
        if fetching is not None:
            fetching.cancel()
        return fetching

    def find(self, kid: str) -> Key | None:
        """The key named `kid`. Raises `Unavailable` when there is no set, or none that is good any more."""
        if self._text is None or self._clock.seconds() - self._got > self._keep:
            raise Unavailable(
                f"the keys of {self._issuer} cannot be fetched", reason="ISSUER_UNREACHABLE", retry_after=1.0
            )
        key = self._keys.get(kid)
        # After a failure it is the pause that counts.
        if key is None and not self._failures and self._clock.seconds() - self._began >= EAGER:
            self._begin()
        return key

    def _begin(self) -> None:
        if not self.running or self._fetching is not None:
            return
        self._no_timer()
        self._began = self._clock.seconds()
        fetching = self._fetching = Deferred.fromCoroutine(self._run())
        if fetching.called:
            self._fetching = None

    async def _run(self) -> None:
        try:
            text = await self._fetch().addTimeout(PATIENCE, self._clock, _too_slow)
            if text != self._text:  # else the keys stay the very ones, and so do the tokens that they have verified
                self._keys = parse(text, self._algorithms)
                self._text = text
        except CancelledError:
            pass
        except Exception as error:  # whatever an issuer does
            if self.running:
                self._failed(error)
        else:
            self._got = self._clock.seconds()
            if self._failures:
                self.log.info("the keys of {issuer} are there again", issuer=self._issuer)
            self._failures = 0
        finally:
            self._fetching = None
            if self.running:
                self._timer = self._clock.callLater(self._pause(), self._begin)

    def _failed(self, error: Exception) -> None:
        if not self._failures:
            self.log.warn("the keys of {issuer} cannot be fetched: {why}", issuer=self._issuer, why=reason(error))
        self._failures += 1

    def _pause(self) -> float:
        if not self._failures:
            return self._refresh
        return float(min(PAUSE * 2 ** min(self._failures - 1, 20), LONGEST_PAUSE) * (0.5 + self._fraction() / 2))

    def _no_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _too_slow(_: object, seconds: float) -> Any:
    raise Refused(f"there was no whole answer within {seconds:g} s")
