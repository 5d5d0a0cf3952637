"""What a suite needs: the time until all five daemons serve, and their memory at rest and under load."""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks import gauges, stand
from benchmarks.stage import Figures, Options, Stage, Turns
from benchmarks.stand import BenchError

STARTS = 5
REST = 5.0
CONNECTIONS = 64
LOOK_EVERY = 2.0
# Minutes of load from which on its growth says something.
FLAT_FROM = 10


def starts(folder: Path, options: Options, turns: Turns, figures: Figures) -> None:
    """Seconds from `bookd up` to "is ready", of a home that was started before; and memory after an import."""
    home = stand.new_home(folder)
    with stand.running(home):  # makes the tables, loads the sample
        if options.catalogue is not None:
            command = [sys.executable, "-m", "bookd.command.main", "--home", str(home.path), "import"]
            command += [str(options.catalogue), "--stock", "20", "--price", "9.99"]
            ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
            if ended.returncode not in (0, 1):  # 1: rows that no book can be made of
                raise BenchError(f"import: {ended.stderr[-500:]}")
        time.sleep(REST)
        _note(figures, "at rest, after an import" if options.catalogue else "at rest", gauges.memory(home))
    took = []
    for _ in range(STARTS):
        with turns.turn(), stand.running(home) as seconds:
            took.append(seconds)
    value = statistics.median(took)
    figures.fact("resources", "seconds from `bookd up` to five daemons that serve", value, "< 3 s", value < 3.0)


def loaded(stage: Stage) -> None:
    """Memory while nine reads come to an order: the most that was held, and whether it grows with time."""
    held: list[Mapping[str, Mapping[str, float]]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            held.append(gauges.memory(stage.home))

    minutes = stage.options.minutes
    with stage.turns.turn():
        looking = threading.Thread(target=look)
        looking.start()
        try:
            made = stage.ammunition.fire("mixed", stage.url, CONNECTIONS, round(minutes * 60))
        finally:
            over.set()
            looking.join()
    when = f"under load for {minutes:g} minutes, {CONNECTIONS} connections, {made.counted:,} requests"
    _note(stage.figures, when, max(held, key=_pss), 400.0)
    if minutes >= FLAT_FROM:
        quarter = len(held) // 4
        second, last = held[quarter : 2 * quarter], held[3 * quarter :]
        grown = statistics.median(map(_pss, last)) / statistics.median(map(_pss, second))
        what = f"memory in the last quarter of {minutes:g} minutes to that in the second"
        stage.figures.fact("resources", what, grown, "≤ 1.05", grown <= 1.05)


def _pss(held: Mapping[str, Mapping[str, float]]) -> float:
    return sum(each["pss"] for each in held.values())


def _note(figures: Figures, when: str, held: Mapping[str, Mapping[str, float]], bound: float | None = None) -> None:
    for kind in ("pss", "rss"):
        value = sum(each[kind] for each in held.values())
        each = ", ".join(f"{name} {sizes[kind]:.0f}" for name, sizes in sorted(held.items()))
        target, met = (f"< {bound:.0f}", value < bound) if bound is not None and kind == "pss" else ("", None)
        figures.fact("resources", f"MiB of all five, {kind.upper()}, {when} ({each})", value, target, met)
