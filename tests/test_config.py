"""The example of the configuration says what the code does: every key, with its default."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from bookd import config

ROOT = Path(__file__).parent.parent
BEHIND_A_HASH = re.compile(r"^# (?=[a-z_]+ = |\[\[)", re.MULTILINE)
# Defaults that are the absence of something, so that the example shows a value that is none.
ABSENT = {"gateway.https", "gateway.issuers"}


def defaults(table: type[msgspec.Struct]) -> dict[str, Any]:
    """The keys that may be left out, with what they are then."""
    return {
        each.name: each.default_factory() if each.default is msgspec.NODEFAULT else each.default
        for each in msgspec.structs.fields(table)
        if not each.required
    }


class MemoryTests(SynchronousTestCase):
    """A service remembers longer than the MOM delivers."""

    example = BEHIND_A_HASH.sub("", (ROOT / "etc" / "bookd.toml").read_text())

    def test_longer_expiry(self) -> None:
        """A MOM that delivers, or retries, for longer than a service remembers is refused; the keys are named."""
        for key, default in (("expire_after", "604800.0"), ("retry_within", "1814400.0")):
            text = self.example.replace(f"{key} = {default}", f"{key} = {30 * 86400}")
            error = self.assertRaises(config.ConfigError, config.parse, text, "bookd.toml")
            said = f"bookd.toml: `keep_inbox` of [inventory] must be at least 3600 s longer than `{key}` of [mom]"
            self.assertTrue(str(error).startswith(said), str(error))
            config.parse(text.replace(f"{key} = {30 * 86400}", f"{key} = {30 * 86400 - 3600}"))

    def test_shorter_memory(self) -> None:
        """So is any service that forgets too soon; on a host without the MOM's table it cannot be known."""
        for name in ("inventory", "orders", "users"):
            before, table, after = self.example.partition(f"\n[{name}]\n")
            shorter = after.replace("keep_inbox = 2592000.0", "keep_inbox = 60", 1)
            error = self.assertRaises(config.ConfigError, config.parse, before + table + shorter)
            self.assertIn(f"[{name}]", str(error))
            alone = (table + shorter).partition("\n[users]" if name == "orders" else "\n[orders]")[0]
            self.assertIsNotNone(getattr(config.parse(alone), name))


class IssuersTests(SynchronousTestCase):
    """Issuers elsewhere, as the gateway's table names them."""

    example = MemoryTests.example

    def refused(self, old: str, new: str, said: str) -> None:
        """The example with this difference is refused, by these words."""
        self.assertIn(old, self.example)
        error = self.assertRaises(config.ConfigError, config.parse, self.example.replace(old, new), "bookd.toml")
        self.assertIn(said, str(error))

    def test_key_sets(self) -> None:
        """A key set is a file, or comes over HTTPS from a host, without a password in the address."""
        for address in (
            "http://login.example/k",
            "https:///k",
            "https://a:b@login.example/k",
            "ftp://x/k",
            "file:///k",
        ):
            self.refused("https://login.example/jwks.json", address, "`jwks` of the issuer 'partner'")
        config.parse(self.example.replace("https://login.example/jwks.json", "keys/partner.json"))

    def test_algorithms(self) -> None:
        """Only signatures with a private key can be named, and at least one has to be."""
        for names in ('"HS256"', '"none"', '"eddsa"', ""):
            self.refused('["EdDSA", "ES256", "RS256"]', f"[{names}]", "gateway.issuers[0].algorithms")

    def test_names(self) -> None:
        """A name is short and plain, and nobody else's; so is what is in the tokens."""
        for name in ("", "Partner", "a~b", "a" * 17, "1a"):
            self.refused('name = "partner"', f'name = "{name}"', "issuers[0].name")
        self.refused('issuer = "https://login.example"', 'issuer = "bookd"', "the issuer 'bookd'")
        table = self.example[self.example.index("[[gateway.issuers]]") : self.example.index("[mom]")]
        self.refused(table, table + table, "the name 'partner'")
        other = table.replace('name = "partner"', 'name = "other"')
        self.refused(table, table + other, "the issuer 'https://login.example'")

    def test_memory(self) -> None:
        """Keys are kept for longer than it takes to fetch them again."""
        self.refused("keep_keys = 86400.0", "keep_keys = 300", "`keep_keys` of the issuer 'partner'")


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
        (issuer,) = whole["gateway"]["issuers"]
        self.assertEqual(set(issuer), {each.name for each in msgspec.structs.fields(config.Issuer)})
        usual = {key: default for key, default in defaults(config.Issuer).items() if key != "ca"}
        self.assertEqual({key: issuer[key] for key in usual}, usual)
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
        self.assert_agrees(re.sub(r"\$[a-z_]+", "1", text))
