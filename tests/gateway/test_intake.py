"""What names the intent of a write."""

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway import intake


class UUIDTests(SynchronousTestCase):
    """Message ids made of names."""

    @given(st.text())
    def test_same(self, name: str) -> None:
        """They are the UUIDs of version 5 that the standard library makes."""
        self.assertEqual(intake._uuid5(name), str(uuid5(UUID(bytes=intake._NAMESPACE), name)))
