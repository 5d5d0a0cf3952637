"""twistd bookd-gateway: the options and the wiring of the gateway."""

# ruff: noqa: E402 - the reactor is installed before anything imports one

from bookd.bridge import reactor as asyncio_reactor

asyncio_reactor.install()

import random
import resource
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from typing import Any

import msgspec
from twisted.application.service import IService, MultiService
from uuid6 import uuid7

from bookd import config
from bookd.bridge import daemon
from bookd.bridge.audit import AuditLog
from bookd.bridge.channel import Channel
from bookd.bridge.narrow import NarrowChannel
from bookd.contract import openapi
from bookd.contract.binding import bindings
from bookd.contract.codec import encode
from bookd.contract.descriptors import Contract, ContractError
from bookd.gateway import access, revocations
from bookd.gateway.access import AccessLog
from bookd.gateway.cache import Cache
from bookd.gateway.calls import Calls
from bookd.gateway.cors import Cors
from bookd.gateway.feed import NEXT, Feed
from bookd.gateway.hosts import Hosts
from bookd.gateway.intake import Intake, Limits
from bookd.gateway.issuers import Issuer, elsewhere, users
from bookd.gateway.jwks import FetchedKeys
from bookd.gateway.keys import KeyFile, Keys
from bookd.gateway.listener import Listener, ServerTLS
from bookd.gateway.origin import Proxies
from bookd.gateway.rates import Buckets, Quota, Rates
from bookd.gateway.refusals import Refusals
from bookd.gateway.remote import Address
from bookd.gateway.revocations import Revocations
from bookd.gateway.routes import Gateway, route_table
from bookd.gateway.site import Bounds, Site
from bookd.gateway.streams import Streams
from bookd.gateway.tokens import LEEWAY, Tokens
from bookd.wire.mom.v1.event_pb2 import Event

NAME = "bookd-gateway"

Options = daemon.Options

# What is under way when the channel closes has had its grace already.
_CHANNEL_GRACE = 1.0
# Files that are open beside connections: databases, keys, the channel, logs.
_OTHER_FILES = 200
# The random bits in the last part of a UUIDv7 (RFC 9562, section 5.7).
_LOW_62 = (1 << 62) - 1
# The role of whoever registers: no operation asks for it.
CUSTOMER = "customer"


def new_id() -> str:
    """A UUIDv7."""
    return str(uuid7())


def new_request_id() -> str:
    """A UUIDv7 as well, from a generator that costs nothing: it guards nothing."""
    bits = random.getrandbits(74)
    text = f"{time_ns() // 1_000_000:012x}{0x7000 | bits >> 62:04x}{1 << 63 | bits & _LOW_62:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def now() -> int:
    """Microseconds since the epoch."""
    return time_ns() // 1000


def bounds(table: config.Gateway, proxies: Proxies) -> Bounds:
    """What each client may do. Connections end where the process may open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = table.max_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return Bounds(
        max_body=table.max_body,
        max_url=table.max_url,
        max_headers=table.max_headers,
        max_header_count=table.max_header_count,
        idle_timeout=table.idle_timeout,
        head_timeout=table.head_timeout,
        body_timeout=table.body_timeout,
        max_connections=table.max_connections
        if soft == resource.RLIM_INFINITY
        else max(1, min(table.max_connections, soft - _OTHER_FILES)),
        max_connections_per_address=table.max_connections_per_address,
        proxies=proxies,
    )


def limited(table: config.Gateway, proxies: Proxies, seconds: Callable[[], float]) -> Rates:
    """How often who may ask."""
    quotas = (
        Quota("address", table.address_rate, table.address_burst),
        Quota("principal", table.principal_rate, table.principal_burst),
        Quota("open", table.open_rate, table.open_burst),
    )
    address, principal, strangers = (Buckets(quota, table.rate_clients, seconds) for quota in quotas)
    return Rates(address, principal, strangers, proxies)


def issuers(table: config.Gateway, home: Path, contract: Contract, reactor: Any) -> tuple[list[Issuer], MultiService]:
    """Who makes tokens, the users daemon first, and what fetches the keys of the others. Raises OSError and ValueError."""
    fetching = MultiService()
    known = {CUSTOMER, *(role for method in contract.methods.values() for role in method.access.roles)}
    ours = users(KeyFile(home / table.jwks, reactor.seconds), table.issuer, table.audience, table.token_lifetime)
    found = [ours]
    for each in table.issuers:
        unknown = {*each.everybody, *(role for roles in each.roles.values() for role in roles)} - known
        if unknown:
            raise ValueError(f"the issuer {each.name!r} gives the role {min(unknown)!r}, which no operation asks for")
        keys: Keys
        if each.jwks.startswith("https://"):
            address = Address(reactor, each.jwks, home / each.ca if each.ca is not None else None)
            keys = FetchedKeys(
                each.name,
                address.fetch,
                each.algorithms,
                reactor,
                refresh=each.refresh,
                keep=each.keep_keys,
                fraction=random.random,
            )
            keys.setServiceParent(fetching)
        else:
            keys = KeyFile(home / each.jwks, reactor.seconds, each.algorithms)
        found.append(elsewhere(each, keys))
    return found, fetching


def following(contract: Contract, channel: Channel, ended: Revocations, cache: Cache, reactor: Any) -> list[Feed]:
    """What the gateway follows: the ends of sessions, and what makes its kept answers stale, if it keeps any."""
    sessions = Feed(channel, [revocations.TOPIC], ended.heard, reactor, what="which sessions have ended")
    kinds = sorted({kind for method in contract.methods.values() for kind in method.rest.stale_after})
    if not cache.used or not kinds:
        return [sessions]

    def happened(event: Event) -> None:
        cache.happened(event.type, event.subject)

    changes = Feed(channel, kinds, happened, reactor, what="what has changed", begin=NEXT, missed=cache.clear)
    return [sessions, changes]


def makeService(options: daemon.Options) -> IService:
    """The gateway that the configuration describes; ends the process with one line when it describes none."""
    from twisted.internet import reactor

    clock: Any = reactor
    table, home = daemon.table(options, "gateway")
    contract = daemon.contract(NAME, home, table.descriptor_sets)
    identities = [table.identity, *([table.https] if table.https is not None else [])]
    metrics, vitals = daemon.vitals(NAME, clock, home, table.metrics_port, *identities)
    try:
        routes = bindings(contract, table.max_depth)
        router = route_table(routes)
        document = msgspec.json.encode(openapi.document(contract, routes, title="bookd", version="1"))
        ended = Revocations(table.token_lifetime + LEEWAY, now)
        trusted, fetching = issuers(table, home, contract, clock)
        tokens = Tokens(trusted, now, ended.void)
        tls = ServerTLS(table.https or table.identity, home, clock.seconds)
        channel = daemon.channel(table.mom, table.identity, home, _CHANNEL_GRACE)
        streaming = daemon.channel(table.mom, table.identity, home, _CHANNEL_GRACE, kind=NarrowChannel)
        proxies = Proxies(table.trusted_proxies)
        hosts = Hosts(table.hosts)
    except (ContractError, OSError, ValueError) as error:
        daemon.fail(NAME, error)
    calls = Calls(channel, streaming, grace=table.grace, reactor=clock)
    vitals.ready = calls.ready
    streams = Streams(clock, table.max_streams)
    cache = Cache(table.cache_fresh, table.cache_stale, table.cache_size, clock.seconds)
    feeds = following(contract, channel, ended, cache, clock)
    rates = limited(table, proxies, clock.seconds)
    gateway = Gateway(
        router,
        Intake(tokens, rates, Limits(table.default_deadline, table.max_deadline), new_id),
        calls,
        streams,
        rates,
        lambda message: encode(message, contract.pool),
        document,
        cache,
        Refusals(clock),
        max_wait=table.max_deadline,
        seconds=clock.seconds,
    )
    audit = AuditLog(home / table.audit, "gateway", now)
    lines = AccessLog(home / table.access, table.access_size, table.access_files, now, clock) if table.access else None
    site = Site(
        gateway,
        bounds(table, proxies),
        Cors(table.cors_origins),
        new_id=new_request_id,
        reactor=clock,
        hosts=hosts,
        audit=audit,
        count=metrics.requests("http", ("verb", "route")),
        access=lines or access.nothing,
    )
    metrics.gauge("bookd_http_connections", "Connections of clients.").set_function(lambda: len(site.connections))
    listener = Listener(table.host, table.port, site, tls, grace=table.grace, reactor=clock)
    front = MultiService()
    calls.setServiceParent(front)
    listener.setServiceParent(front)
    return daemon.daemon(
        NAME,
        vitals,
        audit,
        *([lines] if lines else []),
        channel,
        streaming,
        *feeds,
        fetching,
        front,
        streams,
    )
