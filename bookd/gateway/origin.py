"""Where a request comes from: the address of the connection, or what a trusted proxy says (`X-Forwarded-For`).

Anybody can send that header, so it counts only on connections from proxies that the configuration names. Each proxy
appends the address that it saw. Read from the right, the first one that is no trusted proxy is the client; what stands
left of it is hearsay.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# A customer of an internet provider has at least such a network to himself, so that its addresses are one client.
_IPV6_CLIENT = 64


class Proxies:
    """Proxies that are trusted: addresses ("10.0.0.1") and networks ("10.0.0.0/8"). Raises ValueError for others."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(text) for text in trusted]

    def trusts(self, host: str) -> bool:
        """Whether the address `host` is that of a trusted proxy."""
        address = _address(host) if self._networks else None
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The client's address, given that of the connection and the values of X-Forwarded-For."""
        if not self._networks or not self.trusts(peer):
            return peer
        found = peer
        for text in reversed([part.strip() for value in forwarded for part in value.split(",")]):
            address = _address(text)
            if address is None:
                break
            found = str(address)
            if not self.trusts(found):
                break
        return found


@lru_cache(maxsize=4096)
def client_key(host: str) -> str:
    """What clients are told apart by: an IPv4 address, or the network that an IPv6 address is of."""
    address = _address(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, _IPV6_CLIENT), strict=False))
    return host if address is None else str(address)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
