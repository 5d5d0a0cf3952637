"""The configuration file: one TOML file for the whole suite, of which each daemon reads its own table.

`etc/bookd.toml` shows every key with its default. Paths are relative to the folder that holds the file. An unknown key,
a missing one or one of the wrong type is an error that names it.
"""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Rate = Annotated[float, msgspec.Meta(gt=0)]
# Signatures with a private key that only the issuer has.
Algorithm = Literal["EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
TokenType = Literal["at+jwt", "jwt", ""]


# Seconds that a message may come later than its times say: it was being delivered by then, or two hosts disagree about
# the time. A service remembers what it has applied for so much longer.
LATE = 3600.0


class ConfigError(Exception):
    """The configuration cannot be used; the message names the file and the key."""


class _Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    pass


class Identity(_Table, kw_only=True):
    """Where a daemon finds its certificate (PEM, leaf first), its private key and the CA that signed its peers'."""

    certificate: str
    private_key: str
    ca: str = "pki/ca.pem"


class Peer(_Table, kw_only=True):
    """Where another daemon listens, and the name its certificate must bear (without ".bookd.internal")."""

    name: str
    addresses: Annotated[list[str], msgspec.Meta(min_length=1)]  # "host:port"


class Grpc(_Table, kw_only=True):
    """What the four daemons that serve gRPC have in common."""

    identity: Identity
    host: str = "localhost"
    port: Port
    # Names of the peers (from their certificates) that may call.
    peers: list[str]
    # Those of them whose word about the principal is believed.
    trusted: list[str]
    # How long calls that are under way may go on after the daemon was told to stop.
    grace: Seconds = 1.5
    # Largest request or response message, in bytes.
    max_message: Count = 4 * 1024 * 1024


class Issuer(_Table, kw_only=True):
    """An OpenID Connect issuer elsewhere whose access tokens the gateway takes."""

    # The ids of its users are this name, "~", and what the issuer calls them.
    name: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9-]{0,15}$")]
    # "iss" and "aud" that its tokens must have.
    issuer: Annotated[str, msgspec.Meta(min_length=1)]
    audience: Annotated[str, msgspec.Meta(min_length=1)]
    # Its JWK set: a file, read again when it changes, or an address that begins with "https://".
    jwks: Annotated[str, msgspec.Meta(min_length=1)]
    # The authorities (PEM) that may have signed the certificate at that address; those of the system when absent.
    ca: str | None = None
    # How often the set is fetched, and how long the last one is good when it cannot be.
    refresh: Annotated[float, msgspec.Meta(ge=1)] = 300.0
    keep_keys: Seconds = 86400.0
    # Algorithms that its keys may be for.
    algorithms: Annotated[list[Algorithm], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: list[Algorithm](("EdDSA", "ES256", "RS256"))
    )
    # "typ" of its access tokens, without "application/"; "" when they have none.
    types: Annotated[list[TokenType], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: list[TokenType](("at+jwt",))
    )
    # Where its tokens say what somebody is: the name of a claim, and of members within it.
    roles_claim: list[str] = []
    # Roles here for what is said there, and roles of everybody who has a token.
    roles: dict[str, list[str]] = {}
    everybody: list[str] = []
    token_lifetime: Seconds = 3600.0


class Gateway(_Table, kw_only=True):
    """The HTTPS gateway."""

    identity: Identity
    # Certificate and key that HTTPS clients see; the daemon's own when absent.
    https: Identity | None = None
    host: str = "localhost"
    port: Port = 8081
    mom: Peer
    # Where /metrics, /healthz and /readyz are, on the loopback interface; nowhere when absent.
    metrics_port: Port | None = None
    # JWK set whose keys verify access tokens; read again when it changes.
    jwks: str = "keys/jwks.json"
    issuer: str = "bookd"
    audience: str = "bookd"
    # Further descriptor sets (protoc --descriptor_set_out) whose rpcs get routes.
    descriptor_sets: list[str] = []
    # Deadline of a call whose client names none, and the longest that a client may ask for.
    default_deadline: Seconds = 10.0
    max_deadline: Seconds = 60.0
    # Largest request body, longest address and largest headers, all together, in bytes; how many headers there may be.
    max_body: Count = 1024 * 1024
    max_url: Count = 8192
    max_headers: Count = 16 * 1024
    max_header_count: Count = 100
    # How deep messages may be nested in a body. No more than 64: protobuf's own limit is 100.
    max_depth: Annotated[int, msgspec.Meta(ge=1, le=64)] = 64
    # A connection that sends nothing for so long is closed; how long a head may take to come, and how long a body.
    idle_timeout: Seconds = 60.0
    head_timeout: Seconds = 10.0
    body_timeout: Seconds = 60.0
    # Open connections, in all and from one address. One too many is closed at once.
    max_connections: Count = 10_000
    max_connections_per_address: Count = 2_000
    # Streams of one user that are open; of one address, where no token is needed.
    max_streams: Count = 100
    # Requests a second in the long run, and at once: of one access token's subject; from one address; and from one
    # address, writes that need no token (log-ins, registrations).
    principal_rate: Rate = 10_000.0
    principal_burst: Count = 10_000
    address_rate: Rate = 10_000.0
    address_burst: Count = 10_000
    open_rate: Rate = 10.0
    open_burst: Count = 100
    # Clients whose rates are remembered, of each kind.
    rate_clients: Count = 100_000
    # Proxies whose X-Forwarded-For is believed: addresses and networks.
    trusted_proxies: list[str] = []
    # Names that requests may be for ("*.shop.example" for all below one); any when empty.
    hosts: list[str] = []
    # Origins whose pages may ask (CORS); "*" for all.
    cors_origins: list[str] = []
    # The longest that an access token may live: one that was made for longer is refused, and ended sessions are
    # remembered for so long. No less than `access_lifetime` of the users.
    token_lifetime: Seconds = 3600.0
    # Who was refused, and who did what by the right of a role.
    audit: str = "log/gateway.audit.jsonl"
    # How long answers of the catalogue are given again: while they are fresh, and while the inventory is away; 0 for never.
    # Bytes that they take.
    cache_fresh: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    cache_stale: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    cache_size: Count = 32 * 1024 * 1024
    # Every request, one JSON object a line; nowhere when empty. The file is moved aside when it has so many bytes, and so
    # many of those are kept.
    access: str = "log/gateway.access.jsonl"
    access_size: Count = 64 * 1024 * 1024
    access_files: Count = 5
    grace: Seconds = 2.5
    # Issuers elsewhere whose access tokens are taken beside those of the users daemon.
    issuers: list[Issuer] = []


class Destination(_Table, kw_only=True):
    """Services that one peer serves."""

    peer: Peer
    services: Annotated[list[str], msgspec.Meta(min_length=1)]  # full proto names


class Mom(_Table, kw_only=True):
    """The message-oriented middleware."""

    grpc: Grpc
    # Where /metrics, /healthz and /readyz are, on the loopback interface; nowhere when absent.
    metrics_port: Port | None = None
    database: str = "data/mom.sqlite"
    # Folder of the keys that seal what is kept, looked at again once a second; what is kept is written plain when absent.
    sealing_keys: str | None = None
    destinations: list[Destination]
    descriptor_sets: list[str] = []
    # Messages that are delivered to one destination at a time.
    concurrency: Count = 64
    # Deadline of one delivery of a kept message.
    delivery_deadline: Seconds = 10.0
    # A destination that does not answer a health check for so long counts as down.
    probe_timeout: Seconds = 1.0
    probe_interval: Seconds = 0.5
    # Defaults for rpcs whose policy says nothing.
    max_attempts: Count = 10
    initial_backoff: Seconds = 0.5
    max_backoff: Seconds = 60.0
    expire_after: Seconds = 7 * 86400.0
    # How long after its acceptance a dead letter can be retried, and is delivered then.
    retry_within: Seconds = 21 * 86400.0
    # What the queue of one destination takes: messages, and bytes of their requests.
    queue_messages: Count = 2_000_000
    queue_bytes: Count = 8 * 1024**3
    # How long a finished operation can be asked for.
    keep_finished: Seconds = 7 * 86400.0
    # How long events are kept at least, and a durable subscription whose client stays away.
    keep_events: Seconds = 7 * 86400.0
    keep_subscriptions: Seconds = 30 * 86400.0


class Service(_Table, kw_only=True):
    """What the three services have in common."""

    grpc: Grpc
    # Where /metrics, /healthz and /readyz are, on the loopback interface; nowhere when absent.
    metrics_port: Port | None = None
    database: str
    mom: Peer
    # How long a message that was applied is remembered: longer than it can be delivered again.
    keep_inbox: Seconds = 30 * 86400.0


class Inventory(Service, kw_only=True):
    """The inventory."""

    database: str = "data/inventory.sqlite"
    # A book whose stock falls to this or below is told of (bookd.inventory.v1.StockLow).
    low_stock: Annotated[int, msgspec.Meta(ge=0)] = 5


class Orders(Service, kw_only=True):
    """The orders."""

    database: str = "data/orders.sqlite"
    # How long CreateOrder waits for the inventory's decision before it answers with a pending order.
    patience: Seconds = 1.2
    # An order that nobody has answered for so long is asked for again: its message may have been discarded.
    sweep_after: Seconds = 600.0


class Users(Service, kw_only=True):
    """The users."""

    database: str = "data/users.sqlite"
    # Folder of the private keys (Ed25519, PKCS#8 PEM) that sign access tokens, one file a key; the newest signs. It is
    # looked at again once a second.
    keys: str = "keys"
    issuer: str = "bookd"
    audience: str = "bookd"
    # No more than `token_lifetime` of the gateway.
    access_lifetime: Seconds = 900.0
    refresh_lifetime: Seconds = 30 * 86400.0
    # The first administrator: a JSON file {username, password}, read when there is no user yet.
    admin: str = "secrets/admin.json"
    # Passwords that are hashed at a time, and that wait for it; beyond that a log-in is refused, with Retry-After.
    hashers: Count = 2
    hashes_waiting: Count = 100
    # Who logged in, was refused, changed roles or passwords, and ended sessions.
    audit: str = "log/users.audit.jsonl"


class Config(_Table, kw_only=True):
    """The whole file. A host that runs one daemon needs that daemon's table only."""

    gateway: Gateway | None = None
    mom: Mom | None = None
    inventory: Inventory | None = None
    orders: Orders | None = None
    users: Users | None = None


def parse(text: str, name: str = "bookd.toml") -> Config:
    """The configuration that the TOML `text` holds. Raises `ConfigError`, which says `name` and the key at fault."""
    try:
        parsed = msgspec.toml.decode(text, type=Config)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{name}: {error}") from error
    _check_memory(parsed, name)
    if parsed.gateway is not None:
        _check_issuers(parsed.gateway, name)
    return parsed


def _check_memory(parsed: Config, name: str) -> None:
    """No message comes again after its service has forgotten it."""
    tables: dict[str, Service | None] = {
        "inventory": parsed.inventory,
        "orders": parsed.orders,
        "users": parsed.users,
    }
    for table, service in tables.items():
        for key in ("expire_after", "retry_within"):
            if parsed.mom is None or service is None or service.keep_inbox >= getattr(parsed.mom, key) + LATE:
                continue
            raise ConfigError(
                f"{name}: `keep_inbox` of [{table}] must be at least {LATE:g} s longer than `{key}` of [mom], lest a message "
                "takes effect twice"
            )


def _check_issuers(gateway: Gateway, name: str) -> None:
    """Nobody can be taken for somebody of another issuer, and keys come over a line that nobody else writes on."""
    for key, taken in (("name", set[str]()), ("issuer", {gateway.issuer})):
        for issuer in gateway.issuers:
            value = getattr(issuer, key)
            if value in taken:
                raise ConfigError(f"{name}: two issuers of [gateway] have the {key} {value!r}")
            taken.add(value)
    for issuer in gateway.issuers:
        address = urlsplit(issuer.jwks)
        if "://" in issuer.jwks and (address.scheme != "https" or not address.hostname or "@" in address.netloc):
            raise ConfigError(
                f"{name}: `jwks` of the issuer {issuer.name!r} must be a file, or an address that begins with https://"
            )
        if issuer.keep_keys <= issuer.refresh:
            raise ConfigError(f"{name}: `keep_keys` of the issuer {issuer.name!r} must be longer than `refresh`")


def load(path: Path) -> tuple[Config, Path]:
    """The configuration in the file at `path`, and the folder that its relative paths start from."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse(text, str(path)), path.resolve().parent
