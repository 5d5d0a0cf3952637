"""`bookd init`: what it makes, what it leaves alone, and who can read it."""

import json
import os
import stat
from pathlib import Path

import msgspec
from click.testing import CliRunner, Result
from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from bookd import config
from bookd.command import init
from bookd.command.home import Home
from bookd.command.main import main
from bookd.users import keys

ETC = Path(__file__).parents[2] / "etc" / "bookd.toml"


class InitCase(SynchronousTestCase):
    """A home that is not there yet."""

    def setUp(self) -> None:
        """Its path."""
        self.home = Home(Path(self.mktemp()).absolute() / "home")

    def init(self, *arguments: str) -> Result:
        """Run the command."""
        return CliRunner().invoke(main, ["--home", str(self.home.path), "init", *arguments])

    def contents(self) -> dict[str, bytes]:
        """Every file of the home."""
        return {str(path): path.read_bytes() for path in self.home.path.rglob("*") if path.is_file()}


class InitTests(InitCase):
    """The command."""

    def test_makes_everything(self) -> None:
        """The configuration loads, and every file that it names is there."""
        result = self.init()
        self.assertEqual(result.exit_code, 0, result.output)
        settings = self.home.load()
        assert settings.gateway and settings.mom and settings.inventory and settings.orders and settings.users
        for table in (
            settings.mom.grpc,
            settings.inventory.grpc,
            settings.orders.grpc,
            settings.users.grpc,
            settings.gateway,
        ):
            for name in (table.identity.certificate, table.identity.private_key, table.identity.ca):
                self.assertTrue((self.home.path / name).is_file(), name)
        self.assertTrue((self.home.path / settings.gateway.jwks).is_file())
        self.assertEqual(len(keys.load(self.home.path / settings.users.keys)), 1)
        self.assertIn(str(self.home.admin), result.output)
        self.assertEqual(set(json.loads(self.home.admin.read_text())), {"username", "password"})
        self.assertGreaterEqual(len(self.home.administrator()["password"]), 20)

    def test_others_can_read_nothing(self) -> None:
        """Folders have mode 0700, and files 0600 but for the public keys, whatever the umask."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.init()
        for path in (self.home.path, *self.home.path.rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            if path.name != keys.JWKS:
                self.assertEqual(mode, 0o700 if path.is_dir() else 0o600, str(path))

    def test_second_call_leaves_everything(self) -> None:
        """Nothing that is there is written again."""
        self.init()
        before = self.contents()
        result = self.init("--port-offset", "7")
        self.assertEqual((result.exit_code, self.contents()), (0, before))
        self.assertNotIn("made", result.output)

    def test_fills_gaps(self) -> None:
        """A daemon's certificate that was taken away is issued again, and nothing else."""
        self.init()
        before = self.contents()
        for ending in ("pem", "key"):
            (self.home.path / "pki" / f"orders.{ending}").unlink()
        self.assertEqual(self.init().exit_code, 0)
        after = self.contents()
        changed = {Path(name).name for name in before if before[name] != after[name]}
        self.assertEqual(changed, {"orders.pem", "orders.key"})

    def test_half_a_pair(self) -> None:
        """A certificate without its key is told in one line, and nothing is made up."""
        self.init()
        (self.home.path / "pki" / "mom.key").unlink()
        result = self.init()
        self.assertEqual(result.exit_code, 1)
        self.assertIn("mom.key is missing", result.output)

    def test_port_offset(self) -> None:
        """Every port moves by the offset, those in addresses too."""
        self.init("--port-offset", "1000")
        ports = {name: port for name, (_, port) in self.home.listeners().items()}
        self.assertEqual(ports, {"inventory": 51051, "orders": 51052, "users": 51053, "mom": 51055, "gateway": 9081})
        metrics = {"inventory": 10176, "orders": 10177, "users": 10178, "mom": 10179, "gateway": 10180}
        self.assertEqual(self.home.metrics_ports(), metrics)
        settings = self.home.load()
        assert settings.gateway is not None
        self.assertEqual(settings.gateway.mom.addresses, ["localhost:51055"])
        self.assertEqual(self.home.url(), "https://localhost:9081")

    def test_port_offset_out_of_range(self) -> None:
        """An offset that no port can take is a matter of usage."""
        for offset in ("-1", "60000", "x"):
            self.assertEqual(self.init("--port-offset", offset).exit_code, 2)

    def test_hosts(self) -> None:
        """Names for other machines go into the gateway's certificate, and it listens everywhere."""
        self.init("--host", "books.example", "--host", "192.0.2.7")
        certificate = x509.load_pem_x509_certificate((self.home.path / "pki" / "gateway.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertIn("books.example", names.get_values_for_type(x509.DNSName))
        self.assertIn("localhost", names.get_values_for_type(x509.DNSName))
        self.assertIn("192.0.2.7", [str(each) for each in names.get_values_for_type(x509.IPAddress)])
        self.assertEqual(self.home.listeners()["gateway"][0], "0.0.0.0")

    def test_host_that_is_none(self) -> None:
        """A name that no certificate can hold is told in one line."""
        result = self.init("--host", "no host")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("no host", result.output)

    def test_no_room(self) -> None:
        """A home that cannot be made is told in one line."""
        self.home.path.parent.mkdir(parents=True)
        (self.home.path.parent / "file").write_text("")
        result = CliRunner().invoke(main, ["--home", str(self.home.path.parent / "file" / "home"), "init"])
        self.assertEqual(result.exit_code, 1)
        self.assertIn("cannot make the folder", result.output)

    def test_whole_or_not_at_all(self) -> None:
        """A file is not there before it is complete, and the first of two that write it wins."""
        path = Path(self.mktemp())
        path.parent.mkdir(parents=True, exist_ok=True)
        self.assertEqual(
            (init.write_new(path, b"1"), init.write_new(path, b"2"), path.read_bytes()), (True, False, b"1")
        )


class ConfigurationTests(SynchronousTestCase):
    """The configuration that is written, and the example that ships."""

    def test_example_is_what_init_writes(self) -> None:
        """etc/bookd.toml is the template with its usual values."""
        self.assertEqual(ETC.read_text(), init.configuration())

    def test_every_key_with_its_default_and_a_sentence(self) -> None:
        """Each key of each table is shown, those that have a default with it, below a sentence."""
        settings = config.parse(ETC.read_text())
        shown = config.parse(uncommented(ETC.read_text()))
        for name in ("gateway", "mom", "inventory", "orders", "users"):
            table = getattr(settings, name)
            for field in msgspec.structs.fields(type(table)):
                self.assertTrue(is_shown(ETC.read_text(), name, field.encode_name), f"[{name}] {field.encode_name}")
                if field.name not in ("https", "issuers"):  # off by default; the lines show their form
                    self.assertEqual(
                        getattr(shown, name).__getattribute__(field.name), getattr(table, field.name), field.name
                    )

    def test_sections_begin_with_a_sentence(self) -> None:
        """No key stands first in its section without a comment above it."""
        lines = ETC.read_text().splitlines()
        for place, line in enumerate(lines):
            if line.startswith("[") and not line.startswith("[["):
                above, below = lines[place - 1], lines[place + 1]
                self.assertTrue(above.startswith("#") or below.startswith("#") or not above, line)

    def test_template_has_no_other_placeholder(self) -> None:
        """A configuration with another host and other ports loads."""
        settings = config.parse(init.configuration(port_offset=10, host="0.0.0.0"))
        assert settings.gateway is not None
        self.assertEqual((settings.gateway.host, settings.gateway.port), ("0.0.0.0", 8091))


def uncommented(text: str) -> str:
    """The example with every key in force that it shows behind "#"."""
    lines = []
    for line in text.splitlines():
        words = line.removeprefix("# ").split(" = ")
        is_key = len(words) > 1 and words[0].isidentifier()
        lines.append(line.removeprefix("# ") if is_key or line.startswith("# [[") else line)
    return "\n".join(line for line in lines if not line.startswith("https ="))


def is_shown(text: str, table: str, key: str) -> bool:
    """Whether the section of the table shows the key, in force or behind "#", with a sentence in the section above it;
    tables within it are sections of their own."""
    inside, sentences = False, 0
    for line in text.splitlines():
        if line.startswith(("[", "# [[")):
            inside = line == f"[{table}]"
            if line.strip("# []") == f"{table}.{key}":
                return True
        elif inside and line.removeprefix("# ").startswith(f"{key} ="):
            return sentences > 0
        elif inside and line.startswith("# "):
            sentences += 1
    return False
