"""Shows what the suite answered to a person: tables for lists, lines for one thing.

Nothing that the suite says can reach the terminal as a control sequence.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unicodedata import category

from rich.console import Console
from rich.table import Table
from rich.text import Text

Body = Mapping[str, Any]


def clean(value: object) -> str:
    """`value` as text in which control characters cannot do anything to a terminal."""
    text = "" if value is None else str(value)
    return "".join("\ufffd" if category(each) in ("Cc", "Cs") and each != "\n" else each for each in text)


def money(value: object) -> str:
    """A google.type.Money in JSON as an amount and its currency: "15.99 USD"."""
    if not isinstance(value, Mapping):
        return ""
    try:
        nanos = int(value.get("nanos") or 0)
        units = int(value.get("units") or 0)
    except (TypeError, ValueError):
        return clean(dict(value))
    fraction = f"{abs(nanos):09d}".rstrip("0").ljust(2, "0")
    sign = "-" if units < 0 or nanos < 0 else ""
    return f"{sign}{abs(units):,}.{fraction} {clean(value.get('currency_code'))}".rstrip()


def status(value: object) -> str:
    """A status without what all of them begin with."""
    return clean(value).removeprefix("ORDER_STATUS_").removeprefix("MESSAGE_STATE_").lower()


def when(value: object) -> str:
    """A timestamp without the parts of a second."""
    return clean(value)[:19].replace("T", " ")


def show(console: Console, body: object) -> None:
    """Print an answer's body, as what it is."""
    if not isinstance(body, Mapping) or not body:
        console.print("Done.")
        return
    for key, way in WAYS:
        if key in body:
            way(console, body)
            return
    lines(console, [(name, clean(value)) for name, value in body.items()])


def _books(console: Console, body: Body) -> None:
    """Two lines for each book, since ids and titles are too long to stand side by side."""
    for book in body["books"]:
        console.print(
            Text(clean(book.get("title")), style="bold") + Text(f"  {clean(book.get('author'))}", style="not bold")
        )
        facts = (
            book.get("book_id"),
            book.get("isbn"),
            money(book.get("price")),
            f"{clean(book.get('stock'))} in stock",
        )
        console.print(Text("  " + "  ".join(clean(fact) for fact in facts if fact), style="dim"), soft_wrap=True)
    _more(console, body, len(body["books"]), "books")


def _orders(console: Console, body: Body) -> None:
    rows = [
        (
            each.get("order_id"),
            status(each.get("status")),
            when(each.get("created_at")),
            sum(int(item.get("quantity") or 0) for item in each.get("items") or []),
            money(each.get("total_amount")),
        )
        for each in body["orders"]
    ]
    table(console, ("order_id", "status", "created_at", ">copies", ">total"), rows)
    _more(console, body, len(rows), "orders")


def _order(console: Console, body: Body) -> None:
    names = ("order_id", "user_id", "shipping_address", "created_at", "reason")
    found = [(name, clean(body[name])) for name in names if body.get(name)]
    found[2:2] = [("status", status(body.get("status"))), ("total", money(body.get("total_amount")))]
    lines(console, found)
    items = [
        (item.get("book_id"), item.get("title"), item.get("quantity"), money(item.get("unit_price")))
        for item in body.get("items") or []
    ]
    table(console, ("book_id", "title", ">quantity", ">unit price"), items)


def _one(console: Console, body: Body) -> None:
    """A book or a user."""
    hidden = ("etag", "access_token", "refresh_token")
    lines(
        console,
        [
            (name, money(value) if name == "price" else clean(", ".join(value) if isinstance(value, list) else value))
            for name, value in body.items()
            if name not in hidden and value not in ("", [], None)
        ],
    )


def _operation(console: Console, body: Body) -> None:
    about = body.get("metadata") if isinstance(body.get("metadata"), Mapping) else {}
    assert isinstance(about, Mapping)
    found = [("operation", clean(body.get("name"))), ("done", "yes" if body.get("done") else "no")]
    found += [("state", status(about.get("state")))] if about.get("state") else []
    found += [
        (name, clean(about[name]))
        for name in ("destination", "created_at", "attempts", "last_error")
        if about.get(name)
    ]
    error = body.get("error")
    if isinstance(error, Mapping):
        found.append(("refused", clean(error.get("message"))))
    lines(console, found)
    response = body.get("response")
    if isinstance(response, Mapping):
        show(console, {name: value for name, value in response.items() if name != "@type"})


# How a body is shown, by the first of these members that it has.
WAYS: Sequence[tuple[str, Callable[[Console, Body], None]]] = (
    ("books", _books),
    ("orders", _orders),
    ("order_id", _order),
    ("book_id", _one),
    ("user_id", _one),
    ("name", _operation),
)


def lines(console: Console, found: Sequence[tuple[str, str]]) -> None:
    """Names with values."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in found:
        grid.add_row(name, Text(value))
    console.print(grid)


def table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; columns that begin with ">" are numbers. Ids are never cut: people copy them."""
    if not rows:
        return
    made = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        whole = name.endswith("_id")
        made.add_column(name.lstrip(">"), justify="right" if name[0] == ">" else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        made.add_row(*(Text(clean(cell)) for cell in row))
    console.print(made)


def _more(console: Console, body: Body, shown: int, what: str) -> None:
    total = body.get("total_size")
    console.print(f"{shown:,} of {total:,} {what}" if isinstance(total, int) else f"{shown:,} {what}")
    if body.get("next_page_token"):
        console.print(Text(f"the next page has the token {clean(body['next_page_token'])}"))
