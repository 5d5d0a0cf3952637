"""Makes sure that Twisted runs on asyncio, which the bridge stands on.

A tap calls `install()` as its first statement: `twistd` imports taps before it installs a reactor. The loop is uvloop's,
which costs a read through all hops a sixth less than asyncio's own; whatever else runs on asyncio's own works as well.
"""

import asyncio
import sys
from typing import Any

import uvloop


def install() -> None:
    """Install the asyncio reactor, or leave it if it is there; with another reactor, exit with one line that says so."""
    from twisted.internet import asyncioreactor

    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is None:
        event_loop = uvloop.new_event_loop()
        asyncio.set_event_loop(event_loop)  # where grpc.aio looks for it
        asyncioreactor.install(event_loop)
    elif not isinstance(reactor, asyncioreactor.AsyncioSelectorReactor):
        raise SystemExit(
            f"bookd runs on Twisted's asyncio reactor only, and {type(reactor).__name__} is installed already;"
            " start it with twistd, or with --reactor=asyncio"
        )


def loop() -> asyncio.AbstractEventLoop:
    """The event loop that the installed reactor runs on. Raises `RuntimeError` under another reactor."""
    from twisted.internet import reactor

    found: Any = getattr(reactor, "_asyncioEventloop", None)
    if not isinstance(found, asyncio.AbstractEventLoop):
        raise RuntimeError(f"the bridge needs Twisted's asyncio reactor, not {type(reactor).__name__}")
    return found
