"""Runs trial and ends with one plain line: `N passed, N failed, N skipped`. Arguments go to trial as they are.

A folder named `tests` is run a package at a time, each in a process of its own: what one package leaves to the garbage
collector is not found while another one's tests run, and blamed on them.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

SUMMARY = re.compile(r"^(?:PASSED|FAILED) \((?P<counts>[^)]*)\)|^PASSED$", re.MULTILINE)
TESTS = Path(__file__).parent


def counted(output: str) -> Counter[str]:
    """The counts of trial's summary; skips and expected failures count as skipped, errors as failed."""
    counts: Counter[str] = Counter()
    for match in SUMMARY.finditer(output):
        for name, number in re.findall(r"(\w+)=(\d+)", match["counts"] or ""):
            counts[name] += int(number)
    return Counter(
        passed=counts["successes"],
        failed=counts["failures"] + counts["errors"] + counts["unexpectedSuccesses"],
        skipped=counts["skips"] + counts["todos"] + counts["expectedFailures"],
    )


def packages() -> list[str]:
    """The packages and modules of tests in this folder."""
    found = [path.parent for path in TESTS.glob("*/__init__.py")] + list(TESTS.glob("test_*.py"))
    return sorted(f"{TESTS.name}.{path.stem}" for path in found)


def run(arguments: Sequence[str]) -> Counter[str]:
    """Run trial once; a trial that ends badly without a failed test counts as a failure."""
    # The tests stop servers under their clients' feet, which gRPC's core would tell at length.
    environment = {**os.environ, "GRPC_VERBOSITY": "NONE"}
    command = [sys.executable, "-m", "twisted.trial", "--reactor=asyncio", *arguments]
    heard: list[str] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, errors="replace") as trial:
        assert trial.stdout is not None
        for line in trial.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            heard.append(line)
    counts = counted("".join(heard[-50:]))
    if trial.returncode and not counts["failed"]:
        counts["failed"] = 1
    return counts


def main(arguments: list[str]) -> int:
    """Run what the arguments name; answers 1 when anything failed, or when no test ran."""
    *options, last = arguments
    counts: Counter[str] = Counter()
    for name in packages() if last == TESTS.name else [last]:
        counts.update(run([*options, name]))
    sys.stdout.write(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped\n")
    return int(counts["failed"] > 0 or counts["passed"] == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["tests"]))
