"""Path templates as OpenAPI writes them.

A variable of one segment becomes a parameter of its last name (`{book.book_id}` is `book_id`). One whose pattern has more
(`{name=operations/*}`) becomes the literals of the pattern and a parameter for each of its wildcards, which is called
after the literal before it (`/operations/{operation}`): it is not the `name` that the resource has.
"""

import re
from collections.abc import Sequence
from urllib.parse import quote

from attrs import evolve, frozen

from bookd.contract.template import Template

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@frozen
class Place:
    """A path, and how its parameters are called."""

    path: str
    names: list[str]
    # Of each parameter: the variable that it belongs to, or "", and whether it is all of it.
    variables: list[tuple[str, bool]]
    rest: bool

    @property
    def anonymous(self) -> str:
        """The path without the names of its parameters. OpenAPI takes two paths that are equal so for one."""
        path = self.path
        for name in self.names:
            path = path.replace(f"{{{name}}}", "{}", 1)
        return path

    def renamed(self, path: str) -> "Place":
        """This place under the parameter names of `path`, which differs in those only."""
        return evolve(self, path=path, names=[piece.partition("}")[0] for piece in path.split("{")[1:]])


def place(template: Template) -> Place:
    """The path that OpenAPI writes for a template."""
    names: list[str] = []
    variables: list[tuple[str, bool]] = []
    pieces: list[str] = []
    for index, (wild, literal) in enumerate(template.pieces):
        if not wild:
            pieces.append(quote(literal, safe="!$&'()+,;=@"))
            continue
        holder = next((v for v in template.bound if v.start <= index and (v.stop is None or index < v.stop)), None)
        whole = holder is not None and holder.start == index and holder.stop == index + 1
        name = holder.name.rpartition(".")[2] if holder else "segment"
        if holder is None or holder.start < index:
            before = [text for is_wild, text in template.pieces[:index] if not is_wild and _IDENTIFIER.fullmatch(text)]
            name = _singular(before[-1]) if before else name
        name = _untaken(name, names)
        names.append(name)
        variables.append((holder.name if holder is not None else "", whole))
        pieces.append(f"{{{name}}}")
    path = "/" + "/".join(pieces) + (f":{quote(template.verb)}" if template.verb else "")
    return Place(path, names, variables, template.takes_rest)


def _singular(collection: str) -> str:
    return f"{collection[:-3]}y" if collection.endswith("ies") else collection.removesuffix("s") or collection


def _untaken(name: str, taken: Sequence[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"
