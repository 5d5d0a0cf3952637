"""The README's tour, line by line, against a suite that `bookd up` runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.internet.threads import deferToThread

from bookd.command.init import PORTS
from tests.command.test_up import UpCase

ROOT = Path(__file__).parents[2]
SECONDS = 60


class TourTests(UpCase):
    """What a newcomer types."""

    def script(self) -> str:
        """All lines of the tour, for another port and home than the README's."""
        section = (ROOT / "README.md").read_text().partition("## A short tour")[2].partition("\n## ")[0]
        lines = "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))
        assert lines.count("localhost:8081") > 5, lines
        port = re.search(r"port = (\d+)", (self.home.path / "bookd.toml").read_text())
        assert port is not None
        command = f"{sys.executable} -m bookd.command.main --home {self.home.path}"
        return (
            lines.replace(f"localhost:{PORTS['gateway']}", f"localhost:{port[1]}")
            .replace("var/", f"{self.home.path}/")
            .replace(".venv/bin/bookd", command)
            .replace("python3", sys.executable)
        )

    async def test_tour(self) -> None:
        """Each line works, and what the README says of the answers is true."""
        up = self.bookd("up")
        await up.says("is ready")
        done = await deferToThread(
            subprocess.run,
            ["bash", "-e", "-u", "-o", "pipefail", "-c", self.script()],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        said = done.stdout
        self.assertEqual(done.returncode, 0, said + done.stderr)
        confirmed, _, rest = said.partition("503")
        self.assertIn("ORDER_STATUS_CONFIRMED", confirmed)
        self.assertRegex(rest.lower(), r"retry-after: \d")
        self.assertIn("ORDER_STATUS_CONFIRMED", rest)
        self.assertIn('"done":true', rest)
        self.assertIn("Jane Eyre, revised", rest)
        up.process.signalProcess("INT")
        await up.status
