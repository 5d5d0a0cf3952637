"""Others on the host: what they may read and change is found before a daemon starts."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from bookd import config
from bookd.bridge.modes import Exposed, require_private

TEXT = """
[orders]
database = "data/orders.sqlite"
mom = { name = "mom", addresses = ["localhost:1"] }
[orders.grpc]
identity = { certificate = "pki/orders.pem", private_key = "pki/orders.key" }
port = 0
peers = []
trusted = []
"""


class ModesTests(SynchronousTestCase):
    """A home with the modes that `bookd init` gives, of which one is changed."""

    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        for folder in (self.home, self.home / "pki", self.home / "data"):
            folder.mkdir(mode=0o700)
        self.config = self.home / "bookd.toml"
        self.config.write_text(TEXT)
        for name in ("pki/orders.key", "data/orders.sqlite", "data/orders.sqlite-wal"):
            (self.home / name).touch(mode=0o600)
        self.config.chmod(0o600)

    def check(self, text: str = TEXT) -> None:
        """As a daemon does that starts."""
        require_private(self.config, config.parse(text).orders)

    def test_as_made(self) -> None:
        """Nothing is said of a home as it was made, nor of files that are not there yet."""
        self.check()
        (self.home / "data/orders.sqlite").unlink()
        (self.home / "pki/orders.key").unlink()
        self.check()

    def test_exposed(self) -> None:
        """Each file that others may read, and each folder and file that they may change, is named with its mode."""
        for name, mode in (
            ("pki/orders.key", 0o640),
            ("pki/orders.key", 0o604),
            ("data/orders.sqlite", 0o644),
            ("data/orders.sqlite-wal", 0o660),
            ("bookd.toml", 0o622),
            ("pki", 0o770),
            ("data", 0o702),
            ("", 0o777),
        ):
            path = self.home / name
            before = path.stat().st_mode & 0o7777
            path.chmod(mode)
            error = self.assertRaises(Exposed, self.check)
            for word in (str(path), f"{mode:04o}", "chmod go"):
                self.assertIn(word, str(error))
            self.assertNotIn("\n", str(error))
            path.chmod(before)
        self.check()

    def test_whom_it_believes(self) -> None:
        """Nobody else may change the authority, or the keys of those who make tokens; others may read them."""
        text = """
[gateway]
mom = { name = "mom", addresses = ["localhost:1"] }
identity = { certificate = "pki/gateway.pem", private_key = "pki/gateway.key" }
[[gateway.issuers]]
name = "partner"
issuer = "https://login.example"
audience = "shop"
jwks = "partner/jwks.json"
"""
        table = config.parse(text).gateway
        for folder in ("keys", "partner"):
            (self.home / folder).mkdir(mode=0o755)
        for name in ("pki/ca.pem", "keys/jwks.json", "partner/jwks.json"):
            (self.home / name).touch(mode=0o644)
        require_private(self.config, table)
        for name in ("pki/ca.pem", "keys/jwks.json", "keys", "partner/jwks.json", "partner"):
            path = self.home / name
            before = path.stat().st_mode & 0o7777
            path.chmod(before | 0o020)
            self.assertIn(str(path), str(self.assertRaises(Exposed, require_private, self.config, table)), name)
            path.chmod(before)
        require_private(self.config, table)

    def test_keys_in_folders(self) -> None:
        """Nobody else may put a key among those that sign or seal, or read the first administrator's password."""
        grpc = TEXT.partition("[orders.grpc]")[2]
        users = config.parse(
            "[users]\n" + TEXT[TEXT.index("mom =") : TEXT.index("[orders.grpc]")] + "[users.grpc]" + grpc
        ).users
        mom = config.parse('[mom]\nsealing_keys = "seals"\ndestinations = []\n[mom.grpc]' + grpc).mom
        for folder in ("keys", "seals", "secrets"):
            (self.home / folder).mkdir(mode=0o700)
        (self.home / "secrets" / "admin.json").touch(mode=0o600)
        for table, name, mode in ((users, "keys", 0o720), (users, "secrets/admin.json", 0o644), (mom, "seals", 0o702)):
            require_private(self.config, table)
            path = self.home / name
            before = path.stat().st_mode & 0o7777
            path.chmod(mode)
            self.assertIn(str(path), str(self.assertRaises(Exposed, require_private, self.config, table)), name)
            path.chmod(before)

    def test_configuration(self) -> None:
        """The configuration may be read by others while no password is in it."""
        self.config.chmod(0o644)
        self.check()
        secret = TEXT.replace("data/orders.sqlite", "postgresql+psycopg://me:word@db/orders")
        self.assertNotIn("word", str(self.assertRaises(Exposed, self.check, secret)))
