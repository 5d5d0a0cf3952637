"""What a daemon tells of itself in numbers, for Prometheus and whoever reads its format.

One `Metrics` is the registry of one daemon. What is counted is counted where it happens, in memory, without a lock that
anybody waits for. What is cheaper to look up (the end of a certificate, the depth of a queue) is looked up when somebody
asks for the numbers: `gauge` takes a function, and `before` a look that takes a while. A look that fails leaves its numbers
as they were, and a number in `bookd_looks_failed_total`.

Labels come from the contract and from the configuration, never from what clients send: however hostile they are, there are
no more series than there are methods, codes and files.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from bookd import pki

# Upper bounds of what a request takes, in seconds: a read is served in 1 ms or so, and after 10 s nobody waits.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# Series that one count may have; what would be another is counted as "other". There are not so many methods and codes.
MOST_SERIES = 5000
OTHER = "other"


class Count(Protocol):
    """Notes a request: how many seconds it took, what it ended with, and what it was."""

    def __call__(self, seconds: float, code: str, *what: str) -> None: ...


def uncounted(seconds: float, code: str, *what: str) -> None:
    """Notes nothing, for whoever tells no numbers."""


class Requests:
    """Counts requests by what they were and what they ended with, and how long they took by what they were. The children of
    both are remembered: looking them up costs more than counting does."""

    def __init__(self, counter: Counter, histogram: Histogram) -> None:
        self._counter = counter
        self._histogram = histogram
        self._known: dict[tuple[str, ...], tuple[Callable[[], Any], Callable[[float], Any]]] = {}

    def __call__(self, seconds: float, code: str, *what: str) -> None:
        """Note a request."""
        found = self._known.get((code, *what)) or self._first(code, what)
        found[0]()
        found[1](seconds)

    def _first(self, code: str, what: tuple[str, ...]) -> tuple[Callable[[], Any], Callable[[float], Any]]:
        if len(self._known) >= MOST_SERIES:
            code, what = OTHER, (OTHER,) * len(what)
        made = self._counter.labels(*what, code).inc, self._histogram.labels(*what).observe
        self._known[code, *what] = made
        return made


@frozen
class _Look:
    name: str
    run: Callable[[], Coroutine[Any, Any, None]]


class Metrics:
    """The numbers of one daemon."""

    log = Logger()

    def __init__(self, daemon: str) -> None:
        disable_created_metrics()  # a series more for each, of which process_start_time_seconds tells enough
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.gauge("bookd_daemon", "Which daemon this is.", ("daemon",)).labels(daemon).set(1)
        self._failed = Counter("bookd_looks_failed", "Looks for numbers that failed.", ["look"], registry=self.registry)
        self._looks: list[_Look] = []

    def requests(self, of: str, what: Sequence[str]) -> Requests:
        """Counts of requests of a kind ("grpc"); `what` are the labels that tell what a request was."""
        name = f"bookd_{of}_request"
        counter = Counter(f"{name}s", "Requests that have ended.", [*what, "code"], registry=self.registry)
        histogram = Histogram(
            f"{name}_seconds", "How long requests took.", what, buckets=BUCKETS, registry=self.registry
        )
        return Requests(counter, histogram)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        """A number that goes up and down; `text` says what it is."""
        return Gauge(name, text, labels, registry=self.registry)

    def certificates(self, home: Path, names: Sequence[str]) -> None:
        """Tell when certificates end; `names` are files, relative to `home`. The end of one that cannot be read is 0, long
        ago, so that whoever watches for an end hears of it too."""
        ends = self.gauge(
            "bookd_certificate_ends_timestamp_seconds", "When the certificate in a file ends; 0: unreadable.", ("file",)
        )
        for name in names:
            ends.labels(name).set_function(partial(_end, home / name))

    def before(self, name: str, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `look` each time before the numbers are told, to set gauges; `name` is for the log."""
        self._looks.append(_Look(name, look))

    async def look(self, clock: Any, patience: float) -> None:
        """Run all looks, one after the other, each for `patience` seconds at most."""
        for each in self._looks:
            try:
                await Deferred.fromCoroutine(each.run()).addTimeout(patience, clock)
            except CancelledError:
                raise
            except Exception as error:
                self._failed.labels(each.name).inc()
                why = str(error) or type(error).__name__
                self.log.warn("the metrics of {name} stay as they were: {why}", name=each.name, why=why)


def _end(path: Path) -> float:
    try:
        return pki.ends(path.read_bytes()).timestamp()
    except (OSError, ValueError):
        return 0.0
