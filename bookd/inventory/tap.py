"""twistd bookd-inventory: the options and the wiring of the inventory."""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor

reactor.install()

import time
from typing import Any

from twisted.application.service import IService
from uuid6 import uuid7

from bookd.bridge import daemon
from bookd.bridge.desk import Desk
from bookd.bridge.relay import Relay, nothing_follows
from bookd.bridge.upkeep import Upkeep, removing
from bookd.inventory import facts
from bookd.inventory.servicer import InventoryServicer
from bookd.storage import inbox
from bookd.storage.engine import open_engine
from bookd.storage.migrate import MigrationError, upgrade
from bookd.wire.inventory.v1.inventory_pb2_grpc import add_InventoryServiceServicer_to_server

NAME = "bookd-inventory"

Options = daemon.Options


def now() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def makeService(options: daemon.Options) -> IService:
    """Database and desk, then the channel and the relay to the MOM, servicer and server on top.

    The migrations run here, before twistd goes into the background: a database that cannot be used is then said where
    it is seen, and nothing is served from half a schema. The connection is closed again, as none survives a fork.
    """
    from twisted.internet import reactor as running

    table, home = daemon.table(options, "inventory")
    contract = daemon.contract(NAME, home, [])
    metrics, vitals = daemon.vitals(NAME, running, home, table.metrics_port, table.grpc.identity)
    try:
        daemon.require_memory(contract, facts.SOURCE, table.keep_inbox)
        database = table.database if "://" in table.database else home / table.database
        engine = open_engine(database)
        upgrade(engine, "bookd.inventory")
        engine.dispose()
        server = daemon.grpc_server(table.grpc, home, contract, metrics)
        channel = daemon.channel(table.mom, table.grpc.identity, home)
    except (OSError, ValueError, MigrationError) as error:
        daemon.fail(NAME, error)
    desk = Desk(running, engine)
    vitals.ready = daemon.working(server, desk)
    relay = Relay(running, desk, channel, now=now, apply=nothing_follows)
    servicer: Any = InventoryServicer(desk, now, lambda: str(uuid7()), low=table.low_stock)
    add_InventoryServiceServicer_to_server(servicer, server)
    upkeep = Upkeep(running, {"inbox": removing(desk, inbox.purge, now, table.keep_inbox)})
    return daemon.daemon(NAME, vitals, desk, upkeep, channel, relay, server)
