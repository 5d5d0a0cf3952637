"""Orders, inventory and MOM as they are, in one process, on a clock that is pushed, with a bad network between them.

The parts are the real ones: servicers, relays, router, lanes, couriers, breaker, broker, stores. Played are the desk, the
channels and the probes. A call can be lost on its way there or back, come twice, come late, after its caller has given up
or died; a process can be killed at any time, in the middle of a call, or just before or after its next commit. What is
on its disk stays, nothing else does.
"""

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Engine
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from bookd.bridge.context import Context
from bookd.bridge.relay import Relay, nothing_follows
from bookd.contract import descriptors, metadata
from bookd.contract.descriptors import Contract
from bookd.errors import BookdError, DeadlineExceeded, Internal, Unavailable
from bookd.inventory.servicer import InventoryServicer
from bookd.mom.breaker import Breaker
from bookd.mom.broker import Broker
from bookd.mom.courier import Courier
from bookd.mom.destination import Destination
from bookd.mom.event_servicer import EventServicer
from bookd.mom.lanes import Lanes
from bookd.mom.machine import MICROSECONDS, Policy
from bookd.mom.router import Router
from bookd.mom.spool import Spool
from bookd.mom.upkeep import Retention, Upkeep
from bookd.orders import saga
from bookd.orders.news import News
from bookd.orders.servicer import OrdersServicer
from bookd.testing.desk import ImmediateDesk
from bookd.wire.inventory.v1 import inventory_pb2
from bookd.wire.mom.v1 import events_pb2
from bookd.wire.orders.v1 import orders_pb2
from bookd.wire.policy.v1 import policy_pb2

START = 1_700_000_000_000_000
DAY = 86_400 * MICROSECONDS
# Attempts enough for any storm: what becomes of poison is tested elsewhere.
POLICY = Policy(max_attempts=1000, initial_backoff=MICROSECONDS // 10, max_backoff=MICROSECONDS, expire_after=30 * DAY)
SERVICES = {"orders": "bookd.orders.v1.OrdersService", "inventory": "bookd.inventory.v1.InventoryService"}
WIRE = {"bookd.orders.v1": orders_pb2, "bookd.inventory.v1": inventory_pb2, "bookd.mom.v1": events_pb2}
PROCESSES = ("orders", "inventory", "mom")
# What can happen to a call: it is answered; it, or its answer, is lost; it comes twice; it, or its answer, is late.
FATES = ("fine", "lost", "answer lost", "twice", "late", "answer late")
LATE = 7.0
PROBES = 0.2

CONTRACT: Contract = descriptors.load([descriptors.shipped()])
# A person's roles, who may do all that the story wants.
ROLES = ("customer", "staff", "admin")


class MortalDesk(ImmediateDesk):
    """The desk of one run of a process. Once that is dead, nothing is written, and nobody hears of anything."""

    def __init__(self, process: "Process") -> None:
        super().__init__(process.engine)
        self._process = process

    def write(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Commit, unless the process is to die before or after that."""
        process = self._process
        if not process.alive or process.dies == "before":
            process.kill()
            return Deferred()
        done: Deferred[Any] = super().write(work, *args, **kwargs)
        if process.dies == "after":
            process.kill()
            done.addErrback(lambda _: None)
            return Deferred()
        return done

    def read(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Read, unless the process is dead."""
        return super().read(work, *args, **kwargs) if self._process.alive else Deferred()


class Process:
    """One run of a daemon. `serve(path, request, context)` answers bytes, or raises."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.engine = world.engines[name]
        self.alive = True
        self.dies = ""  # "before" or "after" the next commit
        self.desk: Any = MortalDesk(self)
        self.serve: Callable[[str, bytes, Any], Any] = getattr(self, f"_{name}")()

    def kill(self) -> None:
        """End, without a word."""
        if self.alive:
            self.alive = False
            self.world.cut(self)

    def _servicer(self, servicer: Any) -> Callable[[str, bytes, Any], Any]:
        async def serve(path: str, packed: bytes, context: Any) -> bytes:
            descriptor = CONTRACT.methods[path].request.DESCRIPTOR
            request = getattr(WIRE[descriptor.file.package], descriptor.name).FromString(packed)
            context.describe(request)
            answer = await getattr(servicer, path.rpartition("/")[2])(request, context)
            return bytes(answer.SerializeToString())

        return serve

    def _relay(self, apply: Any, told: Any = lambda lane, applied: None) -> None:
        channel = Line(self.world, self, "mom")
        relay = Relay(
            self.world.clock, self.desk, channel, now=self.world.now, apply=apply, told=told, jitter=lambda: 1.0
        )
        self.world.clock.callLater(0, relay.startService)

    def _orders(self) -> Any:
        news = News(self.world.clock)
        self._relay(saga.apply_sent, news.tell)
        return self._servicer(
            OrdersServicer(
                self.desk,
                news=news,
                now=self.world.now,
                new_id=lambda: str(UUID(int=next(self.world.ids))),
                patience=1.2,
            )
        )

    def _inventory(self) -> Any:
        self._relay(nothing_follows)
        return self._servicer(self.world.inventory_class(self.desk, self.world.now, lambda: str(uuid4()), low=5))

    def _mom(self) -> Any:
        spool, lanes = Spool(self.desk, self.world.now), Lanes()
        destinations: dict[str, Destination] = {}
        for name, service in SERVICES.items():
            breaker = Breaker(name)
            destinations[service] = Destination(service, Line(self.world, self, name), breaker)
            courier = Courier(
                self.world.clock,
                destinations[service],
                spool,
                lanes,
                CONTRACT,
                POLICY,
                fraction=lambda: 0.5,
                concurrency=8,
                deadline=5.0,
            )
            self._probe(name, breaker)
            self.world.clock.callLater(0, courier.startService)
        upkeep = Upkeep(self.world.clock, spool, CONTRACT, POLICY, Retention(DAY, DAY, DAY))
        self.world.clock.callLater(0, upkeep.startService)
        router = Router(self.world.clock, CONTRACT, destinations, spool, lanes, POLICY, patience=5.0)
        broker = Broker(CONTRACT, spool, POLICY)
        broker.startService()
        events = self._servicer(EventServicer(self.world.clock, broker, spool))

        async def serve(path: str, packed: bytes, context: Any) -> bytes:
            if path.startswith("/bookd.mom."):
                return bytes(await events(path, packed, context))
            raw = router.lookup(path)
            assert raw is not None, path
            return bytes(await raw.behaviour(packed, context))

        return serve

    def _probe(self, name: str, breaker: Breaker) -> None:
        def look() -> None:
            if self.alive:
                if self.world.is_up(name):
                    breaker.serving()
                else:
                    breaker.down("no answer")

        def again() -> None:
            if self.alive:
                look()
                self.world.clock.callLater(PROBES, again)

        breaker.when_doubted(lambda: self.world.clock.callLater(PROBES / 4, look))
        self.world.clock.callLater(0, again)


class Line:
    """What `caller` calls the process `name` by; None calls for a client, who does not die."""

    def __init__(self, world: "World", caller: Process | None, name: str) -> None:
        self._world = world
        self._caller = caller
        self._name = name

    def unary_unary(self, path: str) -> Callable[..., Deferred[bytes]]:
        """A callable that moves bytes."""

        def call(request: bytes, timeout: float | None = None, metadata: Any = ()) -> Deferred[bytes]:
            return self._world.call(self._caller, self._name, path, request, dict(metadata), timeout)

        return call


class World:
    """The processes, their disks and the network. `engines` are the disks, `start` is the time in seconds."""

    # So that a wrong one can be put in its place.
    inventory_class = InventoryServicer

    def __init__(self, engines: dict[str, Engine], first_id: int = 1, start: float = 0) -> None:
        self.engines = engines
        self.clock = Clock()
        self.clock.advance(start)
        self.ids = count(first_id)
        self.fates: deque[str] = deque()
        self.running: dict[str, Process] = {}
        self._waiting: dict[Process, set[Callable[[], None]]] = {}
        self.clients = Line(self, None, "mom")
        for name in PROCESSES:
            self.start(name)

    def now(self) -> int:
        """Microseconds since the epoch."""
        return START + round(self.clock.seconds() * 1e6)

    def is_up(self, name: str) -> bool:
        """Whether a process runs."""
        return name in self.running and self.running[name].alive

    def start(self, name: str) -> None:
        """Start a process, unless it runs."""
        if not self.is_up(name):
            self.running[name] = Process(self, name)

    def kill(self, name: str) -> None:
        """Kill a process, if it runs."""
        if self.is_up(name):
            self.running[name].kill()

    def cut(self, process: Process) -> None:
        """Tell the callers of a process that died."""
        for hang_up in list(self._waiting.pop(process, ())):
            self.clock.callLater(0, hang_up)

    def push(self, seconds: float, step: float = 0.1) -> None:
        """Let time pass."""
        self.clock.pump([step] * max(1, round(seconds / step)))

    def call(
        self,
        caller: Process | None,
        name: str,
        path: str,
        request: bytes,
        carried: dict[str, Any],
        timeout: float | None,
    ) -> Deferred[bytes]:
        """One call, whose fate the next of `fates` is."""
        fate = self.fates.popleft() if self.fates else "fine"
        answer: Deferred[bytes] = Deferred()
        timer = None

        def settle(result: Any) -> None:
            if timer is not None and timer.active():
                timer.cancel()
            if not answer.called and (caller is None or caller.alive):
                answer.callback(result)

        if timeout is not None:
            late = Failure(DeadlineExceeded("too late"))
            timer = self.clock.callLater(max(timeout, 0.001), settle, late)
        if fate == "lost":
            self.clock.callLater(0.01, settle, Failure(Unavailable("the connection broke")))
        elif fate == "late":
            self.clock.callLater(LATE, self._arrive, name, path, request, carried, settle)
        else:
            self._arrive(name, path, request, carried, lambda result: self._back(fate, result, settle))
            if fate == "twice":
                self.clock.callLater(0.05, self._arrive, name, path, request, carried, lambda _: None)
        return answer

    def _back(self, fate: str, result: Any, settle: Callable[[Any], None]) -> None:
        if fate == "answer lost":
            result = Failure(Unavailable("the connection broke"))
        if fate == "answer late":
            self.clock.callLater(LATE, settle, result)
        else:
            settle(result)

    def _arrive(
        self, name: str, path: str, request: bytes, carried: dict[str, Any], back: Callable[[Any], None]
    ) -> None:
        if not self.is_up(name):
            self.clock.callLater(0.01, back, Failure(Unavailable("nobody there")))
            return
        process = self.running[name]
        over = []

        def hang_up() -> None:
            if not over:
                over.append(True)
                back(Failure(Unavailable("the connection broke")))

        def answered(result: Any) -> None:
            self._waiting.get(process, set()).discard(hang_up)
            if not over and process.alive:
                over.append(True)
                back(_as_told(result))

        self._waiting.setdefault(process, set()).add(hang_up)
        Deferred.fromCoroutine(process.serve(path, request, context(path, carried))).addBoth(answered)


class _NoDeadline:
    def time_remaining(self) -> None:
        """The deadline is kept by the caller."""


def context(path: str, carried: dict[str, Any]) -> Context:
    """The context of a call with this metadata."""
    made = Context(path, "peer", carried, _NoDeadline())
    made.admit(None)
    return made


def person(name: str, message_id: str) -> list[tuple[str, Any]]:
    """The metadata of a client's call."""
    principal = policy_pb2.Principal(subject=name, roles=ROLES)
    return [(metadata.MESSAGE_ID, message_id), (metadata.PRINCIPAL, principal.SerializeToString())]


def _as_told(result: Any) -> Any:
    """What a caller is told of an error that is nobody's."""
    if isinstance(result, Failure) and not isinstance(result.value, BookdError):
        return Failure(Internal(f"{result.type.__name__}: {result.value}"))
    return result
