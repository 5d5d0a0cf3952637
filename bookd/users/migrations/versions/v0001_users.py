"""Users, their roles and sessions, and the inbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            sa.Identity(),
            primary_key=True,
            comment="order in which the users registered; never used again",
        ),
        sa.Column("user_id", sa.String(64), nullable=False, unique=True, comment="UUIDv7 that clients know"),
        sa.Column("username", sa.String(64), nullable=False, comment="name as it was given"),
        sa.Column("username_folded", sa.String(64), nullable=False, unique=True, comment="name as it is compared"),
        sa.Column("email", sa.String(254), nullable=False, comment="address as it was given"),
        sa.Column("email_folded", sa.String(1024), nullable=False, unique=True, comment="address as it is compared"),
        sa.Column("full_name", sa.String(200), nullable=False, comment="full name; may be empty"),
        sa.Column("address", sa.String(1000), nullable=False, comment="postal address; may be empty"),
        sa.Column("password_hash", sa.String(255), nullable=False, comment="argon2id, encoded"),
        sa.Column("version", sa.BigInteger, nullable=False, comment="counts the changes; 1 for a new user"),
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.Column("updated_at", sa.BigInteger, nullable=False, comment="when the user last changed; likewise"),
        sa.CheckConstraint("length(username) BETWEEN 3 AND 64", name="users_username"),
        sa.CheckConstraint("length(email) BETWEEN 3 AND 254", name="users_email"),
        sa.CheckConstraint("password_hash LIKE '$argon2id$%'", name="users_password"),
        sa.CheckConstraint("version >= 1", name="users_version"),
        sqlite_autoincrement=True,
        comment="users and what they log in with",
    )
    op.create_table(
        "user_roles",
        sa.Column(
            "user_id",
            sa.String(64),
            sa.ForeignKey("users.user_id", ondelete="CASCADE"),
            primary_key=True,
            comment="the user",
        ),
        sa.Column("role", sa.String(8), primary_key=True, comment="what the user may act as"),
        sa.CheckConstraint("role IN ('customer', 'staff', 'admin')", name="user_roles_role"),
        comment="the roles of each user",
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String(36), primary_key=True, comment="UUIDv7, the claim sid of access tokens"),
        sa.Column(
            "user_id",
            sa.String(64),
            sa.ForeignKey("users.user_id", ondelete="CASCADE"),
            nullable=False,
            comment="whose session it is",
        ),
        sa.Column("created_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        comment="sessions that are open; a revoked one is gone, and its tokens with it",
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True, comment="SHA-256 of the token"),
        sa.Column(
            "session_id",
            sa.String(36),
            sa.ForeignKey("sessions.session_id", ondelete="CASCADE"),
            nullable=False,
            comment="the session it belongs to",
        ),
        sa.Column("expires_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.Column("spent_at", sa.BigInteger, comment="when it was traded for the next one; null for the newest"),
        sa.CheckConstraint("length(digest) = 32", name="refresh_tokens_digest"),
        comment="refresh tokens of open sessions, spent ones too, so that reuse is noticed",
    )
    op.create_index("ix_refresh_tokens_session_id", "refresh_tokens", ["session_id"])
    op.create_index("ix_refresh_tokens_expires_at", "refresh_tokens", ["expires_at"])
    op.create_table(
        "inbox",
        sa.Column("message_id", sa.String(36), primary_key=True, comment="UUID of the message"),
        sa.Column("method", sa.String(255), nullable=False, comment="method path that was called"),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False, comment="SHA-256 over method and request"),
        sa.Column("response", sa.LargeBinary, nullable=False, comment="serialized response message"),
        sa.Column("applied_at", sa.BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
        sa.CheckConstraint("length(fingerprint) = 32", name="inbox_fingerprint"),
        comment="messages that were applied, with what was answered",
    )
    op.create_index("ix_inbox_applied_at", "inbox", ["applied_at"])
