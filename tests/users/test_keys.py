"""The keys that sign access tokens: how they are changed while daemons read them."""

import json
import os
import stat
from pathlib import Path

import jwt
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway.issuers import users
from bookd.gateway.keys import KeyFile
from bookd.gateway.tokens import Tokens
from bookd.users import keys, tokens
from bookd.users.keyring import Keyring
from bookd.users.keys import JWKS, KeysError

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND


class KeysTestCase(SynchronousTestCase):
    """A folder with one key."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(mode=0o700)
        self.first = keys.generate(NOW)
        keys.write(self.folder, self.first)
        keys.publish(self.folder, [self.first])

    def published(self) -> list[str]:
        """The kids in the JWK set, in its order."""
        return [key["kid"] for key in json.loads((self.folder / JWKS).read_text())["keys"]]


class RotationTests(KeysTestCase):
    """Rotate and prune."""

    def test_rotate(self) -> None:
        """The new key is published at once, before the one that signs, and signs when its time has come."""
        fresh = keys.rotate(self.folder, NOW, 5.0)
        self.assertEqual(self.published(), [fresh.kid, self.first.kid])
        found = keys.load(self.folder)
        self.assertEqual([key.kid for key in found], [fresh.kid, self.first.kid])
        self.assertEqual(keys.signing(found, NOW + 5 * SECOND - 1).kid, self.first.kid)
        self.assertEqual(keys.signing(found, NOW + 5 * SECOND).kid, fresh.kid)

    def test_prune(self) -> None:
        """A key goes when its last token is over: a lifetime after the next one began to sign. The newest never goes."""
        fresh = keys.rotate(self.folder, NOW, 5.0)
        self.assertEqual(keys.prune(self.folder, NOW + 904 * SECOND, 900.0), [])
        self.assertEqual([key.kid for key in keys.prune(self.folder, NOW + 905 * SECOND, 900.0)], [self.first.kid])
        self.assertEqual(self.published(), [fresh.kid])
        self.assertEqual(keys.prune(self.folder, NOW + 10**9 * SECOND, 900.0), [])

    def test_private(self) -> None:
        """Nobody else can read the files, and nothing half-written is left."""
        keys.rotate(self.folder, NOW, 5.0)
        names = sorted(path.name for path in self.folder.iterdir())
        self.assertEqual(len(names), 3, names)
        for name in names:
            self.assertEqual(stat.S_IMODE((self.folder / name).stat().st_mode), 0o600, name)

    def test_interrupted(self) -> None:
        """A rotation that ends between its steps has published a key that signs nothing; the next one clears it."""
        write = self.patch(keys, "write", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        self.assertRaises(OSError, keys.rotate, self.folder, NOW, 5.0)
        write.restore()
        self.assertEqual(len(self.published()), 2)
        self.assertEqual([key.kid for key in keys.load(self.folder)], [self.first.kid])
        fresh = keys.rotate(self.folder, NOW, 5.0)
        self.assertEqual(self.published(), [fresh.kid, self.first.kid])

    def test_no_folder(self) -> None:
        """A folder that is not there, or that holds no key, is named."""
        for path in (self.folder / "nowhere", Path(self.mktemp())):
            error = self.assertRaises(KeysError, keys.rotate, path, NOW, 5.0)
            self.assertIn(str(path), str(error))

    def test_files_that_are_refused(self) -> None:
        """A key that others can read, of another name or kind, or no key at all, is refused by its file's name."""
        pem = (self.folder / f"{self.first.kid}.pem").read_bytes()
        for name, content, mode in (
            ("open", pem, 0o644),
            ("other", pem, 0o600),
            ("junk", b"junk", 0o600),
            ("when", b"Created: soon\n" + pem.split(b"\n", 1)[1], 0o600),
        ):
            path = self.folder / f"{name}.pem"
            path.write_bytes(content)
            path.chmod(mode)
            error = self.assertRaises(KeysError, keys.load, self.folder)
            self.assertIn(str(path), str(error))
            path.unlink()


class KeyringTests(KeysTestCase):
    """The keys as a running daemon sees them, and as a running gateway does."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.now = NOW
        self.keyring = Keyring(self.folder, self.clock.seconds, lambda: self.now)
        gateway = users(KeyFile(self.folder / JWKS, self.clock.seconds), "bookd", "bookd")
        self.tokens = Tokens([gateway], lambda: self.now)

    def token(self) -> str:
        """An access token, made now."""
        return tokens.access(
            self.keyring.signing(),
            issuer="bookd",
            audience="bookd",
            subject="ada",
            roles=["customer"],
            session_id="s1",
            token_id="t1",
            now=self.now,
            lifetime=900.0,
        )

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.now += round(seconds * SECOND)

    def test_rotation_under_way(self) -> None:
        """While a key is rotated and the old one pruned, every second's tokens are believed until they expire."""
        made: list[tuple[int, str]] = []
        for second in range(2000):
            if second == 10:
                keys.rotate(self.folder, self.now, 5.0)
            if second == 1100:
                keys.prune(self.folder, self.now, 960.0)
            made.append((self.now, self.token()))
            for when, token in made[-900::100]:
                if self.now < when + 900 * SECOND:
                    self.assertIsNotNone(self.tokens.principal(f"Bearer {token}"), (second, when))
            self.later(1)
        kids = [jwt.get_unverified_header(token)["kid"] for _, token in made]
        self.assertEqual(len(set(kids)), 2)
        self.assertEqual(kids.index(kids[-1]), 15)
        self.assertEqual(len(self.keyring.all()), 1)

    def test_damage(self) -> None:
        """A folder that cannot be used leaves the keys as they were, until it can be again."""
        path = self.folder / f"{self.first.kid}.pem"
        os.rename(path, self.folder / "away")
        self.later(1)
        self.assertEqual(self.keyring.signing().kid, self.first.kid)
        fresh = keys.generate(self.now)
        keys.write(self.folder, fresh)
        self.later(1)
        self.assertEqual(self.keyring.signing().kid, fresh.kid)

    def test_a_second_at_most(self) -> None:
        """The folder is looked at once a second at most."""
        fresh = keys.rotate(self.folder, self.now - 10 * SECOND, 5.0)
        self.assertEqual(len(self.keyring.all()), 1)
        self.later(1)
        self.assertEqual([key.kid for key in self.keyring.all()], [self.first.kid, fresh.kid])
