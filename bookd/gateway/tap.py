"""twistd bookd-gateway: the options and the wiring of the gateway."""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor as asyncio_reactor

asyncio_reactor.install()

from time import time_ns
from typing import Any

import msgspec
from twisted.application.service import IService, MultiService
from uuid6 import uuid7

from bookd.bridge import daemon
from bookd.contract import openapi
from bookd.contract.binding import bindings
from bookd.contract.codec import encode
from bookd.contract.descriptors import ContractError
from bookd.gateway.calls import Calls
from bookd.gateway.connection import Site
from bookd.gateway.intake import Intake, Limits
from bookd.gateway.listener import Listener, ServerTLS
from bookd.gateway.routes import Gateway, route_table
from bookd.gateway.streams import Streams
from bookd.gateway.tokens import Keys, Tokens

NAME = "bookd-gateway"

Options = daemon.Options

# What is under way when the channel closes has had its grace already.
_CHANNEL_GRACE = 1.0


def new_id() -> str:
    """A UUIDv7."""
    return str(uuid7())


def now() -> int:
    """Microseconds since the epoch."""
    return time_ns() // 1000


def makeService(options: daemon.Options) -> IService:
    """The gateway that the configuration describes; ends the process with one line when it describes none."""
    from twisted.internet import reactor

    clock: Any = reactor
    table, home = daemon.table(options, "gateway")
    contract = daemon.contract(NAME, home, table.descriptor_sets)
    try:
        routes = bindings(contract)
        router = route_table(routes)
        document = msgspec.json.encode(openapi.document(contract, routes, title="bookd", version="1"))
        tokens = Tokens(Keys(home / table.jwks, clock.seconds), table.issuer, table.audience, now)
        tls = ServerTLS(table.https or table.identity, home, clock.seconds)
        channel = daemon.channel(table.mom, table.identity, home, _CHANNEL_GRACE)
    except (ContractError, OSError, ValueError) as error:
        daemon.fail(NAME, error)
    calls = Calls(channel, grace=table.grace, reactor=clock)
    streams = Streams(clock)
    gateway = Gateway(
        router,
        Intake(tokens, Limits(table.default_deadline, table.max_deadline), new_id),
        calls,
        streams,
        lambda message: encode(message, contract.pool),
        document,
        max_wait=table.max_deadline,
        seconds=clock.seconds,
    )
    site = Site(
        gateway.app.resource(),
        max_body=table.max_body,
        idle_timeout=table.idle_timeout,
        new_id=new_id,
        reactor=clock,
    )
    listener = Listener(table.host, table.port, site, tls, grace=table.grace, reactor=clock)
    front = MultiService()
    calls.setServiceParent(front)
    listener.setServiceParent(front)
    return daemon.daemon(NAME, channel, front, streams)
