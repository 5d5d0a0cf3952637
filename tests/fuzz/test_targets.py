"""The fuzzing targets in short: with their seeds, with all that once made one fail, and with inputs that are near to those."""

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import targets
from tests.fuzz.targets import TARGETS

MANY = 5000


def changed(kept: list[bytes], chance: Random) -> bytes:
    """An input made of kept ones: bytes changed, taken out, put in, repeated, or the half of another put behind."""
    data = bytearray(chance.choice(kept))
    for _ in range(chance.randrange(1, 5)):
        place, size = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 16))
        match chance.randrange(5):
            case 0:
                data[place : place + size] = chance.randbytes(size)
            case 1:
                del data[place : place + size]
            case 2:
                data[place:place] = chance.choice(
                    (b'"', b"{", b"%", b"\\", b",", b"\n", b"\x00", b"\xff", b"9" * 20, b"/*")
                )
            case 3:
                data[place:place] = data[place : place + size] * chance.randrange(1, 50)
            case _:
                other = chance.choice(kept)
                data[place:] = other[chance.randrange(len(other) + 1) :]
    return bytes(data)


class TargetsTests(SynchronousTestCase):
    """Each target."""

    def test_kept(self) -> None:
        """What is kept does no harm."""
        for name in TARGETS:
            self.assertGreater(len(targets.kept(name)), 3, name)
            for data in targets.kept(name):
                self.check(name, data)

    def test_changed(self) -> None:
        """Neither does what is near to it."""
        chance = Random(4)
        for name in TARGETS:
            kept = targets.kept(name)
            for _ in range(MANY):
                self.check(name, changed(kept, chance))

    def check(self, name: str, data: bytes) -> None:
        """Run a target on an input; a failure names both."""
        try:
            TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name} fails on {data!r}: {error!r}") from error
