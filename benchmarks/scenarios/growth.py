"""What a read, a search and an order cost with so many books and orders: suites of each size stand side by side, and rounds
go from one to the next."""

from contextlib import ExitStack
from pathlib import Path

from benchmarks import maker, stand
from benchmarks.stage import Figures, Options, Stage, Turns, alternate, ammunition, databases

CONNECTIONS = 32
KINDS = ("read", "search", "order")


def growth(folder: Path, options: Options, turns: Turns, figures: Figures) -> None:
    """The same load at each size."""
    real = maker.titles(options.catalogue)
    with ExitStack() as stack:
        stages = {}
        for size in options.sizes:
            place = folder / str(size)
            place.mkdir()
            made = databases(folder, options, size, size, real)
            home = stack.enter_context(stand.suite(place, made))
            load = ammunition(home, place / "load", size, real)
            stages[size] = Stage(home, place, options, turns, figures, load)
            for kind in KINDS:
                load.fire(kind, home.url(), CONNECTIONS, 1)  # warm
        connections = options.connections[0] if options.connections else CONNECTIONS
        for kind in KINDS:
            subjects = {f"{size:,}": (each.home, each.fire(kind, connections)) for size, each in stages.items()}
            alternate(options, turns, figures, f"growth, {kind}", connections, subjects)
    for kind in KINDS:
        least, most = (figures.row(f"growth, {kind}", f"{size:,}", connections) for size in (min(stages), max(stages)))
        costs = [sum(each["processor_ms"].values()) for each in (least, most)]
        what = f"{kind}: with {max(stages):,} books and orders to {min(stages):,}"
        bound = 1.2 if kind == "order" else None
        for name, value in (("rate", least["rate"] / most["rate"]), ("processor time", costs[1] / costs[0])):
            target, met = (f"≤ {bound}", value <= bound) if bound is not None else ("", None)
            figures.fact("growth", f"{what}, cost by {name}", value, target, met)
