"""The audit log: what its lines are, and that they survive what happens to files."""

import json
import stat
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.audit import LONGEST, AuditLog

NOW = 1_800_000_000_000_000


class AuditLogTests(SynchronousTestCase):
    """A log in a folder of its own."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "log" / "audit.jsonl"
        self.audit = AuditLog(self.path, "users", lambda: NOW)
        self.audit.startService()
        self.addCleanup(self.audit.stopService)

    def lines(self, path: Path | None = None) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (path or self.path).read_text().splitlines()]

    def test_line(self) -> None:
        """A line says when, who, what and how it ended; what is empty is left out, what is long is cut."""
        self.audit("log-in", "refused", reason="BAD", target="", request="r" * 1000)
        self.assertEqual(
            self.lines(),
            [
                {
                    "at": "2027-01-15T08:00:00.000+00:00",
                    "daemon": "users",
                    "action": "log-in",
                    "outcome": "refused",
                    "reason": "BAD",
                    "request": "r" * LONGEST,
                }
            ],
        )

    def test_one_line_each(self) -> None:
        """Whatever a field holds, a line stays one line of JSON."""
        for text in ("a\nb", '"}\n{"action": "forged"', "\0\x1b[2J", "\u2028\ud800", "ä"):
            self.audit("log-in", "done", subject=text)
        self.assertEqual([line["action"] for line in self.lines()], ["log-in"] * 5)
        self.assertTrue(self.path.read_bytes().isascii())

    def test_private(self) -> None:
        """Only the owner can read it."""
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_only_ever_added_to(self) -> None:
        """A restart goes on behind what is there."""
        self.audit("one", "done")
        self.audit.stopService()
        self.audit.startService()
        self.audit("two", "done")
        self.assertEqual([line["action"] for line in self.lines()], ["one", "two"])

    def test_moved_away(self) -> None:
        """A file that was moved away, or removed with its folder, is made anew."""
        self.audit("one", "done")
        away = self.path.with_suffix(".1")
        self.path.rename(away)
        self.audit("two", "done")
        self.assertEqual([line["action"] for line in self.lines(away)], ["one"])
        self.assertEqual([line["action"] for line in self.lines()], ["two"])
        for path in (away, self.path):
            path.unlink()
        self.path.parent.rmdir()
        self.audit("three", "done")
        self.assertEqual([line["action"] for line in self.lines()], ["three"])

    def test_cannot_be_written(self) -> None:
        """A line that cannot be written is an error in the daemon's log, and nothing else breaks; later ones are written."""
        self.path.unlink()
        self.path.mkdir()
        self.audit("one", "done")
        self.path.rmdir()
        self.audit("two", "done")
        self.assertEqual([line["action"] for line in self.lines()], ["two"])

    def test_cannot_be_opened(self) -> None:
        """At start it is an error."""
        other = AuditLog(self.path / "below a file", "users", lambda: NOW)
        self.assertRaises(OSError, other.startService)
