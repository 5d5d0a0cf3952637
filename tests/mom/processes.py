"""Processes that tests start: a post of its own, and twistd. `python -m tests.mom.processes PORT` is the post."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.protocol import ProcessProtocol

ROOT = str(Path(__file__).parents[2])


class Spawned(ProcessProtocol):
    """A process, what it said, and how it ended: its exit status, or minus the signal that ended it."""

    def __init__(self, *arguments: str) -> None:
        from twisted.internet import reactor

        self.said = b""
        self.ended: Deferred[int] = Deferred()
        # Without a folder to change to, Twisted spawns and does not fork: gRPC's threads in this process do not bear it.
        self.process: Any = reactor.spawnProcess(  # type: ignore[attr-defined]
            self, arguments[0], arguments, {**os.environ, "PYTHONPATH": ROOT}
        )

    def outReceived(self, data: bytes) -> None:
        self.said += data

    errReceived = outReceived

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(reason.value.exitCode if reason.value.exitCode is not None else -reason.value.signal)

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    async def end(self) -> int:
        """Kill it, if it still runs; answers how it ended."""
        if not self.ended.called:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
        return await self.ended


def spawn_post(port: int) -> Spawned:
    """A post on that port; it says "ready"."""
    return Spawned(sys.executable, "-m", "tests.mom.processes", str(port))


def spawn_mom(config: Path) -> Spawned:
    """twistd bookd-mom."""
    twistd = str(Path(sys.executable).with_name("twistd"))
    return Spawned(twistd, "-n", "--pidfile=", "bookd-mom", "--config", str(config))


def main() -> None:
    """Serve as a post until killed."""
    from bookd.bridge import reactor as bridge

    bridge.install()
    from twisted.internet import reactor

    from tests.mom.running import Post

    post = Post(int(sys.argv[1]))

    async def serve() -> None:
        post.startService()
        await post.started
        sys.stdout.write("ready\n")
        sys.stdout.flush()

    reactor.callWhenRunning(lambda: ensureDeferred(serve()))  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
