"""What request headers ask for."""

from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from bookd.errors import InvalidArgument
from bookd.gateway import headers
from bookd.gateway.headers import Preferences


class IdTests(SynchronousTestCase):
    """Request ids and trace contexts."""

    def setUp(self) -> None:
        numbers = count(1)
        self.new_id = lambda: f"01900000-0000-7000-8000-{next(numbers):012x}"

    def test_request_id(self) -> None:
        """Well formed is 1 to 128 of A-Z a-z 0-9 - _ . and nothing else."""
        for given in ("a", "A-1_.z", "x" * 128):
            self.assertEqual(headers.request_id(given, self.new_id), given)
        for given in (None, "", "x" * 129, "a b", "ä", "a\n", "a/b"):
            self.assertTrue(headers.request_id(given, self.new_id).startswith("0190"), given)

    def test_traceparent_is_taken(self) -> None:
        """A well-formed trace context is taken; a later version's is cut down to ours."""
        good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        self.assertEqual(headers.traceparent(good), good)
        self.assertEqual(headers.traceparent("cc" + good[2:] + "-what-follows"), good)

    def test_traceparent_is_made(self) -> None:
        """Anything else begins a new trace."""
        good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        for given in (
            None,
            "",
            "ff" + good[2:],
            good + "-more",
            good.upper(),
            "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        ):
            made = headers.traceparent(given)
            self.assertRegex(made, "^00-[0-9a-f]{32}-[0-9a-f]{16}-00$")


class DeadlineTests(SynchronousTestCase):
    """The time that a client gives a call."""

    def test_grpc_timeout(self) -> None:
        """gRPC's units."""
        for text, seconds in (("2H", 7200), ("3M", 180), ("4S", 4), ("5m", 0.005), ("6u", 6e-6), ("7n", 7e-9)):
            self.assertAlmostEqual(headers.deadline(text, None), seconds)

    def test_request_timeout(self) -> None:
        """Seconds, with a fraction if need be; the shorter of two counts; none is none."""
        self.assertEqual(headers.deadline(None, "1.5"), 1.5)
        self.assertEqual(headers.deadline("10S", "3"), 3)
        self.assertIsNone(headers.deadline(None, None))

    def test_malformed(self) -> None:
        """What is no time is refused by name."""
        for text in ("", "5", "S", "123456789S", "0S", "-1S", "5s", "1.5S", "٣S"):
            with self.assertRaisesRegex(InvalidArgument, "Grpc-Timeout"):
                headers.deadline(text, None)
        for text in ("", "0", "0.0", "-1", "1e3", "nan", "inf", "1,5", "٣"):
            with self.assertRaisesRegex(InvalidArgument, "Request-Timeout"):
                headers.deadline(None, text)


class IdempotencyKeyTests(SynchronousTestCase):
    """The key of the IETF draft."""

    def test_forms(self) -> None:
        """A structured-field string, or what clients send in its place."""
        for text, key in (
            ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            (r'"a \"b\" \\ c"', r'a "b" \ c'),
            ("  k  ", "k"),
            ("x" * 255, "x" * 255),
        ):
            self.assertEqual(headers.idempotency_key([text]), key)
        self.assertIsNone(headers.idempotency_key([]))

    def test_malformed(self) -> None:
        """Everything else is refused by name."""
        for values in (
            [""],
            ['""'],
            ['"open'],
            ["a b"],
            ["a,b"],
            ['"a";p=1'],
            ['"ä"'],
            ["ä"],
            ['"a\\n"'],
            ["x" * 256],
            ["a", "b"],
        ):
            with self.assertRaisesRegex(InvalidArgument, "Idempotency-Key"):
                headers.idempotency_key(values)


class PreferencesTests(SynchronousTestCase):
    """RFC 7240."""

    def test_understood(self) -> None:
        """Both preferences, in any case and order, in one line or several; the first of two counts."""
        for values, expected in (
            ([], Preferences()),
            (["respond-async"], Preferences(respond_async=True)),
            (["wait=10"], Preferences(wait=10)),
            (["Respond-Async, WAIT = 10"], Preferences(respond_async=True, wait=10)),
            (["respond-async", "wait=10"], Preferences(respond_async=True, wait=10)),
            (["wait=1, wait=2"], Preferences(wait=1)),
            (['wait="3"; foo=bar, handling=lenient'], Preferences(wait=3)),
        ):
            self.assertEqual(headers.preferences(values), expected)

    def test_ignored(self) -> None:
        """What makes no sense is ignored, not refused."""
        for text in ("wait", "wait=", "wait=-1", "wait=1.5", "wait=soon", "wait=999999999", ",;=", "wait=²"):
            self.assertEqual(headers.preferences([text]), Preferences())


class ConditionTests(SynchronousTestCase):
    """If-None-Match."""

    def test_matches(self) -> None:
        """Weak comparison over a list, or a star."""
        for values in (['"a"'], ['W/"a"'], ['"b", W/"a"'], ['"b"', '"a"'], ["*"], ['"x,y","a"']):
            self.assertTrue(headers.matches(values, '"a"'), values)
            self.assertTrue(headers.matches(values, 'W/"a"'), values)
        for values in ([], [""], ['"b"'], ["a"], ['"aa"']):
            self.assertFalse(headers.matches(values, '"a"'), values)

    def test_if_match(self) -> None:
        """One strong tag; a star and nothing demand nothing; the rest is refused."""
        self.assertEqual(headers.if_match([' "v1" ']), '"v1"')
        self.assertIsNone(headers.if_match([]))
        self.assertIsNone(headers.if_match(["*"]))
        for text in ("v1", 'W/"v1"', '"a", "b"', '"'):
            with self.assertRaisesRegex(InvalidArgument, "If-Match"):
                headers.if_match([text])


class ContentTests(SynchronousTestCase):
    """Which bodies are read, and which answers are wanted."""

    def test_json(self) -> None:
        """JSON in UTF-8, declared or not declared at all."""
        for kind in (None, "application/json", "Application/JSON; charset=UTF-8", "application/merge-patch+json"):
            self.assertTrue(headers.is_json(kind, None), kind)
        for kind in ("", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"):
            self.assertFalse(headers.is_json(kind, None), kind)

    def test_encoding(self) -> None:
        """A compressed body is not read."""
        self.assertTrue(headers.is_json(None, "identity"))
        self.assertFalse(headers.is_json("application/json", "gzip"))

    def test_events(self) -> None:
        """Events are for those who name them."""
        self.assertTrue(headers.wants_events(["application/json, text/event-stream;q=0.9"]))
        self.assertFalse(headers.wants_events(["*/*"]))
        self.assertFalse(headers.wants_events([]))
