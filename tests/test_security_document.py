"""docs/security.md names tests: each of them is there."""

import re
from pathlib import Path

from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

DOCUMENT = Path(__file__).parents[1] / "docs" / "security.md"
NAMED = re.compile(r"`(tests\.[a-z_]+(?:\.\w+)+|tests\.test_[a-z_]+|bookd(?:\.[a-z_]+)+)`")


class SecurityDocumentTests(SynchronousTestCase):
    """The document against the code."""

    def test_tests_are_there(self) -> None:
        """Every test and module that it names can be imported."""
        named = set(NAMED.findall(DOCUMENT.read_text()))
        self.assertGreater(len(named), 25)
        for name in sorted(named):
            namedAny(name)

    def test_every_risk_has_a_test(self) -> None:
        """Each of OWASP's ten has a row, and each row names a test."""
        rows = [line for line in DOCUMENT.read_text().splitlines() if re.match(r"\| API\d+ ", line)]
        self.assertEqual([int(row.split()[1].removeprefix("API")) for row in rows], list(range(1, 11)))
        for row in rows:
            self.assertIn("`tests.", row.split("|")[3], row)
