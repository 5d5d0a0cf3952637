"""Shows an operator what the MOM says of queues, operations and dead letters: tables for lists, lines for one thing."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console

from bookd.command.showing import Body, clean, lines, status, table, when


def age(since: object, now: datetime) -> str:
    """How long ago a timestamp was, in its two largest units: "2 d 4 h"."""
    try:
        passed = now - datetime.fromisoformat(clean(since))
    except (ValueError, TypeError):  # absent; without a time zone
        return ""
    seconds = max(int(passed.total_seconds()), 0)
    parts = ((seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])


def size(value: object) -> str:
    """A number of bytes, in the unit that suits it."""
    number = float(_whole(value))
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def _whole(value: object) -> int:
    try:
        return int(value or 0)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError):
        return 0


def _rate(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, (int, float)) else ""


def _bare(name: object) -> str:
    """The id in the name of an operation or a dead letter."""
    return clean(name).rpartition("/")[2]


def _error(value: object) -> str:
    """A google.rpc.Status in JSON, in one line."""
    if not isinstance(value, Mapping):
        return ""
    reasons = [
        each["reason"] for each in value.get("details") or [] if isinstance(each, Mapping) and each.get("reason")
    ]
    told = f"{clean(value.get('message'))} ({clean(reasons[0])})" if reasons else clean(value.get("message"))
    return told.replace("\n", " ")


def show_queues(console: Console, queues: Sequence[Body], now: datetime) -> None:
    """A line for each queue."""
    rows = [
        (
            each.get("destination"),
            clean(each.get("breaker")).removeprefix("BREAKER_STATE_").lower().replace("_", " ")
            + (", paused" if each.get("paused_at") else ""),
            f"{_whole(each.get('depth')):,}",
            size(each.get("bytes")),
            f"{_whole(each.get('lanes')):,}",
            age(each.get("oldest_at"), now),
            _rate(each.get("kept_per_second")),
            _rate(each.get("finished_per_second")),
            f"{_whole(each.get('dead_letters')):,}",
        )
        for each in queues
    ]
    columns = ("queue", "breaker", ">waiting", ">size", ">lanes", ">oldest", ">in/s", ">out/s", ">dead")
    table(console, columns, rows)


def show_queue(console: Console, queue: Body, now: datetime) -> None:
    """All about one queue."""
    show_queues(console, [queue], now)
    bounds = f"{_whole(queue.get('max_depth')):,} messages, {size(queue.get('max_bytes'))}"
    found = [("takes", bounds)]
    if queue.get("paused_at"):
        found.append(("paused", f"{when(queue['paused_at'])}, {age(queue['paused_at'], now)} ago"))
    lines(console, found)


def show_operations(console: Console, operations: Sequence[Body], total: int, now: datetime) -> None:
    """A line for each operation, the error below it."""
    rows = []
    for each in operations:
        about = each.get("metadata")
        about = about if isinstance(about, Mapping) else {}
        method = clean(about.get("method")).removeprefix("/")
        error = _error(each.get("error")) or clean(about.get("last_error")).replace("\n", " ")
        row = (
            _bare(each.get("name")),
            status(about.get("state")),
            age(about.get("created_at"), now),
            f"{_whole(about.get('attempts')):,}",
            f"{method}\n{error}" if error else method,
        )
        rows.append(row)
    table(console, ("operation_id", "state", ">age", ">attempts", "method, last error"), rows)
    _count(console, len(rows), total, "operations")


def show_letters(console: Console, letters: Sequence[Body], total: int, now: datetime) -> None:
    """A line for each dead letter, the error below it."""
    rows = [
        (
            _bare(each.get("name")),
            age(each.get("died_at"), now),
            f"{_whole(each.get('attempts')):,}",
            "yes" if each.get("blocks_lane") else "",
            f"{clean(each.get('method')).removeprefix('/')}\n{_error(each.get('error'))}".rstrip(),
        )
        for each in letters
    ]
    table(console, ("message_id", ">dead for", ">attempts", "blocks", "method, error"), rows)
    _count(console, len(rows), total, "dead letters")


def show_letter(console: Console, letter: Body, now: datetime) -> None:
    """All about one dead letter, its request as JSON."""
    names = ("message_id", "method", "destination", "lane", "subject", "attempts")
    found = [(name, clean(letter[name])) for name in names if letter.get(name)]
    found += [
        (name, f"{when(letter[name])}, {age(letter[name], now)} ago")
        for name in ("created_at", "died_at")
        if letter.get(name)
    ]
    found.append(("blocks its lane", "yes" if letter.get("blocks_lane") else "no"))
    found.append(("error", _error(letter.get("error"))))
    request: Any = letter.get("request")
    if isinstance(request, Mapping):
        fields = {name: value for name, value in request.items() if name != "@type"}
        found.append(("request", clean(json.dumps(fields, ensure_ascii=False, indent=2))))
    lines(console, found)


def _count(console: Console, shown: int, total: int, what: str) -> None:
    told = f"{shown:,} of {total:,} {what}" if total > shown else f"{shown:,} {what}"
    console.print(told if shown or total else f"no {what}")
