"""Writes beside reads: orders that are stored, reserved and confirmed; changes of books; calls that are kept while their
service is down; and nine reads to an order. Afterwards the API is asked for everything that was acknowledged."""

import time
from collections import Counter

from benchmarks import gauges
from benchmarks.people import Office
from benchmarks.stage import Stage
from benchmarks.stand import BenchError, control

CONNECTIONS = (1, 32, 128)
ACCEPTS = (1, 32, 128)
FEW = (1, 32)
# About what one order says.
ORDER_BYTES, PATCH_BYTES = 150, 72
# Seconds that a kept call may take to be delivered once its service is back.
PATIENCE = 300.0
ORDERS = "queues/bookd.orders.v1.OrdersService"


def orders(stage: Stage) -> None:
    """`POST /v1/orders`, one line each, of many customers; one counts when its answer says that it is confirmed."""
    first = len(stage.ammunition.runs)
    most = 0
    for connections in stage.options.connections or CONNECTIONS:
        most = max(most, connections)
        subjects = {"read": stage.fire("read", connections), "order": stage.fire("order", connections)}
        stage.alternate("orders", connections, subjects, request_bytes=ORDER_BYTES)
        stage.figures.ratio("orders", "order", "read", connections, 0.25)
    check_orders(stage, stage.ammunition.runs[first:], most)


def patch(stage: Stage) -> None:
    """`PATCH /v1/books/{id}`: another price for any of many books."""
    for connections in stage.options.connections or FEW:
        subjects = {"read": stage.fire("read", connections), "patch": stage.fire("patch", connections)}
        stage.alternate("patch", connections, subjects, request_bytes=PATCH_BYTES)
        stage.figures.ratio("patch", "patch", "read", connections)


def mixed(stage: Stage) -> None:
    """Nine reads to an order."""
    first = len(stage.ammunition.runs)
    most = 0
    for connections in stage.options.connections or (32, 128):
        most = max(most, connections)
        subjects = {"read": stage.fire("read", connections), "mixed 90/10": stage.fire("mixed", connections)}
        stage.alternate("mixed", connections, subjects, request_bytes=ORDER_BYTES)
        stage.figures.ratio("mixed", "mixed 90/10", "read", connections)
    check_orders(stage, stage.ammunition.runs[first:], most)


def accept(stage: Stage) -> None:
    """`POST /v1/orders` while orders is down: 202, on disk before it is said. Then orders comes back and gets them all."""
    first = len(stage.ammunition.runs)
    most, database = 0, stage.home.path / "data" / "mom.sqlite"
    control(stage.home, "stop", "orders")
    try:
        before = gauges.stored(database)
        for connections in stage.options.connections or ACCEPTS:
            most = max(most, connections)
            subjects = {"read": stage.fire("read", connections), "accept": stage.fire("accept", connections)}
            stage.alternate("accept", connections, subjects, request_bytes=ORDER_BYTES)
            stage.figures.ratio("accept", "accept", "read", connections, 0.5)
        size = gauges.stored(database) - before
    finally:
        control(stage.home, "start", "orders")
    runs = stage.ammunition.runs[first:]
    office = Office(stage.home)
    kept = _waiting(office)
    began, until = time.monotonic(), time.monotonic() + PATIENCE
    with stage.turns.turn():
        while (left := _waiting(office)) and time.monotonic() < until:
            time.sleep(0.2)
    took = time.monotonic() - began
    if left:
        raise BenchError(f"{left} kept calls were not delivered within {PATIENCE:.0f} s")
    acknowledged = [name for run in runs for name in stage.ammunition.acknowledged(run)]
    stage.figures.fact("accept", "bytes on disk a kept order", size / max(len(acknowledged), 1))
    stage.figures.fact("accept", "kept orders delivered a second afterwards", kept / took)
    done = {
        each["name"] for each in office.all("/v1/operations", "operations") if each.get("done") and "response" in each
    }
    office.close()
    missing = len(set(acknowledged) - done)
    stage.figures.fact("accept", f"of {len(acknowledged):,} acknowledged, lost", missing, "0", missing == 0)
    if missing:
        raise BenchError(f"{missing} of {len(acknowledged)} kept calls did not end well")
    check_orders(stage, runs, most, acknowledged=len(acknowledged))


def check_orders(stage: Stage, runs: list[str], connections: int, acknowledged: int | None = None) -> None:
    """Every order that was acknowledged is there, confirmed, once; and no more of them than can have been under way when
    a round ended. With `acknowledged`, so many are there, whatever they are called."""
    office = Office(stage.home)
    found: Counter[str] = Counter()
    settled = set()
    for order in office.all("/v1/orders", "orders"):
        mark = order["shipping_address"].partition(",")[0]
        if mark.partition("-")[0] in runs:
            found[mark] += 1
            if order["status"] == "ORDER_STATUS_CONFIRMED":
                settled.add(mark)
    office.close()
    told = set() if acknowledged is not None else {mark for run in runs for mark in stage.ammunition.acknowledged(run)}
    expected = acknowledged if acknowledged is not None else len(told)
    lost, twice = len(told - settled), sum(count > 1 for count in found.values())
    under_way = len(found) - expected
    told_of = f"orders: of {expected:,} acknowledged {len(found):,} found, {lost} lost, {twice} twice"
    right = not lost and not twice and 0 <= under_way <= connections * len(runs) and len(settled) >= expected
    stage.figures.fact("orders", told_of, lost + twice, "0", right)
    if not right:
        raise BenchError(told_of)


def _waiting(office: Office) -> int:
    return int(office.get(f"/v1/{ORDERS}").get("depth", 0))
