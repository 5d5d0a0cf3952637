"""What is done to a suite, and when: a schedule that follows from a seed alone.

Each kind of fault has its turn in each round, in a shuffled order, and goes through its targets in a shuffled order too.
Faults overlap, but no target suffers two at once: a daemon that is killed is not frozen too. What a fault is, is known to
the theatre (`tests.chaos.theatre`); here it is a name.
"""

from collections.abc import Mapping, Sequence
from random import Random

from attrs import frozen

DAEMONS = ("gateway", "mom", "inventory", "orders", "users")
STORES = ("mom", "inventory", "orders", "users")
# Links by their ends: who connects, and to whom.
LINKS = (
    "gateway-mom",
    "mom-inventory",
    "mom-orders",
    "mom-users",
    "inventory-mom",
    "orders-mom",
    "users-mom",
)

# For each kind of fault what it may strike, and how long it may last, in seconds.
KINDS: Mapping[str, tuple[Sequence[str], float, float]] = {
    "kill": (DAEMONS, 0.0, 3.0),  # SIGKILL, and a new start afterwards
    "freeze": (DAEMONS, 0.3, 4.0),  # SIGSTOP, and SIGCONT
    "stop": (DAEMONS, 0.5, 3.0),  # SIGTERM, and a new start
    "restart": (DAEMONS, 0.0, 0.0),  # the same at once
    "cut": (LINKS, 0.2, 3.0),  # connections break
    "silence": (LINKS, 0.5, 4.0),  # nothing comes through
    "slow": (LINKS, 1.0, 4.0),  # everything comes late
    "full": (STORES, 0.5, 3.0),  # no space left on the device
    "fsync": (STORES, 0.5, 3.0),  # fsync fails with EIO
    "clock": (STORES, 1.0, 4.0),  # the wall clock jumps forward or back by an hour, and back again
}
# Seconds between the beginnings of two faults, on average.
PACE = 2.2


@frozen
class Strike:
    """One fault: from `begin` on, for `lasts` seconds. `number` is there for chance that the fault needs itself."""

    begin: float
    kind: str
    target: str
    lasts: float
    number: int

    @property
    def end(self) -> float:
        """When it is over."""
        return self.begin + self.lasts

    @property
    def touches(self) -> frozenset[str]:
        """What must not suffer anything else meanwhile."""
        return frozenset({self.target})


def schedule(seed: int, seconds: float, kinds: Sequence[str] = tuple(KINDS), pace: float = PACE) -> list[Strike]:
    """The strikes of a run whose clients work for `seconds`, the first one first; all of them end by then."""
    chance = Random(seed)
    order = [kind for kind in KINDS if kind in kinds]
    bags: dict[str, list[str]] = {kind: [] for kind in order}
    strikes: list[Strike] = []
    busy: dict[str, float] = {}
    time = min(1.0, seconds / 10)
    while order:
        chance.shuffle(order)
        for kind in order:
            targets, least, most = KINDS[kind]
            lasts = round(chance.uniform(least, most), 3)
            begin = round(time, 3)
            if begin + lasts > seconds:
                return strikes
            if not bags[kind]:
                bags[kind] = list(targets)
                chance.shuffle(bags[kind])
            free = [target for target in bags[kind] if busy.get(target, 0.0) <= begin]
            if free:
                target = free[0]
                bags[kind].remove(target)
                # A daemon needs a moment to come back before the next thing happens to it.
                busy[target] = begin + lasts + 0.5
                strikes.append(Strike(begin, kind, target, lasts, chance.randrange(2**32)))
            time += chance.uniform(0.5, 1.5) * pace
    return strikes
