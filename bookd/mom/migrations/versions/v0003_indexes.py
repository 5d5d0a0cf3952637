"""Indexes that SQLite's planner takes for lanes and expiry: those before were passed over for messages_by_state."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("messages_queued", "messages")
    op.drop_index("messages_expiring", "messages")
    op.create_index("messages_by_lane", "messages", ["destination", "lane", "state", "seq"])
    op.create_index("messages_expiring", "messages", ["state", "expire_at"])
