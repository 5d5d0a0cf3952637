"""Calls a service that is down, through the MOM, with bookd's own bridge: `python -m benchmarks.peers.caller`, a client
process of `benchmarks.accept`.

A call counts when its answer says that it is kept; any other answer voids the round. Each of the calls under way is of a
customer of its own, so that they are of different lanes, as orders of different people are.
"""

import os
import sys
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from benchmarks.peers.load import arguments, keep_busy, tell

METHOD = "/bookd.orders.v1.OrdersService/CreateOrder"
# Bytes of a CreateOrderRequest with one line, beside its address.
AROUND = 45


def main() -> None:
    """Call for one round."""
    given = arguments(__doc__)
    from bookd.bridge import reactor as bridge

    bridge.install()
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    from bookd.bridge import tls
    from bookd.bridge.channel import Channel
    from bookd.bridge.crossing import to_asyncio
    from bookd.command.home import Home
    from bookd.contract import metadata
    from bookd.errors import Unavailable
    from bookd.wire.orders.v1 import orders_pb2
    from bookd.wire.policy.v1 import policy_pb2

    identity = Home(given.home).load().gateway.identity  # type: ignore[union-attr]
    channel = Channel([f"localhost:{given.port}"], tls.Files(identity, given.home), name="mom")
    request = orders_pb2.CreateOrderRequest(
        items=[orders_pb2.OrderItem(book_id=str(uuid4()), quantity=1)], shipping_address="x" * (given.size - AROUND)
    ).SerializeToString()
    people = [
        policy_pb2.Principal(subject=str(uuid4()), roles=["customer"]).SerializeToString()
        for _ in range(given.in_flight)
    ]
    create = channel.unary_unary(METHOD)

    async def call(number: int) -> None:
        carried: Any = [
            (metadata.MESSAGE_ID, str(UUID(bytes=os.urandom(16), version=4))),
            (metadata.PRINCIPAL, people[number]),
        ]
        try:
            await to_asyncio(create(request, 10.0, carried))
        except Unavailable as error:
            if error.reason == "DEFERRED":
                return
            raise
        raise AssertionError("it was not kept")

    async def run() -> None:
        channel.startService()
        await channel.open().becomes_ready(10.0)
        while not channel.has_trunk:
            await bridge_sleep(0.01)
        tell(await keep_busy(call, given.in_flight, given.seconds))

    import asyncio

    bridge_sleep = asyncio.sleep
    status = 1
    running: Any = reactor

    def ended(task: Any) -> None:
        nonlocal status
        if task.exception() is None:
            status = 0
        else:
            sys.stderr.write(f"{task.exception()!r}\n")
        Deferred.fromCoroutine(_stop(channel, running))

    running.callWhenRunning(lambda: bridge.loop().create_task(run()).add_done_callback(partial(ended)))
    running.run()
    sys.exit(status)


async def _stop(channel: Any, running: Any) -> None:
    await channel.stopService()
    running.stop()


if __name__ == "__main__":
    main()
