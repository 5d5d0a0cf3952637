"""The schedule of the nemesis, and what clients remember of a run."""

from collections import Counter
from io import StringIO
from itertools import combinations
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from bookd.gateway import intake
from tests.chaos import client
from tests.chaos.history import History, load
from tests.chaos.nemesis import KINDS, schedule


class ScheduleTests(SynchronousTestCase):
    """What follows from a seed."""

    @given(st.integers(0, 2**32))
    def test_two_minutes(self, seed: int) -> None:
        """In two minutes each kind of fault strikes at least twice, the same targets for the same seed."""
        strikes = schedule(seed, 120)
        self.assertEqual(strikes, schedule(seed, 120))
        self.assertGreaterEqual(min(Counter(strike.kind for strike in strikes).values()), 2)
        self.assertEqual({strike.kind for strike in strikes}, set(KINDS))

    @given(st.integers(0, 2**32), st.floats(5, 200))
    def test_one_fault_at_a_time(self, seed: int, seconds: float) -> None:
        """No target suffers two faults at once, and all are over in time."""
        strikes = schedule(seed, seconds)
        self.assertTrue(all(strike.end <= seconds for strike in strikes))
        for one, other in combinations(strikes, 2):
            if one.target == other.target:
                self.assertTrue(one.end < other.begin or other.end < one.begin, (one, other))

    def test_some_kinds(self) -> None:
        """A run may have some kinds of fault only."""
        self.assertEqual({strike.kind for strike in schedule(1, 60, ["kill", "cut"])}, {"kill", "cut"})


class HistoryTests(SynchronousTestCase):
    """What is written can be read."""

    def test_round_trip(self) -> None:
        """Operations come back as they were, with their ends, and notes beside them; a line that was cut off is left out."""
        file, now = StringIO(), iter(range(100))
        history = History(file, lambda: float(next(now)))
        ok, kept, refused, unknown = (history.invoke("kind", "lane", str(number), n=number) for number in range(4))
        history.accept(kept, "operations/1")
        history.note("fault", kind="kill")
        history.ok(ok, version=1)
        history.ok(kept, version=2)
        history.refused(refused, 409, "TAKEN")
        path = Path(self.mktemp())
        path.write_text(file.getvalue() + '{"time": 1')
        operations, notes = load(path)
        for written, read in zip((ok, kept, refused, unknown), operations, strict=True):
            for name in ("kind", "lane", "invoked", "accepted", "ended", "outcome", "name", "result", "arguments"):
                self.assertEqual(getattr(written, name), getattr(read, name))
        self.assertEqual([note["event"] for note in notes], ["fault"])
        self.assertEqual((kept.accepted, kept.ended, ok.accepted), (4.0, 7.0, 6.0))


class MessageIdTests(SynchronousTestCase):
    """What clients know of the gateway."""

    def test_namespace(self) -> None:
        """The checker finds messages by the ids that the gateway makes of keys."""
        self.assertEqual(client.NAMESPACE, intake._NAMESPACE)
