"""Events that were not tried yet are found by themselves, and what else there is to send without walking past them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_FRESH_EVENT = sa.text("method = '/bookd.mom.v1.EventService/Publish' AND attempts = 0")
_SINGLE = sa.text("(method <> '/bookd.mom.v1.EventService/Publish' OR attempts > 0)")


def upgrade() -> None:
    op.drop_index("outbox_by_time", "outbox")
    op.create_index("outbox_by_time", "outbox", ["ready_at", "seq"], sqlite_where=_SINGLE, postgresql_where=_SINGLE)
    op.create_index("outbox_fresh_events", "outbox", ["seq"], sqlite_where=_FRESH_EVENT, postgresql_where=_FRESH_EVENT)
