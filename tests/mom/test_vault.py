"""What is kept is sealed, opens for whom it is meant, and stays where it cannot be opened."""

from pathlib import Path
from typing import Any

from sqlalchemy import select, text, update
from twisted.internet.task import Clock

from bookd.errors import InvalidArgument, Unavailable
from bookd.mom import forgetting, journal, operations, overview, seals, settling, store, vault
from bookd.mom.journal import Fact, Filter
from bookd.mom.machine import Event, MessageState
from bookd.mom.schema import messages
from bookd.mom.spool import Spool
from bookd.mom.upkeep import SOON, Retention, Upkeep
from bookd.mom.vault import Vault, guarded
from bookd.testing.desk import ImmediateDesk
from tests.mom.room import (
    DAY,
    DEAD,
    DESTINATION,
    NOW,
    POLICY,
    SECOND,
    StoreTestCase,
    done,
    draft,
    number_id,
    post,
    receipt,
)

SECRET = b"correct horse battery staple"


class VaultCase(StoreTestCase):
    """A database with a vault."""

    def setUp(self) -> None:
        super().setUp()
        self.plain = self.engine
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.first = seals.generate(NOW)
        self.file = seals.write(self.folder, self.first)
        self.clock = Clock()
        self.guard()

    def guard(self) -> None:
        """Open the folder as a start of the MOM does."""
        self.engine = guarded(self.plain, Vault(self.folder, self.clock.seconds, self.now))

    def now(self) -> int:
        """The time that goes with the clock."""
        return NOW + round(self.clock.seconds() * SECOND)

    def row(self, number: int) -> Any:
        """What is written of a message."""
        with self.plain.connect() as connection:
            return connection.execute(select(messages).where(messages.c.message_id == number_id(number))).one()

    def change(self, number: int, **values: Any) -> None:
        """Write into a row as somebody does who has the database."""
        with self.plain.begin() as connection:
            connection.execute(update(messages).where(messages.c.message_id == number_id(number)).values(values))

    def dump(self) -> bytes:
        """All that is in the database."""
        with self.plain.connect() as connection:
            tables = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
            rows = [tuple(row) for name in tables for row in connection.execute(text(f"SELECT * FROM {name}"))]
        return b"\n".join(each if isinstance(each, bytes) else str(each).encode() for row in rows for each in row)


class SealedTests(VaultCase):
    """What is written, and what comes back."""

    def test_nothing_is_plain(self) -> None:
        """Neither request, principal, metadata nor fingerprint are in the database, nor are outcomes and events; and all of
        it comes back."""
        secret = {"request": SECRET + b"1", "principal": SECRET + b"2", "metadata": {"m": SECRET.decode()}}
        kept = self.keep(1, fingerprint=b"f" * 32, **secret)
        self.assertEqual(self.found(number_id(1)), kept)
        self.assertEqual(self.do(store.ready, DESTINATION, NOW, 1).messages, [kept])
        self.assertEqual(self.do(overview.page, None, None, None, 9)[0], [kept])
        self.do(settling.finish, kept.seq, operations.succeeded(SECRET), NOW)
        self.assertEqual(self.found(number_id(1)).response, SECRET)
        fact = Fact("s", "e", "t", "u", SECRET)
        self.do(journal.publish, [fact], lambda fact, seq: [], None, NOW)
        self.assertEqual([each.event for each in self.do(journal.page, 0, Filter(), 9).records], [SECRET])
        dumped = self.dump()
        self.assertNotIn(SECRET, dumped)
        self.assertNotIn(b"f" * 32, dumped)

    def test_the_life_of_a_message(self) -> None:
        """A letter that died, came back and succeeded is counted right, and so is the one behind it."""
        kept = self.keep(1)
        following = self.keep(2)
        self.assertEqual(self.do(settling.finish, kept.seq, DEAD, NOW), following)
        self.assertEqual(self.found(number_id(1)).status, DEAD.status)
        self.do(settling.revive, number_id(1), NOW + DAY, NOW)
        self.assertIsNone(self.row(1).outcome_key_id)
        self.do(settling.finish, kept.seq, done(), NOW)
        self.do(settling.finish, following.seq, done(), NOW)
        self.assertEqual(self.do(overview.queue, DESTINATION).bytes, 0)
        self.do(forgetting.forget, number_id(1))

    def test_same_id(self) -> None:
        """An id that is known answers for the same request, and refuses another."""
        kept = self.keep(1)
        self.assertEqual(self.do(store.keep, draft(1), NOW), (kept, False))
        self.assertRaises(InvalidArgument, self.do, store.keep, draft(1, fingerprint=bytes(32)), NOW)

    def test_rotated(self) -> None:
        """A key that is laid into the folder seals from its time on, while the MOM runs; the old one opens what it sealed."""
        self.keep(1)
        fresh = seals.rotate(self.folder, self.now(), 5.0)
        self.clock.advance(4.9)
        self.keep(2)
        self.clock.advance(1.1)
        self.keep(3)
        ids = [self.row(number).key_id for number in (1, 2, 3)]
        self.assertEqual(ids, [self.first.key_id, self.first.key_id, fresh.key_id])
        self.do(settling.finish, self.found(number_id(1)).seq, done(), NOW)
        self.assertEqual(self.row(1).outcome_key_id, fresh.key_id)
        self.guard()
        self.assertEqual([self.found(number_id(number)).fault for number in (1, 2, 3)], ["", "", ""])
        self.assertEqual(self.do(vault.count, self.first.key_id), 2)
        self.assertEqual(self.do(vault.count, fresh.key_id), 2)

    def test_folder_in_trouble(self) -> None:
        """A folder that cannot be used while the MOM runs leaves it the keys that it had."""
        self.file.write_bytes(b"junk")
        self.clock.advance(2)
        self.assertEqual(self.found(self.keep(1).message_id).fault, "")

    def test_plain_before(self) -> None:
        """What was kept before there were keys opens; an upkeep seals it, once, and the counts hold."""
        sealed, self.engine = self.engine, self.plain
        kept = [self.keep(number, request=SECRET) for number in range(5)]
        self.engine = sealed
        self.keep(9)
        self.assertEqual([self.found(number_id(number)) for number in range(5)], kept)
        upto: int | None = 0
        while upto is not None:
            upto = self.do(vault.seal_plain, upto, 2)
        self.assertEqual({self.row(number).key_id for number in range(5)}, {self.first.key_id})
        self.assertNotIn(SECRET, self.dump())
        self.assertEqual([self.found(number_id(number)) for number in range(5)], kept)
        for each in kept:
            self.do(settling.finish, each.seq, done(), NOW)
        self.assertEqual(self.do(overview.queue, DESTINATION).bytes, len(self.row(9).request))

    def test_upkeep(self) -> None:
        """The upkeep of a MOM that was given keys seals what is there, in batches, while messages come and go, and then
        rests."""
        sealed, self.engine = self.engine, self.plain
        kept = [self.keep(number, f"lane{number}", request=SECRET) for number in range(250)]
        self.engine = sealed
        self.clock.advance(NOW / 1e6)
        spool = Spool(ImmediateDesk(self.engine), lambda: NOW)
        upkeep = Upkeep(self.clock, spool, post(), POLICY, Retention(DAY, DAY, DAY))
        upkeep.startService()
        self.assertEqual([self.row(number).key_id is None for number in (0, 249)], [False, True])
        self.do(settling.finish, kept[249].seq, done(), NOW)
        for _ in range(3):
            self.clock.advance(SOON)
        self.assertEqual({self.row(number).key_id for number in range(250)}, {self.first.key_id})
        self.assertNotIn(SECRET, self.dump())
        self.assertEqual(self.found(number_id(249)).response, done().response)
        (rest,) = self.clock.getDelayedCalls()
        self.assertGreater(rest.getTime(), self.clock.seconds() + 1)
        upkeep.stopService()


class AttackTests(VaultCase):
    """Somebody writes into the database, or loses a key: nothing false is told, and nothing is lost."""

    def broken(self, number: int, *words: str) -> None:
        """A message cannot be opened, says why, and tells nothing of itself."""
        with self.engine.connect() as connection:
            known = store.find(connection, number_id(number))
        assert known is not None
        for word in (known.message_id, *words):
            self.assertIn(word, known.fault)
        self.assertNotIn("\n", known.fault)
        self.assertEqual((known.request, known.principal, known.metadata, known.response), (b"", b"", {}, None))

    def test_missing_key(self) -> None:
        """Without its key a message names key and file, stays, holds up no other lane, and opens when the key is back."""
        kept = self.keep(1)
        seals.rotate(self.folder, NOW, 0)
        aside = self.file.rename(self.folder / "aside")
        self.guard()
        self.broken(1, self.first.key_id, str(self.file), "is not there")
        self.keep(2, "other")
        self.assertEqual(self.heads(), [number_id(1), number_id(2)])
        self.assertRaises(Unavailable, self.do, store.keep, draft(1), NOW)
        self.assertRaises(Unavailable, operations.answer, post(), self.found(number_id(1)))
        aside.rename(self.file)
        self.clock.advance(1)
        self.assertEqual(self.found(number_id(1)), kept)

    def test_outcome_without_key(self) -> None:
        """An outcome that cannot be opened is not told as done, nor as empty."""
        kept = self.keep(1)
        self.do(settling.finish, kept.seq, done("fine"), NOW)
        seals.rotate(self.folder, NOW, 0)
        self.file.unlink()
        self.guard()
        known = self.found(number_id(1))
        self.assertEqual(known.state, MessageState.SUCCEEDED)
        self.assertFalse(operations.operation(post(), known).done)
        self.assertRaises(Unavailable, operations.answer, post(), known)

    def test_no_vault(self) -> None:
        """A MOM that is not told of keys opens nothing, and says so."""
        self.keep(1)
        self.engine = self.plain
        self.broken(1, self.first.key_id, "sealing_keys")

    def test_boxes_of_others(self) -> None:
        """A box in another row, or beside another method, lane, destination, subject or taker of the reply, does not open."""
        self.keep(1)
        self.keep(2, "other")
        box = self.row(1).request
        self.change(2, request=box)
        self.broken(2, self.first.key_id)
        for column in ("method", "lane", "destination", "subject", "reply_to"):
            before = self.row(1)._mapping[column]
            self.change(1, **{column: "another"})
            self.broken(1, self.first.key_id)
            self.change(1, **{column: before})
        self.assertEqual(self.found(number_id(1)).fault, "")

    def test_outcomes_of_others(self) -> None:
        """A response in another row, in the place of a status, or a request in its place, does not open."""
        first, second = self.keep(1), self.keep(2, "other")
        for kept in (first, second):
            self.do(settling.finish, kept.seq, operations.succeeded(receipt("fine")), NOW)
        good = self.row(1)
        for box in (self.row(2).response, good.request, good.response[:-1], b""):
            self.change(1, response=box)
            self.broken(1, self.first.key_id)
        self.change(1, state=3, response=None, status=good.response)
        self.broken(1, self.first.key_id)

    def test_changed(self) -> None:
        """A box that was cut, prolonged or replaced, or that another key is said to have sealed, does not open."""
        self.keep(1)
        box = self.row(1).request
        for wrong in (b"", box[:10], box[:-1], box + b"\0", bytes(len(box))):
            self.change(1, request=wrong)
            self.broken(1, self.first.key_id)
        self.change(1, request=box, key_id="0" * 16)
        self.broken(1, "0" * 16, "is not there")

    def test_events_of_others(self) -> None:
        """An event in the place of another is not told, and nobody is led past it."""
        facts = [Fact("s", str(number), "t", "u", SECRET) for number in (1, 2)]
        self.do(journal.publish, facts, lambda fact, seq: [], None, NOW)
        with self.plain.begin() as connection:
            connection.execute(text("UPDATE events SET event = (SELECT event FROM events WHERE seq = 1) WHERE seq = 2"))
        self.assertRaises(Unavailable, self.do, journal.page, 0, Filter(), 9)
        self.assertEqual(len(self.do(journal.page, 0, Filter(), 1).records), 1)

    def test_given_up(self) -> None:
        """A message that cannot be opened becomes a dead letter in the end; with its key it can be retried."""
        kept = self.keep(1)
        seals.rotate(self.folder, NOW, 0)
        aside = self.file.rename(self.folder / "aside")
        self.guard()
        self.do(settling.finish, kept.seq, DEAD, NOW)
        self.do(settling.revive, number_id(1), NOW + DAY, NOW)
        aside.rename(self.file)
        self.clock.advance(1)
        self.assertEqual(self.found(number_id(1)).request, kept.request)
        self.do(settling.postpone, kept.seq, Event.POSTPONED, NOW + SECOND, "later", NOW)
