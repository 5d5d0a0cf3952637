"""What an operator sees of queues, operations and dead letters."""

from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from typing import Any

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from bookd.command.mom_tables import age, show_letter, show_letters, show_operations, show_queue, show_queues, size

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
QUEUE = {
    "name": "queues/a.v1.A",
    "destination": "a.v1.A",
    "breaker": "BREAKER_STATE_HALF_OPEN",
    "depth": 12345,
    "bytes": "2097152",
    "lanes": 3,
    "dead_letters": 2,
    "oldest_at": "2026-11-22T08:00:00.5Z",
    "max_depth": "2000000",
    "max_bytes": "1024",
    "kept_per_second": 1.25,
    "finished_per_second": 0.0,
    "paused_at": "2026-11-24T11:58:30Z",
}
ERROR = {"code": 13, "message": "broken\nto pieces", "details": [{"@type": "t", "reason": "GONE"}]}
LETTER = {
    "name": "deadletters/m1",
    "message_id": "m1",
    "method": "/a.v1.A/Do",
    "destination": "a.v1.A",
    "lane": "l",
    "attempts": 10,
    "error": ERROR,
    "created_at": "2026-11-24T10:00:00Z",
    "died_at": "2026-11-24T11:59:55Z",
    "blocks_lane": True,
    "request": {"@type": "t", "title": "Dune"},
}
OPERATION = {
    "name": "operations/m1",
    "done": False,
    "metadata": {
        "state": "MESSAGE_STATE_QUEUED",
        "method": "/a.v1.A/Do",
        "attempts": 2,
        "last_error": "INTERNAL: no",
        "created_at": "2026-11-24T11:00:00Z",
    },
}


def shown(way: Callable[..., None], *told: Any) -> str:
    """What is printed."""
    written = StringIO()
    way(Console(file=written, width=200), *told, NOW)
    return written.getvalue()


class TablesTests(SynchronousTestCase):
    """What is printed."""

    def test_age(self) -> None:
        """An age has its two largest units; what is absent, odd or ahead has none, or none that is below zero."""
        for since, told in (
            ("2026-11-24T11:59:59.5Z", "0 s"),
            ("2026-11-24T11:59:18Z", "42 s"),
            ("2026-11-24T11:00:00Z", "1 h 0 min"),
            ("2026-11-22T08:00:00Z", "2 d 4 h"),
            ("2026-11-24T12:00:09Z", "0 s"),
            ("2026-11-24T12:00:09", ""),
            (None, ""),
            ("soon", ""),
            (7, ""),
        ):
            self.assertEqual(age(since, NOW), told)

    def test_size(self) -> None:
        """Bytes are told in the unit that suits them; the proto JSON mapping has them as text."""
        for number, told in (
            ("0", "0 B"),
            (1023, "1023 B"),
            ("2097152", "2.0 MiB"),
            (3 << 40, "3072.0 GiB"),
            (None, "0 B"),
            ("many", "0 B"),
        ):
            self.assertEqual(size(number), told)

    def test_queues(self) -> None:
        """A queue is a line, with its age, its rates, and that it is paused."""
        line = " ".join(shown(show_queues, [QUEUE]).splitlines()[1].split())
        self.assertEqual(line, "a.v1.A half open, paused 12,345 2.0 MiB 3 2 d 3 h 1.2 0.0 2")

    def test_queue(self) -> None:
        """One queue is told with what it takes, and since when it is paused."""
        found = shown(show_queue, QUEUE)
        self.assertIn("2,000,000 messages, 1.0 KiB", found)
        self.assertIn("2026-11-24 11:58:30, 1 min 30 s ago", found)
        self.assertNotIn("ago", shown(show_queue, {"destination": "a.v1.A"}))

    def test_operations(self) -> None:
        """An operation is told with its method and its last error; a page says of how many it is."""
        found = shown(show_operations, [OPERATION], 9)
        for part in ("m1 ", "queued", "1 h 0 min", "a.v1.A/Do", "INTERNAL: no", "1 of 9 operations"):
            self.assertIn(part, found)
        self.assertEqual(shown(show_operations, [], 0), "no operations\n")

    def test_letters(self) -> None:
        """A dead letter is told with its error in one line, and whether it blocks its lane."""
        found = shown(show_letters, [LETTER], 1)
        for part in ("m1 ", "5 s", "10", "yes", "broken to pieces (GONE)", "1 dead letters"):
            self.assertIn(part, found)

    def test_letter(self) -> None:
        """All of a dead letter is told, its request as JSON."""
        found = shown(show_letter, LETTER)
        for part in ("/a.v1.A/Do", "2026-11-24 10:00:00, 2 h 0 min ago", '"title": "Dune"', "broken to pieces (GONE)"):
            self.assertIn(part, found)

    def test_odd_answers(self) -> None:
        """What has another shape is shown all the same, and no control sequence reaches the terminal."""
        for way, told in (
            (show_queues, [{"breaker": None, "depth": "x", "kept_per_second": "x"}]),
            (show_operations, [{"metadata": 3, "error": 4}]),
            (show_letters, [{"error": {"details": [1], "message": None}}]),
        ):
            self.assertTrue(shown(way, told) if way is show_queues else shown(way, told, 1))
        evil = {**LETTER, "lane": "\x1b[2J", "error": {"message": "\x9b\x07"}, "request": {"title": "\x1b]8;;x"}}
        self.assertNotRegex(shown(show_letter, evil) + shown(show_letters, [evil], 1), "[\x1b\x07\x9b]")
