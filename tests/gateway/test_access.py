"""The access log: what its lines are, when they are written, and what happens when the file is full, gone or refused."""

import json
import stat
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway.access import FULL, GATHERED, AccessLog

NOW = 1_800_000_000_000_000


class AccessLogTests(SynchronousTestCase):
    """A log in a folder of its own."""

    largest = 1_000_000

    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp()) / "log" / "access.jsonl"
        self.access = AccessLog(self.path, self.largest, 2, lambda: NOW, self.clock)
        self.access.startService()
        self.addCleanup(self.access.stopService)

    def note(self, request: str = "r1", subject: str = "u1") -> None:
        self.access("GET", "/v1/books/{book_id}", 200, 0.00123, request, subject, "127.0.0.1")

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (path or self.path).read_bytes().splitlines()]

    def test_line(self) -> None:
        """A line says when, what, for whom, how it ended and how long it took; what is empty is left out."""
        self.note()
        self.note(subject="")
        self.clock.advance(GATHERED)
        whole = {
            "at": "2027-01-15T08:00:00Z",
            "method": "GET",
            "route": "/v1/books/{book_id}",
            "status": 200,
            "milliseconds": 1.23,
            "request": "r1",
            "subject": "u1",
            "address": "127.0.0.1",
        }
        self.assertEqual(self.lines(), [whole, {key: value for key, value in whole.items() if key != "subject"}])

    def test_gathered(self) -> None:
        """Lines wait for others for a moment, and leave no timer behind."""
        self.note()
        self.assertEqual(self.lines(), [])
        self.clock.advance(GATHERED)
        self.assertEqual(len(self.lines()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_full(self) -> None:
        """Many lines do not wait, so that memory is bounded however fast they come."""
        for _ in range(FULL // 100):
            self.note()
        self.assertGreater(len(self.lines()), 100)

    def test_stop(self) -> None:
        """What has gathered is written when the daemon stops, and nothing is left to do."""
        self.note()
        self.access.stopService()
        self.assertEqual(len(self.lines()), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_line_each(self) -> None:
        """Whatever a field holds, a line stays one line of JSON."""
        for text in ("a\nb", '"}\n{"status": 1', "\0\x1b[2J", "\u2028", "ä"):
            self.note(subject=text)
        self.clock.advance(GATHERED)
        self.assertEqual([line["status"] for line in self.lines()], [200] * 5)
        self.assertEqual(self.path.read_bytes().count(b"\n"), 5)

    def test_private(self) -> None:
        """Only the owner can read it: it tells who asked for what."""
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_moved(self) -> None:
        """A file that was moved away is made anew."""
        self.note()
        self.clock.advance(GATHERED)
        self.path.rename(self.path.with_suffix(".old"))
        self.note("r2")
        self.clock.advance(GATHERED)
        self.assertEqual([line["request"] for line in self.lines()], ["r2"])

    def test_refused(self) -> None:
        """What cannot be written is told once, and counted when it can be again; the daemon goes on."""
        self.path.unlink()
        self.path.mkdir()
        for _ in range(3):
            self.note()
            self.clock.advance(GATHERED)
        self.path.rmdir()
        self.note("r2")
        self.clock.advance(GATHERED)
        self.assertEqual([line["request"] for line in self.lines()], ["r2"])

    def test_restart(self) -> None:
        """A restart goes on behind what is there."""
        self.note()
        self.access.stopService()
        self.access.startService()
        self.note("r2")
        self.clock.advance(GATHERED)
        self.assertEqual([line["request"] for line in self.lines()], ["r1", "r2"])


class RotationTests(AccessLogTests):
    """The same with a file that is soon full."""

    largest = 500

    def test_kept(self) -> None:
        """A full file is moved aside, and only so many of them are kept."""
        for number in range(50):
            self.note(f"r{number}")
            self.clock.advance(GATHERED)
        names = sorted(each.name for each in self.path.parent.iterdir())
        self.assertEqual(names, ["access.jsonl", "access.jsonl.1", "access.jsonl.2"])
        last = [line["request"] for name in reversed(names) for line in self.lines(self.path.parent / name)]
        self.assertEqual(last, [f"r{number}" for number in range(50 - len(last), 50)])
        self.assertLess(self.path.stat().st_size, 1000)
