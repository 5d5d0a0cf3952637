"""The passwords that are tried first: the 30,000 that were found most often among stolen ones, as the package zxcvbn ships
them.

Only its list is read. To import the package itself would make the tables that it estimates strength with, which take ten
times the memory of all the users daemon's own data and are of no use here.
"""

import runpy
from importlib.util import find_spec
from pathlib import Path


def load(shortest: int) -> frozenset[str]:
    """Those with at least `shortest` characters, in lower case."""
    package = find_spec("zxcvbn")
    assert package is not None  # a dependency
    assert package.origin is not None
    lists = runpy.run_path(str(Path(package.origin).with_name("frequency_lists.py")))["FREQUENCY_LISTS"]
    return frozenset(word for word in lists["passwords"] if len(word) >= shortest)
