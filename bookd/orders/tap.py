"""twistd bookd-orders: the options and the wiring of the orders."""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor

reactor.install()

import time
from typing import Any

from twisted.application.service import IService
from uuid6 import uuid7

from bookd.bridge import daemon
from bookd.bridge.desk import Desk
from bookd.bridge.relay import Relay
from bookd.bridge.upkeep import Upkeep, removing
from bookd.orders import saga, sweep
from bookd.orders.news import News
from bookd.orders.servicer import OrdersServicer
from bookd.storage import inbox
from bookd.storage.engine import open_engine
from bookd.storage.migrate import MigrationError, upgrade
from bookd.wire.orders.v1.orders_pb2_grpc import add_OrdersServiceServicer_to_server

NAME = "bookd-orders"

Options = daemon.Options


def now() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def makeService(options: daemon.Options) -> IService:
    """Database and desk, then the channel and the relay to the MOM, servicer and server on top.

    The migrations run here, before twistd goes into the background: a database that cannot be used is then said where
    it is seen. The connection is closed again, as none survives a fork.
    """
    from twisted.internet import reactor as running

    table, home = daemon.table(options, "orders")
    contract = daemon.contract(NAME, home, [])
    metrics, vitals = daemon.vitals(NAME, running, home, table.metrics_port, table.grpc.identity)
    try:
        daemon.require_memory(contract, saga.SERVICE, table.keep_inbox)
        engine = open_engine(table.database if "://" in table.database else home / table.database)
        upgrade(engine, "bookd.orders")
        engine.dispose()
        server = daemon.grpc_server(table.grpc, home, contract, metrics)
        channel = daemon.channel(table.mom, table.grpc.identity, home)
    except (OSError, ValueError, MigrationError) as error:
        daemon.fail(NAME, error)
    desk = Desk(running, engine)
    vitals.ready = daemon.working(server, desk)
    news = News(running)
    relay = Relay(running, desk, channel, now=now, apply=saga.apply_sent, told=news.tell)
    servicer: Any = OrdersServicer(desk, news=news, now=now, new_id=lambda: str(uuid7()), patience=table.patience)
    add_OrdersServiceServicer_to_server(servicer, server)
    chores = {
        "inbox": removing(desk, inbox.purge, now, table.keep_inbox),
        "steps": removing(desk, sweep.forget, now, table.keep_inbox),
        "sweep": sweep.sweeping(desk, now, table.sweep_after),
    }
    return daemon.daemon(NAME, vitals, desk, Upkeep(running, chores), channel, relay, server)
