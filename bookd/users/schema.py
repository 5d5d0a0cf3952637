"""The users' tables."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

from bookd.storage import inbox, outbox

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column(
        "seq",
        BigInteger().with_variant(Integer, "sqlite"),
        Identity(),
        primary_key=True,
        comment="order in which the users registered; never used again",
    ),
    Column("user_id", String(64), nullable=False, unique=True, comment="UUIDv7 that clients know"),
    Column("username", String(64), nullable=False, comment="name as it was given"),
    Column("username_folded", String(64), nullable=False, unique=True, comment="name as it is compared"),
    Column("email", String(254), nullable=False, comment="address as it was given"),
    Column("email_folded", String(1024), nullable=False, unique=True, comment="address as it is compared"),
    Column("full_name", String(200), nullable=False, comment="full name; may be empty"),
    Column("address", String(1000), nullable=False, comment="postal address; may be empty"),
    Column("password_hash", String(255), nullable=False, comment="argon2id, encoded"),
    Column("version", BigInteger, nullable=False, comment="counts the changes; 1 for a new user"),
    Column("created_at", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
    Column("updated_at", BigInteger, nullable=False, comment="when the user last changed; likewise"),
    CheckConstraint("length(username) BETWEEN 3 AND 64", name="users_username"),
    CheckConstraint("length(email) BETWEEN 3 AND 254", name="users_email"),
    CheckConstraint("password_hash LIKE '$argon2id$%'", name="users_password"),
    CheckConstraint("version >= 1", name="users_version"),
    sqlite_autoincrement=True,
    comment="users and what they log in with",
)

user_roles = Table(
    "user_roles",
    metadata,
    Column(
        "user_id", String(64), ForeignKey("users.user_id", ondelete="CASCADE"), primary_key=True, comment="the user"
    ),
    Column("role", String(8), primary_key=True, comment="what the user may act as"),
    CheckConstraint("role IN ('customer', 'staff', 'admin')", name="user_roles_role"),
    comment="the roles of each user",
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String(36), primary_key=True, comment="UUIDv7, the claim sid of access tokens"),
    Column(
        "user_id",
        String(64),
        ForeignKey("users.user_id", ondelete="CASCADE"),
        nullable=False,
        index=True,
        comment="whose session it is",
    ),
    Column("created_at", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
    comment="sessions that are open; a revoked one is gone, and its tokens with it",
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True, comment="SHA-256 of the token"),
    Column(
        "session_id",
        String(36),
        ForeignKey("sessions.session_id", ondelete="CASCADE"),
        nullable=False,
        index=True,
        comment="the session it belongs to",
    ),
    Column("expires_at", BigInteger, nullable=False, index=True, comment="microseconds since the epoch, UTC"),
    Column("spent_at", BigInteger, comment="when it was traded for the next one; null for the newest"),
    CheckConstraint("length(digest) = 32", name="refresh_tokens_digest"),
    comment="refresh tokens of open sessions, spent ones too, so that reuse is noticed",
)

inbox.define(metadata)
outbox.define(metadata)
