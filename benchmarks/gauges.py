"""What the daemons of a suite use: processor time, memory, room on the disk. Read from /proc, so it costs them nothing."""

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from bookd.command.home import Home

_DAEMON = re.compile(r"\0bookd-([a-z]+)\0")


def processes(home: Home) -> Iterator[tuple[str, Path]]:
    """The daemons that run, with their folders in /proc; one that has several processes comes several times."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        daemon = _DAEMON.search(command)
        if daemon is not None and f"\0{home.config_file}\0" in command + "\0":
            yield daemon[1], folder


def processor_seconds(home: Home) -> Mapping[str, float]:
    """The processor time that each daemon has used."""
    ticks = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}
    for daemon, folder in processes(home):
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        found[daemon] = found.get(daemon, 0.0) + (int(fields[11]) + int(fields[12])) / ticks
    return found


def memory(home: Home) -> Mapping[str, Mapping[str, float]]:
    """What each daemon holds in memory, in MiB: `pss`, where what processes share is divided among them, and `rss`."""
    found: dict[str, dict[str, float]] = {}
    for daemon, folder in processes(home):
        lines = dict(re.findall(r"^(Pss|Rss):\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE))
        held = found.setdefault(daemon, {"pss": 0.0, "rss": 0.0})
        held["pss"] += int(lines["Pss"]) / 1024
        held["rss"] += int(lines["Rss"]) / 1024
    return found


def stored(database: Path) -> int:
    """The bytes of a SQLite database that are in use, what is still in its log included."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        size, pages, free = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
        )
    finally:
        connection.close()
    return int(size) * (int(pages) - int(free))
