"""Where the time of a request goes, hop by hop: flame graphs (SVG) of each daemon under load, by py-spy, which looks at a
process from outside. They count only what holds the interpreter, as that is what a daemon has one of."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks import gauges
from benchmarks.stage import Stage
from benchmarks.stand import BenchError

CONNECTIONS = 32
KINDS = ("read", "order", "search")
# Looks a second. More of them slow down what is looked at.
RATE = 200


def flames(stage: Stage) -> None:
    """A picture for each kind of request and each daemon, in the folder of the report."""
    stage.options.out.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        with stage.turns.turn(), ExitStack() as stack:
            looking = [
                stack.enter_context(_look(stage.options.out / f"flames-{kind}-{daemon}.svg", folder.name, stage))
                for daemon, folder in gauges.processes(stage.home)
                if daemon != "users"
            ]
            stage.ammunition.fire(kind, stage.url, CONNECTIONS, stage.options.seconds + 2)
            for each in looking:
                if each.wait(30):
                    raise BenchError(f"py-spy: {each.communicate()[1].decode()[-500:]}")


def _look(picture: Path, process: str, stage: Stage) -> "subprocess.Popen[bytes]":
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "--gil", "--nolineno", "--rate", str(RATE)]
    command += ["--duration", str(stage.options.seconds), "--output", str(picture), "--pid", process]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
