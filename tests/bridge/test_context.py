"""Tests for `bookd.bridge.context`."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.bridge.context import Context
from bookd.contract import metadata
from bookd.errors import InvalidArgument


def admitted(named: str) -> str | None:
    """The message id of a call whose caller names it so."""
    context = Context("/kite.v1.KiteService/Fly", "gateway", {metadata.MESSAGE_ID: named}, None)
    context.admit(None)
    return context.message_id


class MessageIdTests(SynchronousTestCase):
    """The id of a message."""

    @given(st.uuids())
    def test_any_spelling(self, number: UUID) -> None:
        """However a UUID is written, it is known by its canonical text."""
        text = str(number)
        for named in (text, text.upper(), number.hex, f"{{{text}}}", number.urn):
            self.assertEqual(admitted(named), text)

    def test_none(self) -> None:
        """What is no UUID is refused, however alike."""
        text = str(UUID(int=7))
        for named in ("", "7", text[:-1], text + "0", text + "\n", text.replace("0", "g")):
            self.assertRaises(InvalidArgument, admitted, named)
