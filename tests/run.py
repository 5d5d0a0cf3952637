"""Runs trial and ends with one plain line: `N passed, N failed, N skipped`. Arguments go to trial as they are."""

import os
import re
import subprocess
import sys

SUMMARY = re.compile(r"^(?:PASSED|FAILED) \((?P<counts>[^)]*)\)|^PASSED$", re.MULTILINE)


def closing_line(output: str) -> str:
    """The counts of trial's summary; skips and expected failures count as skipped, errors as failed."""
    counts: dict[str, int] = {}
    for match in SUMMARY.finditer(output):
        for name, number in re.findall(r"(\w+)=(\d+)", match["counts"] or ""):
            counts[name] = counts.get(name, 0) + int(number)
    failed = counts.get("failures", 0) + counts.get("errors", 0) + counts.get("unexpectedSuccesses", 0)
    skipped = counts.get("skips", 0) + counts.get("todos", 0) + counts.get("expectedFailures", 0)
    return f"{counts.get('successes', 0)} passed, {failed} failed, {skipped} skipped"


def main(arguments: list[str]) -> int:
    """Run trial with the arguments; answers its exit status, or 1 when it ran no test."""
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
    line = closing_line("".join(heard[-50:]))
    sys.stdout.write(line + "\n")
    return trial.returncode or int(line.startswith("0 passed"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["tests"]))
