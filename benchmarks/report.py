"""Writes what was found: tables in Markdown for people, JSON for machines, and plots (PNG and SVG) where matplotlib is."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.stage import Figures

HEADS = ("what", "connections", "a second", "p50 / p99 ms", "ratio", "processor ms each, by daemon")


def markdown(figures: Figures, about: dict[str, Any]) -> str:
    """The tables."""
    said = [
        f"{about['cores']} cores; {about['rounds']} rounds of {about['seconds']} s in turns, medians; {about['version']}",
        "",
    ]
    for scenario, rows in groupby(figures.rows, key=lambda row: row["scenario"]):
        said += [f"### {scenario}", "", f"| {' | '.join(HEADS)} |", f"|{' --- |' * len(HEADS)}"]
        said += [line(row) for row in rows]
        said.append("")
    if figures.facts:
        said += ["### figures", "", "| scenario | what | figure | wanted | |", "| --- | --- | --- | --- | --- |"]
        for fact in figures.facts:
            met = {None: "", True: "met", False: "missed"}[fact["met"]]
            said.append(f"| {fact['scenario']} | {fact['what']} | {number(fact['value'])} | {fact['target']} | {met} |")
        said.append("")
    return "\n".join(said)


def line(row: dict[str, Any]) -> str:
    """A row of a table."""
    spent = ", ".join(f"{daemon} {each:.2f}" for daemon, each in row["processor_ms"].items())
    ratio = f"{row['ratio']:.2f} of {row['to']}" if "ratio" in row else ""
    undecided = f" (and {row['undecided']:,} undecided)" if row["undecided"] else ""
    return (
        f"| {row['subject']} | {row['connections']} | {row['rate']:,.0f}{undecided} "
        f"| {row['p50']:.2f} / {row['p99']:.2f} | {ratio} | {spent} |"
    )


def number(value: float) -> str:
    """With as many digits as mean something."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def write(folder: Path, figures: Figures, about: dict[str, Any]) -> None:
    """All of it, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.md").write_text(markdown(figures, about))
    found = {"about": about, "rows": figures.rows, "facts": figures.facts}
    (folder / "figures.json").write_text(json.dumps(found, indent=1) + "\n")
    plots(folder, figures)


def plots(folder: Path, figures: Figures) -> None:
    """A picture of rates for each scenario, one of the processor time, one of the growth."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "bookd"
    from matplotlib import pyplot

    def save(name: str, figure: Any) -> None:
        figure.tight_layout()
        for ending in ("png", "svg"):
            figure.savefig(folder / f"{name}.{ending}", dpi=120, metadata={"Date": None} if ending == "svg" else None)
        pyplot.close(figure)

    for scenario, group in groupby(figures.rows, key=lambda row: row["scenario"].partition(",")[0]):
        rows = list(group)
        if scenario == "growth":
            save("growth", _growth(pyplot, rows))
            continue
        figure, (rates, times) = pyplot.subplots(1, 2, figsize=(11, 0.8 + 0.34 * len(rows)))
        labels = [f"{row['subject']}, {row['connections']}" for row in rows]
        bars = rates.barh(labels, [row["rate"] for row in rows])
        rates.bar_label(bars, [f"{row['rate']:,.0f}" for row in rows], padding=3)
        rates.margins(x=0.15)
        rates.set_title(f"{scenario}: a second, by connections")
        past = [0.0] * len(rows)
        for daemon in sorted({daemon for row in rows for daemon in row["processor_ms"]}):
            shares = [row["processor_ms"].get(daemon, 0.0) for row in rows]
            times.barh(labels, shares, left=past, label=daemon)
            past = [before + share for before, share in zip(past, shares, strict=True)]
        times.set_title("processor time each, ms")
        times.tick_params(labelleft=False)
        times.legend(fontsize="small")
        for axes in (rates, times):
            axes.invert_yaxis()
        save(scenario, figure)


def _growth(pyplot: Any, rows: list[dict[str, Any]]) -> Any:
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for scenario, group in groupby(rows, key=lambda row: row["scenario"]):
        found = list(group)
        sizes = [int(row["subject"].replace(",", "")) for row in found]
        axes.plot(sizes, [sum(row["processor_ms"].values()) for row in found], marker="o", label=scenario[8:])
    axes.set(xscale="log", ylim=(0, None), xlabel="books and orders", ylabel="processor time each, ms")
    axes.set_title("what a request costs all daemons together")
    axes.legend()
    return figure
