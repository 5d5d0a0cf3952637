"""`python -m tests.chaos`: one run, its report on standard output, and exit status 1 when a promise was broken.

Where `unshare` may, a run has mounts and processes of its own: so disks can be small, and nothing outlives it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.chaos import effects
from tests.chaos.checker import check
from tests.chaos.drain import Drain, DrainPlan
from tests.chaos.history import History, load
from tests.chaos.mix import REST, Mix, Plan
from tests.chaos.nemesis import KINDS, PACE
from tests.chaos.report import Report
from tests.chaos.theatre import Theatre

_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
# With a user namespace, those who are not root may too.
_WAYS = (_UNSHARE, ("unshare", "--user", "--map-root-user", *_UNSHARE[1:]))


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--scenario", choices=("mix", "drain"), default="mix")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--seconds", type=float, default=120.0, help="how long clients work (mix)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of fault, with commas between them (mix)")
    parser.add_argument("--pace", type=float, default=PACE, help="seconds between two faults (mix)")
    parser.add_argument("--customers", type=int, default=10)
    parser.add_argument("--orders", type=int, default=10_000, help="orders that are kept (drain)")
    parser.add_argument("--rest", type=float, default=REST, help="seconds in which all must have ended (mix)")
    parser.add_argument("--sabotage", choices=("forget", "early"), default="", help="break a promise, to see it found")
    parser.add_argument("--check", type=Path, default=None, help="check the folder of an earlier run again")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a sound run too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help="where history, logs and databases go")
    return parser.parse_args()


def alone() -> bool:
    """Go on in namespaces of one's own, if that is possible; False if it is not."""
    for way in _WAYS:
        try:
            done = subprocess.run([*way, "true"], capture_output=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            os.execvp(way[0], [*way, sys.executable, "-m", "tests.chaos", *sys.argv[1:], "--inside"])
    return False


async def run(reactor: Any, asked: argparse.Namespace, folder: Path) -> Report:
    """One run in `folder`."""
    with (folder / "history.jsonl").open("w", encoding="utf-8") as file:
        begun = reactor.seconds()
        history = History(file, lambda: reactor.seconds() - begun)
        mix = asked.scenario == "mix"
        kinds = tuple(asked.kinds.split(",")) if mix else ()
        theatre = Theatre(
            reactor, folder, history, kinds=kinds, sabotage=asked.sabotage, own_disks=asked.inside and mix
        )
        theatre.build()
        try:
            if not mix:
                drained = DrainPlan(seed=asked.seed, orders=asked.orders, compared=min(asked.orders, 2_000))
                return await Drain(reactor, theatre, history, drained).run()
            plan = Plan(
                seed=asked.seed,
                seconds=asked.seconds,
                kinds=kinds,
                customers=asked.customers,
                rest=asked.rest,
                pace=asked.pace,
            )
            return await Mix(reactor, theatre, history, plan).run()
        finally:
            await theatre.close()


def again(folder: Path) -> Report:
    """The verdict over what an earlier run has left."""
    operations, notes = load(folder / "history.jsonl")
    stock: dict[str, int] = next((note["books"] for note in notes if note["event"] == "stock"), {})
    faults = Counter(note["kind"] for note in notes if note["event"] == "fault")
    return Report(str(folder), check(operations, effects.read(folder / "home" / "data"), stock), faults, {})


def main() -> None:
    """Run, report, and tidy up."""
    asked = arguments()
    if asked.check is not None:
        report = again(asked.check)
        sys.stdout.write(report.text() + "\n")
        raise SystemExit(0 if report.sound else 1)
    if not asked.inside:
        alone()
    folder = asked.folder or Path(mkdtemp(prefix="bookd-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    reports: list[Report] = []

    async def whole(reactor: Any) -> None:
        reports.append(await run(reactor, asked, folder))

    try:
        react(lambda reactor: Deferred.fromCoroutine(whole(reactor)), ())
    except SystemExit as ended:
        if not reports:
            sys.stderr.write(f"the run did not end; seed {asked.seed}, see {folder}\n")
            raise SystemExit(ended.code or 2) from None
    (report,) = reports
    (folder / "report.json").write_text(json.dumps(report.data(), indent=1, ensure_ascii=False))
    sys.stdout.write(report.text() + "\n")
    if report.sound and not asked.keep:
        shutil.rmtree(folder)
    else:
        sys.stdout.write(f"  kept          {folder}\n")
    sys.stdout.flush()
    raise SystemExit(0 if report.sound else 1)


if __name__ == "__main__":
    main()
