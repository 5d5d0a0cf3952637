"""Measures several things in turns, so that what a machine does beside hits all of them, and tells the medians."""

import fcntl
import os
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from benchmarks import gauges, maker, people, stand
from benchmarks.wrk import Ammunition, Round
from bookd.command.home import Home

# Customers who order, each one thing after the other.
CUSTOMERS = 256
QUERIES = 1000
# Books that a load asks for, at most.
ASKED_FOR = 10_000
# Seconds that a lock is held at most before others get their turn.
HOLD = 150.0


@frozen
class Options:
    """What was asked for on the command line."""

    rounds: int
    seconds: int
    connections: tuple[int, ...]
    books: int
    sizes: tuple[int, ...]
    catalogue: Path | None
    made: Path | None
    lock: Path | None
    minutes: float
    out: Path


@define
class Turns:
    """Lets a machine be shared: rounds run while a file is locked (flock(2)), and others get their turn between them."""

    path: Path | None
    _file: Any = None
    _since: float = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """While one round runs."""
        if self._file is not None and time.monotonic() - self._since > HOLD:
            self.release()
            time.sleep(1.0)
        if self._file is None and self.path is not None:
            self._file = self.path.open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()
        yield

    def release(self) -> None:
        """Let others have the machine."""
        if self._file is not None:
            self._file.close()
            self._file = None


@define
class Figures:
    """What was found: rows of the tables, and single facts with what they are held against."""

    rows: list[dict[str, Any]] = field(factory=list)
    facts: list[dict[str, Any]] = field(factory=list)

    def fact(self, scenario: str, what: str, value: float, target: str = "", met: bool | None = None) -> None:
        """Note one figure."""
        self.facts.append({"scenario": scenario, "what": what, "value": value, "target": target, "met": met})

    def row(self, scenario: str, subject: str, connections: int) -> dict[str, Any]:
        """A row that was measured."""
        wanted = (scenario, subject, connections)
        return next(row for row in self.rows if (row["scenario"], row["subject"], row["connections"]) == wanted)

    def ratio(self, scenario: str, subject: str, to: str, connections: int, target: float | None = None) -> float:
        """Note how much of another's rate one reaches, and hold it against a target."""
        one, other = (self.row(scenario, name, connections) for name in (subject, to))
        value: float = one["rate"] / other["rate"]
        one["ratio"], one["to"] = value, to
        if target is not None:
            what = f"{subject} to {to}, {connections} connections"
            self.fact(scenario, what, value, f"≥ {target:g}", value >= target)
        return value


@define
class Stage:
    """A suite that runs, and what is fired at it."""

    home: Home
    folder: Path
    options: Options
    turns: Turns
    figures: Figures
    ammunition: Ammunition

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return self.home.url()

    def fire(self, kind: str, connections: int, url: str = "") -> Callable[[], Round]:
        """A round of load."""
        return lambda: self.ammunition.fire(kind, url or self.url, connections, self.options.seconds)

    def alternate(
        self, scenario: str, connections: int, subjects: Mapping[str, Callable[[], Round]], **about: Any
    ) -> None:
        """Measure the subjects in turns, and note a row for each."""
        subjects_at_home = {name: (self.home, fire) for name, fire in subjects.items()}
        alternate(self.options, self.turns, self.figures, scenario, connections, subjects_at_home, **about)


def alternate(
    options: Options,
    turns: Turns,
    figures: Figures,
    scenario: str,
    connections: int,
    subjects: Mapping[str, tuple[Home, Callable[[], Round]]],
    **about: Any,
) -> None:
    """Measure the subjects, each of a home, in turns, and note a row for each."""
    rounds: dict[str, list[Round]] = {name: [] for name in subjects}
    used: dict[str, Counter[str]] = {name: Counter() for name in subjects}
    loads = []
    for _ in range(options.rounds):
        for name, (home, fire) in subjects.items():
            with turns.turn():
                loads.append(os.getloadavg()[0])
                before = gauges.processor_seconds(home)
                rounds[name].append(fire())
                for daemon, seconds in gauges.processor_seconds(home).items():
                    used[name][daemon] += seconds - before.get(daemon, 0.0)  # type: ignore[assignment]
    for name, found in rounds.items():
        counted = sum(each.counted for each in found) or 1
        spent = {daemon: 1000 * seconds / counted for daemon, seconds in sorted(used[name].items())}
        figures.rows.append(
            {
                "scenario": scenario,
                "subject": name,
                "connections": connections,
                "rate": statistics.median(each.rate for each in found),
                "p50": statistics.median(each.p50 for each in found),
                "p99": statistics.median(each.p99 for each in found),
                "rates": [round(each.rate, 1) for each in found],
                "undecided": sum(each.undecided for each in found),
                "seconds": options.seconds,
                "rounds": len(found),
                "processor_ms": {daemon: each for daemon, each in spent.items() if each >= 0.005},
                "load": max(loads),
                **about,
            }
        )


def ammunition(home: Home, folder: Path, books: int, real: list[tuple[str, str]]) -> Ammunition:
    """What is asked for of a suite whose books were made."""
    step = max(books // ASKED_FOR, 1)
    made = Ammunition(folder)
    made.write(
        [people.token(home, "customer") for _ in range(CUSTOMERS)],
        people.token(home, "staff"),
        [maker.book_id(number) for number in range(0, books, step)][:ASKED_FOR],
        maker.queries(books, real, QUERIES),
    )
    return made


def databases(folder: Path, options: Options, books: int, orders: int, real: list[tuple[str, str]]) -> Path:
    """The folder of databases with so many books and orders; made, unless they were kept from an earlier run."""
    made = (options.made or folder) / f"{books}-{orders}"
    if not (made / "ready").exists():
        maker.make(made, books, orders, real)
        (made / "ready").touch()
    return made


@contextmanager
def stage(folder: Path, options: Options, turns: Turns, figures: Figures, orders: int = 0) -> Iterator[Stage]:
    """A suite with made books on which load can be fired."""
    with ExitStack() as stack:
        real = maker.titles(options.catalogue)
        home = stack.enter_context(stand.suite(folder, databases(folder, options, options.books, orders, real)))
        loaded = ammunition(home, folder / "load", options.books, real)
        yield Stage(home, folder, options, turns, figures, loaded)


def version() -> str:
    """The commit that is measured."""
    ended = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return ended.stdout.strip()
