"""twistd bookd-users: the options and the wiring of the users."""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor

reactor.install()

import time
from typing import Any

from twisted.application.service import IService
from twisted.logger import Logger
from uuid6 import uuid7

from bookd.bridge import daemon
from bookd.bridge.audit import AuditLog
from bookd.bridge.desk import Desk
from bookd.bridge.relay import Relay, nothing_follows
from bookd.bridge.upkeep import Upkeep, removing
from bookd.bridge.workers import Workers
from bookd.storage import inbox
from bookd.storage.engine import open_engine
from bookd.storage.migrate import MigrationError, upgrade
from bookd.users import keys, store
from bookd.users.administrator import AdministratorError, ensure
from bookd.users.keyring import Keyring
from bookd.users.passwords import Passwords
from bookd.users.servicer import UsersServicer
from bookd.users.sessions import SOURCE, Sessions, Settings
from bookd.wire.users.v1.users_pb2_grpc import add_UsersServiceServicer_to_server

NAME = "bookd-users"
# Hashing a password takes a processor for long: whatever else the host does comes first.
NICENESS = 10
# A log-in that would wait longer than this, in seconds, is refused at once: its client will not wait for the answer.
PATIENCE = 5.0

Options = daemon.Options
log = Logger()


def now() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def new_id() -> str:
    """A UUIDv7."""
    return str(uuid7())


def makeService(options: daemon.Options) -> IService:
    """Database, desk and workers, then the channel and the relay to the MOM, servicer and server on top.

    Migrations and the first administrator come here, before twistd goes into the background: what cannot be used is then
    said where it is seen. The connection is closed again, as none survives a fork.
    """
    from twisted.internet import reactor as running

    clock: Any = running
    table, home = daemon.table(options, "users")
    contract = daemon.contract(NAME, home, [])
    metrics, vitals = daemon.vitals(NAME, running, home, table.metrics_port, table.grpc.identity)
    passwords = Passwords()
    try:
        daemon.require_memory(contract, SOURCE, table.keep_inbox)
        keyring = Keyring(home / table.keys, clock.seconds, now)
        engine = open_engine(table.database if "://" in table.database else home / table.database)
        upgrade(engine, "bookd.users")
        if not ensure(engine, home / table.admin, passwords, new_id(), now()):
            log.warn("there is no administrator, and no file {path} that names one", path=str(home / table.admin))
        engine.dispose()
        server = daemon.grpc_server(table.grpc, home, contract, metrics)
        channel = daemon.channel(table.mom, table.grpc.identity, home)
    except (OSError, ValueError, MigrationError, keys.KeysError, AdministratorError) as error:
        daemon.fail(NAME, error)
    desk = Desk(running, engine)
    vitals.ready = daemon.working(server, desk)
    workers = Workers(
        table.hashers,
        "users-hasher",
        waiting=table.hashes_waiting,
        patience=PATIENCE,
        niceness=NICENESS,
        spare=True,
    )
    audit = AuditLog(home / table.audit, "users", now)
    settings = Settings(
        issuer=table.issuer,
        audience=table.audience,
        access_lifetime=table.access_lifetime,
        refresh_lifetime=table.refresh_lifetime,
    )
    relay = Relay(running, desk, channel, now=now, apply=nothing_follows)
    sessions = Sessions(
        desk, workers, passwords=passwords, keyring=keyring, settings=settings, now=now, new_id=new_id, audit=audit
    )
    servicer: Any = UsersServicer(
        desk,
        workers,
        sessions,
        passwords=passwords,
        keyring=keyring,
        now=now,
        new_id=new_id,
        audit=audit,
    )
    add_UsersServiceServicer_to_server(servicer, server)
    chores = {"inbox": removing(desk, inbox.purge, now, table.keep_inbox), "sessions": removing(desk, store.purge, now)}
    return daemon.daemon(NAME, vitals, audit, desk, workers, Upkeep(running, chores), channel, relay, server)
