"""The generated code is what protoc makes of the sources, today."""

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

import bookd

WIRE = Path(bookd.__file__).parent / "wire"
GENERATOR = WIRE.parents[1] / "protos" / "generate.py"


def contents(folder: Path) -> dict[str, bytes]:
    """Every generated file below a folder, by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


class WireTests(SynchronousTestCase):
    """bookd/wire/ against protos/."""

    def test_checked_in_code_is_up_to_date(self) -> None:
        """Generating anew gives the checked-in files, none more and none less."""
        if not GENERATOR.exists():
            raise SkipTest("the proto sources are not installed")
        fresh = Path(self.mktemp())
        subprocess.run([sys.executable, str(GENERATOR), str(fresh)], check=True, capture_output=True)
        made, kept = contents(fresh), contents(WIRE)
        self.assertEqual(sorted(made), sorted(kept))
        self.assertEqual([name for name in made if made[name] != kept[name]], [], "run `make protos`")
