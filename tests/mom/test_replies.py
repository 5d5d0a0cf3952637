"""Tests for `bookd.mom.replies`: what the sender of a kept call is told, and in which lane that goes."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bookd.errors import InvalidArgument
from bookd.mom.machine import Policy
from bookd.mom.records import Draft, Outcome
from bookd.mom.replies import enclosed, lane_of, reply, require_taker
from bookd.wire.mom.v1 import message_pb2
from tests.mom.room import (
    CHAT,
    COLLECT,
    DAY,
    DEAD,
    FOLLOW,
    LOOK,
    NOW,
    OTHER,
    POLICY,
    SEND,
    STORE,
    TAKE,
    StoreTestCase,
    done,
    number_id,
    post,
    receipt,
)


class TakerTests(StoreTestCase):
    """Methods that take replies."""

    def test_takes(self) -> None:
        """A deferrable unary method whose request has an Outcome for field 1."""
        self.assertEqual(require_taker(post(), TAKE).path, TAKE)

    def test_takes_none(self) -> None:
        """Any other path is refused, by the name of the metadata that named it."""
        for path in (SEND, LOOK, FOLLOW, COLLECT, CHAT, STORE, "", "/", TAKE[1:], "/no.such.Service/Do"):
            with self.assertRaises(InvalidArgument) as caught:
                require_taker(post(), path)
            self.assertEqual([each.field for each in caught.exception.violations], ["bookd-reply-to"])


class LaneTests(StoreTestCase):
    """Lanes."""

    def lane(self, box: str, path: str = SEND) -> str:
        """The lane of a letter."""
        method = post().methods[path]
        return lane_of(method, None, method.request(box=box), number_id(7))

    def test_lane(self) -> None:
        """The ordering key names the lane; a call without one has a lane of its own; a long key has a short name, always
        the same and its own."""
        self.assertEqual(self.lane("x"), "x")
        self.assertEqual(self.lane("x", STORE), number_id(7))
        long, other = self.lane("x" * 201), self.lane("x" * 202)
        self.assertEqual((len(long), long), (36, self.lane("x" * 201)))
        self.assertNotEqual(long, other)


class ReplyTests(StoreTestCase):
    """Replies."""

    def told(self, outcome: Outcome, number: int = 1, policy: Policy = POLICY) -> Draft:
        """The reply to a message that ended so."""
        kept = self.found(number_id(number)) if number in self.there else self.keep(number, reply_to=TAKE)
        self.there.add(number)
        made = reply(post(), policy, kept, outcome, NOW + 5)
        assert made is not None
        return made

    def setUp(self) -> None:
        """Nothing is there."""
        super().setUp()
        self.there: set[int] = set()

    def test_success(self) -> None:
        """It holds the response, and what belongs to the call it answers; nobody asks for it, and nobody is told of it."""
        made = self.told(done("fine"))
        taken: Any = post().methods[TAKE].request.FromString(made.request)
        outcome = taken.outcome
        self.assertEqual((outcome.message_id, outcome.method, outcome.status.code), (number_id(1), SEND, 0))
        self.assertEqual(outcome.response, receipt("fine"))
        self.assertEqual((made.destination, made.method, made.lane), (OTHER, TAKE, number_id(1)))
        self.assertEqual((made.principal, made.subject, made.reply_to), (b"", "", None))
        self.assertEqual((dict(made.metadata), made.expire_at), ({"bookd-request-id": "r1"}, NOW + 5 + DAY))

    def test_error(self) -> None:
        """It holds the status."""
        taken: Any = post().methods[TAKE].request.FromString(self.told(DEAD).request)
        outcome = taken.outcome
        self.assertEqual((outcome.status.code, outcome.status.message, outcome.response), (13, "broken", b""))

    def test_id(self) -> None:
        """The same outcome of the same message is the same reply, whenever it is made; another outcome, or message, is
        another one."""
        first = self.told(DEAD)
        self.assertEqual(first.message_id, self.told(DEAD).message_id)
        self.assertEqual(len({first.message_id, self.told(done()).message_id, self.told(DEAD, 2).message_id}), 3)

    def test_nobody(self) -> None:
        """Who asked for none gets none, and neither does a method that takes none any more."""
        self.assertIsNone(reply(post(), POLICY, self.keep(1), done(), NOW))
        self.assertIsNone(reply(post(), POLICY, self.keep(2, reply_to=LOOK), done(), NOW))


class EnclosedTests(StoreTestCase):
    """A message in another one's field 1."""

    @given(st.binary(max_size=300), st.text(max_size=50))
    def test_as_the_wire_has_it(self, response: bytes, message_id: str) -> None:
        """Whatever it holds, and however long it is, it is read back as it was."""
        outcome = message_pb2.Outcome(message_id=message_id, response=response)
        packed = enclosed(post().methods[TAKE], outcome)
        self.assertEqual(packed.outcome.SerializeToString(), outcome.SerializeToString())  # type: ignore[attr-defined]

    def test_large(self) -> None:
        """A megabyte too."""
        outcome = message_pb2.Outcome(response=b"x" * (1 << 20))
        self.assertEqual(enclosed(post().methods[TAKE], outcome).outcome.response, outcome.response)  # type: ignore[attr-defined]
