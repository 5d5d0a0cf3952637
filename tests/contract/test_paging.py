"""Page sizes and tokens."""

from base64 import urlsafe_b64encode
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract import paging
from bookd.errors import InvalidArgument

elements = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=50)


class SizeTests(SynchronousTestCase):
    """AIP-158's page_size."""

    def test_bounds(self) -> None:
        """Zero is the default, too much is the most, the rest is as asked."""
        self.assertEqual([paging.size(n) for n in (0, 1, 1000, 1001, 2**31 - 1)], [50, 1, 1000, 1000, 1000])

    def test_negative(self) -> None:
        """A negative size is refused by name."""
        error = self.assertRaises(InvalidArgument, paging.size, -1)
        self.assertEqual(error.violations[0].field, "page_size")


class TokenTests(SynchronousTestCase):
    """What encode makes, and what decode takes."""

    @given(st.lists(elements, max_size=5), st.text(max_size=50))
    def test_round_trip(self, position: list[str | int], key: str) -> None:
        """A position comes back as it was, with its filter only."""
        token = paging.encode(position, key)
        self.assertEqual(paging.decode(token, key), position)
        self.assertRaises(InvalidArgument, paging.decode, token, key + "x")

    def test_first_page(self) -> None:
        """No token is the first page."""
        self.assertIsNone(paging.decode("", "q"))

    def test_fits_into_a_url(self) -> None:
        """A token needs no escaping."""
        self.assertRegex(paging.encode(["ÿ?&/ +", 7], "q"), r"^[A-Za-z0-9_-]+$")

    @given(st.text(min_size=1, max_size=80))
    def test_garbage(self, token: str) -> None:
        """Whatever was not made here is refused, never an error of another kind."""
        error = self.assertRaises(InvalidArgument, paging.decode, token, "q")
        self.assertEqual(error.violations[0].field, "page_token")

    def test_forged(self) -> None:
        """A position of another shape, or with what no column holds, is refused before it reaches a statement."""
        digest = sha256(b"q").digest()[:16]
        for body in (
            b"[1]",
            b'["a",1]',
            b"[true,1]",
            b"[1.5,1]",
            b"[null,1]",
            b"{}",
            b"[9223372036854775808,1]",
            b"[1,1,1]",
        ):
            token = urlsafe_b64encode(digest + body).decode().rstrip("=")
            self.assertRaises(InvalidArgument, paging.decode, token, "q", int, int)

    def test_huge(self) -> None:
        """A token longer than any position is refused unread."""
        self.assertRaises(InvalidArgument, paging.decode, "A" * 100_000, "q")
