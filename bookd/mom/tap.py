"""twistd bookd-mom: the options and the wiring of the message-oriented middleware."""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor

reactor.install()

import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

from google.longrunning.operations_pb2_grpc import add_OperationsServicer_to_server
from sqlalchemy import Engine
from twisted.application.service import IService, MultiService

from bookd.bridge import daemon
from bookd.bridge.channel import Channel
from bookd.bridge.desk import Desk
from bookd.bridge.metrics import Metrics
from bookd.bridge.server import Server
from bookd.bridge.vitals import Vitals
from bookd.config import Mom
from bookd.contract.descriptors import Contract
from bookd.mom import ledger
from bookd.mom.breaker import Breaker
from bookd.mom.broker import Broker
from bookd.mom.courier import LONGEST_REFUSAL, Courier
from bookd.mom.destination import Destination
from bookd.mom.event_servicer import EventServicer
from bookd.mom.gauges import Gauges
from bookd.mom.lanes import Lanes
from bookd.mom.machine import MICROSECONDS, Policy
from bookd.mom.records import Bounds
from bookd.mom.router import Router
from bookd.mom.seals import SealsError
from bookd.mom.servicer import MomServicer, OperationsServicer, Waiting
from bookd.mom.spool import Spool
from bookd.mom.upkeep import Retention, Upkeep
from bookd.mom.vault import Vault, guarded
from bookd.mom.watch import Watch
from bookd.storage.engine import open_engine
from bookd.storage.migrate import MigrationError, upgrade
from bookd.wire.mom.v1.events_pb2_grpc import add_EventServiceServicer_to_server
from bookd.wire.mom.v1.mom_pb2_grpc import add_MomServiceServicer_to_server

NAME = "bookd-mom"
# Seconds that deliveries may go on when the MOM stops: what is cut off is delivered again.
GRACE = 0.5

Options = daemon.Options


def now() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def makeService(options: daemon.Options) -> IService:
    """The daemon that the configuration describes.

    The migrations run here, before twistd goes into the background: a database that cannot be used is then said where
    it is seen. The connection is closed again, as none survives a fork.
    """
    from twisted.internet import reactor as running

    table: Mom
    table, home = daemon.table(options, "mom")
    contract = daemon.contract(NAME, home, table.descriptor_sets)
    metrics, vitals = daemon.vitals(NAME, running, home, table.metrics_port, table.grpc.identity)
    try:
        engine = open_engine(table.database if "://" in table.database else home / table.database)
        upgrade(engine, "bookd.mom")
        if table.sealing_keys is not None:
            engine = guarded(engine, Vault(home / table.sealing_keys, time.monotonic, now))
        server = daemon.grpc_server(table.grpc, home, contract, metrics)
        channels = [daemon.channel(each.peer, table.grpc.identity, home, GRACE) for each in table.destinations]
    except (OSError, ValueError, MigrationError, SealsError) as error:
        daemon.fail(NAME, error)
    return assembled(running, table, contract, engine, channels, server, metrics, vitals)


def assembled(
    running: Any,
    table: Mom,
    contract: Contract,
    engine: Engine,
    channels: Sequence[Channel],
    server: Server,
    metrics: Metrics,
    vitals: Vitals,
) -> daemon.Daemon:
    """Database and desk; for each peer a channel, a watch and couriers; the upkeep; the server on top.

    Services of one kind stop together: however many destinations there are, the MOM is gone soon.
    """
    policy = _policy(table)
    with engine.begin() as connection:
        paused = ledger.paused(connection)
    engine.dispose()
    desk = Desk(running, engine)
    vitals.ready = daemon.working(server, desk)
    bounds = Bounds(table.queue_messages, table.queue_bytes)
    spool, lanes = Spool(desk, now, bounds, paused, _longest_pause(contract, policy)), Lanes()
    destinations: dict[str, Destination] = {}
    breakers, watches, couriers = [], [], []
    for each, channel in zip(table.destinations, channels, strict=True):
        breaker = Breaker(each.peer.name)
        breakers.append(breaker)
        watches.append(Watch(running, channel, breaker, table.probe_interval, table.probe_timeout))
        for name in each.services:
            destinations[name] = Destination(name, channel, breaker)
            couriers.append(
                Courier(
                    running,
                    destinations[name],
                    spool,
                    lanes,
                    contract,
                    policy,
                    fraction=random.random,
                    concurrency=table.concurrency,
                    deadline=table.delivery_deadline,
                    grace=GRACE,
                )
            )
    Gauges(metrics, desk, destinations, breakers)
    servicer: Any = MomServicer(running, contract, spool, destinations, policy)
    add_MomServiceServicer_to_server(servicer, server)
    operations: Any = OperationsServicer(servicer)
    add_OperationsServicer_to_server(operations, server)
    router = Router(running, contract, destinations, spool, lanes, policy, patience=table.delivery_deadline)
    server.add_generic(router.lookup, sorted(destinations))
    broker = Broker(contract, spool, policy)
    events: Any = EventServicer(running, broker, spool)
    add_EventServiceServicer_to_server(events, server)
    upkeep = Upkeep(running, spool, contract, policy, _retention(table))
    # Above the server what would hold up its draining: streams that never end by themselves, and those who wait.
    patient = _together([broker, Waiting(spool)])
    return daemon.daemon(
        NAME, vitals, desk, upkeep, _together(channels), _together(watches), _together(couriers), server, patient
    )


def _together(services: Iterable[Any]) -> MultiService:
    kind = MultiService()
    for service in services:
        service.setServiceParent(kind)
    return kind


def _longest_pause(contract: Contract, policy: Policy) -> int:
    pauses = [policy.of(method.delivery).max_backoff for method in contract.methods.values()]
    return max(LONGEST_REFUSAL, policy.max_backoff, *pauses)


def _retention(table: Mom) -> Retention:
    kept = (table.keep_finished, table.keep_events, table.keep_subscriptions)
    return Retention(*(round(seconds * MICROSECONDS) for seconds in kept))


def _policy(table: Mom) -> Policy:
    return Policy(
        max_attempts=table.max_attempts,
        initial_backoff=round(table.initial_backoff * MICROSECONDS),
        max_backoff=round(table.max_backoff * MICROSECONDS),
        expire_after=round(table.expire_after * MICROSECONDS),
        retry_within=round(table.retry_within * MICROSECONDS),
    )
