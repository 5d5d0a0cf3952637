"""One connection of a channel, from its making to its end: the channel of grpc.aio and the trunk on it.

A `bookd.bridge.channel.Channel` has one at a time, and another one when its certificate was renewed.
"""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import grpc
import grpc.aio

from bookd.bridge.tls import SUFFIX
from bookd.bridge.trunk import OVERHEAD, Trunk

# A destination that is back is to be noticed within a second, however long it was away (gRPC's own bound is 120 s).
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # for one attempt, handshake included
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.dns_min_time_between_resolutions_ms", 500),
)
_ROUND_ROBIN = '{"loadBalancingConfig":[{"round_robin":{}}]}'


class Line:
    """Connects to `target` by itself, and again whenever the connection breaks. `peer` names the other end, for people; with
    `carries` there is a trunk."""

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, Any]],
        *,
        peer: str,
        carries: bool,
    ) -> None:
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(target, options)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials, options)
        self.channel.get_state(try_to_connect=True)
        self._calls: set[Any] = set()
        self._waiting: asyncio.Future[None] | None = None
        self.trunk = Trunk(self.channel, peer) if carries else None

    @property
    def is_ready(self) -> bool:
        """Whether there is a connection."""
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    async def becomes_ready(self, seconds: float) -> bool:
        """Whether there is a connection within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while (state := self.channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    await self.channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        return True

    def carry(self, call: Any) -> None:
        """Note a call of grpc.aio that was begun on the channel: the line does not end before it, unless it must."""
        self._calls.add(call)
        call.add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        self._calls.discard(call)
        if not self._calls and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def close(self, grace: float | None) -> None:
        """Take no further calls; end when those under way have ended, after `grace` seconds at the latest, if given. It may
        be cancelled, and called again with less patience."""
        loop = asyncio.get_running_loop()
        until = None if grace is None else loop.time() + grace
        if self.trunk is not None:
            await self.trunk.close(grace)
        if self._calls:
            self._waiting = loop.create_future()
            await asyncio.wait([self._waiting], timeout=None if until is None else max(until - loop.time(), 0.0))
        await self.channel.close()


def options(addresses: Sequence[str], name: str, max_message: int) -> list[tuple[str, Any]]:
    """The gRPC options of a channel to these addresses, whose certificates must bear the daemon's `name`."""
    found: list[tuple[str, Any]] = [
        *_RECONNECT,
        ("grpc.max_receive_message_length", max_message + OVERHEAD),
        ("grpc.max_send_message_length", max_message + OVERHEAD),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if name:
        found.append(("grpc.ssl_target_name_override", name + SUFFIX))
    if len(addresses) > 1:
        found.append(("grpc.service_config", _ROUND_ROBIN))
    return found


def target(addresses: Sequence[str]) -> str:
    """The gRPC target (gRPC naming document) of "host:port" addresses. Raises ValueError naming the one at fault."""
    if len(addresses) == 1:
        return f"dns:///{addresses[0]}"
    families = set()
    for address in addresses:
        host = address.rpartition(":")[0].strip("[]")
        try:
            families.add(ip_address(host).version)
        except ValueError:
            raise ValueError(f"{address!r}: several addresses of one peer must be IP addresses") from None
    if len(families) != 1:
        raise ValueError(f"{addresses}: the addresses of one peer must be all IPv4 or all IPv6")
    return f"ipv{families.pop()}:{','.join(addresses)}"
