"""Tests for `bookd.contract.names`."""

from uuid import NAMESPACE_URL, RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.contract.names import following, named

UUIDS = st.uuids(version=4)


class NamesTests(SynchronousTestCase):
    """Ids that follow from something else."""

    @given(UUIDS, st.text())
    def test_named(self, namespace: UUID, name: str) -> None:
        """They are those of the standard library."""
        self.assertEqual(named(namespace, name), str(uuid5(namespace, name)))

    def test_example(self) -> None:
        """The one of RFC 9562, appendix A.4."""
        self.assertEqual(
            named(UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "www.example.com"),
            "2ed6657d-e927-568b-95e1-2665a8aea6a2",
        )
        self.assertNotEqual(named(NAMESPACE_URL, "a"), named(NAMESPACE_URL, "b"))

    @given(UUIDS, st.text())
    def test_following(self, first: UUID, name: str) -> None:
        """They are UUIDs of version 8, begin as the first does, and differ with it and with the name."""
        made = following(str(first), name)
        parsed = UUID(made)
        self.assertEqual((str(parsed), parsed.version, parsed.variant), (made, 8, RFC_4122))
        self.assertEqual(parsed.bytes[:6], first.bytes[:6])
        other = UUID(int=first.int ^ 1)
        self.assertEqual(len({made, following(str(first), name + "."), following(str(other), name)}), 3)
        self.assertEqual(following(str(first), name), made)
