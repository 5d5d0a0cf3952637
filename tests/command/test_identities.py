"""`bookd keys` and `bookd certs`: what they change, and what they say."""

import json
import stat
from datetime import UTC, datetime, timedelta

from click.testing import CliRunner, Result
from cryptography import x509

from bookd import pki
from bookd.command import certs
from bookd.command.init import CERTIFIED
from bookd.command.main import main
from bookd.mom import schema, seals, store
from bookd.mom.vault import Vault, guarded
from bookd.storage.engine import open_engine
from bookd.storage.migrate import upgrade
from bookd.users import keys
from tests.command.test_init import InitCase
from tests.mom.room import NOW, draft


class IdentitiesCase(InitCase):
    """A home that was made for a host with a name."""

    def setUp(self) -> None:
        super().setUp()
        self.assertEqual(self.init("--host", "books.example.org", "--host", "192.0.2.7").exit_code, 0)

    def run_command(self, *arguments: str) -> Result:
        """Run a subcommand."""
        return CliRunner().invoke(main, ["--home", str(self.home.path), *arguments])


class KeysTests(IdentitiesCase):
    """`bookd keys`."""

    def test_rotate_and_prune(self) -> None:
        """A new key is made and published; the old one is removed only when its tokens are over."""
        folder = self.home.path / "keys"
        before = keys.load(folder)[0].kid
        result = self.run_command("keys", "rotate")
        self.assertEqual(result.exit_code, 0, result.output)
        fresh = keys.load(folder)[0].kid
        self.assertIn(fresh, result.output)
        self.assertEqual(
            [key["kid"] for key in json.loads((folder / "jwks.json").read_text())["keys"]], [fresh, before]
        )
        listed = self.run_command("keys", "list").output.splitlines()
        self.assertEqual([line.split("  ")[2] for line in listed], ["will sign", "signs"])
        self.assertIn("nothing to remove", self.run_command("keys", "prune").output)
        for path in folder.glob("*.pem"):
            lines = path.read_bytes().split(b"\n", 1)
            made = datetime.now(UTC) - timedelta(hours=2 if path.stem == before else 1)
            path.write_bytes(f"Created: {made.isoformat()}\n".encode() + lines[1])
        self.assertIn(f"removed {folder / before}.pem", self.run_command("keys", "prune").output)
        self.assertEqual([key.kid for key in keys.load(folder)], [fresh])

    def test_no_suite(self) -> None:
        """Without a suite, or without keys, each is one line and status 1."""
        for path in (self.home.path / "keys").glob("*.pem"):
            path.unlink()
        for verb in ("list", "rotate", "prune"):
            result = self.run_command("keys", verb)
            self.assertEqual((result.exit_code, result.stderr.count("\n")), (1, 1), result.output)
        self.assertEqual(CliRunner().invoke(main, ["--home", "/nowhere", "keys", "rotate"]).exit_code, 1)


class SealingKeysTests(IdentitiesCase):
    """`bookd keys … --sealing`."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = self.home.path / "seals"

    def test_rotate_and_prune(self) -> None:
        """A new key is made; the old one is removed only when the new one has sealed for a while and nothing in the database
        needs the old one."""
        (before,) = seals.load(self.folder)
        result = self.run_command("keys", "rotate", "--sealing")
        self.assertEqual(result.exit_code, 0, result.output)
        (fresh,) = seals.load(self.folder).keys() - {before}
        self.assertIn(fresh, result.output)
        states = [line.split("  ")[2] for line in self.run_command("keys", "list", "--sealing").output.splitlines()]
        self.assertEqual(states, ["will seal", "seals"])
        engine = open_engine(self.home.path / "data" / "mom.sqlite")
        self.addCleanup(engine.dispose)
        upgrade(engine, "bookd.mom")
        with guarded(engine, Vault(self.folder, lambda: 0.0, lambda: NOW)).begin() as connection:
            store.keep(connection, draft(1), NOW)
        self.assertIn("nothing to remove", self.run_command("keys", "prune", "--sealing").output)
        for path in self.folder.glob("*.key"):
            made = datetime.now(UTC) - timedelta(hours=2 if path.stem == before else 1)
            path.write_bytes(f"Seals from: {made.isoformat()}\n".encode() + path.read_bytes().split(b"\n", 1)[1])
        pruned = self.run_command("keys", "prune", "--sealing")
        self.assertEqual((pruned.exit_code, len(seals.load(self.folder))), (0, 2), pruned.output)
        self.assertIn("1 rows are sealed with it still", pruned.output)
        with engine.begin() as connection:
            for table in (schema.lanes, schema.messages):
                connection.execute(table.delete())
        self.assertIn(f"removed {self.folder / before}.key", self.run_command("keys", "prune", "--sealing").output)
        self.assertEqual(list(seals.load(self.folder)), [fresh])

    def test_none(self) -> None:
        """Without keys, or where the configuration names no folder, each is one line and status 1; init makes a key."""
        (path,) = self.folder.glob("*.key")
        path.unlink()
        for verb in ("list", "rotate", "prune"):
            result = self.run_command("keys", verb, "--sealing")
            self.assertEqual((result.exit_code, result.stderr.count("\n")), (1, 1), result.output)
        self.assertEqual(self.init().exit_code, 0)
        self.assertEqual(self.run_command("keys", "list", "--sealing").exit_code, 0)
        self.home.config_file.write_text(
            self.home.config_file.read_text().replace("sealing_keys =", "# sealing_keys =")
        )
        self.assertIn("sealing_keys", self.run_command("keys", "list", "--sealing").stderr)


class CertsTests(IdentitiesCase):
    """`bookd certs`."""

    def leaf(self, name: str) -> x509.Certificate:
        """The certificate of a daemon."""
        return x509.load_pem_x509_certificate((self.home.path / "pki" / f"{name}.pem").read_bytes())

    def test_renew_one(self) -> None:
        """A renewed certificate has another key, the same names, fits its key, and only its owner can read it."""
        before = {name: self.leaf(name) for name in CERTIFIED}
        result = self.run_command("certs", "renew", "gateway")
        self.assertEqual(result.exit_code, 0, result.output)
        for name in CERTIFIED:
            self.assertEqual(self.leaf(name) == before[name], name != "gateway", name)
        after = self.leaf("gateway")
        self.assertNotEqual(after.public_key(), before["gateway"].public_key())
        names = [
            each.extensions.get_extension_for_class(x509.SubjectAlternativeName) for each in (before["gateway"], after)
        ]
        self.assertEqual(names[0].value, names[1].value)
        folder = self.home.path / "pki"
        key = folder / "gateway.key"
        self.assertTrue(pki.fits((folder / "gateway.pem").read_bytes(), key.read_bytes()))
        self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        self.assertEqual([path.name for path in folder.iterdir() if path.name.startswith(".")], [])

    def test_renew_beside_a_spoilt_one(self) -> None:
        """One that cannot be renewed is named, and the others are renewed; without its file it gets a new one."""
        folder = self.home.path / "pki"
        (folder / "gateway.pem").write_bytes(b"")
        before = (folder / "users.pem").read_bytes()
        result = self.run_command("certs", "renew")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("gateway.pem holds no certificate", result.output)
        self.assertNotEqual((folder / "users.pem").read_bytes(), before)
        (folder / "gateway.pem").unlink()
        self.assertEqual(self.run_command("certs", "renew", "gateway").exit_code, 0)
        self.assertEqual(pki.hosts((folder / "gateway.pem").read_bytes(), "gateway"), [])

    def test_renew_all(self) -> None:
        """Without a name all are renewed, and the authority stays."""
        before = {name: self.leaf(name) for name in (*CERTIFIED, "ca")}
        self.assertEqual(self.run_command("certs", "renew").exit_code, 0)
        self.assertEqual([name for name in before if self.leaf(name) == before[name]], ["ca"])

    def test_no_authority(self) -> None:
        """Without the authority's key nothing is changed, and that is said in one line."""
        (self.home.path / "pki" / "ca.key").unlink()
        before = self.contents()
        result = self.run_command("certs", "renew")
        self.assertEqual((result.exit_code, result.stderr.count("\n")), (1, 1))
        self.assertEqual(self.contents(), before)

    def test_remarks(self) -> None:
        """A certificate that ends soon, has ended or cannot be read is pointed out."""
        now = datetime.now(UTC)
        self.assertRegex(certs.remark(self.home, "mom", now), r"^certificate until \d{4}-\d\d-\d\d$")
        self.assertIn("renew it", certs.remark(self.home, "mom", now + timedelta(days=800)))
        self.assertIn("ENDED", certs.remark(self.home, "mom", now + timedelta(days=900)))
        (self.home.path / "pki" / "mom.pem").write_text("junk")
        self.assertEqual(certs.remark(self.home, "mom", now), "certificate unreadable")
        listed = self.run_command("certs", "list").output.splitlines()
        self.assertEqual([line.split()[0] for line in listed], ["ca", *CERTIFIED])
