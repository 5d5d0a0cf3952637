"""The cipher that seals what is kept, and its keys in their folder."""

import os
from base64 import b64encode
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.mom import seals
from bookd.mom.seals import Broken, SealsError
from tests.mom.room import NOW, SECOND


class CipherTests(SynchronousTestCase):
    """A box: closed with a key, and bound to something."""

    def test_published_vectors(self) -> None:
        """The boxes are those that the specification of XAES-256-GCM has as examples."""
        nonce, text = b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM"
        for key, bound, box in (
            (b"\1" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (b"\3" * 32, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
        ):
            closed = seals.close(key, text, bound, nonce)
            self.assertEqual(closed, nonce + bytes.fromhex(box))
            self.assertEqual(seals.open_(key, closed, bound), text)

    @given(st.binary(max_size=200), st.binary(max_size=40), st.binary(min_size=32, max_size=32), st.data())
    def test_any_change(self, content: bytes, bound: bytes, key: bytes, data: st.DataObject) -> None:
        """What was closed opens; with any bit changed, cut off or put on, bound otherwise or by another key, it does not."""
        box = seals.close(key, content, bound)
        self.assertEqual(seals.open_(key, box, bound), content)
        bit = data.draw(st.integers(0, len(box) * 8 - 1))
        flipped = bytearray(box)
        flipped[bit // 8] ^= 1 << bit % 8
        cut = data.draw(st.integers(0, len(box) - 1))
        other = bytes((key[0] ^ 1,)) + key[1:]
        for wrong in (
            (key, bytes(flipped), bound),
            (key, box[:cut], bound),
            (key, box + b"\0", bound),
            (key, box, bound + b"\0"),
            (other, box, bound),
        ):
            self.assertRaises(Broken, seals.open_, *wrong)

    def test_nonces(self) -> None:
        """The same content makes another box each time."""
        self.assertEqual(len({seals.close(bytes(32), b"same", b"") for _ in range(1000)}), 1000)


class KeysTests(SynchronousTestCase):
    """The folder of the keys."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.seal = seals.generate(NOW)

    def refused(self, *words: str) -> None:
        """The folder cannot be used, and one line says why."""
        error = self.assertRaises(SealsError, seals.load, self.folder)
        self.assertNotIn("\n", str(error))
        for word in words:
            self.assertIn(word, str(error))

    def test_written_and_read(self) -> None:
        """A key comes back as it was, is nobody else's to read, and is not told by its repr."""
        path = seals.write(self.folder, self.seal)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(seals.load(self.folder), {self.seal.key_id: self.seal})
        self.assertNotIn(repr(self.seal.key), repr(self.seal))
        self.assertEqual(list(self.folder.iterdir()), [path])
        self.assertRaises(FileExistsError, seals.write, self.folder, self.seal)

    def test_rotate(self) -> None:
        """A new key seals from its time on."""
        seals.write(self.folder, self.seal)
        fresh = seals.rotate(self.folder, NOW, 5.0)
        found = seals.load(self.folder)
        self.assertEqual(seals.sealing(found, NOW + 4 * SECOND), self.seal)
        self.assertEqual(seals.sealing(found, NOW + 5 * SECOND), fresh)
        self.assertEqual(seals.sealing(found, 0), self.seal)

    def test_no_keys(self) -> None:
        """A folder without keys, and none at all, say how to make one."""
        self.refused(str(self.folder), "bookd init")
        self.folder.rmdir()
        self.refused(str(self.folder), "bookd init")

    def test_bad_files(self) -> None:
        """A file that others may read, of another length, another name, or of junk is refused by its name."""
        path = seals.write(self.folder, self.seal)
        good = path.read_bytes()
        path.chmod(0o640)
        self.refused(path.name, "0640", "chmod 600")
        path.chmod(0o600)
        first = good.split(b"\n")[0]
        for content, word in (
            (b"", "no sealing key"),
            (os.urandom(100), "no sealing key"),
            (good[: len(good) // 2], "no sealing key"),
            (first + b"\n" + b64encode(bytes(16)) + b"\n", "16 bytes"),
            (first + b"\n" + b64encode(bytes(33)) + b"\n", "33 bytes"),
            (first + b"\n" + b64encode(bytes(32)) + b"\n", "should be called"),
            (good.replace(b"from: 2", b"from: x"), "no sealing key"),
        ):
            path.write_bytes(content)
            self.refused(path.name, word)
        path.unlink()
        path.mkdir()
        self.refused(path.name)
