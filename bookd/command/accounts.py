"""What must be true of the databases of a suite, as questions to them. `bookd audit` asks, and judges the answers.

Each check reads one snapshot of each database that it needs, and yields what is not as it should be. Snapshots of two
databases are of two moments, so what differs between them may only be in motion: a finding says by its evidence what it
rests on, and is believed when the same one is found again and again.

WRONG: the books do not balance, something was lost or done twice, or somebody waits for what will not come. LATE: it waits
for long, but it is known where, and will be done once whoever it waits for is there.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from attrs import frozen
from sqlalchemy import func, select

from bookd.command.accounts_messages import applied, boxes, in_lanes, in_order, outboxes, queued, saga, told
from bookd.command.accounts_stock import copies, held, reserved, totals
from bookd.command.look import Finding, Look
from bookd.inventory.schema import books
from bookd.mom.machine import MessageState
from bookd.mom.schema import events, messages
from bookd.orders.schema import orders


@frozen
class Check:
    """A check, and the databases without which it cannot be made."""

    find: Callable[[Look], Iterator[Finding]]
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        """What findings call it."""
        return self.find.__name__

    @property
    def promise(self) -> str:
        """What it finds out, in a sentence."""
        return " ".join((self.find.__doc__ or "").split())


CHECKS: Final = (
    Check(copies, ("inventory",)),
    Check(held, ("inventory",)),
    Check(reserved, ("orders", "inventory")),
    Check(totals, ("orders",)),
    Check(saga, ("orders", "mom")),
    Check(outboxes, ()),
    Check(queued, ("mom",)),
    Check(in_lanes, ("mom",)),
    Check(applied, ("mom",)),
    Check(told, ("orders", "mom")),
    Check(in_order, ("mom",)),
)


def figures(look: Look) -> dict[str, Any]:
    """How much there is of what."""
    found: dict[str, Any] = {}
    if "inventory" in look.databases:
        sums = select(
            func.count(), *(func.coalesce(func.sum(books.c[name]), 0) for name in ("stock", "reserved", "supplied"))
        )
        found["books"] = dict(
            zip(("titles", "stock", "reserved", "supplied"), next(look.rows("inventory", sums)), strict=True)
        )
    if "orders" in look.databases:
        by_status = select(orders.c.status, func.count()).group_by(orders.c.status)
        found["orders"] = {row[0]: row[1] for row in look.rows("orders", by_status)}
    if "mom" in look.databases:
        by_state = select(messages.c.state, func.count()).group_by(messages.c.state)
        found["messages"] = {MessageState(row[0]).name: row[1] for row in look.rows("mom", by_state)}
        found["events"] = next(look.rows("mom", select(func.count()).select_from(events)))[0]
    found |= boxes(look)
    return found
