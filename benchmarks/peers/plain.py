"""The least that a gateway on Klein can cost: TLS, HTTP and one route, with an answer that never changes.

    python -m benchmarks.peers.plain --home HOME --port PORT < BODY

Klein over TLS with the certificate, the reactor and the TLS settings of bookd's gateway; nothing else of it.
"""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor as asyncio_reactor

asyncio_reactor.install()

import argparse
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from klein import Klein
from twisted.internet import reactor
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.server import Site

from bookd.command.home import Home
from bookd.gateway.listener import ServerTLS


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    body = sys.stdin.buffer.read()
    app = Klein()

    @app.route("/")
    def answer(request: Any) -> bytes:
        request.setHeader(b"content-type", b"application/json")
        return body

    table = Home(arguments.home).load().gateway
    assert table is not None
    tls = ServerTLS(table.https or table.identity, arguments.home, monotonic)
    running: Any = reactor
    running.listenTCP(arguments.port, TLSMemoryBIOFactory(tls, False, Site(app.resource())), interface="localhost")
    running.run()


if __name__ == "__main__":
    main()
