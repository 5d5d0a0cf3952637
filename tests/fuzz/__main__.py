"""Fuzzes one target, guided by coverage: `python -m tests.fuzz TARGET RUNS FOLDER`; `make fuzz` runs them all.

It starts from the seeds and from what FOLDER holds, where it also leaves what it learns, and the input that fails. An input
that takes ten seconds fails.
"""

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bookd", "csv", "json"]):
    from tests.fuzz import targets


def main(name: str, runs: str, folder: str) -> None:
    """Fuzz."""
    logging.disable()
    learnt = Path(folder)
    learnt.mkdir(parents=True, exist_ok=True)
    # The seeds are read only, since they come second.
    options = [
        f"-runs={runs}",
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=4096",
        f"-artifact_prefix={learnt}/failed-",
    ]
    options += ["-print_final_stats=1", "-verbosity=0", "-seed=4"]
    atheris.Setup([sys.argv[0], *options, str(learnt), str(targets.SEEDS / name)], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
