"""Certificate and key files that are spoilt: what is said of each, at the start and while the old ones still serve."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from bookd import pki
from bookd.bridge import pem, tls
from bookd.config import Identity
from bookd.gateway.listener import ServerTLS

NOW = datetime.now(UTC)
AUTHORITY = pki.make_authority(NOW)
ISSUED, OTHER = (pki.issue(AUTHORITY, name, [], NOW) for name in ("mom", "users"))
LOCKED = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
)
# What is put into which file, None for nothing and ... for a folder, and what is said of it.
SPOILT = (
    ("pem", b"", "is empty"),
    ("pem", b" \n", "is empty"),
    ("pem", b"\xff\x00" * 500, "holds no certificate"),
    ("pem", ISSUED.key_pem, "holds no certificate"),
    ("pem", ISSUED.certificate_pem[:300], "cut off or damaged"),
    ("pem", ISSUED.certificate_pem[:-200], "cut off or damaged"),
    ("pem", ISSUED.certificate_pem.replace(b"MII", b"AAA"), "cut off or damaged"),
    ("pem", None, "No such file or directory"),
    ("pem", ..., "Is a directory"),
    ("pem", OTHER.certificate_pem, "not that of the certificate"),
    ("key", b"", "is empty"),
    ("key", ISSUED.certificate_pem, "holds no private key"),
    ("key", ISSUED.key_pem[:100], "cut off or damaged"),
    ("key", ISSUED.key_pem.replace(b"MIG", b"AAA"), "cut off or damaged"),
    ("key", LOCKED, "locked with a password"),
    ("key", None, "No such file or directory"),
    ("key", ..., "Is a directory"),
    ("key", OTHER.key_pem, "not that of the certificate"),
    ("ca", b"", "is empty"),
    ("ca", b"junk", "holds no certificate"),
    ("ca", AUTHORITY.certificate_pem[:300], "cut off or damaged"),
    ("ca", None, "No such file or directory"),
    ("ca", ..., "Is a directory"),
)


class SpoiltCase(SynchronousTestCase):
    """The files of one daemon."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.paths = {part: self.folder / f"{part}.pem" for part in ("pem", "key", "ca")}
        self.identity = Identity(certificate="pem.pem", private_key="key.pem", ca="ca.pem")
        self.mend()

    def mend(self) -> None:
        """Have all files good, and new."""
        for part, content in (
            ("pem", ISSUED.certificate_pem),
            ("key", ISSUED.key_pem),
            ("ca", AUTHORITY.certificate_pem),
        ):
            self.spoil(part, content)

    def spoil(self, part: str, content: Any) -> None:
        """Put something into the place of a file."""
        path = self.paths[part]
        if path.is_dir():
            path.rmdir()
        if content is ...:
            path.unlink()
            path.mkdir()
        elif content is None:
            path.unlink()
        else:
            (self.folder / ".new").write_bytes(content)
            os.replace(self.folder / ".new", path)


class StartTests(SpoiltCase):
    """What is said when a daemon starts."""

    def test_daemons(self) -> None:
        """Each fault names the file, and what it is; nobody trusts whom an empty authority would let in."""
        for part, content, said in SPOILT:
            self.spoil(part, content)
            for kind in (tls.server_credentials, tls.channel_credentials):
                with self.assertRaises((ValueError, OSError)) as caught:
                    kind(self.identity, self.folder)
                self.assertIn(said, str(caught.exception), (part, content))
                self.assertIn(str(self.paths[part]), str(caught.exception), (part, content))
                self.assertNotIn("\n", str(caught.exception))
            self.mend()
            tls.server_credentials(self.identity, self.folder)

    def test_https(self) -> None:
        """Likewise where clients are shown the certificate, which asks for no authority."""
        for part, content, said in SPOILT:
            self.spoil(part, content)
            if part == "ca":
                ServerTLS(self.identity, self.folder, lambda: 0.0)
            else:
                with self.assertRaises((ValueError, OSError)) as caught:
                    ServerTLS(self.identity, self.folder, lambda: 0.0)
                self.assertIn(said, str(caught.exception), (part, content))
                self.assertIn(str(self.paths[part]), str(caught.exception), (part, content))
            self.mend()


class LaterTests(SpoiltCase):
    """What is said while the daemon runs."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(pem, "_HALF_WAY", 0.0)

    @contextmanager
    def warned(self) -> Iterator[list[str]]:
        """The warnings that are logged meanwhile."""
        said: list[str] = []

        def observe(event: Any) -> None:
            if event.get("log_level") is LogLevel.warn:
                said.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        try:
            yield said
        finally:
            globalLogPublisher.removeObserver(observe)

    def test_https(self) -> None:
        """Each fault is told once, and the certificate from before is shown on; a good one is taken again."""
        now = [0.0]
        serving = ServerTLS(self.identity, self.folder, lambda: now[0])
        for part, content, _ in SPOILT:
            if part == "ca":
                continue
            before = serving._options
            self.spoil(part, content)
            with self.warned() as said:
                for _ in range(5):
                    now[0] += 1.1
                    serving.serverConnectionForTLS(None)
            self.assertIs(serving._options, before)
            self.assertEqual(len(said), 1, (part, content, said))
            self.assertIn(str(self.paths[part]), said[0])
            self.mend()
            now[0] += 1.1
            with self.warned() as said:
                serving.serverConnectionForTLS(None)
            self.assertEqual(said, [])
            self.assertIsNot(serving._options, before)

    def test_daemons(self) -> None:
        """However many of a daemon look at the files, one tells, and tells again what is spoilt again."""
        looking = [tls.Files(self.identity, self.folder) for _ in range(3)]
        for part, content, _ in SPOILT:
            for _ in range(2):
                self.spoil(part, content)
                with self.warned() as said:
                    for _ in range(3):
                        for each in looking:
                            with self.assertRaises(ValueError) as caught:
                                each.read()
                            each.complaint.spoilt(caught.exception)
                self.assertEqual(len(said), 1, (part, content, said))
                self.assertIn(str(self.paths[part]), said[0])
                self.mend()
                looking[0].read()
                looking[0].complaint.good()

    def test_half_way(self) -> None:
        """A key whose certificate comes a moment later is nothing to tell."""
        self.patch(pem, "_HALF_WAY", 60.0)
        files = tls.Files(self.identity, self.folder)
        self.spoil("key", OTHER.key_pem)
        with self.warned() as said:
            for _ in range(5):
                files.complaint.spoilt(ValueError("they do not fit"))
        self.assertEqual(said, [])
