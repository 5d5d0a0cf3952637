"""Looks after the steps of sagas that are open for long, and forgets those that are done with.

An open step whose message is not in the outbox is the MOM's business (see `bookd.orders.saga`). The MOM loses nothing by
itself; but an operator may discard what it holds, and it may be restored from a backup that is older than this database.
Then nobody would ever answer, and the order would stay PENDING, or its stock reserved. So a message that went long ago is
put into the outbox again, under its id, and with the same request. That is harmless wherever it still is:

    the MOM has it         it says so again, and nothing is added;
    the MOM has finished   it answers with the outcome, which the relay applies;
    the MOM knows nothing  it forwards or keeps it; the inventory answers from its inbox what it did before, and when it
                           has forgotten that, from the order's reservation. Only one who never saw it does it now.

A step that failed for long is asked for at longer and longer intervals. One whose answer would change nothing any more,
like the reservation for an order that is cancelled, is closed.

Done steps are forgotten once no message of theirs can come again, unless the saga might still name another step after
them. `saga` numbers the messages of a step that is asked for more than once: of RELEASE only, and from the first one to
the one that is DONE there always is an open one. So the steps of an order with an open RELEASE stay. After it nothing
more is asked; and for a CONFIRMED order a RELEASE may be, which is its first.
"""

from collections.abc import Callable

from attrs import frozen
from sqlalchemy import Connection, select
from twisted.logger import Logger

from bookd.bridge.relay import Desk
from bookd.bridge.upkeep import Chore
from bookd.orders import rules, saga, store
from bookd.orders.rules import Status, Step
from bookd.orders.schema import orders, steps
from bookd.storage import outbox
from bookd.storage.outbox import Trace

# Steps that one batch looks at: the writer is busy for about a millisecond with each.
BATCH = 20
# Microseconds that a step rests at most, on top of `sweep_after`, until it is asked for once more.
LONGEST_REST = 6 * 3600 * 1_000_000

_log = Logger()


@frozen
class Swept:
    """What one batch did: how many steps it looked at, and which were asked for again, of which orders."""

    looked_at: int
    again: tuple[tuple[str, Step], ...]


def sweep(connection: Connection, before: int, now: int, limit: int) -> Swept:
    """Look at `limit` open steps at most that were asked for, or last looked at, before that time."""
    # What was written while the clock was ahead is not waited for.
    due = (steps.c.sweep_from < before) | (steps.c.sweep_from > now + LONGEST_REST)
    rows = connection.execute(
        select(steps)
        .where(steps.c.done_at.is_(None), due)
        .order_by(steps.c.sweep_from)
        .limit(limit)
        .with_for_update(skip_locked=True)  # another instance may be at it
    ).all()
    again: list[tuple[str, Step]] = []
    for row in rows:
        order, step = store.load(connection, row.order_id), Step(row.step)
        assert order is not None  # the foreign key of steps
        if not rules.matters(order.status, step):
            changes = {"done_at": now}
        elif outbox.put(connection, saga.message(order, step, row.message_id, Trace()), now):
            again.append((order.order_id, step))
            changes = {"sweep_from": now + min(max(0, now - order.updated_at) // 2, LONGEST_REST)}
        else:  # the relay is at it
            changes = {"sweep_from": now}
        connection.execute(steps.update().where(steps.c.message_id == row.message_id).values(**changes))
    return Swept(len(rows), tuple(again))


def forget(connection: Connection, before: int, limit: int) -> int:
    """Forget at most `limit` steps that were done before that time, of orders that name no step after them; answers how
    many."""
    later = steps.alias("later")
    release = select(later.c.message_id).where(
        later.c.order_id == steps.c.order_id, later.c.step == Step.RELEASE.value, later.c.done_at.is_(None)
    )
    oldest = (
        select(steps.c.message_id)
        .join(orders, orders.c.order_id == steps.c.order_id)
        .where(steps.c.done_at < before, orders.c.status != Status.PENDING.value, ~release.exists())
        .order_by(steps.c.done_at)
        .limit(limit)
    )
    return connection.execute(steps.delete().where(steps.c.message_id.in_(oldest))).rowcount


def sweeping(desk: Desk, now: Callable[[], int], after: float) -> Chore:
    """The chore of asking again for what was asked for so many seconds ago."""

    async def batch() -> bool:
        moment = now()
        swept: Swept = await desk.write(sweep, moment - round(after * 1e6), moment, BATCH)
        for order_id, step in swept.again:
            _log.warn(
                "order {order_id}: nobody has answered {step}, it is asked again", order_id=order_id, step=step.value
            )
        return swept.looked_at >= BATCH

    return batch
