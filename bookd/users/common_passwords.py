"""The passwords that are tried first: the 30,000 that were found most often among stolen ones, as the package zxcvbn ships
them.

Only its list is read. To import the package itself would make the tables that it estimates strength with, which take ten
times the memory of all the users daemon's own data and are of no use here.
"""

import runpy
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path


class Words:
    """Words that can be asked for. They lie one after the other in one piece: a set of them takes ten times the memory, and
    nobody asks more often than passwords are chosen."""

    def __init__(self, words: Iterable[str]) -> None:
        self._all = _packed("\n".join(["", *words, ""]))

    def __contains__(self, word: str) -> bool:
        return "\n" not in word and _packed(f"\n{word}\n") in self._all


def load(shortest: int) -> Words:
    """Those with at least `shortest` characters, in lower case."""
    package = find_spec("zxcvbn")
    assert package is not None  # a dependency
    assert package.origin is not None
    lists = runpy.run_path(str(Path(package.origin).with_name("frequency_lists.py")))["FREQUENCY_LISTS"]
    return Words(word for word in lists["passwords"] if len(word) >= shortest)


def _packed(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
