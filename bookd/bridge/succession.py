"""What follows on a certificate of a client that was renewed: another connection, and an end of the old one in peace.

gRPC's clients read their certificate once, when the channel is made. So the files are looked at every two seconds, and when
they were replaced, a second channel is made with what is in them now. It is used for new calls as soon as it has a
connection; the calls that are under way stay with the old one, which is closed when the last of them has ended. A
certificate that the peer does not take changes nothing while the old connection is good: that is said once, and tried
again with each look.
"""

import asyncio
from collections.abc import Callable

import grpc
from twisted.logger import Logger

from bookd.bridge.line import Line
from bookd.bridge.reactor import loop
from bookd.bridge.tls import Files

# Seconds between two looks, and how long a connection with the new certificate may take.
GLANCE, PATIENCE = 2.0, 5.0


class Succession:
    """The lines of one channel, one after the other. `make` makes a line, `use` lets new calls go by it, `current` is the one
    that they go by now; `peer` is the other end's name, for people."""

    log = Logger()

    def __init__(
        self,
        files: Files,
        make: Callable[[grpc.ChannelCredentials], Line],
        use: Callable[[Line], None],
        current: Callable[[], Line | None],
        peer: str,
    ) -> None:
        self._files = files
        self._make = make
        self._use = use
        self._current = current
        self._peer = peer
        self._seen: object = None
        self._refused: object = None
        self._credentials: grpc.ChannelCredentials | None = None
        self._looking: asyncio.Task[None] | None = None
        # Lines that new calls do not go by any more, with what waits for their end.
        self._retired: dict[Line, asyncio.Task[None]] = {}

    def read(self) -> None:
        """Read the files for the first time, while there is somebody who hears of it. Raises OSError and ValueError."""
        self._seen, self._credentials = self._files.stamp(), self._files.channel_credentials()

    def begin(self) -> Line:
        """The first line; from now on the files are looked at."""
        assert self._credentials is not None
        self._looking = loop().create_task(self._look_on())
        return self._make(self._credentials)

    async def end(self, grace: float) -> None:
        """Look no longer, and close what is left of the old lines."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.wait([looking])
        lines, waiting = list(self._retired), list(self._retired.values())
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
        await asyncio.gather(*(line.close(grace) for line in lines))

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(GLANCE)
            try:
                stamp = self._files.stamp()
                if stamp == self._seen:
                    self._files.complaint.good()
                    continue
                credentials = self._files.channel_credentials()
            except (OSError, ValueError) as error:
                self._files.complaint.spoilt(error)
                continue  # half-way through a renewal, or worse
            if await self._succeed(credentials):
                self._seen, self._credentials = stamp, credentials
            elif stamp != self._refused:
                self._refused = stamp
                self.log.warn("{peer} does not take the renewed certificate; the old one is shown on", peer=self._peer)

    async def _succeed(self, credentials: grpc.ChannelCredentials) -> bool:
        """Put a new line in the place of the current one, unless that is good and the new one is not."""
        fresh = self._make(credentials)
        try:
            ready = await fresh.becomes_ready(PATIENCE)
        except asyncio.CancelledError:
            await fresh.close(0)
            raise
        old = self._current()
        if old is None or (old.is_ready and not ready):
            await fresh.close(0)
            return False
        self._use(fresh)
        waiting = loop().create_task(old.close(None))
        self._retired[old] = waiting
        waiting.add_done_callback(lambda _: self._retired.pop(old, None))
        self.log.info("{peer} is shown the renewed certificate", peer=self._peer)
        return True
