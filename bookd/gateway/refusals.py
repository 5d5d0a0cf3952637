"""How late a refusal is told to whoever has no token left.

A client that asks again as soon as it is answered, and there are hundreds of them in a flood of log-ins, would have the gateway
do nothing but refuse. So a refusal is told about a second later; the more of them wait, the later, so that no more than so
many are told in a second however many clients there are. Each waits for a time of its own, as those who were refused
together would come again together.
"""

from random import uniform
from typing import Any

from twisted.internet.task import deferLater

# Seconds until a refusal is told, with few that wait; how many are told in a second; and the longest of the waits.
FIRST, RATE, LONGEST = 1.0, 40.0, 10.0


class Refusals:
    """Those that wait to be told."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting = 0

    async def hold(self) -> None:
        """Wait until one may be told."""
        self._waiting += 1
        try:
            await deferLater(self._reactor, min(max(FIRST, self._waiting / RATE), LONGEST) * uniform(0.5, 1.5))  # noqa: S311
        finally:
            self._waiting -= 1
