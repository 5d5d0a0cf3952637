"""What a person can do with the suite: one table that the menu, the subcommands and their help are made of.

An entry says which fields it asks for and which REST call they make. The first nine are those that a customer of a
bookstore expects; then come the session, the operations, and what the staff does.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from attrs import frozen

from bookd.command.answer import Call, path
from bookd.command.catalogue import Defaults, money

# What stands for the person who is logged in.
ME = "me"
_ITEM = re.compile(r"\s*(?P<book>[A-Za-z0-9._-]{1,64})(?:\s*[:=x*]\s*(?P<quantity>[0-9]{1,10}))?\s*")


class Kind(Enum):
    """What a field takes."""

    TEXT = "text"
    NUMBER = "number"
    AMOUNT = "amount"  # of money: 15.99
    PASSWORD = "password"  # noqa: S105 - a kind of field; never on the command line
    ITEMS = "items"  # book ids with quantities
    USER = "user"  # an id, or "me"


@frozen
class Field:
    """Something that an entry asks for. What is left out does not go into the call."""

    name: str
    about: str
    kind: Kind = Kind.TEXT
    required: bool = False
    argument: bool = False  # stands on the command line without an option's name
    confirm: bool = False  # typed twice


Values = Mapping[str, Any]


class Use(Enum):
    """Whose entry it is."""

    CUSTOMER = "Books, users, orders"
    SESSION = "Session and operations"
    STAFF = "For staff"


@frozen
class Entry:
    """One thing to do."""

    name: str
    about: str
    call: Callable[[Values], Call]
    fields: tuple[Field, ...] = ()
    use: Use = Use.CUSTOMER

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.name in WRITES


def items(text: str) -> list[dict[str, Any]]:
    """The items of an order like "BOOK:2 BOOK". Raises `ValueError` for what is none."""
    found = []
    for part in text.replace(",", " ").split():
        match = _ITEM.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no item like BOOK_ID:QUANTITY")
        found.append({"book_id": match["book"], "quantity": int(match["quantity"] or 1)})
    return found


def _some(values: Values, *names: str) -> dict[str, Any]:
    """Those of the values that were given."""
    return {name: values[name] for name in names if values.get(name) is not None}


def _book(values: Values) -> dict[str, Any]:
    """The body of a book; its price, if there is one, as google.type.Money."""
    body = _some(values, "title", "author", "isbn", "stock")
    if values.get("price") is not None:
        body["price"] = money(str(values["price"]), values.get("currency") or "", Defaults())
    return body


def _page(values: Values, *names: str) -> dict[str, str]:
    return {name: str(value) for name, value in _some(values, *names, "page_size", "page_token").items()}


BOOK = Field("book_id", "id of the book", required=True, argument=True)
USER = Field("user_id", "id of the user; yourself unless you say", Kind.USER, argument=True)
ORDER = Field("order_id", "id of the order", required=True, argument=True)
OPERATION = Field("operation", "name of the operation, as in operations/…", required=True, argument=True)
USERNAME = Field("username", "name to log in with", required=True)
PASSWORD = Field("password", "the password", Kind.PASSWORD, required=True)
PAGES = (
    Field("page_size", "how many at once", Kind.NUMBER),
    Field("page_token", "where to go on: next_page_token of the page before"),
)
PERSON = (Field("full_name", "the person's name"), Field("address", "where orders go"))
PRICE = Field("price", "price of a copy, like 15.99", Kind.AMOUNT)
CURRENCY = Field("currency", "its currency, like USD")
ISBN = Field("isbn", "ISBN-13 or ISBN-10")
STOCK = Field("stock", "copies in stock", Kind.NUMBER)

ENTRIES = (
    Entry(
        "get-book", "Show a book.", lambda v: Call("GET", path("/v1/books/{book_id}", **_ids(v, "book_id"))), (BOOK,)
    ),
    Entry(
        "search-books",
        "Find books by title, author or ISBN.",
        lambda v: Call("GET", "/v1/books", query=_page(v, "query")),
        (Field("query", "words of title and author, or an ISBN; all books without", argument=True), *PAGES),
    ),
    Entry(
        "register",
        "Make an account.",
        lambda v: Call(
            "POST", "/v1/users", _some(v, "username", "email", "password", "full_name", "address"), public=True
        ),
        (
            USERNAME,
            Field("email", "e-mail address", required=True),
            Field("password", "the password", Kind.PASSWORD, required=True, confirm=True),
            *PERSON,
        ),
    ),
    Entry(
        "authenticate",
        "Check a name and a password; --json prints the tokens of a new session. Keeps nothing.",
        lambda v: Call("POST", "/v1/sessions", _some(v, "username", "password"), public=True),
        (USERNAME, PASSWORD),
    ),
    Entry(
        "get-user", "Show a user.", lambda v: Call("GET", path("/v1/users/{user_id}", **_ids(v, "user_id"))), (USER,)
    ),
    Entry(
        "update-user",
        "Change a user's data.",
        lambda v: Call(
            "PATCH", path("/v1/users/{user_id}", **_ids(v, "user_id")), _some(v, "email", "full_name", "address")
        ),
        (USER, Field("email", "e-mail address"), *PERSON),
    ),
    Entry(
        "create-order",
        "Order books.",
        lambda v: Call("POST", "/v1/orders", {"items": v["items"], **_some(v, "shipping_address")}),
        (
            Field("items", "BOOK_ID:QUANTITY, one or more", Kind.ITEMS, required=True, argument=True),
            Field("shipping_address", "where it goes; your own address unless you say"),
        ),
    ),
    Entry(
        "get-order",
        "Show an order.",
        lambda v: Call("GET", path("/v1/orders/{order_id}", **_ids(v, "order_id"))),
        (ORDER,),
    ),
    Entry(
        "list-orders",
        "List the orders of a user.",
        lambda v: Call("GET", path("/v1/users/{user_id}/orders", **_ids(v, "user_id")), query=_page(v)),
        (USER, *PAGES),
    ),
    Entry(
        "cancel-order",
        "Cancel an order.",
        lambda v: Call("POST", path("/v1/orders/{order_id}:cancel", **_ids(v, "order_id")), {}),
        (ORDER,),
    ),
    Entry(
        "log-in",
        "Log in; the session is kept for the next command.",
        lambda v: Call("POST", "/v1/sessions", _some(v, "username", "password"), public=True),
        (USERNAME, PASSWORD),
        Use.SESSION,
    ),
    Entry(
        "log-out", "End the session.", lambda v: Call("POST", "/v1/sessions:revoke", {}, public=True), (), Use.SESSION
    ),
    Entry(
        "get-operation",
        "Show what became of a request that was accepted for later.",
        lambda v: Call("GET", path("/v1/operations/{operation}", operation=v["operation"].removeprefix("operations/"))),
        (OPERATION,),
        Use.SESSION,
    ),
    Entry(
        "add-book",
        "Add a book.",
        lambda v: Call("POST", "/v1/books", _book(v), _some(v, "book_id")),
        (
            Field("title", "its title", required=True),
            Field("author", "its author or authors", required=True),
            Field("price", "price of a copy, like 15.99", Kind.AMOUNT, required=True),
            CURRENCY,
            ISBN,
            STOCK,
            Field("book_id", "an id of your choice"),
        ),
        Use.STAFF,
    ),
    Entry(
        "change-book",
        "Change a book.",
        lambda v: Call("PATCH", path("/v1/books/{book_id}", **_ids(v, "book_id")), _book(v)),
        (BOOK, Field("title", "its title"), Field("author", "its author or authors"), PRICE, CURRENCY, ISBN),
        Use.STAFF,
    ),
    Entry(
        "delete-book",
        "Delete a book.",
        lambda v: Call("DELETE", path("/v1/books/{book_id}", **_ids(v, "book_id"))),
        (BOOK,),
        Use.STAFF,
    ),
    Entry(
        "adjust-stock",
        "Add copies to the stock, or take some out.",
        lambda v: Call(
            "POST",
            path("/v1/books/{book_id}:adjustStock", **_ids(v, "book_id")),
            {"quantity_change": v["quantity_change"]},
        ),
        (
            BOOK,
            Field(
                "quantity_change", "copies to add; below zero to take out", Kind.NUMBER, required=True, argument=True
            ),
        ),
        Use.STAFF,
    ),
)
# Those that may be accepted for later; the others change nothing, or nothing that can wait.
WRITES = frozenset(
    {
        "update-user",
        "create-order",
        "cancel-order",
        "add-book",
        "change-book",
        "delete-book",
        "adjust-stock",
        "register",
    }
)


def _ids(values: Values, name: str) -> dict[str, str]:
    return {name: str(values[name])}
