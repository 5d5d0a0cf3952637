"""Keys that are fetched: when, how often, and how long they are good for."""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import Unavailable
from bookd.gateway import jwks
from bookd.gateway.jwks import EAGER, LONGEST_PAUSE, PATIENCE, FetchedKeys
from tests.gateway.serving import KEY, jwk

OTHER = Ed25519PrivateKey.generate()
REFRESH, KEEP = 300.0, 3600.0


def keyset(**keys: Ed25519PrivateKey) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": [jwk(key, kid) for kid, key in keys.items()]}).encode()


class FetchedKeysTests(SynchronousTestCase):
    """Keys whose issuer answers what the test says."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.answer: Any = keyset(k1=KEY)
        self.asked: list[float] = []
        self.given_up = 0
        self.keys = FetchedKeys(
            "acme", self.fetch, ["EdDSA"], self.clock, refresh=REFRESH, keep=KEEP, fraction=lambda: 1.0
        )

    def fetch(self) -> Deferred[bytes]:
        """What the issuer answers: bytes, an error, or nothing."""
        self.asked.append(self.clock.seconds())
        if isinstance(self.answer, bytes):
            return succeed(self.answer)
        return fail(self.answer) if isinstance(self.answer, Exception) else Deferred(self.give_up)

    def give_up(self, _: Any) -> None:
        """Count the fetches that were broken off."""
        self.given_up += 1

    def start(self) -> None:
        """Start, and stop at the end of the test."""
        self.keys.startService()
        self.addCleanup(self.stop)

    def stop(self) -> None:
        """Stop, and leave nothing behind."""
        if self.keys.running:
            self.keys.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def later(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, a second at a time."""
        self.clock.pump([step] * round(seconds / step))

    def test_at_start(self) -> None:
        """They are fetched at the start, and again when they are old."""
        self.start()
        self.assertIsNotNone(self.keys.find("k1"))
        self.later(REFRESH * 2 + 1)
        self.assertEqual(self.asked, [0.0, REFRESH, REFRESH * 2])

    def test_same_text(self) -> None:
        """Keys that are fetched again unchanged stay the very same, and so do the tokens that they have verified."""
        self.start()
        before = self.keys.find("k1")
        self.later(REFRESH + 1)
        self.assertIs(self.keys.find("k1"), before)
        self.answer = keyset(k1=KEY, k2=OTHER)
        self.later(REFRESH)
        self.assertIsNotNone(self.keys.find("k2"))

    def test_gone_key(self) -> None:
        """A key that the issuer has taken back is not believed any more."""
        self.start()
        self.answer = keyset(k2=OTHER)
        self.later(REFRESH + 1)
        self.assertIsNone(self.keys.find("k1"))

    def test_unknown_key(self) -> None:
        """A key that is not known is reason to look, but however many come, only once in a while."""
        self.start()
        self.later(EAGER - 1)
        for number in range(1000):
            self.assertIsNone(self.keys.find(f"x{number}"))
        self.assertEqual(len(self.asked), 1)
        self.later(1)
        self.answer = keyset(k1=KEY, k2=OTHER)
        self.keys.find("k2")
        self.assertIsNotNone(self.keys.find("k2"))
        for _ in range(60):
            self.keys.find("x")
            self.later(1)
        self.assertEqual(len(self.asked), 2 + 59 // EAGER)

    def test_one_at_a_time(self) -> None:
        """While a fetch is under way there is no other."""
        self.answer = None
        self.start()
        self.later(PATIENCE - 1)
        self.assertRaises(Unavailable, self.keys.find, "k1")
        self.assertEqual(len(self.asked), 1)

    def test_slow(self) -> None:
        """A fetch that takes too long is broken off, and is a failure like others."""
        self.answer = None
        self.start()
        self.later(PATIENCE)
        self.assertEqual(self.given_up, 1)
        self.answer = keyset(k1=KEY)
        self.later(jwks.PAUSE)
        self.assertIsNotNone(self.keys.find("k1"))

    def test_failures(self) -> None:
        """Failures make the pauses grow, up to a bound; unknown keys do not shorten them."""
        self.answer = OSError("refused")
        self.start()
        for _ in range(3000):
            self.assertRaises(Unavailable, self.keys.find, "k1")
            self.later(1)
        pauses = [after - before for before, after in zip(self.asked, self.asked[1:], strict=False)]
        self.assertEqual(pauses[:5], [1.0, 2.0, 4.0, 8.0, 16.0])
        self.assertEqual(set(pauses[9:]), {LONGEST_PAUSE})
        self.answer = keyset(k1=KEY)
        self.later(LONGEST_PAUSE)
        self.assertIsNotNone(self.keys.find("k1"))

    def test_last_good_set(self) -> None:
        """Whatever the issuer answers, the last good set serves on, for a while; then nobody is believed, nor refused."""
        self.start()
        for answer in (OSError("away"), b"", b"{", b'{"keys": []}', b"\xff" * 100, RuntimeError("strange")):
            self.answer = answer
            self.later(REFRESH)
            self.assertIsNotNone(self.keys.find("k1"), answer)
        self.later(KEEP)
        error = self.assertRaises(Unavailable, self.keys.find, "k1")
        self.assertEqual((error.reason, error.retry_after), ("ISSUER_UNREACHABLE", 1.0))
        self.answer = keyset(k1=KEY)
        self.later(LONGEST_PAUSE)
        self.assertIsNotNone(self.keys.find("k1"))

    def test_said_once(self) -> None:
        """An outage is one line in the log, and its end is another."""
        lines: list[LogEvent] = []
        self.keys.log = Logger(observer=lines.append)
        self.answer = OSError("away")
        self.start()
        self.later(100)
        self.assertEqual(len(lines), 1)
        self.answer = keyset(k1=KEY)
        self.later(LONGEST_PAUSE)
        self.assertEqual(len(lines), 2)

    def test_stop(self) -> None:
        """Stopping breaks off a fetch and leaves no timer, whenever it comes."""
        self.answer = None
        self.keys.startService()
        stopped = self.keys.stopService()
        assert stopped is not None
        self.assertTrue(stopped.called)
        self.assertEqual((self.given_up, self.clock.getDelayedCalls()), (1, []))
        self.answer = keyset(k1=KEY)
        self.keys.startService()
        self.assertIsNone(self.keys.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
