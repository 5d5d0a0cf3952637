"""A suite of five daemons with links between them, on which the strikes of a schedule are carried out."""

import signal
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from random import Random
from shutil import copytree, rmtree, which
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from tests.chaos import stage
from tests.chaos.daemons import Program, twistd
from tests.chaos.history import History
from tests.chaos.nemesis import DAEMONS, LINKS, STORES, Strike
from tests.chaos.proxy import Link, Weather

HOUR = 3600 * 1_000_000
# Seconds after which a daemon that ended by itself is started again, as a supervisor does.
AGAIN = 0.5
# Failures of fsync: all of them, every other one, or the first few.
_WHEN = ("", ":when=1+2", ":when=1..3")


class Theatre:
    """The suite in `folder`. `kinds` are the faults that are to come; `sabotage` names what the test build breaks; empty:
    nothing. `own_disks` says that this process may mount what nobody else sees."""

    def __init__(
        self,
        reactor: Any,
        folder: Path,
        history: History,
        *,
        kinds: Sequence[str] = (),
        sabotage: str = "",
        own_disks: bool = False,
    ) -> None:
        self.home = folder / "home"
        self.data = self.home / "data"
        self.log = folder / "log"
        self.history = history
        self.skipped: dict[str, str] = {}
        self.struck: Counter[str] = Counter()
        self.ended_alone: list[str] = []
        self.tardy: list[str] = []
        self._reactor = reactor
        self._kinds = kinds
        self._sabotage = sabotage
        self._own_disks = own_disks
        self._under_way: set[Deferred[None]] = set()
        self._harmed: Counter[str] = Counter()  # disks that fail just now
        self._closing = False
        self._acts: Mapping[str, Callable[[Strike], Coroutine[Any, Any, None]]] = {
            "kill": self._kill,
            "freeze": self._freeze,
            "stop": self._stop,
            "restart": self._stop,
            "cut": self._weather,
            "silence": self._weather,
            "slow": self._weather,
            "full": self._full,
            "fsync": self._fsync,
            "clock": self._clock,
        }

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return f"https://localhost:{self.ports['gateway']}"

    @property
    def authority(self) -> Path:
        """The certificate that clients trust."""
        return self.home / "pki" / "ca.pem"

    def build(self) -> None:
        """Make the home, the links and the daemons; none of them runs yet."""
        self.log.mkdir(parents=True)
        self.ports = stage.make_home(self.home)
        self.links = {name: Link(self._reactor, name, self.ports[name.partition("-")[2]]) for name in LINKS}
        open_ports = {name: link.open() for name, link in self.links.items()}
        stage.configure(self.home, self.ports, open_ports.__getitem__, caching=True)
        why_not = stage.mount_disks(self.home) if self._own_disks else "no namespace of mounts of its own"
        self._mounted = not why_not
        if why_not:
            self.skipped["full"] = why_not
        if which("strace") is None:
            self.skipped["fsync"] = "there is no strace here"
        for name in STORES:
            self._set_clock(name, 0)
        self.daemons = {name: self._program(name) for name in DAEMONS}
        # Should this process be told to end in the middle of it.
        self._reactor.addSystemEventTrigger("during", "shutdown", self._kill_all)

    def start(self) -> None:
        """Start all daemons."""
        for daemon in self.daemons.values():
            daemon.start()

    async def strike(self, strike: Strike) -> None:
        """Carry a strike out; returns when it is over."""
        if strike.kind in self.skipped:
            return
        self.struck[strike.kind] += 1
        self.history.note("fault", kind=strike.kind, target=strike.target, lasts=strike.lasts)
        await self._acts[strike.kind](strike)
        self.history.note("over", kind=strike.kind, target=strike.target)

    def cries(self) -> int:
        """How often the daemons logged what no daemon should have to log."""
        return sum(path.read_bytes().count(b"#critical]") for path in self.log.glob("*.log"))

    def perform(self, strikes: Sequence[Strike]) -> None:
        """Carry the strikes out at their times, from now on."""
        for strike in strikes:
            self._reactor.callLater(strike.begin, self._begin, strike)

    async def heal(self) -> None:
        """Let what is under way end, then see that everything works again."""
        while self._under_way:
            await DeferredList(list(self._under_way))
        for link in self.links.values():
            link.set(Weather.FAIR)
        for daemon in self.daemons.values():
            daemon.signal(signal.SIGCONT)
        self.start()
        self.history.note("healed")

    async def stop(self) -> None:
        """Stop the daemons in order, the gateway first."""
        self._closing = True
        for daemon in self.daemons.values():
            await self._end(daemon)

    async def close(self) -> None:
        """Leave nothing behind but the folder."""
        self._closing = True
        for daemon in self.daemons.values():
            await daemon.kill()
        for link in self.links.values():
            await link.close()
        if self._mounted:
            kept = self.home / "data.kept"
            copytree(self.data, kept)
            stage.unmount_disks(self.home)
            for name in STORES:
                copytree(kept / name, self.data / name, dirs_exist_ok=True)
            rmtree(kept)

    def _kill_all(self) -> None:
        self._closing = True
        for daemon in self.daemons.values():
            daemon.signal(signal.SIGKILL)

    def _program(self, name: str) -> Program:
        variables: dict[str, str] = {}
        if name in STORES and "clock" in self._kinds:
            variables["BOOKD_CHAOS_CLOCK"] = str(self._clock_of(name))
        if (self._sabotage, name) == ("early", "mom") or (self._sabotage == "forget" and name in STORES[1:]):
            variables["BOOKD_CHAOS_SABOTAGE"] = self._sabotage
        command = twistd(name, self.home / "bookd.toml", build=bool(variables))
        return Program(self._reactor, name, command, self.log / f"{name}.log", self._died, **variables)

    def _died(self, name: str, status: int) -> None:
        if self._closing:
            return
        self.history.note("died", target=name, status=status)
        if not self._harmed[name]:
            self.ended_alone.append(f"{name} ended with status {status} by itself")
        self._reactor.callLater(AGAIN, self._again, name)

    def _again(self, name: str) -> None:
        if not self._closing:
            self.daemons[name].start()

    def _begin(self, strike: Strike) -> None:
        carried_out = Deferred.fromCoroutine(self.strike(strike))
        self._under_way.add(carried_out)

        def over(result: Any) -> Any:
            self._under_way.discard(carried_out)
            return result

        carried_out.addBoth(over)

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds)

    async def _kill(self, strike: Strike) -> None:
        daemon = self.daemons[strike.target]
        await daemon.kill()
        await self._sleep(strike.lasts)
        daemon.start()

    async def _stop(self, strike: Strike) -> None:
        daemon = self.daemons[strike.target]
        await self._end(daemon)
        await self._sleep(strike.lasts)
        daemon.start()

    async def _end(self, daemon: Program) -> None:
        if not await daemon.stop():
            self.tardy.append(f"{daemon.name} did not stop when it was told to")

    async def _freeze(self, strike: Strike) -> None:
        daemon = self.daemons[strike.target]
        daemon.signal(signal.SIGSTOP)
        await self._sleep(strike.lasts)
        daemon.signal(signal.SIGCONT)

    async def _weather(self, strike: Strike) -> None:
        link = self.links[strike.target]
        link.set({"cut": Weather.CUT, "silence": Weather.SILENT, "slow": Weather.SLOW}[strike.kind])
        await self._sleep(strike.lasts)
        link.set(Weather.FAIR)

    async def _full(self, strike: Strike) -> None:
        self._harmed[strike.target] += 1
        ballast = stage.fill(self.data / strike.target)
        await self._sleep(strike.lasts)
        ballast.unlink()
        await self._recovered(strike.target)

    async def _fsync(self, strike: Strike) -> None:
        pid = self.daemons[strike.target].pid
        if pid is None:
            return
        self._harmed[strike.target] += 1
        when = Random(strike.number).choice(_WHEN)
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]
        command += ["-e", f"inject=fsync,fdatasync:error=EIO{when}", "-p", str(pid)]
        with (self.log / "strace.log").open("ab") as log:
            tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        await self._sleep(strike.lasts)
        if tracer.poll() is not None:
            self.history.note("strace", status=tracer.returncode)
        tracer.terminate()
        while tracer.poll() is None:
            await self._sleep(0.02)
        await self._recovered(strike.target)

    async def _recovered(self, name: str) -> None:
        # What the daemon does because of it may take a moment to show.
        await self._sleep(AGAIN)
        self._harmed[name] -= 1

    async def _clock(self, strike: Strike) -> None:
        wrong = Random(strike.number).choice((HOUR, -HOUR))
        self._set_clock(strike.target, wrong)
        await self._sleep(strike.lasts)
        self._set_clock(strike.target, 0)

    def _clock_of(self, name: str) -> Path:
        return self.home / f"clock.{name}"

    def _set_clock(self, name: str, wrong: int) -> None:
        # In place: the daemon has the file in its memory.
        with self._clock_of(name).open("r+b" if self._clock_of(name).exists() else "wb") as file:
            file.write(struct.pack("<q", wrong))
