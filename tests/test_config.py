"""The example of the configuration says what the code does: every key, with its default."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bookd import config

ROOT = Path(__file__).parent.parent
BEHIND_A_HASH = re.compile(r"^# (?=[a-z_]+ = )", re.MULTILINE)
# Defaults that are the absence of something, so that the example shows a value that is none.
ABSENT = {"gateway.https"}


def defaults(table: type[msgspec.Struct]) -> dict[str, Any]:
    """The keys that may be left out, with what they are then."""
    return {
        each.name: each.default_factory() if each.default is msgspec.NODEFAULT else each.default
        for each in msgspec.structs.fields(table)
        if not each.required
    }


class ExampleTests(SynchronousTestCase):
    """etc/bookd.toml, and the template that `bookd init` fills in."""

    def assert_agrees(self, text: str) -> None:
        """Every key of every table stands there, and a key behind a hash has its default."""
        whole = msgspec.toml.decode(BEHIND_A_HASH.sub("", text))
        config.parse(BEHIND_A_HASH.sub("", text))
        given = msgspec.toml.decode(text)
        tables = {"gateway": config.Gateway, "mom": config.Mom, "inventory": config.Inventory}
        tables |= {"orders": config.Orders, "users": config.Users}
        for name, table in tables.items():
            keys = {each.name for each in msgspec.structs.fields(table)}
            self.assertEqual(set(whole[name]), keys, name)
            for key, default in defaults(table).items():
                if key not in given[name] and f"{name}.{key}" not in ABSENT:
                    self.assertEqual(whole[name][key], default, f"{name}.{key}")
        grpc = defaults(config.Grpc)
        for name in ("mom", "inventory", "orders", "users"):
            hidden = grpc.keys() - given[name]["grpc"].keys()
            shown = {key: whole[name]["grpc"].get(key) for key in hidden}
            self.assertEqual(shown, {key: grpc[key] for key in hidden}, name)

    def test_example(self) -> None:
        """The example agrees."""
        self.assert_agrees((ROOT / "etc" / "bookd.toml").read_text())

    def test_template(self) -> None:
        """The template agrees, once its ports are filled in."""
        text = (files("bookd.command") / "bookd.toml.in").read_text()
        self.assert_agrees(re.sub(r"\$[a-z]+", "1", text))
