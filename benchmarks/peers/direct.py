"""GetBook asked of the inventory itself, one call after the other: what the hops in front of it are measured against.

    python -m benchmarks.peers.direct --home HOME --book ID --seconds N

Plain gRPC (the synchronous stub, which is the quickest for one call at a time) over mutual TLS, as the operator.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import grpc

from bookd.command.home import Home
from bookd.wire.inventory.v1 import inventory_pb2, inventory_pb2_grpc

WARM = 200


def main() -> None:
    """Print the figures of one round as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--book", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    home = Home(arguments.home)
    table = home.load().inventory
    assert table is not None
    key, chain, ca = ((home.path / "pki" / name).read_bytes() for name in ("operator.key", "operator.pem", "ca.pem"))
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    took = []
    with grpc.secure_channel(f"localhost:{table.grpc.port}", credentials) as channel:
        stub = inventory_pb2_grpc.InventoryServiceStub(channel)
        request = inventory_pb2.GetBookRequest(book_id=arguments.book)
        for _ in range(WARM):
            stub.GetBook(request, timeout=5)
        began = time.perf_counter()
        while time.perf_counter() - began < arguments.seconds:
            asked = time.perf_counter()
            stub.GetBook(request, timeout=5)
            took.append((time.perf_counter() - asked) * 1000)
        seconds = time.perf_counter() - began
    found = {"counted": len(took), "seconds": seconds, "p50": statistics.median(took)}
    sys.stdout.write(json.dumps({**found, "p99": statistics.quantiles(took, n=100)[98]}) + "\n")


if __name__ == "__main__":
    main()
