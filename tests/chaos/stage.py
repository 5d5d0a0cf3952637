"""Where a suite is put for a run: a home with free ports, links between the daemons, a small disk for each database.

The addresses in the configuration lead through the links. Each database has a folder of its own, on a tmpfs of its own
where this process may mount one, so that one daemon's disk can be full while the others' are not.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bookd.testing.ports import free_port, free_ports
from tests.chaos.nemesis import STORES

ROOT = Path(__file__).parents[2]
PORTS = {"gateway": 8081, "mom": 50055, "inventory": 50051, "orders": 50052, "users": 50053}
DISK = "96m"


def make_home(home: Path) -> dict[str, int]:
    """What `bookd init` makes, with free ports; answers them by the daemons' names."""
    command = [sys.executable, "-m", "bookd.command.main", "--home", str(home), "init"]
    subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment())
    for name in STORES:
        (home / "data" / name).mkdir(mode=0o700)
    return dict(zip(PORTS, free_ports(len(PORTS)), strict=True))


def environment(**more: str) -> dict[str, str]:
    """Variables of the daemons: this checkout comes first, wherever they are started."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "GRPC_VERBOSITY": "NONE", **more}


def configure(home: Path, ports: Mapping[str, int], through: Callable[[str], int], *, caching: bool = False) -> None:
    """Write the ports, for each connection the port that `through` names for a link ("mom-orders"), and whether the gateway
    gives answers again."""
    section, lines = "", []
    for text in (home / "bookd.toml").read_text().splitlines():
        line = text
        begun = re.fullmatch(r"\[+([a-z.]+)\]+", line)
        if begun is not None:
            section = begun[1].partition(".")[0]
            lines.append(line)
            if line == "[gateway]" and caching:
                lines += ["cache_fresh = 0.5", "cache_stale = 60.0"]
            if line == f"[{section}]" and section in STORES:
                lines.append(f'database = "data/{section}/{section}.sqlite"')
            continue
        if line.startswith("port = "):
            line = f"port = {ports[section]}"
        elif line.startswith("metrics_port = "):
            line = f"metrics_port = {free_port()}"
        elif "addresses = " in line:
            peer = re.search(r'name = "([a-z]+)"', line)
            assert peer is not None, line
            port = through(f"{section}-{peer[1]}")
            line = re.sub(r'addresses = \["[^"]*"\]', f'addresses = ["127.0.0.1:{port}"]', line)
        lines.append(line)
    (home / "bookd.toml").write_text("\n".join(lines) + "\n")


def mount_disks(home: Path) -> str:
    """Give each database a small disk; answers why that cannot be, or nothing."""
    for name in STORES:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "bookd-chaos", str(home / "data" / name)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except OSError as error:
            return f"mount: {error.strerror}"
        if done.returncode:
            return f"this process may not mount: {done.stderr.strip()}"
    return ""


def unmount_disks(home: Path) -> None:
    """Take the disks away, with what is on them."""
    for name in STORES:
        subprocess.run(["umount", "--lazy", str(home / "data" / name)], capture_output=True, timeout=10, check=False)


def fill(folder: Path) -> Path:
    """Leave no space on the disk of `folder`; answers the file that takes it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        free = os.statvfs(folder)
        try:
            os.posix_fallocate(file.fileno(), 0, max(free.f_bavail * free.f_frsize, 1))
            file.seek(0, os.SEEK_END)
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return ballast
