"""The house has floors: imports go down only.

Each module stands on a floor. It may import from its own floor and from those beneath, never from above; daemons never
import each other; grpc is imported by the bridge and by generated code only.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import bookd

ROOT = Path(bookd.__file__).parent
DAEMONS = ("gateway", "mom", "inventory", "orders", "users")
# Modules of a daemon by their floor; whatever is not named here is a service, floor 4.
# Those of the list of passwords too: it is a constant, if one in a file.
PURE = {"rules", "machine", "common_passwords"}
SQL = {"schema", "store", "journal", "facts", "search", "words"}
# Of the MOM, whose store is several.
SQL |= {"records", "ledger", "settling", "forgetting", "overview", "seals", "vault"}
TOP = {"tap"}


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and path of every module that we wrote."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        if parts[1:2] == ("wire",) or "migrations" in parts or "alembic" in parts:
            continue
        yield ".".join(parts).removesuffix(".__init__"), path


def imported(path: Path) -> set[str]:
    """Dotted names of what a module imports, wherever in its text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(name: str) -> int:
    """The floor of a module of ours."""
    parts = name.split(".")
    room = parts[1] if len(parts) > 1 else ""
    if room in ("", "errors", "wire"):
        return 0
    if room in ("contract", "config", "pki"):
        return 1
    if room == "storage":
        return 2
    if room == "bridge":
        return 3
    if room in DAEMONS:
        last = parts[2] if len(parts) > 2 else ""
        return 1 if last in PURE else 2 if last in SQL else 5 if last in TOP else 4
    return 6  # the command, and the fakes for tests


class FloorsTests(SynchronousTestCase):
    """What the imports say."""

    def test_imports_go_down(self) -> None:
        """No module imports one from a floor above its own."""
        climbing = [
            f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"
            for name, path in modules()
            for other in imported(path)
            if other.split(".")[0] == "bookd" and (ROOT.parent / Path(*other.split("."))).with_suffix(".py").exists()
            if floor(other) > floor(name)
        ]
        self.assertEqual(climbing, [])

    def test_daemons_keep_apart(self) -> None:
        """No daemon imports another."""
        crossing = [
            f"{name} imports {other}"
            for name, path in modules()
            for other in imported(path)
            if name.split(".")[1:2] and name.split(".")[1] in DAEMONS
            if other.split(".")[0] == "bookd" and other.split(".")[1:2] and other.split(".")[1] in DAEMONS
            if name.split(".")[1] != other.split(".")[1]
        ]
        self.assertEqual(crossing, [])

    def test_grpc_in_the_bridge_only(self) -> None:
        """Only the bridge imports grpc."""
        importing = [
            name
            for name, path in modules()
            if not name.startswith("bookd.bridge")
            if any(other.split(".")[0] in ("grpc", "grpc_status", "grpc_health") for other in imported(path))
        ]
        self.assertEqual([name for name in importing if not self._only_messages(name)], [])

    def _only_messages(self, name: str) -> bool:
        """Whether all that a module takes from grpc packages are generated messages (health_pb2), which are wire."""
        path = dict(modules())[name]
        taken = {other for other in imported(path) if other.split(".")[0] in ("grpc", "grpc_status", "grpc_health")}
        return all(other in ("grpc_health", "grpc_health.v1") or other.endswith("_pb2") for other in taken)

    def test_lower_floors_know_no_reactor(self) -> None:
        """Below the bridge nothing imports Twisted, and the pure floor reads neither clock nor chance nor SQL."""
        forbidden = {
            0: {"twisted", "sqlalchemy"},
            1: {"twisted", "sqlalchemy", "random", "time", "secrets"},
            2: {"twisted"},
        }
        found = [
            f"{name} imports {other}"
            for name, path in modules()
            for other in imported(path)
            if other.split(".")[0] in forbidden.get(floor(name), set())
        ]
        self.assertEqual(found, [])
