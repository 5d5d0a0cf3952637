"""Where things lie in a home."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from bookd.command import init
from bookd.command.home import CommandError, Home
from tests.command.test_init import InitCase


class HomeTests(InitCase):
    """Where things lie."""

    def test_no_suite(self) -> None:
        """A folder without a configuration says how to make one."""
        self.assertIn("init", self.assertRaises(CommandError, self.home.load).message)

    def test_configuration_with_a_mistake(self) -> None:
        """The key at fault is named."""
        self.init()
        self.home.config_file.write_text(self.home.config_file.read_text().replace("port =", "prot =", 1))
        self.assertIn("prot", self.assertRaises(CommandError, self.home.load).message)

    def test_socket_in_a_deep_home(self) -> None:
        """A path that is too long for a socket is replaced by a short one of the same home."""
        deep = Home(Path("/" + "x" * 200))
        self.assertLess(len(str(deep.socket)), 100)
        self.assertEqual(deep.socket, Home(deep.path).socket)
        self.assertNotEqual(deep.socket, Home(Path("/" + "y" * 200)).socket)
        self.assertEqual(Home(Path("/h")).socket, Path("/h/supervisor.sock"))

    def test_administrator_that_cannot_be_read(self) -> None:
        """A missing file, one that is no JSON, and one without a password."""
        self.init()
        for text in ("", "[]", '{"username": "a"}'):
            self.home.admin.write_text(text)
            self.assertIn("--username", self.assertRaises(CommandError, self.home.administrator).message)

    def test_no_gateway_here(self) -> None:
        """A host without a gateway asks for --url."""
        self.home.path.mkdir(parents=True)
        self.home.config_file.write_text("")
        self.assertIn("--url", self.assertRaises(CommandError, self.home.url).message)

    def test_certificates_name_their_daemons(self) -> None:
        """Each certificate is good now, for some time, and bears the daemon's name."""
        self.init()
        now = datetime.now(UTC)
        for name in init.CERTIFIED:
            certificate = x509.load_pem_x509_certificate((self.home.path / "pki" / f"{name}.pem").read_bytes())
            self.assertTrue(certificate.not_valid_before_utc < now < certificate.not_valid_after_utc)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            self.assertIn(f"{name}.bookd.internal", names.get_values_for_type(x509.DNSName))
